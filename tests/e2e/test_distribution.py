"""The built distribution, without the checkout: what is in it, and the whole chain out of it."""

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tarfile
import urllib.request
import zipfile

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
PACKAGES = ("features", "models", "serving", "pipeline")


def run(*command, cwd, **environment):
    told = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert told.returncode == 0, told.stdout + told.stderr
    return told.stdout


def build(kind, source, target):
    """Builds without a network: what builds is what the lock installed."""
    call = f"from setuptools import build_meta; print(build_meta.build_{kind}({str(target)!r}))"
    return target / run(sys.executable, "-c", call, cwd=source).split()[-1]


@pytest.fixture(scope="module")
def distribution(tmp_path_factory):
    """An sdist of the checkout, the wheel that is built from it, and the wheel installed."""
    base = tmp_path_factory.mktemp("distribution")
    checkout = base / "checkout"
    checkout.mkdir()
    for name in (*PACKAGES, "setup.py", "README.md", "LICENSE", "pyproject.toml"):
        if (ROOT / name).is_dir():
            shutil.copytree(
                ROOT / name, checkout / name, ignore=shutil.ignore_patterns("__pycache__")
            )
        else:
            shutil.copy(ROOT / name, checkout / name)
    sdist = build("sdist", checkout, base)
    with tarfile.open(sdist) as archive:
        archive.extractall(base / "source", filter="data")
    (source,) = (base / "source").iterdir()
    wheel = build("wheel", source, base)
    installed = base / "installed"
    run(
        *(sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"),
        *("--target", installed, wheel),
        cwd=base,
    )
    return base, wheel, installed


def test_wheel_and_sdist_hold_every_file_of_the_packages_and_nothing_else(distribution):
    _, wheel, _ = distribution
    tracked = run("git", "ls-files", *PACKAGES, cwd=ROOT).split("\n")
    wanted = {name for name in tracked if name and (ROOT / name).is_file()}
    with zipfile.ZipFile(wheel) as archive:
        held = set(archive.namelist())
    files = {name for name in held if ".dist-info/" not in name}
    assert files == wanted
    assert not any(name.startswith("tests") for name in held)


def test_the_whole_chain_runs_from_the_wheel_alone(distribution):
    base, _, installed = distribution
    place = base / "elsewhere"
    place.mkdir()
    alone = {"PYTHONPATH": str(installed)}
    where = run(
        sys.executable, "-c", "import features; print(features.__file__)", cwd=place, **alone
    )
    assert where.startswith(str(installed))
    run(
        *(sys.executable, "-m", "pipeline.simulate", "--preset=tiny", "--seed=1", "--logs=logs"),
        cwd=place,
        **alone,
    )
    run(
        *(sys.executable, "-m", "pipeline.retrain", "--logs=logs", "--serving_root=root"),
        "--candidate_flags=--batch_size=64 --epochs=1 --depth=1",
        "--ranker_flags=--epochs=1",
        "--force_publish=a tiny world for tests",
        cwd=place,
        **alone,
    )
    with subprocess.Popen(
        [sys.executable, "-m", "serving.serve", "--serving_root=root", "--logs=logs", "--port=0"],
        cwd=place,
        env={**os.environ, **alone},
        stdout=subprocess.PIPE,
        text=True,
    ) as server:
        try:
            assert server.stdout is not None
            address = next(
                match[0]
                for line in server.stdout
                if (match := re.search(r"http://[\d.:]+\d", line))
            )
            body = json.dumps({"user_id": "u000000", "k": 5}).encode()
            request = urllib.request.Request(
                f"{address}/v1/recommendations", body, {"content-type": "application/json"}
            )
            with urllib.request.urlopen(request, timeout=60) as answer:
                assert len(json.load(answer)["items"]) == 5
            with urllib.request.urlopen(f"{address}/", timeout=60) as page:
                assert "<html" in page.read().decode().lower()
        finally:
            server.terminate()
            server.wait(timeout=60)
