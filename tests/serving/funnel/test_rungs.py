"""What an answer stands on when parts of the funnel fail, and how a new viewer climbs."""

import dataclasses
import threading

import numpy as np
import pytest

from serving import errors
from serving.events.event import Event, Kind
from serving.funnel import rungs, sources
from serving.funnel.funnel import Funnel
from serving.funnel.nominations import Nominations, Source
from serving.funnel.page import PageRequest
from serving.funnel.rungs import LastEmbeddings
from serving.history.sqlite_store import SqliteHistoryStore


@pytest.fixture
def history(tmp_path, tiny):
    store = SqliteHistoryStore(tmp_path / "history.sqlite")
    store.append(
        [
            Event(
                event_id=f"w{n}",
                kind=Kind.WATCH,
                user_id="u",
                time=tiny.now - 600,
                video_id=f"v{n}",
                watch_time_s=100.0,
            )
            for n in (1, 5)
        ]
    )
    yield store
    store.close()


@pytest.fixture
def funnel_of(tiny, history):
    funnels = []

    def make(release=None, **more):
        more.setdefault("history", history)
        more.setdefault("settings", tiny.patient())
        releases = tiny.releases(release or tiny.release())
        funnels.append(Funnel(releases=releases, recorder=None, clock=lambda: tiny.now, **more))
        return funnels[-1]

    yield make
    for funnel in funnels:
        funnel.close()


class FakeSource(Source):
    """A source that tests make themselves."""

    @classmethod
    def of(cls, built):
        return cls()


class Fixed(FakeSource):
    """A source that always nominates the same."""

    def __init__(self, name, *numbers):
        self.name = name
        self._rows = np.array(numbers, np.int32)

    def nominate(self, question, limit):
        kept = self._rows[question.allowed(self._rows)]
        return Nominations(kept, np.arange(len(kept), 0, -1).astype(np.float32))


class Held(FakeSource):
    """Whatever is asked of it, it answers when the test ends."""

    def __init__(self):
        self.let_go = threading.Event()
        self.name = sources.RETRIEVAL

    def nominate(self, question, limit):
        self.let_go.wait(60)

    def predict(self, inputs, *, deadline_s=None):
        self.let_go.wait(60)

    def read(self, user_id):
        self.let_go.wait(60)


@pytest.fixture
def held():
    one = Held()
    yield one
    one.let_go.set()


def ids(answer):
    return [item.video_id for item in answer.items]


def co_watched(release, *numbers):
    return dataclasses.replace(
        release, sources=(*release.sources, Fixed(sources.CO_WATCH, *numbers))
    )


def replaced(release, *others):
    """The same release with other sources of the same names."""
    mine = {source.name: source for source in (*release.sources, *others)}
    return dataclasses.replace(release, sources=tuple(mine.values()))


def test_rungs_are_in_order():
    assert rungs.RUNGS == (
        "full", "part_of_index", "no_ranker", "no_history", "last_embedding", "no_retrieval",
        "popular",
    )  # fmt: skip


def test_last_embedding_stands_in_for_a_query_tower_that_fails(funnel_of, tiny):
    release = tiny.release()
    funnel = funnel_of(release)
    before = funnel.recommend(PageRequest(user_id="u", k=9))
    assert before.rung == "full"
    funnel.releases.current = dataclasses.replace(release, query_tower=tiny.broken())
    after = funnel.recommend(PageRequest(user_id="u", k=9))
    assert after.rung == "last_embedding"
    assert after.reasons == ("query_tower: model server: UNAVAILABLE",)
    assert ids(after) == ids(before)  # Nothing happened meanwhile.
    stranger = funnel.recommend(PageRequest(user_id="x", k=9, context={"region": "de"}))
    assert stranger.rung == "popular"


def test_embedding_of_another_release_is_not_used(funnel_of, tiny):
    funnel = funnel_of(tiny.release("20231114000000"))
    funnel.recommend(PageRequest(user_id="u"))
    funnel.releases.current = tiny.release("20231115000000", query_tower=tiny.broken())
    assert funnel.recommend(PageRequest(user_id="u")).rung == "popular"


