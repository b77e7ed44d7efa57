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

from tests.e2e import environments

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


@pytest.fixture(scope="module")
def role(distribution, tmp_path_factory):
    """Gives ``role(extra)``: a Python with the wheel and what that extra asks for, no more."""
    _, wheel, _ = distribution
    made = {}

    def python(extra):
        if extra not in made:
            directory = tmp_path_factory.mktemp("environment") / extra
            made[extra] = environments.make(directory, wheel, extra)
        return made[extra]

    return python


# Away from the checkout, and from whatever the tests' own environment sets.
ALONE = {"PYTHONPATH": "", "PYTHONNOUSERSITE": "1"}


def test_an_environment_has_what_its_role_needs_and_no_more(role):
    code = (
        "import importlib.util as u\n"
        "names = ('polars', 'apache_beam', 'tensorflow', 'scann', 'fastapi', 'jinja2', 'pytest')\n"
        "print(*(name for name in names if u.find_spec(name)))\n"
    )

    def there(extra):
        return run(role(extra), "-c", code, cwd=role(extra).parent, **ALONE).split()

    assert there("serving") == ["polars", "tensorflow", "scann", "fastapi"]
    assert there("training") == ["polars", "apache_beam", "tensorflow", "scann", "jinja2"]


def test_the_whole_chain_runs_from_the_wheel_each_step_in_the_environment_of_its_role(
    distribution, role
):
    base, _, _ = distribution
    place = base / "elsewhere"
    place.mkdir()
    training, serving = role("training"), role("serving")
    where = run(training, "-c", "import features; print(features.__file__)", cwd=place, **ALONE)
    assert where.startswith(str(training.parent.parent))
    run(
        *(training, "-m", "pipeline.simulate", "--preset=tiny", "--seed=1", "--logs=logs"),
        cwd=place,
        **ALONE,
    )
    run(
        *(training, "-m", "pipeline.retrain", "--logs=logs", "--serving_root=root"),
        "--candidate_flags=--batch_size=64 --epochs=1 --depth=1",
        "--ranker_flags=--epochs=1",
        "--force_publish=a tiny world for tests",
        cwd=place,
        **ALONE,
    )
    assert "<b>Published" in (place / "work" / "report.html").read_text()
    with subprocess.Popen(
        [serving, "-m", "serving.serve", "--serving_root=root", "--logs=logs", "--port=0"],
        cwd=place,
        env={**os.environ, **ALONE},
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
