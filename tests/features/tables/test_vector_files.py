"""Vectors in files beside a table: joined by id, or refused in one message."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from features import command
from features.tables import logs, vector_files

VIDEOS = pa.table({"video_id": ["v1", "v2", "3"], "upload_time": [1, 2, 3]})
VECTORS = [[1.0, 2.0], [3.0, 4.0]]


@pytest.fixture
def logs_dir(tmp_path):
    with logs.LogWriter(tmp_path / "logs") as writer:
        writer.write("videos", VIDEOS)
        writer.write("users", pa.table({"user_id": ["u1", "u2"]}))
    return tmp_path / "logs"


def save(logs_dir, *, name="content.npz", table="videos", **arrays):
    path = logs_dir / vector_files.DIRECTORIES[table] / name
    path.parent.mkdir(exist_ok=True)
    if path.suffix == ".npz":
        np.savez(path, **arrays)
    else:
        pq.write_table(pa.table(arrays), path)
    return path


@pytest.mark.parametrize("name", ["content.npz", "content.parquet"])
def test_vectors_join_the_rows_of_their_ids(logs_dir, name):
    vector = np.array(VECTORS) if name.endswith("npz") else VECTORS
    save(logs_dir, name=name, video_id=["v2", "other"], vector=vector)
    rows = logs.read_table(logs_dir, "videos")
    assert rows["content"].to_pylist() == [None, [1.0, 2.0], None]
    assert rows["content"].type == logs.column_types(logs_dir, "videos")["content"]
    assert rows.drop_columns(["content"]).equals(logs.read_table(logs_dir, "videos").select([0, 1]))
    # What does not ask for them does not read them.
    ids = logs.read_table(logs_dir, "videos", columns=["video_id"])
    assert ids.column_names == ["video_id"]


def test_ids_may_be_numbers_and_users_have_vectors_too(logs_dir):
    save(logs_dir, video_id=np.array([3]), vector=np.array([[5, 6]]))
    save(logs_dir, table="users", name="interests.npz", user_id=["u1"], vector=[[7.0]])
    assert logs.read_table(logs_dir, "videos")["content"].to_pylist()[2] == [5.0, 6.0]
    assert logs.read_table(logs_dir, "users")["interests"].to_pylist() == [[7.0], None]


def test_a_row_without_a_vector_there_keeps_the_one_of_the_table(tmp_path):
    with logs.LogWriter(tmp_path / "logs") as writer:
        column = pa.array([[9.0, 9.0], [8.0, 8.0], None])
        writer.write("videos", VIDEOS.append_column("content", column))
    save(tmp_path / "logs", video_id=["v2"], vector=[[1.0, 2.0]])
    found = logs.read_table(tmp_path / "logs", "videos")["content"].to_pylist()
    assert found == [[9.0, 9.0], [1.0, 2.0], None]


def test_tables_without_such_files_are_as_they_were(logs_dir):
    assert logs.read_table(logs_dir, "videos").equals(VIDEOS)
    assert vector_files.types(logs_dir, "watches") == {}
    assert vector_files.stamps(logs_dir, "videos") == []
    save(logs_dir, name=".being-written.npz", video_id=["v1"], vector=[[1.0]])
    assert logs.read_table(logs_dir, "videos").equals(VIDEOS)


def test_a_changed_file_has_another_stamp(logs_dir):
    save(logs_dir, video_id=["v1"], vector=[[1.0]])
    before = vector_files.stamps(logs_dir, "videos")
    save(logs_dir, video_id=["v1", "v2"], vector=[[1.0], [2.0]])
    assert vector_files.stamps(logs_dir, "videos") != before


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({"video_id": ["v1"]}, "cannot be read: .*vector"),
        ({"video_id": ["v1"], "vector": [1.0]}, r"vector of \(1,\)"),
        ({"video_id": ["v1"], "vector": VECTORS}, r"video_id of the shape \(1,\)"),
        ({"video_id": ["v1"], "vector": np.zeros((1, 0))}, r"vector of \(1, 0\)"),
        ({"video_id": ["v1", "v1"], "vector": VECTORS}, "names 1 ids more than once"),
        ({"video_id": ["v1", "v2"], "vector": [[1.0, np.nan], [1, 2]]}, r"1 of 2 .*\['v1'\]"),
        ({"video_id": ["v1", "v2"], "vector": [[1.0, 1e39], [1, 2]]}, r"1 of 2 .*\['v1'\]"),
        ({"video_id": ["v1"], "vector": [["a", "b"]]}, "vector of <U1"),
        ({"video_id": [1.5], "vector": [[1.0]]}, "video_id of float64"),
        ({"video_id": np.array(["v1"], object), "vector": [[1.0]]}, "cannot be read: Object"),
    ],
)
def test_a_file_that_is_not_as_it_should_be_is_one_message(logs_dir, arrays, says):
    path = save(logs_dir, **arrays)
    with pytest.raises(command.InputError, match=says) as raised:
        logs.read_table(logs_dir, "videos")
    assert str(raised.value).startswith(str(path))
    assert "Write video_id" in str(raised.value)


@pytest.mark.parametrize(
    ("vectors", "says"),
    [
        ([[1.0, 2.0], [3.0]], "vectors are .*'1', '2'.* numbers long"),
        ([[1.0, 2.0], None], "vectors are .* numbers long"),
        ([[1.0, 2.0], [3.0, None]], r"1 of 2 vectors .*\['v2'\]"),
        (["a", "b"], "cannot be read"),
    ],
)
def test_so_is_a_parquet_file(logs_dir, vectors, says):
    save(logs_dir, name="content.parquet", video_id=["v1", "v2"], vector=vectors)
    with pytest.raises(command.InputError, match=says):
        logs.read_table(logs_dir, "videos")


def test_what_is_no_file_of_vectors_is_refused(logs_dir):
    path = save(logs_dir, video_id=["v1"], vector=[[1.0]])
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(command.InputError, match=r"content\.npz cannot be read"):
        logs.read_table(logs_dir, "videos")
    save(logs_dir, name="content.parquet", video_id=["v1"], vector=[[1.0]])
    with pytest.raises(command.InputError, match="two files of 'content'"):
        logs.read_table(logs_dir, "videos")
    path.unlink()
    stray = path.with_name("readme.txt")
    stray.write_text("hello")
    with pytest.raises(command.InputError, match=r"readme\.txt is no file of vectors"):
        logs.column_types(logs_dir, "videos")
    stray.unlink()
    save(logs_dir, name="title.npz", video_id=["v1"], vector=[[1.0]])
    with pytest.raises(command.InputError, match="'title' is a column of the table videos"):
        logs.read_table(logs_dir, "videos")
