"""Drift by hand, statistics of columns by hand, and the page as people get it."""

import html.parser
import json
import math
import re

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features import spec
from features.spec import Feature, ResolvedSpec
from features.tables import drift, logs
from pipeline.preprocessing import statistics_report
from pipeline.statistics import page as statistics_page
from pipeline.statistics import tables as table_statistics

COUNTS = st.lists(st.integers(0, 50), min_size=4, max_size=4).map(np.array)


# ---- drift ---------------------------------------------------------------------------------------


def test_the_divergence_by_hand():
    # p = (1, 0), q = (1/2, 1/2), m = (3/4, 1/4): H(m) - H(q) / 2 = 0.8113 - 0.5.
    entropy = -(0.75 * math.log2(0.75) + 0.25 * math.log2(0.25))
    got = drift.jensen_shannon(np.array([8, 0]), np.array([3, 3]))
    assert got == pytest.approx(entropy - 0.5)
    assert drift.jensen_shannon(np.array([2, 0]), np.array([0, 9])) == 1
    assert drift.jensen_shannon(np.array([2, 4]), np.array([1, 2])) == pytest.approx(0)
    assert drift.jensen_shannon(np.array([2, 4]), np.array([0, 0])) is None


@given(COUNTS, COUNTS)
def test_the_divergence_is_symmetric_and_within_0_and_1(a, b):
    got = drift.jensen_shannon(a, b)
    if got is not None:
        assert 0 <= got <= 1
        assert got == pytest.approx(drift.jensen_shannon(b, a))


def test_numbers_are_binned_by_quantiles_of_training_with_a_bin_for_missing():
    train = np.array([*range(1, 101), math.nan])
    bins = drift.of_numbers(train, np.array([0.0, 1000.0, math.nan, math.nan]))
    assert len(bins.names) == 21
    # Training fills its bins evenly; the holdout has one below, one above, two missing.
    assert bins.train[:20].tolist() == [5] * 20
    assert bins.train[20] == 1
    assert bins.holdout.tolist() == [1, *[0] * 18, 1, 2]


@pytest.mark.parametrize("value", [3.0, math.nan])
def test_a_constant_number_has_not_drifted(value):
    bins = drift.of_numbers(np.full(50, value), np.full(7, value))
    assert bins.distance == 0
    assert not bins.warns


def test_ids_are_binned_by_the_most_frequent_of_training():
    train = {f"t{n}": 200 - n for n in range(150)}
    bins = drift.of_ids(train, {"t1": 5, "t149": 2, "new": 4}, missing=(3, 6))
    assert bins.names == (*[f"t{n}" for n in range(100)], drift.OTHERS, drift.MISSING)
    assert bins.holdout[1] == 5
    assert bins.holdout[-2:].tolist() == [6, 6]
    assert bins.train[-2:].tolist() == [sum(200 - n for n in range(100, 150)), 3]


def test_two_samples_of_one_distribution_differ_by_the_noise():
    generator = np.random.default_rng(0)
    pairs = [(generator.normal(size=2000), generator.normal(size=300)) for _ in range(200)]
    bins = [drift.of_numbers(*pair) for pair in pairs]
    measured = np.mean([b.distance for b in bins])
    assert bins[0].noise == pytest.approx((20 - 1) * (1 / 2000 + 1 / 300) / (8 * math.log(2)))
    assert measured == pytest.approx(bins[0].noise, rel=0.1)
    assert not any(b.warns for b in bins)


def test_a_large_difference_warns_and_one_of_few_values_does_not():
    numbers = np.arange(1000.0)
    assert drift.of_numbers(numbers, numbers + 400).warns
    assert not drift.of_numbers(numbers, np.array([900.0, 950.0])).warns


# ---- raw tables ----------------------------------------------------------------------------------


def test_columns_of_a_raw_table_by_hand(tmp_path):
    day = 86_400
    watches = pa.table(
        {
            "user_id": ["u", "u", "v", None],
            "video_id": ["a", "a", "b", "a"],
            "time": [day + 5, day + 6, 2 * day, 3 * day],
            "watch_time_s": [0.0, 2.0, math.nan, 4.0],
            "tags": [["x", "y"], [], None, ["x"]],
            "half": [None, None, 1, 1],
        }
    )
    logs.append(tmp_path, "watches", watches)
    rows = {"watches": {"read": 4, "accepted": 2, "missing_key": 1, "not_a_number": 1}}
    found = table_statistics.build(tmp_path, rows, from_s=None, until_s=3 * day)["watches"]
    assert found["rejected"] == {"missing_key": 1, "not_a_number": 1}
    # The last row lies after the window.
    assert (found["sampled_rows"], found["rows"], found["accepted"]) == (3, 4, 2)
    assert (found["first"], found["last"]) == ("1970-01-02T00:00:05Z", "1970-01-03T00:00:00Z")
    columns = found["columns"]
    assert columns["user_id"]["top"] == {"u": 2, "v": 1}
    assert columns["user_id"]["distinct"] == 2
    assert columns["watch_time_s"]["missing"] == pytest.approx(1 / 3)
    assert columns["watch_time_s"]["zero"] == 0.5
    assert columns["watch_time_s"]["quantiles"]["0.5"] == 1.0
    assert columns["tags"]["missing"] == pytest.approx(2 / 3)
    assert columns["tags"]["top"] == {"x": 1, "y": 1}
    assert columns["half"]["missing"] == pytest.approx(2 / 3)


