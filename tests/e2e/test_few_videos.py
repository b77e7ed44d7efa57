"""Sites of one video and of twenty: every default, a release, and what a gate is there for."""

import numpy as np
import pyarrow as pa
import pytest

from features.durations import DAY_S
from features.tables import logs
from serving.release import manifest as release
from tests.e2e import collapse

_USERS, _DAYS, _END_S = 200, 10, 1_764_460_800


def write_logs(directory, *, videos):
    """Watches alone, by users of whom each has a taste of their own."""
    rng = np.random.default_rng(1)
    owners = np.repeat(np.arange(_USERS), rng.poisson(20, _USERS) + 2)
    popular = rng.dirichlet(np.ones(videos))
    tastes = 0.5 * popular + 0.5 * rng.dirichlet(np.full(videos, 0.3), _USERS)
    watched = [rng.choice(videos, p=tastes[user]) for user in owners]
    rows = {
        "user_id": [f"u{user}" for user in owners],
        "video_id": [f"v{video}" for video in watched],
        "time": _END_S - _DAYS * DAY_S + rng.integers(0, _DAYS * DAY_S, len(owners)),
        "watch_time_s": rng.uniform(5, 60, len(owners)),
    }
    with logs.LogWriter(directory) as writer:
        writer.write("watches", pa.table(rows))


def retrained(run_command, root, *, videos):
    write_logs(root / "logs", videos=videos)
    completed = run_command(
        "pipeline.retrain",
        f"--logs={root / 'logs'}",
        f"--work={root / 'work'}",
        f"--serving_root={root / 'serving_root'}",
    )
    assert completed.returncode == 0, completed.stdout + completed.stderr
    return root


@pytest.fixture(scope="module")
def one(run_command, tmp_path_factory):
    return retrained(run_command, tmp_path_factory.mktemp("one"), videos=1)


@pytest.fixture(scope="module")
def twenty(run_command, tmp_path_factory):
    return retrained(run_command, tmp_path_factory.mktemp("twenty"), videos=20)


def verdicts(root):
    return [gate["verdict"] for gate in release.load_manifest(root / "serving_root").gates]


def test_a_site_of_one_video_is_published(one):
    assert "pass" in verdicts(one)
    assert "FAIL" not in verdicts(one)


def test_a_model_of_one_video_without_a_number_is_not(one, run_command, tmp_path):
    """One list for everybody is right there, so it can collapse in no other way."""
    said = collapse.refused(one, run_command, tmp_path, bias=np.nan)
    assert "FAIL         embeddings of 1 videos" in said


def test_a_site_of_twenty_videos_is_published(twenty):
    assert verdicts(twenty).count("pass") > 5
    assert "FAIL" not in verdicts(twenty)


def test_a_model_with_one_list_for_everybody_is_not(twenty, run_command, tmp_path):
    said = collapse.refused(twenty, run_command, tmp_path)
    assert "FAIL         mean overlap of the top 10 of two users: 1.0000" in said
