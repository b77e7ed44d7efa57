import types

import hypothesis
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import strategies as st

from features.catalogue import Catalogue
from features.durations import DAY_S
from serving.funnel import candidates, sources
from serving.funnel.nominations import Nominations, Question
from serving.funnel.sources import Built


def asked(tiny, *, liked=(), excluded=(), region="", now=None, embedding=None, watched=()):
    """``watched``: (row, seconds ago)."""
    now = now or tiny.now
    rows, ago = np.array(watched, np.int64).reshape(-1, 2).T
    watches = types.SimpleNamespace(video=rows, time=now - ago)
    viewer = types.SimpleNamespace(
        now=now,
        region=region,
        liked_rows=np.array(liked, np.int64),
        history=types.SimpleNamespace(watches=watches),
    )
    return Question(
        viewer=viewer,
        excluded=np.array(sorted(excluded), np.int32),
        upload_times=tiny.catalogue().upload_times,
        embedding=embedding,
    )


def daily(tiny, counts):
    """``counts``: (video number, days before the last, watches)."""
    numbers, ages, watches = zip(*counts, strict=True)
    zeros = pa.array([0] * len(numbers), pa.int64())
    return pa.table(
        {
            "video_id": [f"v{n}" for n in numbers],
            "day": pa.array([19_000 - age for age in ages], pa.int64()),
            "impressions": zeros,
            "clicks": zeros,
            "watches": pa.array(watches, pa.int64()),
            "watch_time_s": [0.0] * len(numbers),
        }
    )


def test_watches_count_half_after_a_week(tiny):
    # v1: 8 now; v2: 10 a week ago, which count 5; v3: 40 two weeks ago, which count 10.
    table = daily(tiny, [(1, 0, 8), (2, 7, 10), (3, 14, 40)])
    found = sources.Popular(table, tiny.catalogue()).nominate(asked(tiny), 10)
    assert found.rows.tolist() == [3, 1, 2]
    np.testing.assert_allclose(found.scores, [10, 8, 5])


def test_fill_reaches_every_allowed_video_newest_first_where_nobody_watched(tiny):
    popular = sources.Popular(daily(tiny, [(5, 0, 1)]), tiny.catalogue())
    found = popular.fill(asked(tiny, excluded={0, 1}), 100)
    assert found.rows.tolist() == [5, 2, 3, 4, *range(6, 48)]


def test_of_many_regions_the_most_watched_have_lists_of_their_own(tiny):
    """Whoever calls the API chooses the names, so there may be thousands, in any order."""
    named = [f"made up {n}" for n in range(2000)]
    columns = {
        # v2 and v3 in each: 50 watches of v3 in the last one named so, up to 2,049 in the first.
        "region": [*named, *named, "de", "de", "de", ""],
        "video_id": ["v2"] * 2000 + ["v3"] * 2000 + ["v9", "v8", "unknown", "v7"],
        "watches": [*[0] * 2000, *range(2049, 49, -1), 1900, 2000, 9, 9999],
    }
    popular = sources.Popular(daily(tiny, [(1, 0, 8)]), tiny.catalogue(), pa.table(columns))
    assert len(popular._regions) == 500 - 1  # One of the 500 is that of nobody's region.
    assert popular.nominate(asked(tiny, region="de"), 5).rows.tolist() == [8, 9]
    assert popular.nominate(asked(tiny, region="made up 0"), 5).rows.tolist() == [3, 2]
    assert popular.nominate(asked(tiny, region="made up 1999"), 5).rows.tolist() == [1]
    assert popular.nominate(asked(tiny, region=""), 5).rows.tolist() == [1]


def test_small_region_is_served_what_is_popular_with_all(tiny):
    regional = pa.table({"region": ["de", "fr"], "video_id": ["v9", "v8"], "watches": [49, 50]})
    popular = sources.Popular(daily(tiny, [(1, 0, 8)]), tiny.catalogue(), regional)
    assert popular.nominate(asked(tiny, region="de"), 5).rows.tolist() == [1]
    assert popular.nominate(asked(tiny, region="fr"), 5).rows.tolist() == [8]


def test_trending_is_what_is_watched_more_than_usual(tiny):
    # v1: 70 a day as ever. v2: from 0 to 20. v3: from 10 a day to 25.
    usual = [(1, age, 70) for age in range(8)] + [(3, age, 10) for age in range(1, 8)]
    table = daily(tiny, [*usual, (2, 0, 20), (3, 0, 25)])
    built = Built(catalogue=tiny.catalogue(), index=None, daily=table)
    found = sources.Trending.of(built).nominate(asked(tiny), 10)
    # (20 - 0) / sqrt(1) and (25 - 10) / sqrt(11)
    assert found.rows.tolist() == [2, 3]
    np.testing.assert_allclose(found.scores, [20, 15 / 11**0.5], rtol=1e-6)


@hypothesis.given(st.data())
@hypothesis.settings(max_examples=60, deadline=None)
def test_fresh_gives_what_an_order_of_all_that_is_allowed_gives(data):
    count = data.draw(st.integers(1, 40))
    rows = st.integers(0, count - 1)
    days = data.draw(st.lists(st.integers(0, 30), min_size=count, max_size=count))
    of_topics = st.lists(st.sampled_from("abc"), max_size=2)
    topics = data.draw(st.lists(of_topics, min_size=count, max_size=count))
    times = pa.array(np.array(days) * DAY_S)
    ids = [f"v{n}" for n in range(count)]
    table = pa.table({"video_id": ids, "upload_time": times})
    table = table.append_column("topics", pa.array(topics, pa.list_(pa.string())))
    liked = data.draw(st.lists(rows, max_size=3))
    excluded = np.array(sorted(data.draw(st.sets(rows))), np.int32)
    banned = data.draw(st.sets(rows))
    question = Question(
        viewer=types.SimpleNamespace(now=20 * DAY_S, liked_rows=np.array(liked, np.int64)),
        excluded=excluded,
        upload_times=np.asarray(times),
        permits=lambda rows: ~np.isin(rows, list(banned)),
    )
    mine = {topic for row in liked for topic in topics[row]}

    def score(row):
        return days[row] - 20 + 7 * bool(mine & set(topics[row]))

    allowed = [n for n in range(count) if days[n] < 20 and n not in {*excluded, *banned}]
    newest_first = sorted(allowed, key=lambda n: -days[n])
    expected = sorted(newest_first, key=lambda n: -score(n))[:5]
    found = sources.Fresh(Catalogue(table)).nominate(question, 5)
    assert found.rows.tolist() == expected
    assert found.scores.tolist() == [score(n) for n in expected]


