"""The benchmark's own parts, on a site of 300 videos: the figures are not judged here."""

import shutil

import numpy as np
import pytest

from pipeline.benchmarks import funnel as bench_funnel
from pipeline.benchmarks import million as bench_million
from pipeline.benchmarks import running_server
from serving.release import manifest as release


def test_relatives_stay_near_their_parents_with_norms_of_their_own():
    rng = np.random.default_rng(0)
    parents = rng.normal(size=(2000, 64)).astype(np.float32)
    relatives = bench_million._relatives(parents, rng)
    cosines = np.sum(parents * relatives, axis=1) / (
        np.linalg.norm(parents, axis=1) * np.linalg.norm(relatives, axis=1)
    )
    # Noise of .35 of the norm in all, so a cosine of about 1 / sqrt(1 + .35^2) = .944.
    assert np.median(cosines) == pytest.approx(0.944, abs=0.01)
    assert np.std(np.linalg.norm(relatives, axis=1) / np.linalg.norm(parents, axis=1)) > 0.2


def test_swap_under_load_fails_no_request_and_mixes_no_releases(world, tmp_path, monkeypatch):
    root = shutil.copytree(world.serving_root, tmp_path / "serving_root")
    first, second = bench_million.second_release(root, mark=running_server.MARK)
    assert release.current(root) == first
    # The second one is whole, and differs by its titles alone.
    assert release.load(root, second).version == second
    users = tmp_path / "users.txt"
    bench_funnel._write_users(world.logs, users)
    for name, value in (("_BEFORE_SWAP_S", 3.0), ("_AFTER_SWAP_S", 60.0)):
        monkeypatch.setattr(bench_funnel, name, value)
    site = bench_million.Site(world.logs, root, 0)
    with running_server.running(site, tmp_path / "server") as server:
        assert server.memory_gb() > 0.1
        assert server.cpu_s() > 0.1
        load = running_server.Loads(server.address, users, tmp_path)
        figures = bench_funnel._swap(load, root, second, rate=5.0)
    assert figures["funnel.swap_failed_requests"] == 0
    assert figures["funnel.swap_mixed_answers"] == 0
    report = load.report()
    assert report["releases"].keys() == {f"{first} unmarked", f"{second} marked"}
    assert sum(report["releases"].values()) == report["sent"] == 315
