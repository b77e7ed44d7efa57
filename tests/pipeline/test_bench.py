import json

from pipeline import bench


def test_a_group_replaces_its_own_figures_and_leaves_the_others():
    earlier = {"index.mean_ms": 1.5, "preprocess.seconds": 9.0, "preprocess.gone": 1.0}
    text = bench.merged(earlier, "preprocess", {"preprocess.seconds": 8.0})
    assert json.loads(text) == {"index.mean_ms": 1.5, "preprocess.seconds": 8.0}


def test_keys_of_a_group_start_with_its_name(monkeypatch, tmp_path):
    monkeypatch.setattr(bench, "_run", lambda binary, *arguments: 2.0)
    complete = {"rows": {"impressions": {"read": 100}}}
    monkeypatch.setattr(bench.files, "require_complete", lambda *a, **k: complete)
    spec = type("Spec", (), {"features": (1, 2, 3)})
    monkeypatch.setattr(bench.ResolvedSpec, "load", classmethod(lambda cls, path: spec))
    # 100 impressions in 2 seconds.
    assert bench.preprocess(tmp_path) == {
        "preprocess.impressions_per_s": 50.0,
        "preprocess.inputs": 3,
        "preprocess.seconds": 2.0,
    }
