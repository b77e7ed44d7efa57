import collections
import dataclasses
import threading

import pytest

from features import spec
from features.tables import logs
from serving import errors
from serving.events.event import Event, Kind
from serving.events.log import EventLog
from serving.funnel import sources
from serving.funnel.funnel import Funnel
from serving.funnel.page import PageRequest
from serving.funnel.recorder import Recorder
from serving.history.sqlite_store import SqliteHistoryStore


@pytest.fixture
def history(tmp_path):
    store = SqliteHistoryStore(tmp_path / "history.sqlite")
    yield store
    store.close()


@pytest.fixture
def funnel_of(tiny, history):
    def make(release=None, **more):
        more.setdefault("recorder", None)
        more.setdefault("settings", tiny.patient())
        more.setdefault("clock", lambda: tiny.now)
        releases = tiny.releases(release or tiny.release())
        return Funnel(releases=releases, history=history, **more)

    return make


def watched(history, tiny, *numbers, user="u", at=None):
    history.append(
        [
            Event(
                event_id=f"w{user}{n}",
                kind=Kind.WATCH,
                user_id=user,
                time=at or tiny.now - 600,
                video_id=f"v{n}",
                watch_time_s=100.0,
            )
            for n in numbers
        ]
    )


def topics(page):
    return collections.Counter(item.video["topics"][0] for item in page.items)


def test_page_is_ranked_by_expected_watch_time_and_retrieves_what_was_watched(
    funnel_of, history, tiny
):
    watched(history, tiny, 1, 5)  # both on topic t1
    page = funnel_of().recommend(PageRequest(user_id="u", k=9))
    assert page.rung == "full"
    assert page.reasons == ()
    times = [item.expected_watch_time_s for item in page.items]
    assert times == sorted(times, reverse=True)
    # 12 videos are on t1, 2 are watched. Their channels are c1 and c5, 3 of each fit the cap.
    assert [item.video_id for item in page.items[:6]] == ["v45", "v41", "v37", "v33", "v29", "v25"]
    assert topics(page)["t1"] == 6
    assert [item.position for item in page.items] == list(range(9))


def test_watches_change_the_next_page(funnel_of, history, tiny):
    funnel = funnel_of()
    watched(history, tiny, 0, 4)
    before = topics(funnel.recommend(PageRequest(user_id="u", k=10)))
    watched(history, tiny, 2, 6, 10, 14, at=tiny.now)
    after = topics(funnel.recommend(PageRequest(user_id="u", k=10)))
    assert after["t2"] > before["t2"]


def test_event_of_this_very_second_counts(funnel_of, history, tiny):
    watched(history, tiny, 1, at=tiny.now)
    page = funnel_of().recommend(PageRequest(user_id="u"))
    assert page.now == tiny.now + 1
    assert "v1" not in {item.video_id for item in page.items}


def test_pages_of_one_second_do_not_run_ahead_of_the_clock(funnel_of, history, tiny, tmp_path):
    """And what a page saw of the user is what training will see: what lies before its time."""
    log = EventLog(tmp_path / "logs")
    funnel = funnel_of(recorder=Recorder(history, log))
    watched(history, tiny, 1, at=tiny.now)
    seen = {}
    for _ in range(300):
        before = history.read("u").impressions["time"].to_pylist()
        page = funnel.recommend(PageRequest(user_id="u", k=1))
        seen[page.page_id] = (page.now, sum(time < page.now for time in before))
    assert {now for now, _ in seen.values()} == {tiny.now + 1}
    written = history.read("u").impressions["time"].to_pylist()
    assert len(written) == 300
    for now, count in seen.values():
        assert sum(time < now for time in written) == count
    log.close()


