import datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from features import command, dataset, spec
from models.candidate import model as candidate_model
from serving.batch import query_files
from serving.batch import retrieval as batch_retrieval
from serving.index import index
from serving.release import manifest as release


@pytest.fixture(scope="module")
def found(small_release):
    return release.load(small_release)


def write(path, **columns):
    pq.write_table(pa.table(columns), path)
    return path


def queries(path, **changes):
    columns = {
        "query_id": [10, 11, 12],
        "time": [1_700_100_000] * 3,
        "watched_video_ids": [["v1", "v2", "v3"], ["v4"], []],
        "region": ["DE", "US", None],
    }
    columns |= changes
    return write(path, **{name: v for name, v in columns.items() if v is not None})


def retrieve(found, tmp_path, k=5, **options):
    if "queries" not in options:
        options["queries"] = queries(tmp_path / "queries.parquet")
    rows = batch_retrieval.retrieve(found, output=tmp_path / "out.parquet", k=k, **options)
    table = pq.read_table(tmp_path / "out.parquet")
    assert table.num_rows == rows
    return table


def videos_of(table, query_id):
    return table.filter(pc.equal(table["query_id"], query_id))["video_id"].to_pylist()


def test_every_query_gets_its_k_best_first(found, tmp_path):
    table = retrieve(found, tmp_path)
    assert table.schema.names == ["query_id", "rank", "video_id", "score"]
    assert table["query_id"].to_pylist() == [10] * 5 + [11] * 5 + [12] * 5
    assert table["rank"].to_pylist() == [1, 2, 3, 4, 5] * 3
    scores = np.array(table["score"]).reshape(3, 5)
    assert (np.diff(scores, axis=1) <= 0).all()


def test_held_out_examples_get_the_list_of_the_trained_model(found, small_site, tmp_path):
    """The raw example of a holdout watch, told as a query, has the embedding training gave it."""
    raw = pq.read_table(small_site.examples / "candidate_examples" / "holdout")
    lists = raw["watched_video_ids"].to_pylist()
    path = write(
        tmp_path / "holdout.parquet",
        query_id=np.arange(raw.num_rows),
        time=raw["time"],
        watched_video_ids=[newest_first[::-1] for newest_first in lists],
        user_id=raw["user_id"],
    )
    table = retrieve(found, tmp_path, k=1, queries=path)

    arrays = dataset.load(small_site.examples, spec.CANDIDATE, "holdout")
    model = candidate_model.load(small_site.candidate_model)
    loaded = index.Index.load(found.index)
    best = (model.query_embeddings(arrays).numpy() @ loaded.embeddings.T).max(axis=1)
    by_example = dict(zip(zip_keys(arrays), best.tolist(), strict=True))
    keys = zip(
        raw["user_id"].to_pylist(),
        raw["time"].to_pylist(),
        raw["label_video_id"].to_pylist(),
        strict=True,
    )
    expected = [by_example[key] for key in keys]
    np.testing.assert_allclose(table["score"], expected, rtol=1e-4, atol=1e-5)


def zip_keys(arrays):
    return zip(
        [user.decode() for user in arrays["user_id"]],
        arrays["time"].tolist(),
        [video.decode() for video in arrays["label_video_id"]],
        strict=True,
    )


def test_watched_videos_are_left_out_only_when_asked(found, tmp_path):
    everything = retrieve(found, tmp_path, k=40)
    assert set(videos_of(everything, 10)) >= {"v1", "v2", "v3"}
    rest = retrieve(found, tmp_path, k=40, exclude_watched=True)
    assert len(videos_of(rest, 10)) == 37
    assert not {"v1", "v2", "v3"} & set(videos_of(rest, 10))
    assert len(videos_of(rest, 11)) == 39
    assert len(videos_of(rest, 12)) == 40
    kept = [v for v in videos_of(everything, 10) if v not in {"v1", "v2", "v3"}]
    assert videos_of(rest, 10) == kept


