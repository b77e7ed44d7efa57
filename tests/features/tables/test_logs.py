import itertools
import os
import pathlib
import pickle
import signal
import subprocess
import sys
import time

import hypothesis
import hypothesis.strategies as st
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from features import command
from features.durations import DAY_S
from features.tables import logs, schema

FIRST_OF_MAY_S = 1_651_363_200  # 2022-05-01T00:00:00Z.


def watches(*times, **columns):
    count = len(times)
    return pa.table(
        {
            "user_id": [f"u{index}" for index in range(count)],
            "video_id": ["v"] * count,
            "time": pa.array(times, pa.int64()),
            "watch_time_s": [1.0] * count,
            **columns,
        }
    )


def write(directory, *tables, name="watches", **options):
    with logs.LogWriter(directory, **options) as writer:
        for table in tables:
            writer.write(name, table)


def files_in(directory):
    return sorted(
        str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file()
    )


@pytest.fixture
def logs_dir(tmp_path):
    return tmp_path / "logs"


def test_events_lie_in_the_partition_of_their_utc_date(logs_dir):
    write(logs_dir, watches(FIRST_OF_MAY_S, FIRST_OF_MAY_S - 1, FIRST_OF_MAY_S + DAY_S - 1))
    assert files_in(logs_dir) == [
        "watches/date=2022-04-30/part-00000.parquet",
        "watches/date=2022-05-01/part-00000.parquet",
    ]
    first = pq.read_table(
        logs_dir / "watches/date=2022-05-01/part-00000.parquet", partitioning=None
    )
    assert first["user_id"].to_pylist() == ["u0", "u2"]  # In the order written.


def test_tables_without_a_time_are_not_partitioned(logs_dir):
    write(logs_dir, pa.table({"user_id": ["a"], "age": [3]}), name="users")
    assert files_in(logs_dir) == ["users/part-00000.parquet"]
    assert logs.read_table(logs_dir, "users").to_pylist() == [{"user_id": "a", "age": 3.0}]


def test_rows_whose_time_names_no_date_are_kept_for_validation(logs_dir):
    write(logs_dir, watches(None, 5, 1_650_000_000_000_000))
    assert f"watches/date={logs.NO_DATE}/part-00000.parquet" in files_in(logs_dir)
    assert logs.read_table(logs_dir, "watches")["time"].to_pylist() == [
        5,
        None,
        1_650_000_000_000_000,
    ]
    inside = logs.read_table(logs_dir, "watches", from_s=5, until_s=6)
    assert inside["time"].to_pylist() == [5, None]


@hypothesis.settings(deadline=None, max_examples=30)
@hypothesis.given(
    times=st.lists(st.integers(-3 * DAY_S, 6 * DAY_S), min_size=1, max_size=40),
    cuts=st.lists(st.integers(0, 40), max_size=3),
    bounds=st.tuples(st.integers(-3 * DAY_S, 6 * DAY_S), st.integers(-3 * DAY_S, 6 * DAY_S)),
)
def test_window_returns_exactly_the_rows_inside(tmp_path_factory, times, cuts, bounds):
    logs_dir = tmp_path_factory.mktemp("window") / "logs"
    table, edges = watches(*times), sorted({0, *cuts, len(times)})
    parts = [table.slice(a, b - a) for a, b in itertools.pairwise(edges)]
    write(logs_dir, *parts, max_pending_bytes=500)
    everything = logs.read_table(logs_dir, "watches")
    assert sorted(everything["time"].to_pylist()) == sorted(times)
    from_s, until_s = bounds
    inside = logs.read_table(logs_dir, "watches", from_s=from_s, until_s=until_s)
    assert sorted(inside["time"].to_pylist()) == sorted(t for t in times if from_s <= t < until_s)


def test_window_skips_other_dates_without_opening_their_files(logs_dir):
    write(logs_dir, watches(FIRST_OF_MAY_S, FIRST_OF_MAY_S + DAY_S))
    (logs_dir / "watches/date=2022-05-02/part-00000.parquet").write_bytes(b"not Parquet")
    window = {"from_s": FIRST_OF_MAY_S, "until_s": FIRST_OF_MAY_S + DAY_S}
    assert logs.read_table(logs_dir, "watches", **window).num_rows == 1


