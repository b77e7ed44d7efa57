import json
import shutil

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from features import command, declarations, spec
from features.tables import logs, schema
from pipeline.importers import kuairand, kuairand_files

# 2022-04-25T00:00:00Z.
START_MS = 1_650_844_800_000
MINUTE_MS = 60_000

LOG_ROW = {
    **dict.fromkeys(kuairand_files.LOG, 0),
    "user_id": 1,
    "video_id": 10,
    "date": 20220425,
    "hourmin": 800,
    "time_ms": START_MS,
    "play_time_ms": 2_500,
    "duration_ms": 60_000,
    "tab": 1,
}
USER_ROW = {
    **dict.fromkeys(kuairand_files.USERS, 0),
    **dict.fromkeys(kuairand_files.USER_NAMES, "some"),
    "user_id": 1,
}
VIDEO_ROW = {
    **dict.fromkeys(kuairand_files.VIDEOS, 0),
    "video_id": 10,
    "author_id": 77,
    "video_type": "NORMAL",
    "upload_dt": "2022-04-10",
    "upload_type": "Web",
    "video_duration": 60_000.0,
    "tag": "12,65",
}


def rows_of(default, *changes):
    return pl.DataFrame([{**default, **change} for change in (changes or ({},))])


def log_rows(*changes):
    return rows_of(LOG_ROW, *changes)


def shown(*changes, gap=30.0):
    return kuairand.impressions(log_rows(*changes), page_gap_minutes=gap).to_dicts()


def write_official(folder, *, edition="pure", log=None, random=None, users=None, videos=None):
    """Writes the official CSV layout; returns the directory that a user would give."""
    data = folder / f"KuaiRand-{edition}" / "data"
    data.mkdir(parents=True)
    log = log_rows() if log is None else log
    log.write_csv(data / f"log_standard_4_22_to_5_08_{edition}.csv")
    if random is not None:
        random.write_csv(data / f"log_random_4_22_to_5_08_{edition}.csv")
    users = rows_of(USER_ROW) if users is None else users
    users.write_csv(data / f"user_features_{edition}.csv")
    videos = rows_of(VIDEO_ROW) if videos is None else videos
    videos.write_csv(data / f"video_features_basic_{edition}.csv")
    return data.parent


def imported(source, logs_dir, **options):
    with logs.LogWriter(logs_dir) as writer:
        notes = kuairand.import_logs(source, writer, kuairand.KuaiRandConfig(**options))
    return notes


def table(logs_dir, name):
    return pl.DataFrame(pl.from_arrow(logs.read_table(logs_dir, name)))


def test_impression_is_mapped_column_by_column():
    (row,) = shown({"is_click": 1, "long_view": 1, "time_ms": START_MS + 999, "is_rand": 1})
    assert row == {
        "user_id": "1",
        "video_id": "10",
        "time": START_MS // 1000,
        "clicked": 1,
        "watch_time_s": 2.5,
        "page_id": f"1-{START_MS + 999}",
        "surface": "tab_1",
        "time_ms": START_MS + 999,
        "duration_ms": 60_000,
        "profile_stay_time_ms": 0,
        "comment_stay_time_ms": 0,
        "log_date": 20220425,
        "log_hourmin": 800,
        **dict.fromkeys(kuairand_files.LOG_FLAGS, False),
        "long_view": True,
        "is_rand": True,
    }


def test_time_follows_time_ms_and_not_the_date_that_runs_ahead():
    (row,) = shown({"date": 20220426, "hourmin": 0})
    assert row["time"] == START_MS // 1000


def test_a_pause_longer_than_the_gap_starts_a_page():
    minutes = [0, 30, 61, 62]  # 31 minutes lie between the second and the third.
    rows = shown(*({"time_ms": START_MS + minute * MINUTE_MS} for minute in minutes))
    assert [row["page_id"] for row in rows] == [
        f"1-{START_MS}",
        f"1-{START_MS}",
        f"1-{START_MS + 61 * MINUTE_MS}",
        f"1-{START_MS + 61 * MINUTE_MS}",
    ]


