"""Which files of a table are read, by whom ever they were written, and what is said of others."""

import gzip
import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from features import command
from features.durations import DAY_S
from features.tables import log_files, logs, schema

NOON_S = 1_795_132_800 + 12 * 3600  # 2026-11-20T12:00:00Z


@pytest.fixture(autouse=True)
def _nothing_said_yet():
    schema.warn_once.cache_clear()


def watches(*times, **columns):
    return pa.table(
        {
            "user_id": [f"u{n}" for n in range(len(times))],
            "video_id": ["v"] * len(times),
            "time": pa.array(times, pa.int64()),
            "watch_time_s": [1.0] * len(times),
            **columns,
        }
    )


def put(table, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path)
    return path


def times_in(logs_dir, **window):
    return sorted(logs.read_table(logs_dir, "watches", **window)["time"].to_pylist())


@pytest.fixture
def logs_dir(tmp_path):
    return tmp_path / "logs"


@pytest.mark.parametrize(
    "name",
    [
        *("000000_0", "part-0.parq", "PART-0.PARQUET", "part-0.parquet.gz", "part-0.gz.parquet"),
        *("7.pq", "000000_0_copy_1", "20261120_120000_00012_abcde_0a1b", "data.snappy"),
        "part 0 (1).parquet",
    ],
)
def test_parquet_is_read_whatever_it_is_called(logs_dir, name):
    put(watches(NOON_S), logs_dir / "watches/date=2026-11-20/part-0.parquet")
    put(watches(NOON_S + DAY_S), logs_dir / "watches/date=2026-11-21" / name)
    assert times_in(logs_dir) == [NOON_S, NOON_S + DAY_S]
    assert log_files.find(logs_dir, "watches").left_alone == ()


def test_a_directory_may_be_called_like_a_file(logs_dir):
    put(watches(NOON_S), logs_dir / "watches/watches.parquet/part-00000-c000.snappy.parquet")
    assert times_in(logs_dir) == [NOON_S]


def test_a_table_may_be_one_file_beside_what_is_added_to_it(logs_dir):
    put(watches(NOON_S), logs_dir / "watches.parquet")
    assert logs.tables_in(logs_dir) == {"watches"}
    logs.append(logs_dir, "watches", watches(NOON_S + 1))
    assert times_in(logs_dir) == [NOON_S, NOON_S + 1]


def test_a_table_may_be_a_directory_that_spark_called_like_a_file(logs_dir):
    put(watches(NOON_S), logs_dir / "watches.parquet/date=2026-11-20/part-0.snappy.parquet")
    assert times_in(logs_dir) == [NOON_S]
    assert times_in(logs_dir, from_s=NOON_S + DAY_S) == []


def test_links_to_partitions_and_files_are_followed(logs_dir, tmp_path):
    store = tmp_path / "other disk"
    moved = put(watches(NOON_S), store / "date=2026-11-20/part-0.parquet")
    single = put(watches(NOON_S + DAY_S), store / "somewhere/x.parquet")
    put(watches(NOON_S + 2 * DAY_S), logs_dir / "watches/date=2026-11-22/part-0.parquet")
    (logs_dir / "watches/date=2026-11-20").symlink_to(moved.parent)
    (logs_dir / "watches/date=2026-11-21").mkdir()
    (logs_dir / "watches/date=2026-11-21/linked.parquet").symlink_to(single)
    assert times_in(logs_dir) == [NOON_S, NOON_S + DAY_S, NOON_S + 2 * DAY_S]
    assert times_in(logs_dir, from_s=NOON_S + DAY_S, until_s=NOON_S + 2 * DAY_S) == [NOON_S + DAY_S]


