"""Requests of a viewer."""


def ask(site, user="u", headers=None, **more):
    body = {"user_id": user, **more}
    return site.client.post("/v1/recommendations", json=body, headers=headers)
