"""The composite transforms of preprocessing, one by one, on events that can be followed by hand."""

import apache_beam as beam
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from apache_beam.testing import test_pipeline
from apache_beam.testing.util import assert_that, equal_to

from features import declarations, spec
from features.as_of import example_tables
from features.as_of.replay import ReplayConfig
from features.durations import DAY_S
from features.tables import logs
from pipeline.preprocessing import (
    beam_options,
    cleaning,
    counting,
    example_generation,
    periods,
    table_files,
)

WATCHES = (
    ("u", "a", 10, 5.0),
    ("u", "a", 10, 5.0),  # An exact copy.
    ("u", "b", 20, 7.0),
    ("v", "b", 20, 3.0),
    ("v", "nowhere", 30, 1.0),  # Of a video that there is not.
    ("v", "a", 2 * DAY_S, 4.0),
)
COLUMNS = ("user_id", "video_id", "time", "watch_time_s")


def watches(rows):
    return pa.table(dict(zip(COLUMNS, map(list, zip(*rows, strict=True)), strict=True)))


@pytest.fixture
def log(tmp_path):
    """A log of watches, and the videos that there are."""
    for name, table in (
        ("logs/watches", watches(WATCHES)),
        ("videos", pa.table({"video_id": ["a", "b"], "upload_time": [0, 0]})),
    ):
        (tmp_path / name).mkdir(parents=True)
        pq.write_table(table, tmp_path / name / "part.parquet")
    return tmp_path


def reader(log):
    return cleaning.ReadFragments(
        videos_dir=str(log / "videos"),
        users_dir=None,
        num_events=len(WATCHES),
        num_buckets=4,
        now_s=10 * DAY_S,
        window=(None, None),
        store_dir=log / "store",
    )


def pipeline_of():
    return test_pipeline.TestPipeline(runner=beam_options.EMBEDDED)


def clean(pipeline, log):
    fragments = logs.fragments(log / "logs", "watches")
    return pipeline | beam.Create(fragments) | example_generation.CleanLogs(reader(log))


def rows_of(bucket):
    table = cleaning.tables_of(bucket)["watches"]
    return [*zip(*(table[name].to_pylist() for name in COLUMNS), strict=True)]


def test_clean_logs_are_whole_users_without_copies_and_without_what_cannot_be(log):
    def aside(name_and_rows):
        name, rows = name_and_rows
        return [(name, reason) for reason in rows["reason"].to_pylist()]

    with pipeline_of() as pipeline:
        made = clean(pipeline, log)
        users = [WATCHES[0], WATCHES[2]], [WATCHES[3], WATCHES[5]]
        assert_that(made.buckets | "rows" >> beam.Map(rows_of), equal_to([*users]), "buckets")
        wanted = [("watches", "exact_duplicate"), ("watches", "unknown_video")]
        assert_that(made.rejected | "aside" >> beam.FlatMap(aside), equal_to(wanted), "rejected")


def test_counts_and_what_was_set_aside_are_written(log):
    with pipeline_of() as pipeline:
        made = clean(pipeline, log)
        (made.rejected, made.counts) | example_generation.WriteCounts(log)
    assert cleaning.read_counts(log) == {
        ("watches", "read"): 6,
        ("watches", "accepted"): 4,
        ("watches", "unknown_video"): 1,
        ("watches", "exact_duplicate"): 1,
    }
    rejected = pq.read_table(log / "rejected" / "watches")
    assert sorted(rejected["video_id"].to_pylist()) == ["a", "nowhere"]


def test_digests_of_periods_do_not_depend_on_who_shares_a_bucket(log):
    digest = example_generation.DigestPeriods(periods.Digests({}, until_s=3 * DAY_S), log)
    usable = [WATCHES[0], *WATCHES[2:4], WATCHES[5]]
    dealt = {"apart": (usable[:2], usable[2:]), "together": (usable,)}
    written = {}
    for name, parts in dealt.items():
        stored = [
            table_files.store([watches(rows)], log / name / f"{number}.arrow")[0]
            for number, rows in enumerate(parts)
        ]
        buckets = [(number, {"watches": one}) for number, one in enumerate(stored)]
        with pipeline_of() as pipeline:
            pipeline | beam.Create(buckets) | digest
        written[name] = periods.read_digests(log).to_pylist()
    assert written["apart"] == written["together"]
    assert [(row["start"], row["rows"]) for row in written["apart"]] == [(0, 3), (2 * DAY_S, 1)]


def test_users_are_replayed_each_watch_from_those_before_it(log):
    types = {"watches": logs.column_types(log / "logs", "watches")}
    types["videos"] = {"video_id": pa.string(), "upload_time": pa.int64()}
    resolved = declarations.resolve(types, log / "logs" / logs.FEATURES_FILE)
    outputs = {
        f"{model}_{split}": (log / model / split, example_tables.example_schema(resolved, model))
        for model in spec.MODELS
        for split in ("train", "holdout")
    }
    replay = example_generation.ReplayBuckets(
        ReplayConfig(train_until_s=DAY_S),
        spec_json=resolved.to_json(),
        videos_dir=str(log / "videos"),
        users_dir=None,
        num_buckets=4,
    )
    count = counting.CountStatistics(
        videos_dir=str(log / "videos"), store_dir=log / "store", directory=log,
        has_impressions=False,
    )  # fmt: skip
    with pipeline_of() as pipeline:
        buckets = clean(pipeline, log).buckets
        counted = buckets | count
        inputs = (buckets, counted.daily, counted.minutes)
        inputs | example_generation.ReplayUsers(replay, outputs, log)
    columns = ["user_id", "label_video_id", "watched_video_ids"]
    made = {
        split: sorted(
            tuple(row.values())
            for row in pq.read_table(log / "candidate" / split, columns=columns).to_pylist()
        )
        for split in ("train", "holdout")
    }
    assert made["train"] == [("u", "a", []), ("u", "b", ["a"]), ("v", "b", [])]
    assert made["holdout"] == [("v", "a", ["b"])]