def test_a_table_that_is_a_link_and_logs_that_are_one_are_followed(logs_dir, tmp_path):
    put(watches(NOON_S), tmp_path / "store/w/date=2026-11-20/part-0.parquet")
    (tmp_path / "real").mkdir()
    (tmp_path / "real/watches").symlink_to(tmp_path / "store/w")
    logs_dir.symlink_to(tmp_path / "real")
    assert logs.tables_in(logs_dir) == {"watches"}
    assert times_in(logs_dir) == [NOON_S]


def test_what_links_lead_to_twice_is_read_once_where_it_really_lies(logs_dir, caplog):
    put(watches(NOON_S), logs_dir / "watches/date=2026-11-20/part-0.parquet")
    (logs_dir / "watches/date=2026-11-19").symlink_to("date=2026-11-20")
    (logs_dir / "watches/a.parquet").symlink_to("date=2026-11-20/part-0.parquet")
    (logs_dir / "watches/date=2026-11-20/loop").symlink_to(logs_dir / "watches")
    (logs_dir / "watches/up").symlink_to(logs_dir)
    assert times_in(logs_dir) == [NOON_S]
    (file,) = log_files.files_of(logs_dir, "watches")
    assert file.partitions == (("date", "2026-11-20"),)
    assert "left alone: 4 a link to what is read already, such as" in caplog.text


def test_a_table_that_is_a_link_to_nothing_is_an_error_that_names_it(logs_dir):
    put(watches(NOON_S), logs_dir / "watches/part-0.parquet")
    (logs_dir / "searches").symlink_to("/nonexistent/disk")
    with pytest.raises(command.InputError, match="searches is a link to /nonexistent/disk"):
        logs.tables_in(logs_dir)


@pytest.mark.parametrize("target", ["/nonexistent/disk", "date=2026-11-21"])
def test_a_link_to_nothing_or_to_itself_is_an_error_that_names_it(logs_dir, target):
    put(watches(NOON_S), logs_dir / "watches/date=2026-11-20/part-0.parquet")
    (logs_dir / "watches/date=2026-11-21").symlink_to(target)
    with pytest.raises(command.InputError, match=r"date=2026-11-21 is a link to .* or remove"):
        logs.tables_in(logs_dir)
    with pytest.raises(command.InputError, match=r"date=2026-11-21 is a link to"):
        times_in(logs_dir)


def test_what_is_left_alone_is_counted_by_reason_with_an_example(logs_dir, caplog):
    folder = put(watches(NOON_S), logs_dir / "watches/date=2026-11-20/part-0.parquet").parent
    whole = (folder / "part-0.parquet").read_bytes()
    for name in ("README.txt", "part-1.csv", "part-2.json"):
        (folder / name).write_text("user_id,video_id\n")
    for name in ("part-3.parquet.tmp", "part-4.parquet.inprogress", "part-5.parquet._COPYING_"):
        (folder / name).write_bytes(whole)
    (folder / "000001_0").write_bytes(b"")
    os.mkfifo(folder / "pipe")
    (folder / "_temporary/0").mkdir(parents=True)
    (folder / "_temporary/0/part-6.parquet").write_bytes(whole)
    (folder / ".part-7.parquet").write_bytes(whole)
    for marker in ("_SUCCESS", "_metadata", ".part-0.parquet.crc", "_common_metadata"):
        (folder / marker).write_bytes(b"")
    assert times_in(logs_dir) == [NOON_S]
    times_in(logs_dir)
    (said,) = [r.getMessage() for r in caplog.records if "left alone" in r.getMessage()]
    for part in ("3 not Parquet, such as ", "3 not finished", "1 empty", "1 neither file nor"):
        assert part in said
    assert "2 hidden by a dot or an underscore" in said  # And nothing of the markers.