def test_of_a_large_table_a_spread_sample_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(table_statistics, "SAMPLED_ROWS", 100)
    for day in range(30):
        logs.append(
            tmp_path,
            "searches",
            pa.table(
                {
                    "user_id": ["u"] * 50,
                    "time": [day * 86_400 + n for n in range(1, 51)],
                    "query": ["q"] * 50,
                }
            ),
        )
    rows = {"searches": {"read": 1500, "accepted": 1500}}
    found = table_statistics.build(tmp_path, rows, from_s=None, until_s=10**9)["searches"]
    assert 0 < found["sampled_rows"] <= 100
    assert (found["first"], found["last"][:10]) == ("1970-01-01T00:00:01Z", "1970-01-30")


# ---- the report ----------------------------------------------------------------------------------

RANKER = (spec.RANKER,)
RESOLVED = ResolvedSpec(
    features=(
        Feature(
            name="video_id",
            kind="univalent",
            side="candidate",
            models=RANKER,
            source="videos.video_id",
            space="video",
        ),
        Feature(
            name="device", kind="multivalent", side="query", models=RANKER, source="context.device"
        ),
        Feature(name="age", kind="continuous", side="query", models=RANKER, source="users.age"),
        Feature(name="same", kind="continuous", side="query", models=RANKER, source="users.same"),
    )
)


def examples(directory, split, *, videos, devices, numbers):
    path = directory / "ranking_examples" / split
    path.mkdir(parents=True)
    vectors = pa.array([list(row) for row in numbers], pa.list_(pa.float32()))
    clicked = pa.array(np.arange(len(videos)) % 2, pa.float32())
    columns = {"video_id": videos, "device": devices, "query_continuous": vectors}
    table = pa.table({**columns, "clicked": clicked})
    pq.write_table(table, path / "part.parquet", row_group_size=2)


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    directory = tmp_path_factory.mktemp("report")
    examples(
        directory,
        "train",
        videos=["a", "a", "<b>", ""],
        devices=[["tv"], ["tv", "phone"], [], ["tv"]],
        numbers=[(1, 5), (0, 5), (0, 5), (math.nan, 5)],
    )
    examples(
        directory,
        "holdout",
        videos=["a", "new\nline"],
        devices=[["watch"], ["tv"]],
        numbers=[(9, 5), (math.inf, 5)],
    )
    RESOLVED.save(directory)
    assets = directory / "transform_fn" / spec.RANKER / "transform_fn" / "assets"
    assets.mkdir(parents=True)
    (assets / "vocabulary_video").write_text("a\n<b>\n")
    (assets / "vocabulary_category").write_text("device=tv\ndevice=phone\n")
    logs.append(directory / "logs", "videos", pa.table({"video_id": ["a"], "upload_time": [1]}))
    info = {
        "rows": {"videos": {"read": 1, "accepted": 1}},
        "counts": {"ranker_train": 4, "ranker_holdout": 2},
        "logs": str(directory / "logs"),
        "from_s": None,
        "until_s": 10**9,
        "holdout_days": 1.0,
        "has_ranking": True,
    }
    statistics_report.write(directory, RESOLVED, info)
    return directory


def test_features_by_hand(report):
    features = json.loads((report / "statistics.json").read_text())["features"]
    assert set(features) == {"ranker_train", "ranker_holdout"}
    train, holdout = features["ranker_train"], features["ranker_holdout"]
    assert list(train) == ["video_id", "device", "age", "same"]
    assert train["video_id"]["top"] == {"a": 2, "<b>": 1}
    assert train["video_id"]["missing"] == 1
    assert train["video_id"]["out_of_vocabulary"] == 0
    assert holdout["video_id"]["out_of_vocabulary"] == 0.5
    assert train["device"]["mean_length"] == 1
    assert holdout["device"]["out_of_vocabulary"] == 0.5
    assert train["age"]["missing"] == 1
    assert train["age"]["zero"] == pytest.approx(2 / 3)
    assert holdout["age"]["quantiles"]["1.0"] == 9
    assert train["same"]["quantiles"]["0.5"] == 5


