"""Parity: replay's examples are those of plain loops over the definitions, value by value."""

import functools
import math

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from features import spec
from features.as_of import live_statistics, replay, statistics
from features.as_of.examples import Users
from features.as_of.live_statistics import LiveStatistics
from features.catalogue import Catalogue
from features.durations import DAY_S
from features.spec import Kind, Side
from tests.features.as_of.plain_replay import PlainReplay

T0 = 1_650_000_000 // DAY_S * DAY_S
# Moments that meet the ends of minutes, hours, days and pages exactly and miss them by one.
OFFSETS = [0, 1, 59, 60, 61, 600, 1799, 1800, 1801, 3599, 3600, 3601, 6 * 3600, DAY_S - 1, DAY_S]
TIMES = st.builds(
    lambda day, offset: T0 + day * DAY_S + offset, st.integers(0, 8), st.sampled_from(OFFSETS)
)
USERS = st.sampled_from(["u", "v", "ü w"])
VIDEO_IDS = st.sampled_from("abcd")
SECONDS = st.integers(0, 5000).map(lambda n: n / 8)
MAYBE = st.sampled_from([None, "x", "y"])
VIDEOS = pa.table(
    {
        "video_id": ["a", "b", "c", "d"],
        "upload_time": [T0 - 5, T0 + 3600, T0 - 9 * DAY_S, T0 + 20 * DAY_S],
        "channel_id": ["k", "k", None, "m"],
        "topics": [["s", "t"], [], None, ["t"]],
        "language": ["en", None, "de", "en"],
        "duration_s": [10.0, None, 0.5, 7200.0],
    }
)
PROFILES = pa.table(
    {
        "user_id": ["u", "v"],
        "region": ["eu", None],
        "signed_in": [True, None],
        "age": [0.25, None],
    }
)


def rows(**columns):
    return st.lists(st.fixed_dictionaries(columns), max_size=14)


LOG = st.fixed_dictionaries(
    {
        "watches": rows(
            user_id=USERS, video_id=VIDEO_IDS, time=TIMES, watch_time_s=SECONDS,
            completed=st.sampled_from([True, False, None]), device=MAYBE,
        ),
        "searches": rows(
            user_id=USERS, time=TIMES, query=st.sampled_from(["Big Cat", "cat", "", "a b c d"])
        ),
        "impressions": rows(
            user_id=USERS, video_id=VIDEO_IDS, time=TIMES, clicked=st.booleans(),
            watch_time_s=SECONDS, page_id=st.sampled_from([None, "p", "q"]), device=MAYBE,
            candidate_sources=st.sampled_from([None, [], ["fresh", "popular"]]),
            retrieval_score=st.sampled_from([None, 1.5]), release_id=st.sampled_from([None, "1"]),
        ),
    }
)  # fmt: skip
SCHEMAS = {
    "watches": pa.schema(
        [("user_id", pa.string()), ("video_id", pa.string()), ("time", pa.int64()),
         ("watch_time_s", pa.float64()), ("completed", pa.bool_()), ("device", pa.string())]
    ),
    "searches": pa.schema(
        [("user_id", pa.string()), ("time", pa.int64()), ("query", pa.string())]
    ),
    "impressions": pa.schema(
        [("user_id", pa.string()), ("video_id", pa.string()), ("time", pa.int64()),
         ("clicked", pa.bool_()), ("watch_time_s", pa.float64()), ("page_id", pa.string()),
         ("device", pa.string()), ("candidate_sources", pa.list_(pa.string())),
         ("retrieval_score", pa.float64()), ("release_id", pa.string())]
    ),
}  # fmt: skip


def by_name(resolved, model, table):
    """Raw examples as rows of feature name to value."""
    examples = []
    for row in table.to_pylist():
        values = {f.name: row[f.name] for f in resolved.of(model) if f.categorical}
        for side in Side:
            for kind in (Kind.CONTINUOUS, Kind.BINARY):
                names = resolved.vector_names(model, side, kind)
                if names:
                    values |= zip(names, row[spec.vector_column(side, kind)], strict=True)
        examples.append({k: row[k] for k in ("user_id", "time")} | values)
    return examples


def key(example, names):
    """Sorts examples; those of the same user and second by what else they hold."""
    values = [example[name] for name in names]
    rounded = [f"{v:.5g}" if isinstance(v, float) else v for v in values]
    return (example["user_id"], example["time"], str(rounded))


def same(ours, plain):
    if isinstance(plain, float):
        return (math.isnan(ours) and math.isnan(plain)) or math.isclose(
            ours, plain, rel_tol=1e-6, abs_tol=1e-6
        )
    return ours == plain


@pytest.mark.parametrize("number", [1, 2, 3])
def test_examples_equal_those_of_plain_loops(number):
    @seed(number)
    @settings(
        max_examples=40, deadline=None, suppress_health_check=list(HealthCheck), database=None
    )
    @given(log=LOG)
    def check(log):
        tables = {name: pa.Table.from_pylist(log[name], SCHEMAS[name]) for name in SCHEMAS}
        tables = {  # Clean tables are sorted by user and time.
            n: t.sort_by([("user_id", "ascending"), ("time", "ascending")])
            for n, t in tables.items()
        }
        columns = {name: table.column_names for name, table in tables.items()}
        columns |= {"videos": VIDEOS.column_names, "users": PROFILES.column_names}
        resolved = spec.resolve({**columns, "context": ["device"]})
        until = T0 + 4 * DAY_S
        ours = {model: [] for model in spec.MODELS}
        replayer = replay.Replayer(
            replay.ReplayConfig(train_until_s=until),
            resolved=resolved,
            catalogue=Catalogue(VIDEOS),
            users=Users(PROFILES),
        )
        events = tables["watches"], tables["impressions"]
        made = replayer.examples(
            tables,
            statistics.daily_counts(*events),
            LiveStatistics.of(live_statistics.minute_counts(Catalogue(VIDEOS), *events)),
        )
        for model, _, batch in made:
            ours[model] += by_name(resolved, model, pa.Table.from_batches([batch]))
        plain = PlainReplay(
            {"videos": VIDEOS, "users": PROFILES, **tables}, resolved, train_until_s=until
        )
        expected = {
            spec.CANDIDATE: list(plain.candidate_examples()),
            spec.RANKER: list(plain.ranking_examples()),
        }
        for model in spec.MODELS:
            names = sorted(f.name for f in resolved.of(model))
            in_order = functools.partial(key, names=names)
            got, want = sorted(ours[model], key=in_order), sorted(expected[model], key=in_order)
            assert len(got) == len(want)
            for mine, other in zip(got, want, strict=True):
                for name, value in mine.items():
                    assert same(value, other[name]), (model, name, value, other[name], mine)

    check()


def test_the_comparison_covers_every_feature_and_sees_a_difference():
    resolved = spec.resolve(
        {n: t.names for n, t in SCHEMAS.items()}
        | {"videos": VIDEOS.column_names, "users": PROFILES.column_names, "context": ["device"]}
    )
    assert len(resolved.of(spec.RANKER)) > 120
    assert same(np.float32(0.1), 0.1)
    assert not same(1.0, 1.001)
    assert not same(float("nan"), 0.0)
