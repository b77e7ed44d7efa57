"""Logs that are odd, or wrong: what the preprocessing job makes of them, or says of them.

Reasons for which rows are set aside are tested one by one in tests/features/tables/test_schema.py,
missing tables and bad settings in tests/pipeline/preprocessing/test_job.py.
"""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from features import command, dataset, spec
from features.durations import DAY_S
from features.tables import logs
from pipeline.preprocessing import job as preprocessing_job
from pipeline.preprocessing.config import PreprocessConfig

T0 = 1_699_920_000  # the first second of 2023-11-14, UTC
DAYS = [f"2023-11-{14 + n}" for n in range(8)]
VIDEOS = ["a", "视频 🎬", "Ünïcødé", "e\u0301", "é"]
LONG = "x" * 10_000


def day_of(day, rows, **columns):
    """Watches of a day: rows of (user, video, second of the day); further columns by name."""
    users, videos, seconds = zip(*rows, strict=True)
    return pa.table(
        {
            "user_id": list(users),
            "video_id": list(videos),
            "time": [T0 + day * DAY_S + s for s in seconds],
            "watch_time_s": [1.0] * len(rows),
        }
        | columns
    )


ROWS = [("1", VIDEOS[0], 10), ("1", VIDEOS[1], 20), ("2", VIDEOS[2], 30), ("2", VIDEOS[3], 40)]


def write(directory, days, *, videos=VIDEOS, searches=None):
    """Writes files as somebody else might: as they are, whatever their types."""
    for day, table in days.items():
        path = directory / "watches" / f"date={DAYS[day]}" / "part-0.parquet"
        path.parent.mkdir(parents=True)
        pq.write_table(table, path)
    (directory / "videos").mkdir()
    pq.write_table(
        pa.table({"video_id": videos, "upload_time": [T0 - DAY_S] * len(videos)}),
        directory / "videos" / "part-0.parquet",
    )
    if searches is not None:
        (directory / "searches").mkdir()
        pq.write_table(searches, directory / "searches" / "part-0.parquet")
    return directory


def run(logs_dir, output, **settings):
    settings = {"max_rejected_fraction": 0.9, **settings}
    return preprocessing_job.run(str(logs_dir), str(output), PreprocessConfig(**settings), [])


def refused(logs_dir, tmp_path, match):
    output = tmp_path / "examples"
    with pytest.raises(command.InputError, match=match):
        run(logs_dir, output)
    assert not output.exists()


def raw(examples, split="train"):
    return pq.read_table(examples / "candidate_examples" / split).to_pylist()


@pytest.fixture(scope="module")
def odd(tmp_path_factory):
    """One run over days that differ in every way that is allowed."""
    root = tmp_path_factory.mktemp("odd")
    integers = day_of(0, ROWS)
    integers = integers.set_column(0, "user_id", pa.array([1, 1, 2, 2]))
    floats = day_of(2, ROWS)
    floats = floats.set_column(2, "time", floats["time"].cast(pa.float64()))
    bad = [
        ("two\nlines", "a", 1),
        ("n\0ul", "a", 2),
        ("re\rturn", "a", 3),
        (LONG, "a", 4),
        ("1", "b\n", 5),
        ("1", LONG, 6),
        ("", "a", 7),
    ]
    days = {
        0: integers,
        1: day_of(1, ROWS, completed=[True, True, False, True], mood=["calm"] * 4),
        2: floats,
        3: day_of(3, ROWS).slice(0, 0),
        4: day_of(4, bad),
        # Events of the sixth day in the directory of the seventh, newest first.
        6: day_of(5, ROWS[::-1]),
        7: day_of(7, ROWS),
    }
    searches = pa.table(
        {
            "user_id": ["1", "1", "2"],
            "time": [T0 + 5, T0 + 6, T0 + 7],
            "query": ["Katzen\0\nVideos\r\x1f🎬", "lang " * 2_000, "ＦＵＬＬ width"],
        }
    )
    videos = [*VIDEOS, "b\n", LONG]
    logs_dir = write(root / "logs", days, videos=videos, searches=searches)
    return run(logs_dir, root / "examples"), root / "examples"


def test_columns_may_come_and_go_and_change_their_type_where_nothing_is_lost(odd):
    info, examples = odd
    assert info["rows"]["watches"]["read"] == 4 * 5 + 7
    assert info["rows"]["watches"]["accepted"] == 4 * 5
    # Integers of the first day and strings of the others are the same users; a watch that was not
    # completed is no label where the log says so.
    assert sorted({row["user_id"] for row in raw(examples)}) == ["1", "2"]
    assert info["counts"]["candidate_train"] == 4 * 4 - 1
    assert info["counts"]["candidate_holdout"] == 4


