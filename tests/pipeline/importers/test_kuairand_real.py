"""The real KuaiRand-Pure agrees with its data sheet."""

import json

import polars as pl
import pyarrow.parquet as pq
import pytest

from features.tables import logs, schema
from tests.pipeline.importers.kuairand_rows import imported, table


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


def test_leaking_statistics_are_nowhere_in_the_real_logs(real_logs, kuairand_dir):
    statistics = pq.read_schema(kuairand_dir / "video_features_statistic_pure.parquet").names
    leaking = set(statistics) - {"video_id"}
    for name in ("videos", "impressions", "watches"):
        assert not leaking & set(logs.column_types(real_logs, name))
    declared = json.loads((real_logs / logs.FEATURES_FILE).read_text())
    # The users table has a follow_user_num of its own: whom the user follows.
    sources = {entry["source"] for entry in declared}
    assert not {f"videos.{name}" for name in leaking} & sources
