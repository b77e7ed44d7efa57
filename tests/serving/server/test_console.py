"""What the console asks the server: its numbers, releases, experiment, and looking things up."""

import dataclasses

import pytest

from serving.live.state import LiveState
from serving.release import manifest as release
from tests.serving.server.console_site import (
    ADMIN,
    FIGURE,
    console,
    experiment,
    publish,
    two_releases,
)

TOKEN = "0123456789abcdef-token"


@pytest.fixture
def rooted(running, tiny, tmp_path):
    """A server with a serving root of two releases, whose figures differ."""

    def start(**more):
        root = tmp_path / "serving_root"
        versions = two_releases(root)
        more.setdefault("console", console(root, tmp_path, tiny))
        site = running(**more)
        site.root, site.versions = root, versions
        return site

    return start


def bearer(token):
    return {"authorization": f"Bearer {token}"}


def get(site, path, status=200, **more):
    answer = site.client.get(f"/v1/admin/{path}", **more)
    assert answer.status_code == status, answer.text
    return answer.json()


def watch(site, video, user="u", event_id="a"):
    event = {"event_id": event_id, "type": "watch", "user_id": user, "video_id": video,
             "watch_time_s": 60, "completed": True}  # fmt: skip
    assert site.client.post("/v1/events", json={"events": [event]}).status_code == 200


# ---- who may -------------------------------------------------------------------------------------


@pytest.mark.parametrize("has_token", [False, True])
def test_admin_token_opens_everything_and_the_console_opens_to_nothing_else(running, has_token):
    site = running(admin_token=ADMIN, token=TOKEN if has_token else None)
    for headers in ({}, bearer(TOKEN), bearer(f"{ADMIN}x"), {"authorization": ADMIN}):
        refused = site.client.get("/v1/admin/vitals", headers=headers)
        assert refused.status_code == 401
        assert "admin token" in refused.json()["detail"]
    assert site.client.get("/v1/admin/vitals", headers=bearer(ADMIN)).status_code == 200
    assert site.client.get("/v1/users", headers=bearer(ADMIN)).status_code == 200
    assert site.client.get("/v1/users").status_code == (401 if has_token else 200)
    assert site.client.get("/console").status_code == 200  # The page itself holds nothing.


def test_without_an_admin_token_the_console_is_behind_the_other_one(running):
    site = running(token=TOKEN)
    assert site.client.get("/v1/admin/vitals").status_code == 401
    assert site.client.get("/v1/admin/vitals", headers=bearer(TOKEN)).status_code == 200


# ---- releases ------------------------------------------------------------------------------------


def test_releases_are_listed_told_and_compared(rooted):
    site = rooted()
    old, new = site.versions
    found = get(site, "releases")
    assert [one["release_id"] for one in found["releases"]] == [new, old]
    assert [one["is_current"] for one in found["releases"]] == [True, False]
    assert found["releases"][0]["previous"] == old
    assert (found["releases"][0]["gates_passed"], found["releases"][0]["gates"]) == (1, 1)
    assert found["releases"][0]["size_bytes"] > 8000
    assert found["rollbacks"] == []
    told = get(site, f"releases/{new}")
    (figure,) = told["figures"]
    assert (figure["name"], figure["value"], figure["n"]) == (FIGURE, 0.6, 151)
    assert (figure["low"], figure["high"]) == pytest.approx((0.55, 0.65))
    assert told["gates"][0]["verdict"] == "pass"
    assert told["origin"]["index.count"] == "48"
    beside = get(site, f"comparison?one={old}&other={new}")
    (pair,) = beside["pairs"]
    assert pair["difference"] == pytest.approx(0.2)
    assert pair["apart"] is True
    assert beside["origins"] == [{"name": "ranker.steps", "one": "40", "other": "60"}]
    assert get(site, f"comparison?one={old}&other={old}")["pairs"][0]["apart"] is False


