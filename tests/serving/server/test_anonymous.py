"""Pages of nobody in particular: no user id, or one never met; with a session or without."""


def recommend(site, **body):
    answer = site.client.post("/v1/recommendations", json={"k": 12, **body})
    assert answer.status_code == 200, answer.text
    return answer.json()


def topics(page):
    return [item["topics"][0] for item in page["items"]]


def test_page_without_a_user_is_made_of_context_and_session_and_recorded_nowhere(site):
    plain = recommend(site, debug=True)
    assert len(plain["items"]) == 12
    assert plain["debug"]["viewer_known_by"] == "nothing"
    placed = recommend(site, context={"region": "de"}, debug=True)
    assert placed["debug"]["viewer_known_by"] == "context"
    page = recommend(site, session=["v2", "v6", "v10"], record=True)
    assert topics(page).count("t2") > topics(plain).count("t2")
    assert not {"v2", "v6", "v10"} & {item["video_id"] for item in page["items"]}
    site.log.compact(flush=True)
    assert not list(site.log.logs_dir.glob("impressions/**/*.parquet"))
    assert site.client.get("/v1/users").json()["users"] == []


def test_who_was_never_seen_and_names_a_session_gets_the_page_of_nobody_with_it(site):
    session = ["v2", "v6", "v10"]
    of_nobody = recommend(site, session=session)
    of_somebody = recommend(site, session=session, user_id="never seen", record=False)
    assert of_nobody["items"] == of_somebody["items"]