def test_a_table_of_delta_lake_is_said_to_be_more_than_its_files(logs_dir, caplog):
    put(watches(NOON_S), logs_dir / "watches/part-0.parquet")
    (logs_dir / "watches/_delta_log").mkdir()
    assert times_in(logs_dir) == [NOON_S]
    assert "rows that Delta Lake removed are read too" in caplog.text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (gzip.compress(b"PAR1", mtime=0), "part-1.parquet.gz is compressed as a whole.*gunzip"),
        (b"hello", "part-1.parquet.gz is not Parquet, though its name says so"),
    ],
)
def test_a_file_that_only_claims_to_be_parquet_is_an_error(logs_dir, content, message):
    put(watches(NOON_S), logs_dir / "watches/part-0.parquet")
    (logs_dir / "watches/part-1.parquet.gz").write_bytes(content)
    with pytest.raises(command.InputError, match=message):
        times_in(logs_dir)


def test_a_part_of_a_file_is_an_error_also_without_a_suffix(logs_dir):
    whole = put(watches(*[NOON_S] * 500), logs_dir / "watches/000000_0").read_bytes()
    (logs_dir / "watches/000000_0").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(command.InputError, match="000000_0 .*cannot be read as Parquet.*truncated"):
        times_in(logs_dir)


def test_logs_may_lie_below_a_directory_that_is_called_like_a_date(tmp_path):
    logs_dir = tmp_path / "date=2026-11-24" / "logs"
    put(watches(NOON_S, NOON_S + DAY_S), logs_dir / "watches/part-0.parquet")
    assert times_in(logs_dir, until_s=NOON_S + DAY_S) == [NOON_S]


@pytest.mark.parametrize(
    "folder", ["date=__HIVE_DEFAULT_PARTITION__", "dt=2026-11-01", "date=11-2026", "year=2026"]
)
def test_other_names_of_directories_say_nothing_of_the_time(logs_dir, folder):
    put(watches(NOON_S), logs_dir / "watches" / folder / "part-0.parquet")
    assert times_in(logs_dir, from_s=NOON_S, until_s=NOON_S + 1) == [NOON_S]


def test_days_without_dashes_are_days(logs_dir):
    put(watches(NOON_S), logs_dir / "watches/date=20261120/part-0.parquet")
    (logs_dir / "watches/date=20261121").mkdir()
    (logs_dir / "watches/date=20261121/part-0.parquet").write_bytes(b"never opened")
    assert times_in(logs_dir, until_s=NOON_S + 1) == [NOON_S]


def test_a_column_of_ours_that_became_a_directory_is_read_from_its_name(logs_dir):
    users = pa.table({"user_id": ["a"]})
    put(users, logs_dir / "users/region=de/part-0.parquet")
    put(pa.table({"user_id": ["b"]}), logs_dir / "users/region=new%20york/part-0.parquet")
    put(pa.table({"user_id": ["c"]}), logs_dir / "users/region=__HIVE_DEFAULT_PARTITION__/000000_0")
    rows = logs.read_table(logs_dir, "users", columns=["user_id", "region"]).to_pylist()
    assert {row["user_id"]: row["region"] for row in rows} == {
        "a": "de",
        "b": "new york",
        "c": None,
    }
    assert logs.column_types(logs_dir, "users")["region"] == pa.string()


def test_row_groups_are_skipped_by_times_of_any_kind(logs_dir):
    for unit in ("ms", "us", "ns"):
        table = watches(NOON_S, NOON_S + 10, NOON_S + 20, NOON_S + 30)
        times = table["time"].cast(pa.timestamp("s", "UTC")).cast(pa.timestamp(unit, "UTC"))
        path = logs_dir / unit / "watches/part-0.parquet"
        path.parent.mkdir(parents=True)
        pq.write_table(table.set_column(2, "time", times), path, row_group_size=2)
        pieces = logs.fragments(logs_dir / unit, "watches", from_s=NOON_S + 20, until_s=NOON_S + 21)
        assert [piece.row_groups for piece in pieces] == [(1,)]
        assert times_in(logs_dir / unit, from_s=NOON_S + 20, until_s=NOON_S + 21) == [NOON_S + 20]


