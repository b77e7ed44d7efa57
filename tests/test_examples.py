"""The examples in docstrings: they run, and say what comes out."""

import doctest
import importlib
import pathlib

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
MODULES = [
    "features.preprocessing",
    "features.tables.drift",
    "features.vectors",
    "models.candidate.youth",
    "models.evaluation.intervals",
    "models.evaluation.metrics",
    "models.evaluation.pair_counts",
    "models.evaluation.sequential",
    "models.evaluation.spread",
    "models.losses",
    "models.ranking.calibration",
    "models.training.batches",
    "pipeline.benchmarks.measured",
    "pipeline.steps.schedule",
    "serving.batch.health",
    "serving.ordering.page_value",
]


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of_a_module_give_what_they_say(name):
    outcome = doctest.testmod(importlib.import_module(name))
    assert outcome.attempted > 0
    assert outcome.failed == 0


def test_no_other_module_has_examples_that_nobody_runs():
    folders = ("features", "models", "serving", "pipeline")
    files = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    told = {path.relative_to(ROOT) for path in files if ">>> " in path.read_text()}
    assert told == {pathlib.Path(name.replace(".", "/") + ".py") for name in MODULES}
