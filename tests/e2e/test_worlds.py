"""Worlds of watches alone, with every default, from a retraining to pages of the day after it."""

import numpy as np
import pytest

from features.durations import DAY_S
from features.tables import logs, site_facts
from models.evaluation import intervals, metrics
from models.paper import world_replays, worlds
from serving.release import manifest as release
from tests.e2e import collapse

_SEED, _QUERIES = 5, 300
_WORLDS = {
    "bare_news": ("--preset=news", "--users=700", "--videos=800", "--days=5"),
    "music": ("--preset=music", "--users=120", "--days=20"),
    "course": ("--preset=course", "--users=250", "--days=30"),
}


def simulated(run_command, root, name):
    """The logs of a world, and those that lie beside their truth."""
    directory = root / "logs"
    whole = root / "whole" if name == "bare_news" else directory
    made = run_command("pipeline.simulate", f"--logs={whole}", f"--seed={_SEED}", *_WORLDS[name])
    assert made.returncode == 0, made.stderr
    if whole != directory:
        worlds.bare(whole, directory)
    return directory, whole


@pytest.fixture(scope="module", params=list(_WORLDS))
def world(request, run_command, tmp_path_factory):
    """A release of all but the last day, and where it puts what is watched on that day."""
    root = tmp_path_factory.mktemp(request.param)
    directory, whole = simulated(run_command, root, request.param)
    newest = max(logs.read_table(directory, "watches", columns=["time"])["time"].to_pylist())
    cut_s = newest // DAY_S * DAY_S
    replayed = world_replays.replay(
        directory,
        root,
        cut_s,
        queries=_QUERIES,
        pages=_QUERIES,
        repeats=site_facts.of_logs(directory).repeats,
        places=worlds.oracle(directory, cut_s, whole=whole),
    )
    return root, replayed


def gates(root):
    return release.load_manifest(root / "serving_root").gates


def test_all_gates_pass(world):
    root, _ = world
    verdicts = [gate["verdict"] for gate in gates(root)]
    assert verdicts.count("pass") > 8
    assert "FAIL" not in verdicts
    (order,) = [gate for gate in gates(root) if "in the first 10 of the page" in gate["rule"]]
    assert order["verdict"] == "pass"


def test_pages_stand_between_what_everybody_watches_now_and_the_truth(world):
    _, replayed = world
    codes = np.unique(replayed.page_users, return_inverse=True)[1].astype(np.int64)
    bootstrap = intervals.Bootstrap(num_users=int(codes.max()) + 1)
    sums = {
        name: metrics.sums_by_user((places < 10).astype(np.float64), codes, bootstrap.num_users)
        for name, places in replayed.paged.items()
    }
    others = [name for name in sums if name.startswith("live popularity")]
    pairs = [(sums[world_replays.PAGE], sums[other]) for other in others]
    assert len(pairs) == 2
    for change in bootstrap.differences(pairs):
        assert change.low > 0
    (left,) = bootstrap.differences([(sums[world_replays.ORACLE], sums[world_replays.PAGE])])
    assert left.value > 0


def test_a_model_with_one_list_for_everybody_is_refused(world, run_command, tmp_path):
    root, _ = world
    assert "FAIL         mean overlap of the top" in collapse.refused(root, run_command, tmp_path)
