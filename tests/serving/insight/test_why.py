"""Why a video is on a page and why another is not, told from the stages themselves."""

import dataclasses

import numpy as np
import pyarrow as pa
import pytest

from features import spec
from serving.events.event import Event, Kind
from serving.funnel.funnel import Funnel
from serving.funnel.page import PageRequest
from serving.funnel.page_order import NAMES, PageOrder
from serving.history.sqlite_store import SqliteHistoryStore
from serving.history.user_history import Blocked
from serving.insight import why
from serving.insight.explanations import Outcome
from serving.insight.left_out import RawRankers
from serving.live.state import LiveState


class SummingRanker:
    """100 s for a known video, 10 x its score, 5 for a device, 20 for a region, 1 a watch."""

    def __init__(self, resolved):
        names = resolved.vector_names(spec.RANKER, spec.Side.CANDIDATE, spec.Kind.CONTINUOUS)
        self._score = names.index("retrieval_score")

    def predict(self, inputs, *, deadline_s=None):
        count = len(inputs["video_id"])
        seconds = 10 * np.nan_to_num(inputs["candidate_continuous"][:, self._score])
        seconds = seconds + 100.0 * (inputs["video_id"] != "")
        seconds = seconds + 5.0 * (inputs["device"][0] != "") + 20.0 * (inputs["region"][0] != "")
        seconds = seconds + float((inputs["watched_video_ids"][0] != "").sum())
        assert seconds.shape == (count,)
        return {"expected_watch_time_s": seconds.astype(np.float32)}


@pytest.fixture
def ask(tiny, tmp_path):
    """Asks why, of a user who watched v0, v4 and v8, all on one topic."""
    history = SqliteHistoryStore(tmp_path / "history.sqlite")
    watches = [
        Event(event_id=v, kind=Kind.WATCH, user_id="u", time=tiny.now - 100 + n, video_id=v,
              watch_time_s=60.0, completed=True)
        for n, v in enumerate(("v0", "v4", "v8"))
    ]  # fmt: skip
    history.append(watches)

    def asked(*videos, release=None, rankers=None, settings=None, **request):
        funnel = Funnel(
            releases=tiny.releases(release or tiny.release()),
            history=history,
            recorder=None,
            settings=tiny.patient(**(settings or {})),
            clock=lambda: tiny.now,
        )
        with funnel.looking(PageRequest(user_id="u", **request)) as answer:
            told = why.explain(answer, videos, rankers or RawRankers())
        funnel.close()
        return told

    asked.history = history
    yield asked
    history.close()


def only(explanation):
    (one,) = explanation.videos
    return one


def test_video_on_the_page_is_told_of_as_the_page_has_it(ask):
    told = ask("v44", k=5)
    one = only(told)
    assert told.page[0] == "v44"
    assert (one.outcome, one.position) == (Outcome.SHOWN, 0)
    assert one.told == "It is on the page, at place 1."
    assert all(filter_.passed for filter_ in one.filters)
    sources = {source.source: source for source in one.sources}
    assert sources["retrieval"].score == one.retrieval_score == pytest.approx(1.0)
    assert sources["retrieval"].place == 1
    assert sources["popular"].place > 1
    assert [(s.stage, s.place) for s in one.standings] == [
        ("retrieval", 1), ("ranker", 1), ("order", 1), ("page", 1),
    ]  # fmt: skip
    assert [near.video_id for near in one.near] == ["v0", "v4", "v8"]
    assert {near.similarity for near in one.near} == {1.0}


@pytest.mark.parametrize(
    ("video", "changes", "refused"),
    [
        ("v4", {}, "watched"),
        ("v44", {"blocked": Blocked(channels=("c4",))}, "blocked_channel"),
        ("v44", {"blocked": Blocked(videos=("v44",))}, "blocked_video"),
        ("v44", {"exclude": ("v44",)}, "excluded"),
        ("v44", {"topics": ("t1",)}, "topic"),
    ],
)
def test_filter_that_held_a_video_back_is_named(ask, video, changes, refused):
    one = only(ask(video, **changes))
    assert (one.outcome, one.position) == (Outcome.FILTERED, None)
    assert one.told == f"A filter held it back: {refused}."
    assert [filter_.name for filter_ in one.filters if not filter_.passed] == [refused]
    assert all(source.place is None for source in one.sources)


def test_video_that_nobody_named_is_told_how_far_it_was(ask):
    narrow = {"retrieved": 5, "trending": 1, "per_source": 1}
    one = only(ask("v47", k=5, settings=narrow))
    assert one.outcome is Outcome.NOT_NOMINATED
    (standing,) = one.standings
    assert standing.stage == "retrieval"
    assert standing.of == 48
    assert f"place {standing.place} of 48, and the nearest 5" in one.told
    assert standing.place == 13  # The twelve of its topic are nearer, all others as far.
    assert one.expected_watch_time_s is not None  # What the ranker would say of it.


def test_video_that_came_too_late_in_the_order_is_told_so(ask):
    told = ask("v1", k=5)
    one = only(told)
    assert one.outcome is Outcome.BELOW
    place = {s.stage: s.place for s in one.standings}
    assert place["page"] is None
    assert place["order"] > 5
    assert f"but {place['order'] - 1} others stand before it, and the page has 5 places" in one.told


def test_video_whose_channel_has_enough_is_told_so(ask):
    told = ask("v36", k=5, settings={"per_channel": 1})
    one = only(told)  # Channel c4 has v44, too, which stands before it.
    assert "v44" in told.page
    assert one.outcome is Outcome.CHANNEL_CAP
    assert one.standings[-1].moved_by == "its channel has enough on the page"


