"""What Beam counts, bucket by bucket, and adds up: on events that can be counted by hand."""

import apache_beam as beam
import pyarrow as pa
import pyarrow.parquet as pq
from apache_beam.testing import test_pipeline
from apache_beam.testing.util import assert_that, equal_to

from features.as_of import live_statistics
from features.durations import DAY_S
from pipeline.preprocessing import beam_options, counting, table_files


def stored(path, events):
    """Writes (video, time, seconds watched) as the watches of one bucket."""
    columns = zip(*events, strict=True)
    table = pa.table(
        dict(zip(("video_id", "time", "watch_time_s"), map(list, columns), strict=True))
    )
    return {"watches": table_files.store([table], path)[0]}


def test_buckets_of_users_are_counted_apart_and_added_up(tmp_path):
    (tmp_path / "videos").mkdir()
    pq.write_table(pa.table({"video_id": ["b", "a"]}), tmp_path / "videos" / "part.parquet")
    store = tmp_path / "store"
    buckets = [
        (0, stored(store / "0.arrow", [("a", 10, 5.0), ("a", DAY_S + 61, 4.0)])),
        (1, stored(store / "1.arrow", [("a", 59, 7.0), ("b", 60, 1.0)])),
    ]

    def minutes_of(one):
        table = one.read()
        keys = table["key"].to_numpy()
        rows, minutes = live_statistics.rows_of(keys), live_statistics.minutes_of(keys)
        return [*zip(rows.tolist(), minutes.tolist(), table["watches"].to_pylist(), strict=True)]

    with test_pipeline.TestPipeline(runner=beam_options.EMBEDDED) as pipeline:
        counted = (
            pipeline
            | beam.Create(buckets)
            | counting.CountStatistics(
                videos_dir=str(tmp_path / "videos"),
                store_dir=store,
                directory=tmp_path,
                has_impressions=False,
            )
        )
        found = counted.minutes | beam.FlatMap(minutes_of)
        # (row of the catalogue, minute, watches)
        assert_that(found, equal_to([(0, 1, 1), (1, 0, 2), (1, 1441, 1)]))
    daily = pq.read_table(tmp_path / "video_statistics").to_pylist()
    none = {"impressions": 0, "clicks": 0}
    assert daily == [
        {"video_id": "a", "day": 0, "watches": 2, "watch_time_s": 12.0} | none,
        {"video_id": "a", "day": 1, "watches": 1, "watch_time_s": 4.0} | none,
        {"video_id": "b", "day": 0, "watches": 1, "watch_time_s": 1.0} | none,
    ]
