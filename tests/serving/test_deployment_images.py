"""What goes into images, and that nobody is told to install the package from an index."""

import pathlib
import re
import shutil
import subprocess
import sys

import pytest

from tests.conftest import needs
from tests.serving.deployment_files import (
    DEPLOYMENT,
    ROOT,
    compose,
    dockerfile,
    kubernetes_documents,
    pod_of,
    texts_of_the_repository,
)


def test_what_images_are_made_of_goes_to_the_builder_and_nothing_else():
    rules = (ROOT / ".dockerignore").read_text().split("\n")
    assert "*" in rules
    passed = {rule[1:] for rule in rules if rule.startswith("!")}
    copied = set()
    for path in (DEPLOYMENT / "Dockerfile", ROOT / "pipeline" / "deployment" / "Dockerfile"):
        for line in re.findall(r"^COPY (.+)$", path.read_text(), re.MULTILINE):
            copied |= set(line.split()[:-1])
    assert {name for name in copied if name.partition("/")[0] not in passed} == set()
    assert passed <= copied
    assert all((ROOT / name).exists() for name in passed)


def test_the_image_of_a_funnel_holds_nothing_of_training():
    targets = re.split(r"^FROM ", dockerfile(), flags=re.MULTILINE)
    (serving,) = (t for t in targets if t.startswith("base AS serving"))
    (extras,) = re.findall(r"\.whl\[(.+)\]'", serving)
    assert set(extras.split(",")) <= {"serving", "tracing"}
    (retrain,) = (t for t in targets if t.startswith("base AS retrain"))
    assert "preprocessing,training" in retrain


def test_images_take_nothing_whose_hash_is_not_in_the_lock():
    checked, ours = re.findall(r"pip wheel (.+)", dockerfile())
    assert {"--no-deps", "--no-index"} <= set(ours.split())
    assert {"--no-deps", "--require-hashes"} <= set(checked.split())
    assert "requirements.lock" in checked
    for command in re.findall(r"pip install (.+)", dockerfile()):
        assert "--no-index --find-links /wheels" in command


def test_the_linter_of_images_has_nothing_to_say():
    linter = shutil.which("hadolint", path=str(pathlib.Path(sys.executable).parent))
    needs("hadolint", present=linter is not None, remedy="pip install '.[test]'")
    files = [DEPLOYMENT / "Dockerfile", ROOT / "pipeline" / "deployment" / "Dockerfile"]
    told = subprocess.run([str(linter), *files], capture_output=True, text=True, check=False)
    assert (told.returncode, told.stdout) == (0, "")


def images():
    for name, service in compose()["services"].items():
        yield f"compose {name}", service["image"]
    for name, document in kubernetes_documents():
        pod = pod_of(document)
        for container in [*pod["containers"], *pod.get("initContainers", [])] if pod else []:
            yield f"kubernetes {name}", container["image"]


def test_every_image_has_a_tag_and_ours_are_built():
    tagged = dict(re.findall(r"--target (\w+) +-t (\S+)", dockerfile()))
    for name, image in images():
        repository, _, tag = image.partition(":")
        assert re.match(r"\d", tag), (name, image)
        if repository.startswith("watchnext"):
            assert image in tagged.values(), name
    for service in compose()["services"].values():
        if service["image"].startswith("watchnext"):
            assert tagged[service["build"]["target"]] == service["image"]
            context = (DEPLOYMENT / service["build"]["context"]).resolve()
            assert context == ROOT
            assert (context / service["build"]["dockerfile"]).exists()


# ---- installing ----------------------------------------------------------------------------------


TOLD = re.compile(r"\b(?:pip3?|pipx|uv(?: pip)?|poetry|conda)\s+(?:install|add|download)\b(.*)")


OURS_BY_NAME = re.compile(r"""(?<![\w./@:-])["'`]?watchnext(?=\[|[<=>~!]=|["'`\s.,;:)]|$)""")


def test_nobody_is_told_to_install_the_package_from_an_index():
    """Its name is on none, so whoever took it there would be installed."""
    for name, text in texts_of_the_repository():
        for line in text.replace("\\\n", " ").splitlines():
            for arguments in TOLD.findall(line):
                assert not OURS_BY_NAME.search(arguments), (name, line)
        if pathlib.PurePath(name).name.startswith(("requirements", "constraints")):
            assert not OURS_BY_NAME.search(text), name


@pytest.mark.parametrize("line", ["pip install watchnext", "pip install -U 'watchnext[serving]'",
                                  "pip install watchnext==0.1"])  # fmt: skip
def test_the_search_for_such_lines_finds_them(line):
    assert OURS_BY_NAME.search(TOLD.findall(line)[0])