def test_video_that_is_not_there_or_not_yet_is_told_so(ask, tiny):
    table = tiny.catalogue().table
    times = table["upload_time"].to_pylist()
    times[7] = tiny.now + 60
    later = table.set_column(1, "upload_time", pa.array(times, pa.int64()))
    release = tiny.release(catalogue=dataclasses.replace(tiny.catalogue(), table=later))
    told = ask("nothing", "v7", release=release)
    assert [one.outcome for one in told.videos] == [Outcome.UNKNOWN, Outcome.NOT_YET]
    assert "has no such video" in told.videos[0].told


def test_contributions_are_what_the_ranker_says_without_a_group(ask, tiny):
    release = tiny.release()
    release = dataclasses.replace(release, ranker=SummingRanker(release.resolved))
    one = only(ask("v44", release=release, context={"device": "tv", "region": "de"}))
    assert one.expected_watch_time_s == 100 + 10 + 5 + 20 + 3
    assert {c.group: c.seconds for c in one.contributions} == {
        "user": 20, "context": 5, "history": 3, "video": 100, "nomination": 10,
    }  # fmt: skip
    assert all(c.seconds + c.without_s == one.expected_watch_time_s for c in one.contributions)


def test_learned_order_says_what_moved_a_video(ask, tiny):
    weights = np.zeros(len(NAMES))
    weights[NAMES.index("log_age_h")] = 1.0  # Old ones first.
    release = tiny.release(order=PageOrder(weights, 1))
    without = ask("v47", release=release, settings={"order": "learned"})
    assert only(without).order_parts == []  # It needs live state.
    release = release.with_live(LiveState())
    wide = {"retrieved": 48}
    by_ranker = only(ask("v47", release=release, settings=wide))
    assert by_ranker.order_parts == []  # It is not in that order.
    one = only(ask("v47", release=release, settings={**wide, "order": "learned"}))
    (part,) = one.order_parts
    assert part.name == "log_age_h"
    assert part.value > 0
    order = next(standing for standing in one.standings if standing.stage == "order")
    assert order.place == 1
    assert order.moved_by == f"learned order, most by log_age_h: {part.value:+.2f}"


def test_shown_too_often_comes_last_and_is_told(ask, tiny):
    shown = [
        Event(event_id=str(n), kind=Kind.IMPRESSION, user_id="u", time=tiny.now - 60 - n,
              video_id="v44", page_id=str(n))
        for n in range(3)
    ]  # fmt: skip
    ask.history.append(shown)
    one = only(ask("v44", k=5, settings={"max_shown": 3}))
    assert one.outcome is Outcome.FILTERED
    assert [f.name for f in one.filters if not f.passed] == ["shown_too_often"]
    assert (one.shown.times, one.shown.lately, one.shown.last) == (3, 3, tiny.now - 60)


def test_ranker_that_fails_leaves_the_rest_to_tell(ask, tiny):
    told = ask("v44", release=tiny.release(ranker=tiny.broken()))
    assert told.rung == "no_ranker"
    assert "the ranker does not answer" in told.groups_told
    assert only(told).contributions == []
    assert "ranker" not in [standing.stage for standing in only(told).standings]
    without = ask("v44", release=tiny.release(ranker=None))
    assert without.groups_told == "the release has no ranker"


def test_viewer_of_whom_nothing_is_known_has_no_place_by_embedding(tiny, tmp_path):
    store = SqliteHistoryStore(tmp_path / "empty.sqlite")
    funnel = Funnel(releases=tiny.releases(tiny.release()), history=store, recorder=None,
                    settings=tiny.patient(), clock=lambda: tiny.now)  # fmt: skip
    with funnel.looking(PageRequest(user_id="new")) as answer:
        one = only(why.explain(answer, ["v0"], RawRankers()))
    assert one.retrieval_score is None
    assert [s.stage for s in one.standings] == ["ranker", "order", "page"]
    assert one.near == []
    funnel.close()
    store.close()


def test_raw_signature_is_opened_once_and_only_when_somebody_asks(tiny):
    opened = []

    def open_raw(release):
        opened.append(release.version)
        return release.ranker

    rankers = RawRankers(open_raw)
    release = tiny.release()
    assert opened == []
    assert rankers.of(release) is rankers.of(dataclasses.replace(release)) is release.ranker
    assert opened == ["20231114000000"]
    assert rankers.of(tiny.release(ranker=None)) is None


def test_raw_signature_says_what_the_one_of_prepared_videos_says(small_release):
    from serving.funnel import loaded_release
    from serving.history.user_history import unknown_user
    from serving.insight import left_out
    from serving.release import manifest
    from serving.servables import signatures
    from serving.servables.embedded import EmbeddedBackend

    backend = EmbeddedBackend()
    release = loaded_release.load(small_release, manifest.current(small_release), backend=backend)
    assert release.prepared is not None
    viewer = release.viewer(
        unknown_user("u"), now=1_700_300_000, context={"region": "DE", "device": "tv"}
    )
    rows = np.arange(len(release.catalogue), dtype=np.int32)
    candidates = left_out.Candidates(
        rows=rows,
        source_names=("retrieval",),
        source_bits=np.ones(len(rows), np.int64),
        source_scores=np.zeros((1, len(rows)), np.float32),
        retrieval_scores=np.linspace(-1, 1, len(rows), dtype=np.float32),
    )
    raw = RawRankers(lambda loaded: backend.open(signatures.RANKER, loaded.on_disk)).of(release)
    whole, without = left_out.without_each(raw, release, viewer, candidates)
    np.testing.assert_allclose(whole, release.expected_watch_times(viewer, candidates), rtol=0.01)
    assert set(without) == set(left_out.GROUPS) - {"nomination"}  # Its logs have none.
    changed = {group for group, seconds in without.items() if not np.allclose(seconds, whole)}
    assert {"user", "video"} <= changed
