"""Counts of feedback in a history, against counts by hand; and what replay makes of a log."""

import numpy as np
import pyarrow as pa
import pytest

from features import feedback, preprocessing, spec
from features.as_of import example_tables, replay, statistics
from features.as_of.examples import Users
from features.as_of.history import History
from features.catalogue import Catalogue
from features.event_columns import Queries
from features.spec import Kind, Side

T = 1_700_000_000
DAY = 86400
VIDEOS = pa.table(
    {
        "video_id": ["a", "b", "c", "d"],
        "channel_id": ["x", "x", "y", None],
        "topics": [["s", "t"], ["t"], [], ["s"]],
        "upload_time": [T - 10**7] * 4,
    }
)
SAID = [
    ("u", "a", T - 1, "like", None, None),
    ("u", "a", T - 1, "like", None, None),
    ("u", "b", T - 8 * DAY, "like", None, None),
    ("u", "d", T - 2, "like", None, None),
    ("u", "a", T - 3, "like", None, 0.0),
    ("u", "gone", T - 3, "like", None, None),
    ("u", None, T - 4, "hide", "x", None),
    ("u", None, T - 4, "hide", "nothing", None),
    ("u", "c", T, "like", None, None),
    ("v", "a", T - 1, "like", None, None),
]
NAMES = ("user_id", "video_id", "time", "kind", "channel_id", "value")


def table(rows=SAID):
    types = [pa.string(), pa.string(), pa.int64(), pa.string(), pa.string(), pa.float64()]
    schema = pa.schema(dict(zip(NAMES, types, strict=True)))
    return pa.Table.from_pylist([dict(zip(NAMES, row, strict=True)) for row in rows], schema)


@pytest.fixture
def history():
    return History.of(Catalogue(VIDEOS), {"u": 0, "v": 1}, watches=None, feedback=table())


def queries(count=1, now=T):
    return Queries(np.zeros(count, np.int64), np.full(count, now))


def test_feedback_is_counted_by_what_it_was_about(history):
    found = history.video_grid(queries(4), np.arange(4, dtype=np.int32))
    # a and d were liked lately, b eight days ago; that of this very second is not known.
    assert found["user_video_likes_7d"].tolist() == [1, 0, 0, 1]
    assert found["user_video_likes_all"].tolist() == [1, 1, 0, 1]
    assert found["user_channel_likes_7d"].tolist() == [1, 1, 0, 0]
    assert found["user_channel_likes_all"].tolist() == [2, 2, 0, 0]
    assert found["user_channel_hides_all"].tolist() == [1, 1, 0, 0]
    assert found["user_video_hides_all"].tolist() == [0] * 4
    # Of two topics the one that was liked more: s with a and d, t with a and b.
    assert found["user_topic_likes_7d"].tolist() == [2, 1, 0, 2]
    assert found["user_topic_likes_all"].tolist() == [2, 2, 0, 2]


def test_feedback_of_a_user_at_all(history):
    found = history.user_grid(queries())
    assert found["user_any_likes_7d"].tolist() == [2]
    assert found["user_any_likes_all"].tolist() == [3]
    assert found["user_any_hides_all"].tolist() == [1]
    assert history.user_grid(queries(now=T - 8 * DAY))["user_any_likes_all"].tolist() == [0]


def resolved_with(kinds):
    columns = {"videos": VIDEOS.column_names, "users": [], "watches": [], "context": []}
    columns |= {"impressions": ["page_id"], "feedback": NAMES}
    resolved = spec.resolve(columns)
    return spec.ResolvedSpec(features=resolved.features, feedback=kinds)


def replayed(resolved, tables):
    replayer = replay.Replayer(
        replay.ReplayConfig(train_until_s=T + 10**6),
        resolved=resolved,
        catalogue=Catalogue(VIDEOS),
        users=Users(pa.table({"user_id": ["u", "v"]})),
    )
    daily = statistics.daily_counts(tables.get("watches"), tables.get("impressions"))
    parts = {}
    for model, _, batch in replayer.examples(tables, daily):
        parts.setdefault(model, []).append(batch)
    return {model: pa.Table.from_batches(batches) for model, batches in parts.items()}


def log(rows):
    shown = {"user_id": ["u"] * 3, "video_id": ["a", "b", "c"], "time": [T, T, T + DAY]}
    seconds = [10.0, 20.0, 30.0]
    return {
        "impressions": pa.table({**shown, "clicked": [True] * 3, "watch_time_s": seconds}),
        "watches": pa.table({**shown, "watch_time_s": seconds}),
        "feedback": table(rows),
    }


def test_examples_have_labels_and_no_positive_that_was_regretted():
    resolved = resolved_with(("like", "dislike"))
    rows = [
        ("u", "a", T + 5, "dislike", None, None),
        ("u", "b", T + 5, "like", None, None),
    ]
    parts = replayed(resolved, log(rows))
    assert parts[spec.CANDIDATE]["label_video_id"].to_pylist() == ["b", "c"]
    ranking = parts[spec.RANKER].to_pylist()
    assert [r["clicked"] for r in ranking] == [0.0, 1.0, 1.0]
    assert [r["watch_time_s"] for r in ranking] == [0.0, 20.0, 30.0]
    assert [r["feedback_like"] for r in ranking] == [0.0, 1.0, 0.0]
    assert [r["feedback_dislike"] for r in ranking] == [1.0, 0.0, 0.0]
    names = resolved.vector_names(spec.RANKER, Side.QUERY, Kind.CONTINUOUS)
    likes = [r["query_continuous"][names.index("user_any_likes_all")] for r in ranking]
    assert likes == [0.0, 0.0, 1.0]
    schema = example_tables.example_schema(resolved, spec.RANKER)
    assert parts[spec.RANKER].schema.equals(schema)
    raw = preprocessing.raw_feature_spec(resolved, spec.RANKER)
    assert {"feedback_like", "feedback_dislike"} <= set(raw) <= set(schema.names)


def test_a_log_without_feedback_has_nothing_of_it():
    columns = {"videos": VIDEOS.column_names, "users": [], "watches": [], "context": []}
    resolved = spec.resolve({**columns, "impressions": []})
    assert not [f for f in resolved.features if feedback.kind_of(f.column)]
    assert "feedback" not in resolved.to_json()
    tables = log([])
    del tables["feedback"]
    parts = replayed(resolved, tables)
    assert not [n for n in parts[spec.RANKER].column_names if "feedback" in n]
