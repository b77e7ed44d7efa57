import importlib.util
import json

from pipeline import bench


def test_figures_of_other_groups_stay():
    earlier = {"preprocess.seconds": 9.0, "preprocess.gone": 1.0, "ranker.p50_ms": 3.0}
    text = bench.merged(earlier, "preprocess", {"preprocess.seconds": 8.0})
    assert json.loads(text) == {"preprocess.seconds": 8.0, "ranker.p50_ms": 3.0}


def test_every_group_has_its_module():
    for group in bench.GROUPS:
        assert importlib.util.find_spec(f"pipeline.bench_{group}") is not None, group


def test_an_unknown_group_is_refused(run_command):
    done = run_command("pipeline.bench", "--groups=speed")
    assert done.returncode == 2
    assert "'speed'" in done.stderr