def test_reports_open_at_the_address_that_the_release_names_and_nowhere_else(rooted):
    site = rooted(admin_token=ADMIN)
    old, new = site.versions
    told = get(site, f"releases/{new}", headers=bearer(ADMIN))
    assert [one["title"] for one in told["reports"]] == [
        "Retraining", "Model card", "Model card, JSON"
    ]  # fmt: skip
    address = told["reports"][0]["address"]
    report = site.client.get(address)  # A link carries no token.
    assert report.status_code == 200
    assert report.headers["content-type"] == "text/html; charset=utf-8"
    assert "sandbox" in report.headers["content-security-policy"]
    assert report.headers["cache-control"] == "private, no-store"
    assert f"release {new}" in report.text
    # What lies beside it opens, too; another release's, another hour's and another pass do not.
    beside = address.replace("retraining.html", "card.md")
    assert site.client.get(beside).headers["content-type"].startswith("text/plain")
    given = address.split("/")[-2]
    until = given.partition("-")[0]
    for altered in (
        address.replace(new, old),
        address.replace(given, f"{int(until) + 60}{given[len(until) :]}"),
        address.replace(given, f"{given[:-1]}{'0' if given[-1] != '0' else '1'}"),
        address.replace(given, "open"),
        f"/v1/admin/releases/{new}",
    ):
        assert site.client.get(altered).status_code == 401
    site.ahead_s += 3601
    assert site.client.get(address).status_code == 401


def test_reports_of_an_open_server_need_no_pass_and_what_is_not_there_is_told(rooted):
    site = rooted()
    _, new = site.versions
    told = get(site, f"releases/{new}")
    address = told["reports"][0]["address"]
    assert site.client.get(address).status_code == 200
    missing = site.client.get(address.replace("retraining", "nothing"))
    assert (missing.status_code, "has no report" in missing.text) == (409, True)
    card = get(site, f"releases/{new}/card")
    assert (card["release"], told["has_card"]) == (new, True)
    path = release.component_directory(site.root, "reports", new) / "card.json"
    path.write_text("{}")
    assert "not what was published" in get(site, f"releases/{new}/card", 409)["detail"]


def test_release_that_is_not_there_or_broken_is_told(rooted):
    site = rooted()
    old, new = site.versions
    assert "there is no release 7" in get(site, "releases/7", 409)["detail"]
    assert "there is no release 7" in get(site, f"comparison?one=7&other={new}", 409)["detail"]
    release.manifest_path(site.root, old).write_text("{}")
    broken = get(site, "releases")["releases"][1]
    assert "cannot be used" in broken["fault"]


def test_rolling_back_needs_an_admin_token_on_the_server(rooted):
    site = rooted()
    _, new = site.versions
    assert get(site, "releases")["can_roll_back"] is False
    answer = site.client.post("/v1/admin/rollback", json={"seen": new})
    assert answer.status_code == 409
    assert "--admin_token_file" in answer.json()["detail"]
    assert release.current(site.root) == new


def test_rolling_back_goes_where_it_is_told_and_refuses_what_cannot_be(rooted):
    site = rooted(admin_token=ADMIN)
    old, new = site.versions

    def back(status=200, **body):
        answer = site.client.post("/v1/admin/rollback", json=body, headers=bearer(ADMIN))
        assert answer.status_code == status, answer.text
        return answer.json()

    assert get(site, "releases", headers=bearer(ADMIN))["can_roll_back"] is True
    assert "serves already" in back(409, seen=new, to=new)["detail"]
    assert "there is no release 7" in back(409, seen=new, to="7")["detail"]
    assert back(seen=new) == {"old": new, "new": old}
    assert release.current(site.root) == old
    assert "serves by now" in back(409, seen=new)["detail"]  # Somebody was quicker.
    assert "none before it" in back(409, seen=old)["detail"]
    assert back(seen=old, to=new) == {"old": old, "new": new}
    (site.root / "index" / old / "file").write_text("tampered with")
    assert "is refused" in back(409, seen=new, to=old)["detail"]
    assert release.current(site.root) == new


