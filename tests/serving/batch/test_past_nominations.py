"""Nominations made afterwards: as of the page's start, and only where the funnel logged none."""

import numpy as np
import pyarrow as pa
import pytest
import tensorflow as tf

from features import spec
from features.as_of import pages
from features.as_of.examples import Users
from features.as_of.history import History
from features.as_of.replay import ReplayConfig, Replayer
from features.catalogue import Catalogue
from serving.batch import past_nominations
from serving.index import exact_search
from serving.servables import signatures

T0 = 1_700_000_000
VIDEOS = pa.table({"video_id": ["a", "b", "c"], "upload_time": [T0 - 10**6] * 3})
# Per watch of the query one more for a, always 2.5 for b, c has no embedding.
EMBEDDINGS = np.array([[1, 0], [0, 2.5], [0, signatures.UNREACHABLE_BIAS]], np.float32)
CODES = {"u": 0, "v": 1}


def embed(**raw):
    """The query's embedding: how many videos it has watched, and 1 for the bias."""
    known = tf.reduce_sum(tf.cast(raw["watched_video_ids"] != "", tf.float32), axis=1)
    return {"embedding": tf.stack([known, tf.ones_like(known)], axis=1)}


def nominations():
    resolved = spec.resolve(
        {
            "videos": VIDEOS.column_names,
            "users": ["user_id"],
            "watches": [],
            "impressions": past_nominations.COLUMNS,
            "context": [],
        }
    )
    catalogue = Catalogue(VIDEOS)
    return past_nominations.PastNominations(
        release_id="made",
        replayer=Replayer(
            ReplayConfig(train_until_s=0),
            resolved=resolved,
            catalogue=catalogue,
            users=Users(pa.table({"user_id": ["u", "v"]})),
        ),
        resolved=resolved,
        catalogue=catalogue,
        embed=embed,
        embeddings=EMBEDDINGS,
        search=lambda queries, k: exact_search.search(EMBEDDINGS, queries, k),
    )


def filled(rows, watches=(), **columns):
    """Fills (user, video, time, page) impressions, after (user, video, time) watches."""
    users, videos, times, page = zip(*rows, strict=True)
    shown = pa.table({"user_id": users, "video_id": videos, "time": times, "page_id": page})
    for name, values in columns.items():
        shown = shown.append_column(name, values)
    names = ["user_id", "video_id", "time"]
    watched = (
        pa.table(dict(zip(names, zip(*watches, strict=True), strict=True))) if watches else None
    )
    if watched is not None:
        watched = watched.append_column("watch_time_s", pa.array([9.0] * len(watches)))
    history = History.of(Catalogue(VIDEOS), CODES, watches=watched)
    return nominations().filled(pages.with_pages(shown), CODES, history)


def test_a_score_is_as_of_the_start_of_the_page():
    # Two watches come before page p begins, one on its second, one while it is looked at.
    watches = [("u", "b", T0 - 20), ("u", "b", T0 - 10), ("u", "b", T0), ("u", "b", T0 + 5)]
    found = filled(
        [("u", "a", T0, "p"), ("u", "a", T0 + 9, "p"), ("u", "a", T0 + 60, "q")], watches
    )
    assert found["retrieval_score"].to_pylist() == [2.0, 2.0, 4.0]
    assert found["release_id"].to_pylist() == ["made"] * 3


def test_each_user_is_asked_about_alone():
    found = filled([("u", "a", T0, "p"), ("v", "a", T0, "q")], [("v", "b", T0 - 1)])
    assert found["retrieval_score"].to_pylist() == [0.0, 1.0]


def test_what_our_funnel_logged_stays():
    found = filled(
        [("u", "a", T0, "p"), ("u", "b", T0, "p")],
        release_id=pa.array(["20231114", None]),
        retrieval_score=pa.array([7.0, 7.0]),
        candidate_sources=pa.array([["fresh"], ["theirs"]]),
    )
    assert found["retrieval_score"].to_pylist() == [7.0, 2.5]
    assert found["candidate_sources"].to_pylist() == [["fresh"], ["retrieval"]]
    assert found["release_id"].to_pylist() == ["20231114", "made"]


def test_a_video_without_an_embedding_or_unknown_has_no_score_and_no_source():
    found = filled([("u", "c", T0, "p"), ("u", "no such video", T0, "p")])
    assert found["retrieval_score"].to_pylist() == [None, None]
    assert found["candidate_sources"].to_pylist() == [[], []]


def test_retrieval_nominates_what_it_would_have_found_and_no_more(monkeypatch):
    monkeypatch.setattr(past_nominations, "RETRIEVED", 1)
    # One watch: a has 1, b 2.5. Three watches: a has 3.
    rows = [("u", "a", T0, "p"), ("u", "b", T0, "p")]
    few = filled(rows, [("u", "b", T0 - 1)])
    many = filled(rows, [("u", "b", T0 - second) for second in (1, 2, 3)])
    assert few["candidate_sources"].to_pylist() == [[], ["retrieval"]]
    assert many["candidate_sources"].to_pylist() == [["retrieval"], []]


def test_the_scores_do_not_depend_on_how_rows_are_batched(monkeypatch):
    rng = np.random.default_rng(0)
    rows = [("u", "ab"[rng.integers(2)], T0 + 60 * i, f"p{i // 3}") for i in range(50)]
    watches = [("u", "b", T0 + int(t)) for t in rng.integers(0, 3000, 20)]
    whole = filled(rows, watches)
    monkeypatch.setattr(past_nominations, "_BATCH", 7)
    assert filled(rows, watches).equals(whole)


def test_no_impressions_give_the_columns_all_the_same():
    nothing = pages.with_pages(
        pa.table(
            {
                "user_id": pa.array([], pa.string()),
                "video_id": pa.array([], pa.string()),
                "time": pa.array([], pa.int64()),
            }
        )
    )
    found = nominations().filled(nothing, {}, History.of(Catalogue(VIDEOS), {}, watches=None))
    assert set(past_nominations.COLUMNS) <= set(found.column_names)


@pytest.mark.parametrize("name", past_nominations.COLUMNS)
def test_columns_of_nulls_get_the_types_of_the_contract(name):
    table = pa.table({"time": [1], name: pa.nulls(1)})
    types = {"candidate_sources": pa.list_(pa.string()), "retrieval_score": pa.float64()}
    found = past_nominations.with_columns(table)
    assert found[name].type == types.get(name, pa.string())
