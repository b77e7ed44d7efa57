"""Vectors of videos and users: from columns, averaged over watches, and refused."""

import json

import numpy as np
import pyarrow as pa
import pytest

from features import command, declarations, spec, vectors
from features.as_of import examples
from features.as_of.examples import Request, Users
from features.as_of.history import History
from features.catalogue import Catalogue
from features.event_columns import Queries
from features.spec import Kind, Side

T = 1_700_000_000
VIDEOS = pa.table(
    {
        "video_id": ["a", "b", "c", "d"],
        "upload_time": [T - 10**6] * 4,
        "content": [[1.0, 2.0], [3.0, 4.0], None, [7.0, 8.0]],
    }
)


def resolved(tmp_path, *entries, width=2):
    path = tmp_path / "features.json"
    path.write_text(json.dumps([*vectors.declarations_of("content", width), *entries]))
    types = {
        "videos": dict(zip(VIDEOS.column_names, VIDEOS.schema.types, strict=True)),
        "watches": {"user_id": pa.string()},
    }
    return declarations.resolve(types, path)


def test_vectors_that_do_not_fit_are_missing_as_a_whole():
    column = pa.array([[1, 2], None, [1, 2, 3], [1.0, None], [np.inf, 0.0], [3.0, 4.0]])
    found = vectors.of_column(column, 2)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found[[0, 5]], [[1, 2], [3, 4]])
    assert np.isnan(found[1:5]).all()
    assert np.isnan(vectors.of_column(pa.nulls(3), 2)).all()


def test_a_user_has_the_mean_of_the_vectors_that_were_watched(tmp_path):
    spec_of_logs = resolved(tmp_path)
    # u: a, then c without a vector, then b; of v nothing is known; w watches d now, so later.
    watched = [("u", "a", -30), ("u", "c", -20), ("u", "b", -10), ("w", "d", 0)]
    watches = pa.table(
        {
            "user_id": [user for user, _, _ in watched],
            "video_id": [video for _, video, _ in watched],
            "time": [T + ago for _, _, ago in watched],
            "watch_time_s": [60.0] * 4,
            "completed": [True] * 4,
        }
    )
    codes = {"u": 0, "v": 1, "w": 2}
    queries = Queries(np.array([0, 0, 1, 2, 2]), np.array([T, T - 10, T, T, T + 1]))
    batch = examples.query_batch(
        spec_of_logs,
        spec.CANDIDATE,
        request=Request(queries=queries, user_rows=np.full(5, -1), context={}),
        users=Users(pa.table({"user_id": pa.array([], pa.string())})),
        history=History.of(Catalogue(VIDEOS), codes, watches=watches),
    )
    found = np.array(batch[spec.vector_column(Side.QUERY, Kind.VECTOR)].to_pylist())
    nothing = [np.nan, np.nan]
    # The mean over the last watches, then the last watch alone.
    expected = [[2, 3, 3, 4], [1, 2, *nothing], nothing * 2, nothing * 2, [7, 8, 7, 8]]
    np.testing.assert_array_equal(found, expected)


def test_what_is_declared_is_answered(tmp_path):
    found = {f.name: f for f in resolved(tmp_path).features if f.kind is Kind.VECTOR}
    assert set(found) == {"content", "watched_content", "last_content"}
    assert found["watched_content"].side is Side.QUERY
    assert found["last_content"].of_watched == "content"
    assert not found["content"].of_watched


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        ({"source": "history.watched.nothing"}, "Did you mean"),
        ({"source": "history.watched.video_id"}, "history has no such column"),
        ({"source": "history.first.content"}, "history has no such column"),
        ({"source": "history.watched.content", "side": "candidate"}, "history has no such column"),
    ],
)
def test_what_nothing_averages_is_refused(tmp_path, entry, says):
    common = {"name": "other", "kind": "vector", "width": 2, "side": "query"}
    with pytest.raises(command.InputError, match=says):
        resolved(tmp_path, {**common, "models": ["ranker"], **entry})


def test_faults_are_named_with_their_rows(tmp_path):
    features = resolved(tmp_path).features
    assert vectors.faults(VIDEOS, features, name="videos", key="video_id") == []
    assert vectors.faults(VIDEOS, features, name="users", key="user_id") == []
    column = pa.array([[1.0, 2.0], [1.0], [np.nan, 1.0], None])
    wrong = VIDEOS.set_column(2, "content", column)
    with pytest.raises(command.InputError) as raised:
        vectors.require(wrong, features, name="videos", key="video_id")
    lines = str(raised.value).splitlines()
    assert len(lines) == 2  # Three features read the column.
    assert "1 of 4 rows have another width than the declared 2 (first: ['b'])" in lines[0]
    assert "1 of 4 rows hold a number that is null, NaN or infinite (first: ['c'])" in lines[1]
