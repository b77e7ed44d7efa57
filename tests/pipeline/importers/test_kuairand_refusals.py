"""What is no KuaiRand, or a broken one, is named and leaves nothing."""

import polars as pl
import pytest

from features import command
from pipeline.importers import kuairand_files
from tests.pipeline.importers.kuairand_rows import (
    USER_ROW,
    VIDEO_ROW,
    imported,
    log_rows,
    rows_of,
    write_official,
)


def test_missing_files_are_listed(tmp_path):
    source = write_official(tmp_path)
    (source / "data" / "user_features_pure.csv").unlink()
    (source / "data" / "log_standard_4_22_to_5_08_pure.csv").unlink()
    with pytest.raises(command.InputError) as error:
        kuairand_files.find_files(source)
    assert "lacks log_standard_*.csv" in str(error.value)
    assert "user_features_*.csv" in str(error.value)
    assert "Found: video_features_basic_pure.csv" in str(error.value)


def test_absent_directory_is_named(tmp_path):
    with pytest.raises(command.InputError, match="nowhere does not exist"):
        kuairand_files.find_files(tmp_path / "nowhere")


def test_two_editions_in_one_directory_are_refused(tmp_path):
    write_official(tmp_path, edition="pure")
    write_official(tmp_path, edition="1k")
    with pytest.raises(command.InputError, match=r"more than one edition \(1k, pure\)"):
        kuairand_files.find_files(tmp_path)


def test_the_same_log_in_two_formats_is_refused(tmp_path):
    source = write_official(tmp_path)
    path = source / "data" / "log_standard_until_5_05_pure.parquet"
    log_rows().write_parquet(path)
    with pytest.raises(command.InputError, match=r"more than one format \(csv, parquet\)"):
        kuairand_files.find_files(source)


def test_statistics_file_is_never_read_and_named_in_a_warning(tmp_path, caplog):
    source = write_official(tmp_path / "in")
    path = source / "data" / "video_features_statistic_pure.csv"
    path.write_text("this is not even a table")
    imported(source, tmp_path / "logs")
    assert str(path) in caplog.text
    assert "leaks" in caplog.text


def test_statistics_file_as_the_source_is_refused_with_the_reason(tmp_path):
    path = tmp_path / "video_features_statistic_pure.csv"
    path.write_text("video_id\n")
    with pytest.raises(command.InputError, match="is refused.*outcomes that are to be predicted"):
        kuairand_files.find_files(path)


def test_truncated_csv_is_named_and_leaves_nothing(tmp_path):
    source = write_official(tmp_path / "in", log=log_rows(*({} for _ in range(50))))
    path = source / "data" / "log_standard_4_22_to_5_08_pure.csv"
    path.write_bytes(path.read_bytes()[:-20])  # In the middle of the last row.
    with pytest.raises(command.InputError, match=r"log_standard_4_22.*Expected 19 columns"):
        imported(source, tmp_path / "logs")
    assert [item.name for item in tmp_path.iterdir()] == ["in"]


def test_truncated_parquet_is_named_and_leaves_nothing(tmp_path):
    source = tmp_path / "in"
    source.mkdir()
    log_rows().write_parquet(source / "log_standard_until_5_05_pure.parquet")
    rows_of(USER_ROW).write_parquet(source / "user_features_pure.parquet")
    rows_of(VIDEO_ROW).write_parquet(source / "video_features_basic_pure.parquet")
    imported(source, tmp_path / "logs")
    path = source / "user_features_pure.parquet"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(command.InputError, match="user_features_pure.parquet cannot be read"):
        imported(source, tmp_path / "again")
    assert sorted(item.name for item in tmp_path.iterdir()) == ["in", "logs"]


def test_wrong_columns_are_named(tmp_path):
    source = write_official(tmp_path / "in", log=log_rows().drop("time_ms", "tab"))
    with pytest.raises(command.InputError, match=r"lacks the columns time_ms, tab. Found: user_id"):
        imported(source, tmp_path / "logs")


def test_wrong_type_in_csv_is_named(tmp_path):
    log = log_rows().with_columns(play_time_ms=pl.lit("long")).select(reversed(log_rows().columns))
    source = write_official(tmp_path / "in", log=log)
    with pytest.raises(command.InputError, match=r"log_standard.*, column 'play_time_ms'.*'long'"):
        imported(source, tmp_path / "logs")


def test_wrong_type_in_parquet_is_named(tmp_path):
    source = tmp_path / "in"
    source.mkdir()
    rows_of(USER_ROW).write_parquet(source / "user_features_pure.parquet")
    rows_of(VIDEO_ROW).write_parquet(source / "video_features_basic_pure.parquet")
    log = log_rows().with_columns(pl.col("time_ms").cast(pl.String))
    log.write_parquet(source / "log_standard_until_5_05_pure.parquet")
    with pytest.raises(command.InputError, match="time_ms: expected int64, found (large_)?string"):
        imported(source, tmp_path / "logs")


def test_click_that_is_neither_0_nor_1_is_named(tmp_path):
    source = write_official(tmp_path / "in", log=log_rows({"is_click": 7}))
    with pytest.raises(command.InputError, match="column 'clicked'.*from 7 to 7"):
        imported(source, tmp_path / "logs")


@pytest.mark.parametrize("content", ["", "user_id,video_id"])
def test_empty_csv_is_named(tmp_path, content):
    source = write_official(tmp_path / "in")
    path = source / "data" / "user_features_pure.csv"
    path.write_text(content and path.read_text().partition("\n")[0] + "\n")
    with pytest.raises(command.InputError, match="user_features_pure.csv (is empty|has no rows)"):
        imported(source, tmp_path / "logs")