def test_window_skips_row_groups_by_their_statistics(logs_dir, monkeypatch):
    monkeypatch.setattr(logs.log_writer, "MAX_ROW_GROUP_ROWS", 2)
    write(logs_dir, watches(10, 20, 30, 40, 50))
    pieces = logs.fragments(logs_dir, "watches", from_s=30, until_s=50)
    assert [piece.row_groups for piece in pieces] == [(1,)]


def test_fragments_join_row_groups_up_to_the_limit(logs_dir, monkeypatch):
    monkeypatch.setattr(logs.log_writer, "MAX_ROW_GROUP_ROWS", 2)
    write(logs_dir, watches(1, 2, 3, 4, 5, DAY_S))
    pieces = logs.fragments(logs_dir, "watches", max_rows=4)
    assert [(piece.row_groups, piece.num_rows) for piece in pieces] == [
        ((0, 1), 4),
        ((2,), 1),
        ((0,), 1),
    ]
    assert pickle.loads(pickle.dumps(pieces)) == pieces
    rows = [logs.read_fragment(piece)["time"].to_pylist() for piece in pieces]
    assert rows == [[1, 2, 3, 4], [5], [DAY_S]]


def test_window_without_events_gives_the_columns_and_no_rows(logs_dir):
    write(logs_dir, watches(FIRST_OF_MAY_S))
    nothing = logs.read_table(logs_dir, "watches", from_s=FIRST_OF_MAY_S + DAY_S)
    assert nothing.num_rows == 0
    assert set(schema.TABLES["watches"].required) <= set(nothing.column_names)
    assert logs.read_table(logs_dir, "watches", columns=["time"], until_s=5).column_names == [
        "time"
    ]


def test_columns_come_in_the_order_asked_and_absent_ones_are_null(logs_dir):
    write(logs_dir, watches(1, device=["tv"]))
    logs.append(logs_dir, "watches", watches(2, mood=["calm"]))
    table = logs.read_table(logs_dir, "watches", columns=["mood", "device", "completed"], from_s=0)
    assert table.column_names == ["mood", "device", "completed"]
    rows = sorted(table.to_pylist(), key=str)
    assert rows == [
        {"mood": "calm", "device": None, "completed": None},
        {"mood": None, "device": "tv", "completed": None},
    ]
    assert table.schema.field("completed").type == pa.bool_()


def test_column_types_are_those_of_all_files_together(logs_dir):
    write(logs_dir, watches(1, score=[1]))
    logs.append(logs_dir, "watches", watches(2, score=[0.5], mood=["calm"]))
    types = logs.column_types(logs_dir, "watches")
    assert types["time"] == pa.int64()
    assert types["mood"] == pa.string()
    assert types["score"] == pa.float64()
    assert logs.read_table(logs_dir, "watches")["score"].to_pylist() == [1.0, 0.5]


def test_partition_column_of_other_writers_is_dropped(logs_dir):
    folder = logs_dir / "watches" / "date=1970-01-01"
    folder.mkdir(parents=True)
    pq.write_table(watches(1, date=["1970-01-01"]), folder / "a.parquet")
    assert "date" not in logs.read_table(logs_dir, "watches").column_names
    assert "date" not in logs.column_types(logs_dir, "watches")


def test_a_column_named_like_the_partitions_is_not_written(logs_dir):
    with pytest.raises(ValueError, match="names the partitions"):
        write(logs_dir, watches(1, date=["x"]))
    assert not logs_dir.exists()


def test_hidden_and_half_written_files_are_not_data(logs_dir):
    write(logs_dir, watches(1))
    folder = logs_dir / "watches" / "date=1970-01-01"
    (folder / ".part-1.parquet.tmp").write_bytes(b"PAR1")
    (folder / ".part-1.parquet").write_bytes(b"PAR1")
    (folder / "_metadata.parquet").write_bytes(b"PAR1")
    (logs_dir / "watches" / "_temporary").mkdir()
    (logs_dir / "watches" / "_temporary" / "a.parquet").write_bytes(b"PAR1")
    assert logs.read_table(logs_dir, "watches").num_rows == 1


