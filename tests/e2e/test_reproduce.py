"""The candidate part of models.reproduce in its short mode, end to end, on a simulated site."""

import json
import math
import sys

import numpy as np
import pytest

from models.paper import freshness
from models.paper.candidate import EXPERIMENTS

CHOSEN = ["figure_4", "figure_6", "ceiling", "sequence_models"]
# Stands for a Python with RecTools: what it trains recommends what was watched last, or nothing.
RECTOOLS = """\
import json, pathlib, sys
import numpy as np
if sys.argv[1] == "-c":
    sys.exit(0)
inputs, settings, output = sys.argv[2:]
arrays, output = np.load(inputs), pathlib.Path(output)
epochs = json.loads(pathlib.Path(settings).read_text())["epochs"]
ends, videos = arrays["query_offsets"][1:], int(arrays["num_videos"])
last = arrays["query_rows"][np.maximum(ends - 1, 0)]
for epoch in range(1, epochs + 1):
    queries = np.eye(videos, dtype=np.float32)[last] * (epoch == 1)
    known = np.ones(videos, bool)
    np.savez(output / f"epoch_{epoch}.npz", queries=queries, videos=np.eye(videos), known=known)
facts = {"seconds": [1.0] * epochs, "query_ms": 2.0}
(output / "facts.json").write_text(json.dumps(facts))
"""


@pytest.fixture(scope="module")
def reproduced(world, run_command, tmp_path_factory):
    """Figures 4 and 6 and the oracle's share, measured twice: the second run finds the first."""
    output = tmp_path_factory.mktemp("reproduced") / "out"
    stand_in = output.parent / "python"
    (output.parent / "rectools.py").write_text(RECTOOLS)
    stand_in.write_text(f'#!/bin/sh\nexec {sys.executable} {output.parent}/rectools.py "$@"\n')
    stand_in.chmod(0o755)
    line = (
        "models.reproduce",
        "--mode=short",
        f"--logs={world.logs}",
        f"--output={output}",
        "--parts=candidate,sequence",
        f"--rectools_python={stand_in}",
        f"--experiments={','.join(CHOSEN)}",
    )
    first = run_command(*line)
    assert first.returncode == 0, first.stdout + first.stderr
    (output / "results.json").unlink()
    return output, run_command(*line)


def rows_of(output, name):
    results = json.loads((output / "results.json").read_text())
    (found,) = [one for one in results["experiments"] if one["name"] == name]
    return {(row["setting"], row["metric"]): row for row in found["rows"]}, found


def test_a_second_run_keeps_what_the_first_one_measured(reproduced):
    output, second = reproduced
    assert second.returncode == 0, second.stderr
    assert second.stderr.count("kept from an earlier run") == len(CHOSEN)
    results = json.loads((output / "results.json").read_text())
    assert [one["name"] for one in results["experiments"]] == CHOSEN
    assert results["settings"]["seeds"] == [1]
    page = (output / "report.html").read_text()
    assert page.count("<svg") >= len(CHOSEN)


def test_figure_6_has_each_feature_set_at_each_depth_with_an_interval(reproduced):
    rows, found = rows_of(reproduced[0], "figure_6")
    names = [series["name"] for series in found["plots"][0]["series"]]
    assert names[0] == "watches only" and names[-1] == "all features"
    for name in names:
        for depth in (0, 1):
            row = rows[f"{name}, depth {depth}", "map_at_100"]
            assert row["low"] <= row["value"] <= row["high"]
            assert row["seconds"] > 0 and row["n"] > 0
    assert found["conclusion"].startswith("Best: ")


def test_figure_4_without_the_feature_is_flat_where_only_the_age_changes(reproduced):
    rows, found = rows_of(reproduced[0], "figure_4")
    metric = "correlation with the reference"
    assert rows["without, swept", metric]["value"] == 0.0
    # What people watched follows the truth of the site: the reference is no accident.
    assert rows["observed watches", metric]["value"] > 0.7
    days = found["plots"][0]["series"][0]["x"]
    truth = found["plots"][0]["series"][0]["y"]
    assert all(value == 0 for day, value in zip(days, truth, strict=True) if day < 0)


def test_no_model_reaches_the_oracle(reproduced):
    rows, _ = rows_of(reproduced[0], "ceiling")
    share = rows["model", "share of the oracle's map_at_100"]["value"]
    assert 0 < share < 1
    assert rows["oracle", "recall_at_100"]["value"] > rows["model", "recall_at_100"]["value"]


def test_sequence_models_stand_beside_ours_with_their_cost(reproduced):
    rows, found = rows_of(reproduced[0], "sequence_models")
    ours, peers = {"model", "model, attention"}, {"SASRec", "HSTU"}
    names = found["plots"][0]["series"][0]["x"]
    assert ours | peers | {"EASE", "item cosine", "popularity of the last day"} <= set(names)
    for name in names:
        for metric in ("recall_at_10", "recall_at_100", "map_at_100"):
            row = rows[name, metric]
            assert row["low"] <= row["value"] <= row["high"]
        assert rows[name, "ms of a query"]["value"] > 0
    # The better epoch of the stand-in, and its time with that of the scores.
    assert rows["SASRec", "map_at_100"]["seconds"] == 2.0
    assert rows["SASRec", "ms of a query"]["value"] > 2.0
    for other in {*names} - ours:
        for name in ours:
            assert rows[f"{name} minus {other}", "recall_at_100"]["n"] > 0
    assert ("model, attention minus model", "map_at_100") in rows
    assert ("model minus model, attention", "map_at_100") not in rows


def test_correlation_is_pearsons_over_what_is_known_and_0_where_nothing_varies():
    first = np.array([1.0, 2.0, math.nan, 4.0])
    second = np.array([2.0, 4.0, 1.0, 7.0])
    expected = np.corrcoef([1, 2, 4], [2, 4, 7])[0, 1]
    assert freshness.correlation(first, second) == pytest.approx(expected)
    assert freshness.correlation(np.full(4, 0.1), second) == 0.0


@pytest.mark.parametrize(
    ("flag", "named"),
    [
        ("--experiments=figure_7", "figure_7"),
        ("--parts=both", "both"),
        ("--seeds=one", "whole numbers"),
    ],
)
def test_a_flag_that_names_nothing_is_refused(run_command, tmp_path, flag, named):
    done = run_command("models.reproduce", f"--output={tmp_path / 'out'}", flag)
    assert done.returncode == 2
    assert named in done.stderr and "Traceback" not in done.stderr


def test_every_figure_of_section_3_has_its_experiment():
    assert {"figure_4", "figure_5", "figure_6"} <= set(EXPERIMENTS)
