"""Which models the next retraining starts from, and when it starts from nothing."""

import pytest

from features import files
from pipeline.steps import warm_starting

STEPS = {"train_candidate": "candidate_model", "train_ranker": "ranker_model"}


def published(work, lineage):
    """The models of a run that published, with what they were made from."""
    for name in STEPS.values():
        directory = work / "warm_start" / name
        directory.mkdir(parents=True, exist_ok=True)
        files.mark_complete(directory, {"lineage": lineage})


def test_where_nothing_was_published_models_start_from_nothing(tmp_path):
    assert warm_starting.flags(tmp_path, 7) == {}


def test_models_start_from_those_of_the_last_run_that_published(tmp_path):
    published(tmp_path, {})
    assert warm_starting.flags(tmp_path, 7) == {
        step: [f"--warm_start={tmp_path / 'warm_start' / name}", "--warm_or_cold"]
        for step, name in STEPS.items()
    }


@pytest.mark.parametrize(
    ("cold_every", "expected"),
    [(1, "ccccccc"), (2, "cwcwcwc"), (3, "cwwcwwc"), (7, "cwwwwwwc"), (0, "cwwwwwwww")],
)
def test_each_so_many_th_run_starts_from_nothing(tmp_path, cold_every, expected):
    starts, kinds = 0, ""
    for _ in expected:
        is_warm = bool(warm_starting.flags(tmp_path, cold_every))
        kinds += "w" if is_warm else "c"
        starts = starts + 1 if is_warm else 0  # As the lineage of a model counts them.
        published(tmp_path, {"warm_start": {"starts": starts}} if starts else {})
    assert kinds == expected