def test_users_never_share_a_page_and_order_of_rows_does_not_matter():
    changes = [
        {"user_id": 2, "time_ms": START_MS + MINUTE_MS},
        {"user_id": 1, "time_ms": START_MS + MINUTE_MS},
        {"user_id": 2, "time_ms": START_MS},
        {"user_id": 1, "time_ms": START_MS},
    ]
    rows = shown(*changes)
    assert {(row["user_id"], row["page_id"]) for row in rows} == {
        ("1", f"1-{START_MS}"),
        ("2", f"2-{START_MS}"),
    }
    assert shown(*reversed(changes)) == rows


def test_exact_copies_stay_exact_copies():
    arrow = kuairand.impressions(log_rows({}, {}, {"tab": 2}), page_gap_minutes=30.0).to_arrow()
    unique, duplicates = schema.split_duplicates(arrow)
    assert (unique.num_rows, duplicates.num_rows) == (2, 1)


def test_a_row_that_was_not_played_is_no_watch():
    rows = log_rows({"play_time_ms": 0, "is_click": 1}, {"play_time_ms": 1, "long_view": 1})
    assert kuairand.watches(rows).to_dicts() == [
        {
            "user_id": "1",
            "video_id": "10",
            "time": START_MS // 1000,
            "watch_time_s": 0.001,
            "completed": True,
            "source": "tab_1",
            "is_rand": False,
        }
    ]


