"""KuaiRand-Pure through preprocessing: its quirks are counted as often as the data has them.

What is expected is counted in the raw files with polars, not with our code; the data's README
states some of the numbers, and they are asserted too. (Not all: its 507 clicks without a play and
221 plays without a click are those of the log before it was cut at 5 May.)
"""

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest
from apache_beam.options.pipeline_options import PipelineOptions

from features import spec
from features.spec import Kind, Side
from features.tables import logs
from pipeline.importers import kuairand
from pipeline.preprocessing import raw_examples
from pipeline.preprocessing.config import PreprocessConfig

COPIES = 4_682  # "4,682 rows are exact copies of another row"
UNKNOWN_DURATIONS = 2_793  # "2,793 rows (1.5 %) are 0"


@pytest.fixture(scope="module")
def shown(kuairand_dir):
    """The log as it is, all 19 columns."""
    return pl.read_parquet(kuairand_dir / "log_standard_until_5_05_pure.parquet")


@pytest.fixture(scope="module")
def output(tmp_path_factory):
    return tmp_path_factory.mktemp("kuairand")


@pytest.fixture(scope="module")
def made(kuairand_dir, output):
    with logs.LogWriter(output / "logs") as writer:
        kuairand.import_logs(kuairand_dir, writer, kuairand.KuaiRandConfig())
    return raw_examples.RawExamples(
        logs_dir=output / "logs",
        output=output,
        config=PreprocessConfig(examples_per_user=2),
        options=PipelineOptions(["--runner=FnApiRunner"]),
        tables={"impressions", "watches", "videos", "users"},
    ).make()


@pytest.fixture(scope="module")
def ranking(made, output):
    """All raw ranking examples: labels, and the duration of the video."""
    parts = [
        pq.read_table(
            raw_examples.directory_of(output, spec.RANKER, split),
            columns=["user_id", "time", "clicked", "watch_time_s", "candidate_continuous"],
        )
        for split in raw_examples.SPLITS
    ]
    names = made.resolved.vector_names(spec.RANKER, Side.CANDIDATE, Kind.CONTINUOUS)
    column = names.index("duration_s")
    frames = []
    for part in parts:
        vectors = part["candidate_continuous"].combine_chunks().flatten().to_numpy()
        durations = vectors.reshape(part.num_rows, len(names))[:, column]
        labels = pl.DataFrame(pl.from_arrow(part.drop_columns(["candidate_continuous"])))
        frames.append(labels.with_columns(duration_s=pl.Series(durations)))
    return frames


def rejected(made, table):
    counted = {reason: n for (name, reason), n in made.rows.items() if name == table}
    others = {"read", "accepted", "unlisted"}
    return {reason: n for reason, n in counted.items() if reason not in others}


def test_of_impressions_exact_copies_alone_are_set_aside(made, shown):
    assert shown.height - shown.unique().height == COPIES
    assert made.rows["impressions", "read"] == shown.height
    assert rejected(made, "impressions") == {"exact_duplicate": COPIES}
    assert made.rows["impressions", "accepted"] == shown.height - COPIES


def test_of_watches_rows_alone_that_nothing_tells_apart_are_set_aside(made, shown, kuairand_dir):
    played = shown.filter(pl.col("play_time_ms") > 0)
    # A watch is in whole seconds and without most columns, so more rows are alike.
    alike = played.select(
        "user_id",
        "video_id",
        pl.col("time_ms") // 1000,
        "play_time_ms",
        pl.col("long_view") != 0,
        "tab",
        "is_rand",
    )
    history = pl.read_parquet(kuairand_dir / "history_until_4_24_pure.parquet")
    before = history["long_watch_seq"].list.len().sum()
    assert made.rows["watches", "read"] == played.height + before
    assert rejected(made, "watches") == {"exact_duplicate": alike.height - alike.unique().height}


def test_users_and_videos_are_all_used(made, kuairand_dir):
    for table, file in (("users", "user_features"), ("videos", "video_features_basic")):
        rows = pq.read_metadata(kuairand_dir / f"{file}_pure.parquet").num_rows
        assert made.rows[table, "read"] == made.rows[table, "accepted"] == rows
        assert rejected(made, table) == {}
    assert made.rows["videos", "unlisted"] == 0


def test_the_split_follows_time_ms_and_not_the_date_that_runs_ahead(made, shown, ranking):
    distinct = shown.unique()
    is_train = distinct["time_ms"] // 1000 < made.train_until_s
    assert [frame.height for frame in ranking] == [is_train.sum(), (~is_train).sum()]
    assert made.until_s == shown["time_ms"].max() // 1000 + 1
    # By the date column it would have been another split.
    ahead = distinct.filter(
        pl.from_epoch("time_ms", time_unit="ms").dt.offset_by("8h").dt.strftime("%Y%m%d").cast(int)
        != pl.col("date")
    )
    assert ahead.height == pytest.approx(0.009 * distinct.height, rel=0.1)


def test_clicks_that_were_not_played_stay_clicks_of_no_time(ranking, shown):
    odd = pl.col("is_click") == 1, pl.col("play_time_ms") == 0
    got = pl.concat(ranking).filter(pl.col("clicked") == 1, pl.col("watch_time_s") == 0)
    assert got.height == shown.unique().filter(*odd).height > 0


def test_watch_time_without_a_click_stays(ranking, shown):
    odd = pl.col("is_click") == 0, pl.col("play_time_ms") > 7000
    got = pl.concat(ranking).filter(pl.col("clicked") == 0, pl.col("watch_time_s") > 7)
    assert got.height == shown.unique().filter(*odd).height > 0


def test_unknown_durations_are_missing_and_not_zero(ranking, shown):
    assert (shown["duration_ms"] == 0).sum() == UNKNOWN_DURATIONS
    durations = pl.concat(ranking)["duration_s"].to_numpy()
    assert np.isnan(durations).sum() == (shown.unique()["duration_ms"] == 0).sum()
    assert np.nanmin(durations) > 0