def test_a_later_file_of_videos_counts_by_its_time_not_its_name(logs_dir):
    def video(title, upload_time=1):
        return pa.table({"video_id": ["a"], "upload_time": [upload_time], "title": [title]})

    newer = put(video("new"), logs_dir / "videos/a.parquet")
    older = put(video("old"), logs_dir / "videos/b.parquet")
    os.utime(older, (1_000, 1_000))
    os.utime(newer, (2_000, 2_000))
    assert logs.read_table(logs_dir, "videos")["title"].to_pylist() == ["old", "new"]
    os.utime(older, (2_000, 2_000))  # At one time the last name.
    assert logs.read_table(logs_dir, "videos")["title"].to_pylist() == ["new", "old"]


def test_the_days_of_snapshots_count_before_the_times_of_their_copies(logs_dir):
    for day, when in (("2026-11-20", 3_000), ("2026-11-21", 2_000), ("2026-11-22", 1_000)):
        users = pa.table({"user_id": ["u"], "region": [day]})
        path = put(users, logs_dir / f"users/dt={day}/part-0.parquet")
        os.utime(path, (when, when))
    days = logs.read_table(logs_dir, "users")["region"].to_pylist()
    assert days == ["2026-11-20", "2026-11-21", "2026-11-22"]


def test_a_column_of_another_type_beside_the_contract_stops_nobody(logs_dir, caplog):
    odd = pa.array([{"campaign": "x"}])
    put(watches(NOON_S, extra=odd), logs_dir / "watches/part-0.parquet")
    put(watches(NOON_S + 1, extra=["text"]), logs_dir / "watches/part-1.parquet")
    rows = logs.read_table(logs_dir, "watches")
    assert rows["extra"].to_pylist() == [None, "text"]
    assert "column 'extra' is left alone" in caplog.text


def test_a_column_without_any_value_has_no_type(logs_dir):
    gaps = pa.array([None, None], pa.float64())  # As pandas writes nothing but gaps.
    users = pa.table({"user_id": ["a", "b"], "region": gaps, "signed_in": gaps})
    put(users, logs_dir / "users/part-0.parquet")
    put(pa.table({"user_id": ["c"], "region": ["de"]}), logs_dir / "users/part-1.parquet")
    nothing = pa.table({"user_id": pa.array([], pa.float64()), "region": pa.array([], pa.date32())})
    put(nothing, logs_dir / "users/part-2.parquet")
    assert logs.column_types(logs_dir, "users")["region"] == pa.string()
    assert logs.read_table(logs_dir, "users")["region"].to_pylist() == [None, None, "de"]


def test_logs_that_cannot_be_read_are_not_taken_for_no_logs(logs_dir):
    assert not log_files.has_tables(logs_dir)
    logs_dir.mkdir()
    assert not log_files.has_tables(logs_dir)
    (logs_dir / "watches").symlink_to("/nonexistent")
    assert log_files.has_tables(logs_dir)


def test_what_lies_beside_the_tables_is_said(logs_dir, caplog):
    put(watches(NOON_S), logs_dir / "watches/part-0.parquet")
    put(watches(NOON_S), logs_dir / "video.parquet")
    put(watches(NOON_S), logs_dir / "Users/part-0.parquet")
    assert logs.tables_in(logs_dir) == {"watches"}
    assert f"mkdir {logs_dir / 'videos'} && mv {logs_dir / 'video.parquet'}" in caplog.text
    assert f"{logs_dir / 'Users'} is not read. Is it the table users?" in caplog.text


def test_logs_without_a_table_say_which_files_are_no_parquet(logs_dir):
    (logs_dir / "watches").mkdir(parents=True)
    (logs_dir / "watches/part-0.csv").write_text("user_id\n")
    with pytest.raises(command.InputError) as error:
        logs.tables_in(logs_dir)
    assert "1 not Parquet, such as" in str(error.value)
    assert "part-0.csv" in str(error.value)
    assert "pipeline.simulate" not in str(error.value)  # It would write beside the user's files.