def test_misplaced_times_are_warned_about(logs_dir, caplog):
    folder = logs_dir / "watches" / "date=2022-05-01"
    folder.mkdir(parents=True)
    pq.write_table(watches(FIRST_OF_MAY_S - 5), folder / "a.parquet")
    logs.fragments(logs_dir, "watches")
    assert "outside its date" in caplog.text


def test_tables_in_lists_the_tables_that_have_files(logs_dir):
    write(logs_dir, watches(1))
    (logs_dir / "searches").mkdir()
    assert logs.tables_in(logs_dir) == {"watches"}


def test_missing_directory_says_how_to_make_logs(logs_dir):
    with pytest.raises(command.InputError, match="does not exist.*pipeline.simulate"):
        logs.tables_in(logs_dir)


def test_directory_without_tables_says_so(logs_dir):
    logs_dir.mkdir()
    with pytest.raises(command.InputError, match="holds no table.*import_dataset"):
        logs.tables_in(logs_dir)


def test_missing_table_says_what_is_there(logs_dir):
    write(logs_dir, watches(1))
    with pytest.raises(command.InputError, match=r"searches is missing.*does not exist.*watches"):
        logs.read_table(logs_dir, "searches")


def test_table_directory_without_files_says_so(logs_dir):
    (logs_dir / "watches").mkdir(parents=True)
    with pytest.raises(command.InputError, match="has no Parquet files"):
        logs.fragments(logs_dir, "watches")


def test_table_without_rows_says_what_to_do(logs_dir):
    folder = logs_dir / "watches" / "date=2022-05-01"
    folder.mkdir(parents=True)
    pq.write_table(schema.empty("watches"), folder / "a.parquet")
    with pytest.raises(command.InputError, match="no rows.*Remove the directory"):
        logs.fragments(logs_dir, "watches")


@pytest.mark.parametrize("kept_fraction", [0.0, 0.3, 0.99])
def test_truncated_file_is_named(logs_dir, kept_fraction):
    write(logs_dir, watches(*range(1, 2000)))
    path = logs_dir / "watches/date=1970-01-01/part-00000.parquet"
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept_fraction)])
    with pytest.raises(
        command.InputError, match=r"part-00000.parquet \(table watches\).*truncated"
    ):
        logs.fragments(logs_dir, "watches")
    with pytest.raises(
        command.InputError, match=r"part-00000.parquet \(table watches\).*truncated"
    ):
        logs.column_types(logs_dir, "watches")