def test_fresh_prefers_topics_of_the_viewer_among_the_newest(tiny):
    fresh = sources.Fresh(tiny.catalogue())
    assert fresh.nominate(asked(tiny), 3).rows.tolist() == [0, 1, 2]
    assert fresh.nominate(asked(tiny, liked=[7]), 3).rows.tolist() == [3, 7, 11]
    early = asked(tiny, now=tiny.now - 5 * 3600)
    assert fresh.nominate(early, 3).rows.tolist() == [5, 6, 7]


def test_what_was_watched_often_and_lately_comes_again_first(tiny):
    again = sources.Again.of(None)
    watched = [(4, 100), (4, 10_000), (7, 400), (9, 90), (-1, 5)]
    found = again.nominate(asked(tiny, watched=watched), 10)
    assert found.rows.tolist() == [4, 9, 7]
    np.testing.assert_allclose(found.scores, [0.11, 90**-0.5, 0.05], rtol=1e-5)
    assert again.nominate(asked(tiny, watched=watched, excluded={4, 7, 9}), 10).rows.tolist() == []


def test_nothing_is_nominated_in_the_second_in_which_it_comes_up(tiny):
    """A video may be known from its first watch, which must not know of itself."""
    fresh = sources.Fresh(tiny.catalogue())
    uploaded = int(tiny.catalogue().upload_times[3])
    assert 3 not in fresh.nominate(asked(tiny, now=uploaded), 48).rows
    assert 3 in fresh.nominate(asked(tiny, now=uploaded + 1), 48).rows


def test_channels_are_weighed_by_habit(tiny):
    channels = sources.Channels(tiny.catalogue())
    # Two watches of c1 (v1, v9), one of c2 (v2).
    found = channels.nominate(asked(tiny, liked=[1, 9, 2], excluded={1, 9, 2}), 7)
    assert found.rows.tolist() == [17, 25, 33, 41, 10, 18, 26]
    assert found.scores.tolist() == [2, 2, 2, 2, 1, 1, 1]


def test_retrieval_looks_deeper_when_what_it_finds_is_excluded(tiny):
    embeddings = np.array([[48 - n, 1] for n in range(48)], np.float32)
    retrieval = sources.Retrieval(tiny.index(embeddings))
    question = asked(tiny, excluded=set(range(40)), embedding=np.array([1, 0], np.float32))
    assert retrieval.nominate(question, 5).rows.tolist() == [40, 41, 42, 43, 44]
    assert retrieval.nominate(question, 20).rows.tolist() == list(range(40, 48))


@pytest.mark.parametrize("source", sources.SOURCES, ids=sources.NAMES)
def test_empty_statistics_and_history_nominate_without_failing(tiny, source):
    catalogue = tiny.catalogue()
    index = tiny.index(np.ones((len(catalogue), 2), np.float32))
    nothing = daily(tiny, [(0, 0, 0)]).slice(0, 0)
    made = source.of(Built(catalogue=catalogue, index=index, daily=nothing))
    assert len(made.nominate(asked(tiny), 5).rows) == (5 if source is sources.Fresh else 0)


# ---- merging and the page -----------------------------------------------------------------------

rows = st.lists(st.integers(0, 9), unique=True, max_size=10)


@hypothesis.given(st.lists(rows, max_size=4))
def test_merge_keeps_every_nomination_once_with_its_score(lists):
    nominations = {
        f"s{number}": Nominations(np.array(found, np.int32), np.array(found, np.float32) + number)
        for number, found in enumerate(lists)
    }
    merged = candidates.merge(nominations, embeddings=np.zeros((10, 2), np.float32), query=None)
    assert sorted(merged.rows.tolist()) == sorted({row for found in lists for row in found})
    for place, row in enumerate(merged.rows.tolist()):
        named = merged.names_of(int(merged.source_bits[place]))
        assert named == tuple(f"s{n}" for n, found in enumerate(lists) if row in found)
        for number, found in enumerate(lists):
            score = merged.source_scores[number, place]
            assert score == row + number if row in found else np.isnan(score)
    assert merged.source_lists.to_pylist() == [
        list(merged.names_of(int(bits))) for bits in merged.source_bits
    ]


@hypothesis.given(
    channels=st.lists(st.integers(-1, 3), max_size=30),
    k=st.integers(1, 20),
    cap=st.integers(1, 3),
)
def test_page_is_full_and_over_the_cap_only_where_it_must_be(channels, k, cap):
    order = np.arange(len(channels))
    page = candidates.capped_per_channel(order, np.array(channels, np.int64), k=k, cap=cap)
    assert len(page) == min(k, len(channels))
    assert len(set(page.tolist())) == len(page)
    within = sum(min(channels.count(c), cap) for c in range(4)) + channels.count(-1)
    if within >= k:
        shown = [channels[i] for i in page]
        assert all(shown.count(channel) <= cap for channel in range(4))