def test_server_without_a_root_or_a_second_release_says_so(running, tiny, tmp_path):
    site = running(admin_token=ADMIN)
    headers = bearer(ADMIN)
    assert get(site, "releases", headers=headers)["why_not"]
    assert "no serving root" in get(site, "releases/7", 409, headers=headers)["detail"]
    root = tmp_path / "one"
    version = publish(root)
    alone = running(admin_token=ADMIN, console=console(root, tmp_path, tiny))
    answer = alone.client.post("/v1/admin/rollback", json={"seen": version}, headers=headers)
    assert answer.status_code == 409
    assert "none before it" in answer.json()["detail"]


# ---- numbers -------------------------------------------------------------------------------------


def test_vitals_have_stages_rungs_events_and_drift(site, tiny):
    release_ = site.releases.current.with_live(LiveState())
    site.releases.current = release_
    assert get(site, "vitals")["drift"] == {
        "topics": None, "channels": None, "watches": 0, "new_videos": None
    }  # fmt: skip
    watch(site, "v1")
    site.client.post("/v1/recommendations", json={"user_id": "u"})
    found = get(site, "vitals")
    assert found["counters"]["pages"]["full"] == 1
    assert found["counters"]["events"]["accepted"] == 1
    stage = found["histograms"]["stage_seconds"]["ranking"]
    assert stage["count"] == 1
    assert len(stage["bounds_s"]) == len(stage["counts"])
    assert found["gauges"]["index_recall"] is None
    assert (found["release_id"], found["videos"]) == ("20231114000000", tiny.count)


def test_drift_is_nothing_where_all_is_as_it_was_and_grows(tiny):
    from serving.insight import vitals

    state = LiveState()
    release_ = tiny.release().with_live(state)

    class Columns:
        def __init__(self, counts):
            self.counts = counts

        def columns(self, rows, times):
            return {"video_live_watches_1d": self.counts[rows]}

    before = release_.statistics.columns(*_all(tiny))["video_watches_all"]
    same = vitals.drift(dataclasses.replace(release_, live=Columns(before)), now=tiny.now)
    assert same.topics == pytest.approx(0, abs=1e-9)
    alone = before * 0
    alone[0] = 10
    other = vitals.drift(dataclasses.replace(release_, live=Columns(alone)), now=tiny.now)
    assert 0.1 < other.topics < other.channels < 1
    assert other.watches == 10


def _all(tiny):
    import numpy as np

    return np.arange(tiny.count), np.full(tiny.count, tiny.now)


# ---- looking up ----------------------------------------------------------------------------------


def test_user_is_told_with_what_was_served_and_followed(site):
    watch(site, "v1")
    page = site.client.post("/v1/recommendations", json={"user_id": "u", "k": 3}).json()
    seen = page["items"][1]["video_id"]
    common = {"user_id": "u", "video_id": seen, "page_id": page["page_id"]}
    events = [
        {"event_id": "c", "type": "click", **common},
        {"event_id": "w", "type": "watch", "watch_time_s": 33, **common},
        {"event_id": "h", "type": "hide", "user_id": "u", "channel_id": "c3"},
        {"event_id": "s", "type": "search", "user_id": "u", "query": "cats"},
    ]
    assert site.client.post("/v1/events", json={"events": events}).status_code == 200
    found = get(site, "users/u")
    assert found["counts"] == {"shown": 3, "watched": 2, "searched": 1, "said": 1}
    assert found["click_rate"] == pytest.approx(1 / 3)
    assert found["hidden"] == ["c3"]
    shown = [one for one in found["happened"] if one["kind"] == "shown"]
    assert sorted(one["told"] for one in shown) == [
        "clicked, watched 33 s", "not clicked", "not clicked"
    ]  # fmt: skip
    assert {one["title"] for one in shown} == {f"Video {i['video_id'][1:]}" for i in page["items"]}
    assert get(site, "users/nobody")["is_known"] is False