def test_failing_ranker_beside_a_failing_query_tower_is_the_lower_rung_with_both_reasons(
    funnel_of, tiny
):
    release = tiny.release()
    funnel = funnel_of(release)
    funnel.recommend(PageRequest(user_id="u"))
    funnel.releases.current = dataclasses.replace(
        release, query_tower=tiny.broken(), ranker=tiny.broken()
    )
    answer = funnel.recommend(PageRequest(user_id="u"))
    assert answer.rung == "last_embedding"
    assert [reason.partition(":")[0] for reason in answer.reasons] == ["query_tower", "ranker"]
    assert answer.items[0].retrieval_score == 1.0  # By retrieval score.


def test_no_embedding_at_all_gives_co_watched_and_popular_by_turns(funnel_of, tiny):
    release = co_watched(tiny.release(query_tower=tiny.broken()), 30, 31, 32)
    settings = tiny.patient(per_channel=48)
    answer = funnel_of(release, settings=settings).recommend(PageRequest(user_id="u", k=7))
    assert answer.rung == "no_retrieval"
    assert ids(answer) == ["v30", "v0", "v31", "v2", "v32", "v3", "v4"]  # v1 and v5 are watched.
    assert "co_watch" in answer.items[0].sources


def test_index_that_fails_leaves_the_other_sources_to_the_ranker(funnel_of, tiny):
    class Broken(FakeSource):
        name = sources.RETRIEVAL

        def nominate(self, question, limit):
            raise RuntimeError("the index is gone")

    answer = funnel_of(replaced(tiny.release(), Broken())).recommend(PageRequest(user_id="u", k=9))
    assert answer.rung == "no_retrieval"
    assert answer.reasons == ("retrieval: the index is gone",)
    assert len(answer.items) == 9
    assert answer.items[0].expected_watch_time_s > 10  # On topic, with its retrieval score.


def test_lost_shards_leave_retrieval_among_the_others(funnel_of, tiny):
    """Of four shards the last, of v3, v7 and so on, has all of topic t3."""

    class Three(tiny.index):
        def search(self, queries, k):
            rows, scores = super().search(queries, len(self))
            kept = rows[0] % 4 != 3
            raise errors.IndexPartialError(
                "3 of 4 shards, 75.0% of the videos, answered; shard 3: gone",
                rows=rows[:, kept][:, :k],
                scores=scores[:, kept][:, :k],
                answered=0.75,
            )

    release = tiny.release()
    index = Three(release.index.embeddings)
    searching = tuple(source.over(release.catalogue, index, None) for source in release.sources)
    release = dataclasses.replace(release, index=index, sources=searching)
    answer = funnel_of(release).recommend(PageRequest(user_id="u", k=9))
    assert answer.rung == "part_of_index"
    assert answer.falls == ("index_shards",)
    assert answer.reasons == (
        "index_shards: 3 of 4 shards, 75.0% of the videos, answered; shard 3: gone",
    )
    assert len(answer.items) == 9
    assert answer.items[0].expected_watch_time_s > 10  # Ranked, on topic, with its score.
    retrieved = [int(i.video_id[1:]) for i in answer.items if "retrieval" in i.sources]
    assert retrieved
    assert all(number % 4 != 3 for number in retrieved)


def test_other_source_that_fails_is_named_and_missed_by_nobody(funnel_of, tiny):
    class Broken(FakeSource):
        name = sources.TRENDING

        def nominate(self, question, limit):
            raise errors.HistoryUnavailableError("no counts")

    answer = funnel_of(replaced(tiny.release(), Broken())).recommend(PageRequest(user_id="u", k=9))
    assert answer.rung == "full"
    assert answer.reasons == ("trending: no counts",)
    assert answer.nominated["trending"] == 0


def test_history_store_that_is_gone_leaves_the_context(funnel_of, tiny):
    class Gone:
        def read(self, user_id):
            raise errors.HistoryUnavailableError("the history store is gone.")

    release = tiny.release()
    funnel = funnel_of(release, history=Gone())
    answer = funnel.recommend(PageRequest(user_id="u", k=9, context={"region": "fr"}))
    assert answer.rung == "no_history"
    assert answer.reasons == ("history: the history store is gone.",)
    assert release.query_tower.asked[0]["region"].tolist() == ["fr"]
    nothing = funnel.recommend(PageRequest(user_id="u", k=9))
    assert (nothing.rung, len(nothing.items)) == ("no_history", 9)