def test_unusable_ids_are_set_aside_by_reason_in_every_table(odd):
    info, examples = odd
    assert info["rows"]["watches"]["unusable_id"] == 6
    assert info["rows"]["watches"]["missing_key"] == 1
    assert info["rows"]["videos"] == {"read": 7, "accepted": 5, "unusable_id": 2}
    kept = pq.read_table(examples / "rejected" / "watches")
    assert set(kept["user_id"].to_pylist()) >= {"two\nlines", LONG}


def test_unicode_ids_are_what_they_are(odd):
    _, examples = odd
    vocabulary = dataset.vocabulary(examples, spec.CANDIDATE, "video")
    assert set(vocabulary) == set(VIDEOS[:4])
    # Bytes decide: an accent of its own and one with its letter are two ids.
    videos = dataset.videos(examples)
    assert videos["label_video_id"].tolist() == VIDEOS
    assert [bool(n) for n in videos["video_id"]] == [True] * 4 + [False]


def test_queries_have_no_control_characters_and_no_end(odd):
    _, examples = odd
    row = max((r for r in raw(examples) if r["user_id"] == "1"), key=lambda r: r["time"])
    assert {"katzen", "videos", "lang", "katzen videos", "lang lang"} == set(row["search_tokens"])
    assert row["search_tokens"].count("lang") == 40  # of the first 200 characters
    tokens = dataset.vocabulary(examples, spec.CANDIDATE, "search_token")
    assert {"full", "width", "full width"} <= set(tokens)


def test_events_in_a_wrong_date_are_used_at_their_own_time(odd):
    _, examples = odd
    rows = [r for r in raw(examples) if r["time"] // DAY_S == T0 // DAY_S + 5]
    assert sorted(r["time"] % DAY_S for r in rows) == [10, 20, 30, 40]
    # The second watch of the day sees the first, although the file has it later.
    first, second = sorted((r for r in rows if r["user_id"] == "1"), key=lambda r: r["time"])
    assert second["watched_video_ids"] == [first["video_id"], *first["watched_video_ids"]]


def test_a_wrong_date_is_warned_of_since_windows_miss_it(tmp_path, caplog):
    logs_dir = write(tmp_path / "logs", {3: day_of(5, ROWS)})
    assert len(logs.fragments(logs_dir, "watches")) == 1
    assert "outside its date" in caplog.text


def test_all_events_of_a_user_at_one_second_know_nothing_of_each_other(tmp_path):
    rows = [("1", VIDEOS[n % 5], 10) for n in range(5)]
    same = {0: day_of(0, rows), 2: day_of(2, rows[:1])}
    run(write(tmp_path / "logs", same), tmp_path / "examples")
    assert [row["watched_video_ids"] for row in raw(tmp_path / "examples")] == [[]] * 5
    (last,) = raw(tmp_path / "examples", "holdout")
    assert sorted(last["watched_video_ids"]) == sorted(VIDEOS)


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("time", [0.5, 1.0, 2.0, 3.0], r"date=2023-11-15.*column 'time': expected int64.*double"),
        ("time", ["1", "2", "3", "4"], "column 'time': expected int64, found string"),
        ("user_id", [1.5, 2.0, 3.0, 4.0], "column 'user_id': expected string, found double"),
        ("watch_time_s", ["1", "2", "3", "x"], "column 'watch_time_s': expected double"),
    ],
)
def test_a_type_that_cannot_be_is_refused_with_file_and_column(tmp_path, column, values, message):
    changed = day_of(1, ROWS)
    index = changed.column_names.index(column)
    changed = changed.set_column(index, column, pa.array(values))
    refused(write(tmp_path / "logs", {0: day_of(0, ROWS), 1: changed}), tmp_path, message)


def test_a_column_of_ours_that_changes_between_two_kinds_is_refused(tmp_path):
    days = {0: day_of(0, ROWS, mood=[1, 2, 3, 4]), 1: day_of(1, ROWS, mood=list("abcd"))}
    refused(write(tmp_path / "logs", days), tmp_path, "table watches in .*mood.*int64 vs string")


def test_a_day_whose_file_is_empty_is_refused_by_name(tmp_path):
    logs_dir = write(tmp_path / "logs", {0: day_of(0, ROWS), 1: day_of(1, ROWS)})
    path = logs_dir / "watches" / f"date={DAYS[1]}" / "part-0.parquet"
    path.write_bytes(b"")
    refused(logs_dir, tmp_path, f"date={DAYS[1]}.*cannot be read as Parquet")


def test_a_table_without_any_row_is_refused_by_name(tmp_path):
    logs_dir = write(tmp_path / "logs", {0: day_of(0, ROWS).slice(0, 0)})
    refused(logs_dir, tmp_path, "table watches .* has no rows")