def test_video_is_told_with_neighbours_statistics_and_who_is_shown_it(rooted, tiny):
    site = rooted()
    page = site.client.post("/v1/recommendations", json={"user_id": "u", "k": 3}).json()
    video = page["items"][0]["video_id"]
    found = get(site, f"videos/{video}")
    assert found["columns"]["title"] == f"Video {video[1:]}"
    assert found["statistics"]["video_watches_all"] == tiny.count - int(video[1:])
    topic = int(video[1:]) % 4
    assert {int(one["video_id"][1:]) % 4 for one in found["near"][:11]} == {topic}
    assert video not in {one["video_id"] for one in found["near"]}
    assert (found["shown"]["impressions"], found["shown"]["users"]) == (1, 1)
    assert found["shown"]["by"]["surface"] == {"home": 1}
    assert "is not in release" in get(site, "videos/nothing", 404)["detail"]


def test_query_is_told_by_words_and_by_embedding(site):
    found = get(site, "queries?q=Video 7")
    assert found["titles"][0]["title"] == "Video 7"
    assert len(found["near"]) == 12


# ---- side by side --------------------------------------------------------------------------------


def side_by_side(site, status=200, **body):
    answer = site.client.post("/v1/admin/pages", json={"user_id": "u", "k": 8, **body})
    assert answer.status_code == status, answer.text
    return answer.json()


def test_two_settings_and_two_releases_for_one_viewer(rooted):
    site = rooted()
    watch(site, "v1")
    same = side_by_side(site)
    assert same["both"] == 8
    narrow = side_by_side(site, other={"settings": {"per_channel": 1}})
    channels = [item["channel_id"] for item in narrow["other"]["items"]]
    assert len(set(channels)) == 8
    assert len({item["channel_id"] for item in narrow["one"]["items"]}) < 8
    old = site.versions[0]
    beside = side_by_side(site, other={"release_id": old})
    assert (beside["one"]["rung"], beside["other"]["rung"]) == ("full", "no_ranker")
    assert beside["other"]["release_id"] == old
    assert site.history.read("u").impressions.num_rows == 0


def test_release_that_cannot_be_looked_at_is_told(running, rooted, tiny, tmp_path):
    site = rooted()
    assert "there is no release 7" in side_by_side(site, 409, one={"release_id": "7"})["detail"]
    small = running(console=console(site.root, tmp_path, tiny, limit_bytes=10))
    told = side_by_side(small, 409, one={"release_id": site.versions[0]})["detail"]
    assert "--hand_over_from_mb" in told
    without = running()
    assert "no serving root" in side_by_side(without, 409, one={"release_id": "7"})["detail"]


# ---- experiments ---------------------------------------------------------------------------------


def test_experiment_is_told_with_exposure_and_result(rooted, tmp_path):
    site = rooted(funnel_options={"experiment": experiment(tmp_path)})
    assert "impressions" in get(site, "experiment/result", 409)["detail"]  # There are none yet.
    for number in range(30):
        body = {"user_id": f"user-{number}", "k": 3, "context": {"region": "de"}}
        assert site.client.post("/v1/recommendations", json=body).status_code == 200
    found = get(site, "experiment")
    assert found["name"] == "width"
    assert sum(arm["pages"] for arm in found["arms"]) == 30
    assert found["arms"][1]["settings"] == {"retrieved": 5}
    result = get(site, "experiment/result")
    assert sum(result["split"]["users"].values()) == 30
    assert result["arms"]["narrow"]["metrics"]["click_rate"]["value"] == 0
    assert get(site, "users/user-1")["arm"] in {"width/control", "width/narrow"}


def test_server_without_an_experiment_says_so(rooted):
    site = rooted()
    assert get(site, "experiment") == {"name": None, "arms": []}
    assert "--experiment=FILE" in get(site, "experiment/result", 409)["detail"]