# ---- deadlines -----------------------------------------------------------------------------------

LATE_S = 0.05


def test_query_tower_that_hangs_is_given_up(funnel_of, tiny, held):
    release = tiny.release(query_tower=held)
    funnel = funnel_of(release, settings=tiny.patient(query_tower_deadline_s=LATE_S))
    answer = funnel.recommend(PageRequest(user_id="u", k=9))
    assert (answer.rung, len(answer.items)) == ("popular", 9)
    assert answer.reasons == ("query_tower: query_tower took longer than 0.05 s.",)


def test_ranker_that_hangs_is_given_up(funnel_of, tiny, held):
    funnel = funnel_of(tiny.release(ranker=held), settings=tiny.patient(ranker_deadline_s=LATE_S))
    answer = funnel.recommend(PageRequest(user_id="u", k=9))
    assert (answer.rung, answer.items[0].retrieval_score) == ("no_ranker", 1.0)


def test_index_that_hangs_is_given_up_and_the_other_sources_are_there(funnel_of, tiny, held):
    release = replaced(tiny.release(), held)
    funnel = funnel_of(release, settings=tiny.patient(sources_deadline_s=0.5))
    answer = funnel.recommend(PageRequest(user_id="u", k=9))
    assert answer.rung == "no_retrieval"
    assert answer.reasons == ("retrieval: retrieval took longer than 0.5 s.",)
    assert answer.nominated["fresh"] > 0


def test_history_store_that_hangs_is_given_up(funnel_of, held, tiny):
    funnel = funnel_of(history=held, settings=tiny.patient(history_deadline_s=LATE_S))
    answer = funnel.recommend(PageRequest(user_id="u", k=9, context={"region": "fr"}))
    assert (answer.rung, len(answer.items)) == ("no_history", 9)


# ---- the ladder of a new viewer ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("user", "context", "known_by", "retrieved"),
    [
        ("u", {}, "history", True),
        ("old", {}, "context", True),  # The release has a profile.
        ("new", {"region": "de", "age": 30}, "context", True),
        ("new", {"device": "tv"}, "nothing", False),  # Says nothing of a taste.
        ("new", {}, "nothing", False),
    ],
)
def test_viewer_is_served_from_what_is_known(funnel_of, user, context, known_by, retrieved):
    answer = funnel_of().recommend(PageRequest(user_id=user, context=context))
    assert answer.viewer_known_by == known_by
    assert (answer.nominated["retrieval"] > 0) == retrieved
    assert len(answer.items) == 20
    assert answer.rung == "full"


def test_of_whom_only_the_region_is_known_gets_what_is_popular_there_without_models(
    funnel_of, tiny
):
    import pyarrow as pa

    release = tiny.release(query_tower=tiny.broken(), ranker=None)
    regional = pa.table({"region": ["it"] * 3, "video_id": ["v40", "v41", "v42"],
                         "watches": [60, 40, 20]})  # fmt: skip
    daily = pa.table({name: [] for name in ("video_id", "day", "watches", "clicks")})
    popular = sources.Popular(daily, release.catalogue, regional)
    release = dataclasses.replace(replaced(release, popular), popular=popular)
    answer = funnel_of(release).recommend(PageRequest(user_id="new", k=5, context={"region": "it"}))
    assert answer.rung == "popular"
    assert ids(answer)[:3] == ["v40", "v41", "v42"]
    assert len(answer.items) == 5


def test_last_embeddings_of_long_ago_are_forgotten_first():
    # Three entries of five numbers of four bytes.
    last = LastEmbeddings(max_bytes=3 * (LastEmbeddings.ENTRY_BYTES + 20))
    for number in range(4):
        last.put("release", f"u{number}", np.full(5, number, np.float32))
    assert last.get("release", "u0") is None
    last.put("release", "u1", np.full(5, 9, np.float32))
    last.put("release", "u4", np.full(5, 4, np.float32))
    kept = {n: last.get("release", f"u{n}") for n in range(5)}
    assert [n for n, found in kept.items() if found is not None] == [1, 3, 4]
    assert kept[1].tolist() == [9.0] * 5
    assert last.get("another", "u1") is None
