"""Health of a recommender: figures by hand, drift of what was served, what is told of it."""

import contextlib
import dataclasses
import http.server
import json
import math
import threading

import numpy as np
import pyarrow as pa
import pytest

from features import command, files
from features.tables import drift, logs
from serving.batch import health
from serving.release import manifest as release


def rows(*pages):
    """One row per video of pages ``(user, page, time, videos)``."""
    flat = [(user, page, time, video) for user, page, time, videos in pages for video in videos]
    names = ("user_id", "page_id", "time", "video_id")
    return pa.table(dict(zip(names, map(list, zip(*flat, strict=True)), strict=True)))


def test_repetition_is_of_a_page_and_the_one_before_of_the_same_user():
    table = rows(
        ("a", "a2", 20, ["x", "z"]),  # Of x and y, x comes again.
        ("a", "a1", 10, ["x", "y"]),
        ("b", "b1", 15, ["x", "y"]),
        ("a", "a3", 30, ["y", "w"]),  # y is older than the page before.
    )
    assert health.repetition(table) == 1 / 4
    assert math.isnan(health.repetition(table.slice(0, 2)))


def test_impressions_on_one_video_are_as_unequal_as_can_be():
    assert health.gini(np.array([5, 5, 5])) == pytest.approx(0)
    assert health.gini(np.array([0] * 99 + [7])) == pytest.approx(0.99)
    # Of 1, 2, 3: 2 (1 + 4 + 9) / (3 * 6) - 4 / 3 = 2 / 9.
    assert health.gini(np.array([3, 1, 2])) == pytest.approx(2 / 9)
    assert math.isnan(health.gini(np.zeros(3)))


@pytest.fixture(scope="module")
def measured(small_release, small_site):
    info = files.read_complete(small_site.examples)
    return health.measure(
        release.load(small_release),
        small_site.logs,
        from_s=info["train_until_s"],
        until_s=info["until_s"],
    )


def test_figures_are_those_of_the_logged_impressions(measured, small_site):
    info = files.read_complete(small_site.examples)
    shown = logs.read_table(small_site.logs, "impressions").to_pandas()
    shown = shown[(shown["time"] >= info["train_until_s"]) & (shown["time"] < info["until_s"])]
    figures = measured.figures
    assert figures["impressions"] == len(shown)
    assert figures["coverage"] == shown["video_id"].nunique() / 40
    assert 0 < figures["gini"] < 1
    assert 0 <= figures["repetition"] <= 1
    # An untrained ranker expects next to nothing of anybody.
    low, high = measured.intervals["calibration"]
    assert low <= figures["calibration"] <= high
    expected, watched = np.average(
        [pair[:2] for pair in measured.tenths], axis=0, weights=[n for *_, n in measured.tenths]
    )
    assert figures["calibration"] == pytest.approx(watched / expected, rel=1e-6)


def test_drift_is_the_distance_that_statistics_tell_of_the_same_examples(measured, small_site):
    """The holdout is what was served on the last day, so both must say the same of it."""
    report = json.loads((small_site.examples / "statistics.json").read_text())
    told = {
        entry["feature"]: entry["distance"]
        for entry in report["drift"]["features"]
        if entry["model"] == "ranker" and entry["edges"]
    }
    assert set(measured.drift) == set(told)
    assert len(told) > 10
    for name, (distance, noise) in measured.drift.items():
        assert distance == pytest.approx(told[name], abs=1e-9), name
        assert noise >= 0


def test_what_is_told_parses_and_warns(measured):
    text = health.prometheus(measured)
    from prometheus_client import parser

    families = {family.name: family for family in parser.text_string_to_metric_families(text)}
    assert set(families) == {*health.METRICS, health.DRIFT}
    drifts = families[health.DRIFT].samples
    assert {one.labels["feature"] for one in drifts} == set(measured.drift)
    page = health.page(measured)
    assert "Health of the recommender" in page
    assert all(name in page for name in measured.drift)
    assert any("expects" in warning for warning in health.warnings(measured))
    json.dumps(measured.to_json(), allow_nan=False)


@contextlib.contextmanager
def counting(**pages):
    """A server that has counted so many pages on each rung; gives its address."""

    class Metrics(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            assert self.path == "/metrics"
            self.send_response(200)
            self.end_headers()
            lines = [f'watchnext_pages_total{{rung="{rung}"}} {n}' for rung, n in pages.items()]
            text = ["# TYPE watchnext_pages counter", *lines, "watchnext_other 3", ""]
            self.wfile.write("\n".join(text).encode())

        def log_message(self, *arguments):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Metrics) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def test_rungs_are_shares_of_the_pages_of_all_servers(measured):
    with counting(full=80, no_ranker=10, popular=0) as one, counting(full=100, popular=10) as other:
        rungs = health.rungs([one, f"{other}/"])
    assert rungs == {"full": 0.9, "no_ranker": 0.05, "popular": 0.05}
    told = dataclasses.replace(measured, rungs=rungs)
    assert "10.0% of the pages stand on a lower rung than full." in health.warnings(told)
    assert "<td" in health.page(told) and "no_ranker" in health.page(told)
    assert "no_ranker" not in health.page(measured)
    with pytest.raises(command.InputError, match=f"--servers: {one}/metrics tells nothing"):
        health.rungs([one])


def test_the_command_writes_page_figures_and_metrics(
    small_release, small_site, tmp_path, run_command
):
    end = files.read_complete(small_site.examples)["until_s"]
    line = ("serving.report_health", f"--serving_root={small_release}", f"--logs={small_site.logs}")
    done = run_command(
        *line,
        f"--output={tmp_path / 'health.html'}",
        f"--prometheus={tmp_path / 'watchnext.prom'}",
        f"--until={command.format_time(end)}",
    )
    assert done.returncode == 0, done.stderr
    assert "<!doctype html>" in (tmp_path / "health.html").read_text()
    assert json.loads((tmp_path / "health.json").read_text())["figures"]["coverage"] > 0
    assert "watchnext_health_coverage" in (tmp_path / "watchnext.prom").read_text()
    none = run_command(
        *line, f"--output={tmp_path / 'none.html'}", "--until=2031-01-01", "--days=1"
    )
    assert none.returncode == 2
    assert "no impressions from 2030-12-31" in none.stderr
    assert not (tmp_path / "none.html").exists()


def test_counts_of_a_number_fall_in_the_bins_of_training():
    train, served = np.array([1.0, 2, 3, 4, math.nan]), np.array([0.0, 9, 9, math.nan])
    bins = drift.of_numbers(train, served)
    np.testing.assert_array_equal(drift.counted(served, np.array(bins.edges)), bins.holdout)