def test_history_keeps_its_order_and_ends_before_the_log():
    history = pl.DataFrame(
        {
            "user_id": [1, 2, 3],
            "history_len": [3, 9, 0],
            # User 1 was last seen two hours before the log begins; by the clock of user 2 an
            # hour after.
            "last_time_ms": [START_MS - 120 * MINUTE_MS, START_MS + 60 * MINUTE_MS, START_MS],
            "long_watch_seq": [[10, 11, 10], [11], []],
        },
        schema_overrides={"long_watch_seq": pl.List(pl.Int64)},
    )
    durations = pl.DataFrame({"video_id": ["10", "11"], "duration_s": [60.0, None]})
    rows = kuairand.history_watches(history, durations, first_s=START_MS // 1000)
    start_s = START_MS // 1000
    assert rows.select("user_id", "video_id", "time").rows() == [
        ("1", "10", start_s - 7200 - 180),
        ("1", "11", start_s - 7200 - 120),
        ("1", "10", start_s - 7200 - 60),
        ("2", "11", start_s - 60),
    ]
    assert rows["watch_time_s"].to_list() == [18.0, 18.0, 18.0, 18.0]
    assert rows["completed"].all()
    assert set(rows["source"]) == {"history"}


def test_history_watch_of_a_short_video_lasts_as_long_as_the_video():
    history = pl.DataFrame(
        {
            "user_id": [1],
            "history_len": [1],
            "last_time_ms": [START_MS],
            "long_watch_seq": [[10]],
        }
    )
    durations = pl.DataFrame({"video_id": ["10"], "duration_s": [7.5]})
    rows = kuairand.history_watches(history, durations, first_s=START_MS // 1000)
    assert rows["watch_time_s"].to_list() == [7.5]


def test_video_is_mapped_and_unknown_values_become_null():
    unknown = {
        "video_id": 11,
        "video_duration": 0.0,
        "upload_dt": None,
        "tag": None,
        "video_type": "UNKNOWN",
        "music_type": -124,
    }
    first, second = kuairand.videos(rows_of(VIDEO_ROW, {}, unknown), first_s=99).to_dicts()
    assert first["upload_time"] == 1_649_520_000  # 2022-04-09T16:00Z is 00:00 in China on the 10th.
    assert first["channel_id"] == "77"
    assert first["topics"] == ["12", "65"]
    assert first["duration_s"] == 60.0
    assert first["video_type"] == "NORMAL"
    assert second["upload_time"] == 99
    assert (first["upload_time_known"], second["upload_time_known"]) == (True, False)
    for name in ("duration_s", "topics", "video_type", "music_type"):
        assert second[name] is None


def test_unreadable_upload_date_is_named():
    with pytest.raises(command.InputError, match="upload_dt must be YYYY-MM-DD, got '10.4.2022'"):
        kuairand.videos(rows_of(VIDEO_ROW, {"upload_dt": "10.4.2022"}), first_s=1)


def test_unknown_user_codes_become_null_and_known_ones_are_kept():
    odd = {
        "user_id": 2,
        "is_live_streamer": -124.0,
        "register_days": -124.0,
        "onehot_feat4": None,
        "user_active_degree": "UNKNOWN",
        "register_days_range": "8-14",  # Not in the documented set.
    }
    rows = rows_of({**USER_ROW, "onehot_feat4": 3.0, "is_live_streamer": 1.0}, {}, odd)
    first, second = kuairand.users(rows).to_dicts()
    assert (first["onehot_feat4"], first["is_live_streamer"]) == ("3", True)
    assert second["register_days_range"] == "8-14"
    for name in ("is_live_streamer", "register_days", "onehot_feat4", "user_active_degree"):
        assert second[name] is None
    assert set(first) == set(kuairand_files.USERS)


@pytest.mark.parametrize("edition", ["pure", "1k", "27k"])
@pytest.mark.parametrize("given", ["parent", "edition", "data"])
def test_official_layout_is_found_wherever_the_user_points(tmp_path, edition, given):
    source = write_official(tmp_path / "in", edition=edition)
    where = {"parent": source.parent, "edition": source, "data": source / "data"}[given]
    if given == "parent":  # One level above the edition's directory.
        assert kuairand_files.find_files(source)["log"]
    imported(where if given != "parent" else source, tmp_path / "logs")
    assert logs.tables_in(tmp_path / "logs") == {"videos", "users", "watches", "impressions"}


def test_parts_of_the_27k_edition_and_random_rows_are_read_together(tmp_path):
    source = write_official(
        tmp_path / "in", edition="27k", random=log_rows({"is_rand": 1, "video_id": 11})
    )
    data = source / "data"
    name = "log_standard_4_22_to_5_08_27k"
    shutil.move(data / f"{name}.csv", data / f"{name}_part1.csv")
    log_rows({"user_id": 2}).write_csv(data / f"{name}_part2.csv")
    imported(source, tmp_path / "logs")
    rows = table(tmp_path / "logs", "impressions").sort("user_id", "video_id")
    assert rows.select("user_id", "video_id", "is_rand").rows() == [
        ("1", "10", False),
        ("1", "11", True),
        ("2", "10", False),
    ]


def test_gzipped_csv_is_read(tmp_path):
    source = write_official(tmp_path / "in")
    for path in (source / "data").iterdir():
        arrow = pa.py_buffer(path.read_bytes())
        with pa.output_stream(f"{path}.gz", compression="gzip") as stream:
            stream.write(arrow)
        path.unlink()
    imported(source, tmp_path / "logs")
    assert table(tmp_path / "logs", "impressions").height == 1


def test_users_in_buckets_give_the_same_tables_as_all_at_once(tmp_path):
    changes = [
        {"user_id": index % 7, "time_ms": START_MS + index * 11 * MINUTE_MS, "video_id": index}
        for index in range(60)
    ]
    source = write_official(tmp_path / "in", log=log_rows(*changes))
    imported(source, tmp_path / "whole")
    imported(source, tmp_path / "buckets", bucket_bytes=1000)
    for name in ("impressions", "watches"):
        whole, buckets = (
            table(tmp_path / kind, name).sort("time", "user_id") for kind in ("whole", "buckets")
        )
        assert whole.equals(buckets)


def test_window_cuts_events_and_leaves_page_ids_alone(tmp_path):
    times = [START_MS + minute * MINUTE_MS for minute in (0, 10, 20)]
    source = write_official(tmp_path / "in", log=log_rows(*({"time_ms": time} for time in times)))
    second = times[1] // 1000
    imported(source, tmp_path / "logs", from_s=second, until_s=second + 1)
    rows = table(tmp_path / "logs", "impressions")
    assert rows.select("time", "page_id").rows() == [(second, f"1-{START_MS}")]
    assert table(tmp_path / "logs", "watches")["time"].to_list() == [second]


def test_declared_features_resolve_against_the_tables(tmp_path):
    imported(write_official(tmp_path / "in"), tmp_path / "logs")
    extra = declarations.load(tmp_path / "logs" / logs.FEATURES_FILE)
    columns = {
        name: logs.column_types(tmp_path / "logs", name)
        for name in ("videos", "users", "impressions", "watches")
    }
    declarations.require_answerable(extra, columns, path=logs.FEATURES_FILE)
    resolved = spec.resolve({**columns, "context": ["surface"]}, extra)
    assert set(extra) <= set(resolved.features)
    assert len(extra) == 19 + 3 + 4 + 3 + 2


def test_binary_and_continuous_features_have_numeric_columns():
    columns = {
        "users": kuairand.users(rows_of(USER_ROW)).schema,
        "videos": kuairand.videos(rows_of(VIDEO_ROW), first_s=1).schema,
    }
    for entry in kuairand_files.declarations(has_history=False):
        origin, _, column = entry["source"].partition(".")
        kind = columns[origin][column]
        expected = {"univalent": kind == pl.String, "binary": kind == pl.Boolean}
        assert expected.get(entry["kind"], kind.is_numeric()), entry


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


def test_page_gap_must_be_positive():
    with pytest.raises(command.InputError, match="--page_gap_minutes must be above 0, got 0"):
        kuairand.KuaiRandConfig(page_gap_minutes=0)


@pytest.fixture(scope="module")
def real_logs(kuairand_dir, tmp_path_factory):
    logs_dir = tmp_path_factory.mktemp("kuairand") / "logs"
    imported(kuairand_dir, logs_dir)
    return logs_dir


def test_real_impressions_agree_with_the_data_sheet(real_logs):
    rows = table(real_logs, "impressions")
    assert rows.height == 185_177
    assert rows["user_id"].n_unique() == 24_451
    assert rows["video_id"].n_unique() == 6_153
    assert rows["clicked"].mean() == pytest.approx(0.4424, abs=5e-5)
    assert rows["long_view"].mean() == pytest.approx(0.3111, abs=5e-5)
    assert rows["is_like"].mean() == pytest.approx(0.0172, abs=5e-5)
    assert (rows["watch_time_s"] == 0).mean() == pytest.approx(0.0980, abs=5e-5)
    assert rows["watch_time_s"].median() == 4.614
    assert not rows["is_rand"].any()
    # 2022-04-24 23:05:41 and 2022-05-05 23:59:59, both UTC+8.
    assert (rows["time"].min(), rows["time"].max()) == (1_650_812_741, 1_651_766_399)
    surfaces = rows["surface"].value_counts(normalize=True)
    assert dict(surfaces.iter_rows())["tab_1"] == pytest.approx(0.757, abs=5e-4)


def test_real_impressions_have_as_many_exact_copies_as_the_data_sheet_says(real_logs):
    _, duplicates = schema.split_duplicates(logs.read_table(real_logs, "impressions"))
    assert duplicates.num_rows == 4_682


def test_real_watches_are_the_plays_and_the_history(real_logs, kuairand_dir):
    rows = table(real_logs, "watches")
    is_history = rows["source"] == "history"
    played = rows.filter(~is_history)
    assert played.height == 185_177 - 18_143
    assert (played["watch_time_s"] > 0).all()
    history = pl.read_parquet(kuairand_dir / "history_until_4_24_pure.parquet")
    assert is_history.sum() == history["long_watch_seq"].list.len().sum() == 390_929


def test_real_history_is_in_order_and_before_every_log_row(real_logs, kuairand_dir):
    watches = table(real_logs, "watches")
    rows = watches.filter(pl.col("source") == "history")
    assert rows["time"].max() < table(real_logs, "impressions")["time"].min()
    in_order = rows.sort("user_id", "time")
    steps = in_order.select(pl.col("time").diff().over("user_id")).to_series().drop_nulls()
    assert steps.unique().to_list() == [60]
    sequences = in_order.group_by("user_id", maintain_order=True).agg("video_id")
    expected = (
        pl.read_parquet(kuairand_dir / "history_until_4_24_pure.parquet")
        .filter(pl.col("long_watch_seq").list.len() > 0)
        .select(
            pl.col("user_id").cast(pl.String),
            expected=pl.col("long_watch_seq").cast(pl.List(pl.String)),
        )
    )
    joined = sequences.join(expected, on="user_id", how="full")
    assert joined.height == expected.height
    assert (joined["video_id"] == joined["expected"]).all()


def test_real_catalogue_and_users_are_whole(real_logs):
    videos, users = table(real_logs, "videos"), table(real_logs, "users")
    assert (videos.height, users.height) == (7_583, 27_285)
    assert videos["channel_id"].n_unique() == 6_510
    assert videos["topics"].explode().drop_nulls().n_unique() == 46
    assert videos["duration_s"].null_count() == 239
    assert videos["topics"].null_count() == 96
    assert videos["upload_time_known"].all()
    assert users["is_live_streamer"].null_count() == 21_127
    assert users["onehot_feat4"].null_count() == 874
    assert users["history_impressions"].max() == 820
    assert (users["history_impressions"] == 0).sum() == 27_285 - 26_469


def test_real_rows_all_validate(real_logs):
    video_ids = logs.read_table(real_logs, "videos")["video_id"].combine_chunks()
    user_ids = logs.read_table(real_logs, "users")["user_id"].combine_chunks()
    for name in ("impressions", "watches", "videos", "users"):
        _, rejected = schema.validate(
            name,
            logs.read_table(real_logs, name),
            known_video_ids=video_ids,
            known_user_ids=user_ids,
            now_s=1_700_000_000,
        )
        assert rejected.num_rows == 0


def test_real_page_ids_are_runs_without_a_long_pause(real_logs):
    rows = table(real_logs, "impressions").sort("user_id", "time_ms")
    pages = rows.group_by("page_id").agg(
        users=pl.col("user_id").n_unique(), pause=pl.col("time_ms").sort().diff().max()
    )
    assert pages["users"].max() == 1
    assert pages["pause"].max() <= 30 * MINUTE_MS
    between = rows.group_by("user_id", "page_id").agg(
        start=pl.col("time_ms").min(), end=pl.col("time_ms").max()
    )
    gaps = between.sort("start").select(
        (pl.col("start") - pl.col("end").shift()).over("user_id").alias("gap")
    )
    assert gaps["gap"].min() > 30 * MINUTE_MS


def test_leaking_statistics_are_nowhere_in_the_real_logs(real_logs, kuairand_dir):
    statistics = pq.read_schema(kuairand_dir / "video_features_statistic_pure.parquet").names
    leaking = set(statistics) - {"video_id"}
    for name in ("videos", "impressions", "watches"):
        assert not leaking & set(logs.column_types(real_logs, name))
    declared = json.loads((real_logs / logs.FEATURES_FILE).read_text())
    # The users table has a follow_user_num of its own: whom the user follows.
    sources = {entry["source"] for entry in declared}
    assert not {f"videos.{name}" for name in leaking} & sources