def test_click_in_the_second_before_its_page_is_the_pages(funnel_of, history, tiny, tmp_path):
    log = EventLog(tmp_path / "logs")
    funnel = funnel_of(recorder=Recorder(history, log))
    watched(history, tiny, 1, at=tiny.now)
    page = funnel.recommend(PageRequest(user_id="u", k=2))
    assert page.now == tiny.now + 1
    named, bare = (item.video_id for item in page.items)
    for video, more in ((named, {"page_id": page.page_id}), (bare, {})):
        click = Event(
            event_id=video, kind=Kind.CLICK, user_id="u", time=tiny.now, video_id=video, **more
        )
        history.append([click])
        log.append([click])
    assert history.read("u").impressions["clicked"].to_pylist() == [True, True]
    log.compact(flush=True)
    assert logs.read_table(log.logs_dir, "impressions")["clicked"].to_pylist() == [True, True]
    log.close()


def test_watched_videos_are_left_out_unless_asked_for(funnel_of, history, tiny):
    watched(history, tiny, *range(0, 40))
    page = funnel_of().recommend(PageRequest(user_id="u", k=20))
    assert {item.video_id for item in page.items} == {f"v{n}" for n in range(40, 48)}
    assert page.excluded == 40
    again = funnel_of().recommend(PageRequest(user_id="u", k=20, exclude_watched=False))
    assert len(again.items) == 20


def test_k_is_kept_however_much_was_watched(funnel_of, history, tiny):
    # Retrieval of 5 and 1 per source cannot fill the page; the whole catalogue can.
    settings = tiny.patient(retrieved=5, trending=1, per_source=1)
    watched(history, tiny, *range(0, 28))
    page = funnel_of(settings=settings).recommend(PageRequest(user_id="u", k=20))
    assert len(page.items) == 20
    assert len({item.video_id for item in page.items}) == 20
    assert not {f"v{n}" for n in range(28)} & {item.video_id for item in page.items}


def test_channels_are_capped_only_while_others_are_left(funnel_of, history, tiny):
    watched(history, tiny, 1)
    settings = tiny.patient(per_channel=1)
    page = funnel_of(settings=settings).recommend(PageRequest(user_id="u", k=10))
    channels = [item.video["channel_id"] for item in page.items]
    assert len(set(channels[:8])) == 8
    assert len(channels) == 10


def test_all_sources_of_a_video_are_kept_with_their_scores(funnel_of, history, tiny):
    watched(history, tiny, 1)
    page = funnel_of().recommend(PageRequest(user_id="u", k=48))
    item = next(item for item in page.items if item.video_id == "v9")
    # On the topic and of the channel (1 of 1 last watches), 9 h old: 7 - 9/24 as fresh.
    # Watched on one day only, so every video also trends.
    assert item.sources == ("retrieval", "popular", "trending", "fresh", "channels")
    assert item.source_scores["retrieval"] == pytest.approx(1.0)
    assert item.source_scores["channels"] == pytest.approx(1.0)
    assert item.source_scores["fresh"] == pytest.approx(7 - 9 / 24, abs=1e-4)
    assert set(page.nominated) == set(sources.NAMES)


def test_every_candidate_has_the_retrieval_score_of_the_model(funnel_of, history, tiny):
    watched(history, tiny, 1)
    page = funnel_of().recommend(PageRequest(user_id="u", k=48))
    for item in page.items:
        expected = 1.0 if item.video["topics"] == ["t1"] else 0.0
        assert item.retrieval_score == pytest.approx(expected)


def test_videos_of_the_future_are_not_shown(funnel_of, history, tiny):
    early = tiny.now - 10 * 3600
    page = funnel_of(clock=lambda: early).recommend(PageRequest(user_id="u", k=48))
    assert {item.video_id for item in page.items} == {f"v{n}" for n in range(10, 48)}


# ---- rungs ---------------------------------------------------------------------------------------