def test_features_come_by_their_drift(report):
    found = json.loads((report / "statistics.json").read_text())["drift"]
    assert "Jensen-Shannon" in found["distance"]
    distances = [entry["distance"] for entry in found["features"]]
    assert distances == sorted(distances, reverse=True)
    assert found["features"][-1]["feature"] == "same"
    assert found["features"][-1]["distance"] == 0
    by_name = {entry["feature"]: entry for entry in found["features"]}
    assert by_name["video_id"]["bins"] == ["a", "<b>", drift.OTHERS, drift.MISSING]
    assert by_name["video_id"]["train"] == [2, 1, 0, 1]
    assert by_name["video_id"]["holdout"] == [1, 0, 1, 0]


def test_other_keys_stay(report):
    found = json.loads((report / "statistics.json").read_text())
    assert found["vocabulary_sizes"] == {"ranker": {"video": 2, "category": 2}}
    assert found["counts"] == {"ranker_train": 4, "ranker_holdout": 2}
    assert found["sampled_examples"] == {"ranker_train": 4, "ranker_holdout": 2}
    assert found["tables"]["videos"]["rows"] == 1


class Page(html.parser.HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.outside = [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.outside += [value for name, value in attrs if name in {"src", "href"}]


def test_the_page_stands_alone_and_escapes_what_came_from_the_logs(report):
    text = (report / "statistics.html").read_text()
    page = Page()
    page.feed(text)
    assert all(link.startswith("#") for link in page.outside)
    assert page.tags.count("svg") == 1 + 4  # The most drifted, and each feature.
    assert "b" not in page.tags  # The video <b> is text.
    assert "&lt;b&gt;" in text
    for name in ("video_id", "device", "age", "same", "upload_time"):
        assert re.search(f">{name}( <small>|</td>)", text)


def test_the_page_says_first_what_wants_to_be_looked_at(report):
    found = json.loads((report / "statistics.json").read_text())
    found["tables"]["videos"] |= {"rows": 1000, "rejected": {"repeated_key": 50, "<b>": 1}}
    found["drift"]["features"][0]["warns"] = True
    text = statistics_page.page(found)
    summary = text[: text.index("<h2")]
    first = found["drift"]["features"][0]["feature"]
    assert f"1 of 4 features drifted</strong> from training to holdout: {first} (ranker)" in summary
    assert "51 of 1,000 rows (5.1\u00a0%) set aside: repeated_key 50, &lt;b&gt; 1." in summary


@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_fits_the_screen(report, chromium, width, tmp_path):
    found = json.loads((report / "statistics.json").read_text())
    found["drift"]["features"][0]["feature"] = next(iter(found["features"]["ranker_train"]))
    found["features"]["ranker_train"]["a_feature_of_a_very_long_name" * 3] = {
        **found["features"]["ranker_train"]["video_id"], "top": {"v" * 256: 1}
    }  # fmt: skip
    path = tmp_path / "statistics.html"
    path.write_text(statistics_page.page(found))
    chromium.look(width=width, is_dark=True)
    chromium.open(path.as_uri())
    assert chromium.run("return document.documentElement.scrollWidth") <= width
    boxes = "return [...document.querySelectorAll('.scroll')].map((box) => box.scrollWidth)"
    assert width == 1280 or max(chromium.run(boxes)) <= width  # On a phone nothing scrolls.
    page = chromium.run("return getComputedStyle(document.body).backgroundColor")
    assert page == "rgb(17, 19, 24)"


def test_a_plot_draws_shares():
    bars = statistics_page.bars(["a", "b"], [1, 3], [5, 0])
    # The highest share, the holdout's 1, takes the height; training has a quarter and three.
    heights = [float(bar.attributes["height"]) for bar in bars]
    full = max(heights)
    assert heights == pytest.approx([full / 4, full * 3 / 4, full, 0], abs=0.1)


def test_samples_are_spread_and_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(statistics_report, "ROW_GROUPS", 3)
    path = tmp_path / "train"
    path.mkdir()
    table = pl.DataFrame({"video_id": [str(n // 10) for n in range(100)]}).to_arrow()
    pq.write_table(table, path / "part.parquet", row_group_size=10)
    with statistics_report._Sample(path) as sample:
        assert sample.rows == 30
        assert set(sample.counted("video_id").counts) == {"0", "4", "9"}