def test_only_the_candidates_given_are_retrieved(found, tmp_path):
    candidates = write(tmp_path / "c.parquet", video_id=["v7", "v1", "v9", "unknown", "v7"])
    table = retrieve(found, tmp_path, candidates=candidates)
    assert set(videos_of(table, 12)) == {"v1", "v7", "v9"}
    table = retrieve(found, tmp_path, candidates=candidates, exclude_watched=True)
    assert set(videos_of(table, 10)) == {"v7", "v9"}


def test_what_was_watched_at_or_after_the_query_is_not_looked_at(found, tmp_path):
    now = 1_700_100_000
    late = queries(
        tmp_path / "late.parquet",
        watched_video_ids=[["v1", "v2"], ["v1"], ["v1", "v2"]],
        watched_times=[[now - 5, now], [now - 5], [now - 5, now - 4]],
        region=["DE", "DE", "DE"],
    )
    table = retrieve(found, tmp_path, queries=late, k=40, exclude_watched=True)
    assert "v2" in videos_of(table, 10)
    assert videos_of(table, 10) == videos_of(table, 11)
    assert "v2" not in videos_of(table, 12)


def test_profile_columns_come_from_the_query_or_else_from_the_known_user(found, tmp_path):
    # u1 is of region DE, see the small site.
    told = queries(tmp_path / "told.parquet", region=["DE", "US", None], age=[30.0] * 3)
    known = queries(
        tmp_path / "known.parquet", region=None, age=[30.0] * 3, user_id=["u1", "u0", "nobody"]
    )
    told, known = (retrieve(found, tmp_path, queries=path) for path in (told, known))
    assert told.equals(known)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"time": None}, "lacks the column 'time'"),
        ({"watched_video_ids": None}, "lacks the column 'watched_video_ids'"),
        ({"watched_video_ids": [1, 2, 3]}, "expected list<string>, found int64"),
        ({"time": ["today"] * 3}, "column 'time': expected int64"),
        ({"time": [1_700_100_000_000] * 3}, "must be Unix seconds.*milliseconds"),
        ({"time": [datetime.datetime(2023, 11, 16)] * 3}, "found timestamp.*whole Unix seconds"),
        ({"time": [1, None, 3]}, "1 rows have no time"),
        ({"watched_times": [[1], [1], [1]]}, "differ in 2 rows, first in query 10"),
    ],
)
def test_unusable_queries_are_refused_with_file_and_column(found, tmp_path, changes, message):
    path = queries(tmp_path / "bad.parquet", **changes)
    with pytest.raises(command.InputError, match=message):
        retrieve(found, tmp_path, queries=path)
    assert not (tmp_path / "out.parquet").exists()


@pytest.mark.parametrize(
    "lists",
    [
        pa.array([["1", "2"], ["3"], []], pa.large_list(pa.large_string())),
        pa.array([[1, 2], [3], []]),
        pa.array([["1", "2"], ["3"], []], pa.list_(pa.string_view())),
    ],
)
def test_lists_in_any_plain_arrow_form_are_read(tmp_path, lists):
    path = queries(tmp_path / "q.parquet", watched_video_ids=lists, time=[1.7001e9] * 3)
    table = query_files.read(path)
    assert table["watched_video_ids"].to_pylist() == [["1", "2"], ["3"], []]
    assert table["time"].to_pylist() == [1_700_100_000] * 3


def test_unusable_files_are_refused(found, tmp_path):
    (tmp_path / "text.parquet").write_text("query_id,time")
    for path, message in (
        (tmp_path / "absent.parquet", "does not exist"),
        (tmp_path / "text.parquet", "cannot be read as Parquet"),
    ):
        with pytest.raises(command.InputError, match=message):
            retrieve(found, tmp_path, queries=path)
    candidates = write(tmp_path / "c.parquet", video_id=["unknown"])
    with pytest.raises(command.InputError, match="the release has none of these videos"):
        retrieve(found, tmp_path, candidates=candidates)