def test_release_without_ranker_orders_by_retrieval_score_and_says_so(funnel_of, history, tiny):
    watched(history, tiny, 1)
    page = funnel_of(tiny.release(ranker=None)).recommend(PageRequest(user_id="u", k=12))
    assert page.rung == "no_ranker"
    assert "has no ranker" in page.reasons[0]
    scores = [item.retrieval_score for item in page.items]
    assert scores[:6] == [1.0] * 6
    assert {item.expected_watch_time_s for item in page.items} == {None}


def test_failing_ranker_degrades_to_retrieval_order(funnel_of, history, tiny):
    watched(history, tiny, 1)
    page = funnel_of(tiny.release(ranker=tiny.broken())).recommend(PageRequest(user_id="u"))
    assert page.rung == "no_ranker"
    assert page.reasons == ("ranker: model server: UNAVAILABLE",)


def test_failing_query_tower_degrades_to_popular(funnel_of, history, tiny):
    watched(history, tiny, 1)
    release = tiny.release(query_tower=tiny.broken())
    page = funnel_of(release).recommend(PageRequest(user_id="u", k=3))
    assert page.rung == "popular"
    assert [item.video_id for item in page.items] == ["v0", "v2", "v3"]  # v1 is watched.
    assert page.items[0].retrieval_score is None


def test_query_embedding_of_the_wrong_width_is_refused(funnel_of, history, tiny):
    class Narrow(tiny.tower):
        def predict(self, inputs, *, deadline_s=None):
            return {"embedding": super().predict(inputs)["embedding"][:, :3]}

    watched(history, tiny, 1)
    page = funnel_of(tiny.release(query_tower=Narrow())).recommend(PageRequest(user_id="u"))
    assert page.rung == "popular"
    assert "width 5, got shape (1, 3)" in page.reasons[0]


def test_broken_history_store_still_gives_a_page(funnel_of, history):
    class Gone:
        def read(self, user_id):
            raise errors.HistoryUnavailableError("the history store is gone.")

    funnel = funnel_of()
    funnel._history = Gone()
    page = funnel.recommend(PageRequest(user_id="u", context={"region": "fr"}))
    assert len(page.items) == 20
    assert "history: the history store is gone." in page.reasons


def test_no_release_is_not_ready(tiny, history):
    funnel = Funnel(releases=tiny.releases(None), history=history, recorder=None)
    with pytest.raises(errors.NotReadyError):
        funnel.recommend(PageRequest(user_id="u"))


@pytest.mark.parametrize("k", [0, -1, 101])
def test_k_out_of_range_is_refused(funnel_of, k):
    with pytest.raises(errors.InvalidRequestError, match=r"k must be in \[1, 100\], got"):
        funnel_of().recommend(PageRequest(user_id="u", k=k))


# ---- cold start ----------------------------------------------------------------------------------


def test_nobody_gets_what_is_popular_trending_and_fresh_without_the_query_tower(funnel_of, tiny):
    release = tiny.release()
    page = funnel_of(release).recommend(PageRequest(user_id="nobody"))
    assert release.query_tower.asked == []
    assert page.nominated["retrieval"] == 0
    assert page.rung == "full"  # The ranker still orders them.
    without = funnel_of(tiny.release(ranker=None)).recommend(PageRequest(user_id="nobody", k=3))
    assert without.rung == "popular"
    assert [item.video_id for item in without.items] == ["v0", "v1", "v2"]


def test_unknown_user_with_a_context_is_embedded_from_it(funnel_of, tiny):
    release = tiny.release()
    page = funnel_of(release).recommend(
        PageRequest(user_id="nobody", context={"region": "de", "device": "tv"})
    )
    (asked,) = release.query_tower.asked
    assert (list(asked["region"]), list(asked["device"])) == (["de"], ["tv"])
    assert page.rung == "full"