def test_file_damaged_in_the_middle_is_named(logs_dir):
    write(logs_dir, watches(*range(1, 20_000)))
    path = logs_dir / "watches/date=1970-01-01/part-00000.parquet"
    content = bytearray(path.read_bytes())
    content[4 : len(content) // 2] = b"\0" * (len(content) // 2 - 4)
    path.write_bytes(content)
    (piece,) = logs.fragments(logs_dir, "watches")
    with pytest.raises(command.InputError, match="cannot be read as Parquet"):
        logs.read_fragment(piece)


def test_wrong_type_names_the_file_and_the_column(logs_dir):
    folder = logs_dir / "watches" / "date=1970-01-01"
    folder.mkdir(parents=True)
    table = watches(1).set_column(3, "watch_time_s", pa.array(["long"]))
    pq.write_table(table, folder / "a.parquet")
    with pytest.raises(
        command.InputError, match=r"a.parquet: table watches, column 'watch_time_s'"
    ):
        logs.read_table(logs_dir, "watches")


def test_missing_required_column_is_named_even_when_it_is_not_asked_for(logs_dir):
    folder = logs_dir / "watches" / "date=1970-01-01"
    folder.mkdir(parents=True)
    pq.write_table(watches(1).drop_columns("watch_time_s"), folder / "a.parquet")
    with pytest.raises(command.InputError, match="a.parquet: .*'watch_time_s'"):
        logs.read_table(logs_dir, "watches", columns=["time"])


def test_writer_refuses_a_directory_with_content(logs_dir):
    write(logs_dir, watches(1))
    with pytest.raises(command.InputError, match="not empty.*--overwrite"):
        write(logs_dir, watches(2))
    assert logs.read_table(logs_dir, "watches")["time"].to_pylist() == [1]


def test_writer_replaces_everything_with_overwrite(logs_dir):
    write(logs_dir, pa.table({"user_id": ["a"]}), name="users")
    write(logs_dir, watches(2), overwrite=True)
    assert logs.tables_in(logs_dir) == {"watches"}


def test_failed_overwrite_leaves_the_old_logs(logs_dir):
    write(logs_dir, watches(1))
    with pytest.raises(command.InputError, match="lacks the required column"):
        write(logs_dir, watches(2), watches(3).drop_columns("time"), overwrite=True)
    assert logs.read_table(logs_dir, "watches")["time"].to_pylist() == [1]


def test_failed_write_leaves_nothing(logs_dir):
    with pytest.raises(command.InputError, match="lacks the required column"):
        write(logs_dir, watches(2), watches(3).drop_columns("time"), max_pending_bytes=0)
    assert list(logs_dir.parent.iterdir()) == []


def test_writer_holds_rows_back_so_that_a_date_gets_one_file(logs_dir):
    write(logs_dir, watches(1, DAY_S), watches(2), watches(3, DAY_S + 1))
    assert len(files_in(logs_dir)) == 2
    assert logs.read_table(logs_dir, "watches")["time"].to_pylist() == [1, 2, 3, DAY_S, DAY_S + 1]


def test_writer_writes_more_files_when_it_holds_too_much(logs_dir):
    write(logs_dir, watches(1), watches(2), max_pending_bytes=0)
    assert files_in(logs_dir) == [
        "watches/date=1970-01-01/part-00000.parquet",
        "watches/date=1970-01-01/part-00001.parquet",
    ]


def test_writer_counts_rows_and_writes_feature_declarations(logs_dir):
    with logs.LogWriter(logs_dir) as writer:
        writer.write("watches", watches(1, 2))
        writer.write("watches", watches(3))
        writer.write_features([{"name": "x"}])
    assert writer.rows == {"watches": 3}
    assert '"name": "x"' in (logs_dir / logs.FEATURES_FILE).read_text()


def test_scratch_directory_is_gone_when_the_logs_appear(logs_dir):
    with logs.LogWriter(logs_dir) as writer:
        with writer.scratch() as scratch:
            (scratch / "big.bin").write_bytes(b"x")
        writer.write("watches", watches(1))
    assert files_in(logs_dir) == ["watches/date=1970-01-01/part-00000.parquet"]


def test_append_adds_one_file_per_date_and_changes_no_other(logs_dir):
    write(logs_dir, watches(1))
    before = files_in(logs_dir)
    written = logs.append(logs_dir, "watches", watches(2, DAY_S, 3))
    assert len(written) == 2
    assert set(files_in(logs_dir)) == {*before, *(str(p.relative_to(logs_dir)) for p in written)}
    assert sorted(logs.read_table(logs_dir, "watches")["time"].to_pylist()) == [1, 2, 3, DAY_S]


def test_append_makes_the_directory_and_nothing_for_no_rows(logs_dir):
    assert logs.append(logs_dir, "watches", watches()) == []
    logs.append(logs_dir, "watches", watches(1))
    assert logs.read_table(logs_dir, "watches").num_rows == 1


_APPEND_FOREVER = """
import sys
import pyarrow as pa
from features.tables import logs
rows = pa.table({"user_id": ["u"] * 1000, "video_id": ["v"] * 1000,
                 "time": pa.array(range(1000), pa.int64()), "watch_time_s": [1.0] * 1000})
while True:
    logs.append(sys.argv[1], "watches", rows)
"""


def test_killed_append_leaves_only_whole_files(logs_dir):
    process = subprocess.Popen(
        [sys.executable, "-c", _APPEND_FOREVER, str(logs_dir)],
        cwd=pathlib.Path(logs.__file__).parents[2],
    )
    try:
        deadline = time.monotonic() + 300
        while len(files_in(logs_dir)) < 5:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    table = logs.read_table(logs_dir, "watches")
    assert table.num_rows % 1000 == 0
    assert table.num_rows >= 4000