def test_profile_comes_from_the_store_then_the_release_and_the_request_overrides(
    funnel_of, history, tiny
):
    release = tiny.release()
    funnel = funnel_of(release)
    funnel.recommend(PageRequest(user_id="old"))  # known to the release only
    history.append(
        [Event(event_id="e", kind=Kind.SEARCH, user_id="new", time=tiny.now - 5, query="x")],
        profiles={"new": {"region": "it", "age": "not a number"}},
    )
    funnel.recommend(PageRequest(user_id="new"))
    funnel.recommend(PageRequest(user_id="new", context={"region": "es"}))
    assert [asked["region"][0] for asked in release.query_tower.asked] == ["fr", "it", "es"]


# ---- what is written down ------------------------------------------------------------------------


def test_served_page_reaches_history_and_log_as_it_was_shown(funnel_of, history, tiny, tmp_path):
    log = EventLog(tmp_path / "logs")
    watched(history, tiny, 1)
    funnel = funnel_of(recorder=Recorder(history, log))
    page = funnel.recommend(
        PageRequest(user_id="u", k=5, context={"surface": "home", "device": "phone"})
    )
    assert page.recorded
    seen = history.read("u").impressions
    assert seen["video_id"].to_pylist() == [item.video_id for item in page.items]
    log.compact(flush=True)
    logged = logs.read_table(tmp_path / "logs", "impressions").to_pylist()
    log.close()
    for row, item in zip(logged, page.items, strict=True):
        assert (row["page_id"], row["position"]) == (page.page_id, item.position)
        assert (row["surface"], row["device"]) == ("home", "phone")
        assert row["candidate_sources"] == list(item.sources)
        assert row["retrieval_score"] == pytest.approx(item.retrieval_score)
        assert row["release_id"] == page.release_id
        assert row["time"] == page.now


def test_impressions_count_for_the_next_page(funnel_of, history, tiny, tmp_path):
    log = EventLog(tmp_path / "logs")
    watched(history, tiny, 1)
    release = tiny.release()
    funnel = funnel_of(release, recorder=Recorder(history, log))
    funnel.recommend(PageRequest(user_id="u", k=1))
    funnel.recommend(PageRequest(user_id="u", k=1))
    log.close()
    names = release.resolved.vector_names(spec.RANKER, spec.Side.CANDIDATE, spec.Kind.CONTINUOUS)
    shown = names.index("user_video_impressions_all")
    first, second = (asked["candidate_continuous"][:, shown] for asked in release.ranker.asked)
    assert (first.sum(), second.sum()) == (0, 1)


def test_page_is_served_although_it_cannot_be_recorded(funnel_of, tiny):
    class Full:
        def record_page(self, impressions, profile):
            raise errors.EventLogError("disk full")

    page = funnel_of(recorder=Full()).recommend(PageRequest(user_id="u"))
    assert len(page.items) == 20
    assert not page.recorded


def test_each_answer_comes_from_one_release_while_they_are_swapped(tiny, history):
    # Release A shows only even videos, B only odd ones: a mix would show both.
    def only(version, rest):
        release = tiny.release(version)

        class Half(tiny.index):
            def search(self, queries, k):
                rows, scores = super().search(queries, len(self))
                mine = rows[0] % 2 == rest
                return rows[:, mine][:, :k], scores[:, mine][:, :k]

        index = Half(release.index.embeddings)
        return dataclasses.replace(release, index=index, sources=(sources.Retrieval(index),))

    a, b = only("1", 0), only("2", 1)
    releases = tiny.releases(a)
    funnel = Funnel(releases=releases, history=history, recorder=None, clock=lambda: tiny.now)
    stop = threading.Event()

    def swap():
        while not stop.wait(0.001):
            releases.current = b if releases.current is a else a

    thread = threading.Thread(target=swap)
    thread.start()
    seen = set()
    for _ in range(40):
        page = funnel.recommend(PageRequest(user_id="x", k=10, context={"region": "de"}))
        rests = {int(item.video_id[1:]) % 2 for item in page.items}
        assert rests == {int(page.release_id) - 1}
        seen.add(page.release_id)
    stop.set()
    thread.join()
    assert seen <= {"1", "2"}
