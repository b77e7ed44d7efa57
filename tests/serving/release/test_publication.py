"""A release is published whole or not at all, rolled back, kept as long as needed."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import textwrap

import pytest

from features import command
from serving.release import manifest as release
from serving.release import publication
from tests.serving.release.releases import held_by_model_server, publish

REPOSITORY = pathlib.Path(__file__).parents[3]


def leftovers(root):
    return [str(p) for p in root.rglob(".*") if p.name not in {".build.lock", ".current.lock"}]


def test_a_published_release_loads_with_what_was_recorded(tmp_path):
    version = publish(tmp_path, "one")
    loaded = release.load(tmp_path)
    assert loaded.version == version == release.current(tmp_path)
    assert (loaded.index / "files" / "a").read_text() == "index one"
    assert loaded.ranker == tmp_path / "ranker" / version
    assert loaded.manifest.metrics == {"map": 0.5}
    assert loaded.manifest.lineage == {"examples": "one"}
    assert loaded.manifest.previous is None
    assert not leftovers(tmp_path)


def test_a_release_without_ranker_says_so(tmp_path):
    publish(tmp_path, ranker=False)
    assert release.load(tmp_path).ranker is None


def test_an_optional_component_is_the_only_one_that_may_be_left_out(tmp_path):
    needs = pytest.raises(ValueError, match=r"needs \['query_tower'")
    with needs, publication.building(tmp_path) as build:
        build.directory("index")
        build.publish(metrics={}, gates=[], lineage={})
    assert release.versions(tmp_path) == []
    assert not leftovers(tmp_path)


def test_versions_grow_strictly_even_within_one_second(tmp_path):
    first, second, third = publish(tmp_path), publish(tmp_path), publish(tmp_path)
    assert int(first) < int(second) < int(third)
    assert release.versions(tmp_path) == [first, second, third]


def test_nothing_published_is_said_with_the_command_that_publishes(tmp_path):
    with pytest.raises(command.InputError, match=r"serving\.build_release"):
        release.load(tmp_path)


@pytest.mark.parametrize("component", release.SERVED)
def test_one_corrupted_byte_is_refused_and_the_component_named(tmp_path, component):
    version = publish(tmp_path)
    file = tmp_path / component / version / "files" / "a"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(release.ReleaseRefusedError, match=f"its {component} .*files/a has other"):
        release.load(tmp_path)


def test_a_component_of_another_release_is_refused_as_a_mix(tmp_path):
    first, second = publish(tmp_path, "one"), publish(tmp_path, "two")
    (tmp_path / "index" / second).rename(tmp_path / "elsewhere")
    (tmp_path / "index" / first).rename(tmp_path / "index" / second)
    with pytest.raises(release.ReleaseRefusedError, match="its index"):
        release.load(tmp_path)


def test_a_missing_component_is_refused(tmp_path):
    version = publish(tmp_path)
    (tmp_path / "videos" / version).rename(tmp_path / "gone")
    with pytest.raises(release.ReleaseRefusedError, match="videos .*does not exist"):
        release.load(tmp_path)


def test_a_file_that_was_not_published_is_refused(tmp_path):
    version = publish(tmp_path)
    (tmp_path / "index" / version / "scann_docids.pkl").write_bytes(b"")
    with pytest.raises(release.ReleaseRefusedError, match=r"scann_docids\.pkl was added"):
        release.load(tmp_path)


def test_an_edited_manifest_is_refused(tmp_path):
    version = publish(tmp_path)
    manifest = release.manifest_path(tmp_path, version)
    edited = json.loads(manifest.read_text())
    edited["release"]["metrics"]["map"] = 0.9
    manifest.write_text(json.dumps(edited))
    with pytest.raises(release.ReleaseRefusedError, match="SHA-256 differs"):
        release.load(tmp_path)


@pytest.mark.parametrize("content", ["", "latest\n", "../../etc\n"])
def test_a_broken_current_is_refused_and_can_be_set_again(tmp_path, content):
    version = publish(tmp_path)
    (tmp_path / "CURRENT").write_text(content)
    with pytest.raises(command.InputError, match="must hold one version number"):
        release.load(tmp_path)
    publication.rollback(tmp_path, to=version)
    assert release.current(tmp_path) == version


def test_rollback_makes_the_release_before_current_again(tmp_path):
    first, second = publish(tmp_path, "one"), publish(tmp_path, "two")
    assert publication.rollback(tmp_path) == (second, first)
    assert (release.load(tmp_path).index / "files" / "a").read_text() == "index one"
    with pytest.raises(command.InputError, match="none before it"):
        publication.rollback(tmp_path)
    assert publication.rollback(tmp_path, to=second) == (first, second)


def test_rollback_skips_the_release_that_was_itself_rolled_back(tmp_path):
    first, bad = publish(tmp_path), publish(tmp_path)
    publication.rollback(tmp_path)
    third = publish(tmp_path)
    assert publication.rollback(tmp_path) == (third, first)
    assert bad in release.versions(tmp_path)


def test_rollback_to_a_corrupted_release_changes_nothing(tmp_path):
    first, second = publish(tmp_path), publish(tmp_path)
    (tmp_path / "index" / first / "files" / "a").write_text("other")
    with pytest.raises(release.ReleaseRefusedError):
        publication.rollback(tmp_path)
    with pytest.raises(command.InputError, match=f"there is no release 7 .*{first}, {second}"):
        publication.rollback(tmp_path, to="7")
    assert release.current(tmp_path) == second


def test_a_release_whose_manifest_is_broken_can_be_left(tmp_path):
    first, second = publish(tmp_path), publish(tmp_path)
    release.manifest_path(tmp_path, second).write_text("{")
    assert publication.rollback(tmp_path) == (second, first)


def test_only_the_newest_releases_are_kept(tmp_path):
    made = [publish(tmp_path, keep=3) for _ in range(5)]
    assert release.versions(tmp_path) == made[2:]
    for name in release.COMPONENTS:
        assert sorted(p.name for p in (tmp_path / name).iterdir()) == made[2:]


def test_the_release_to_roll_back_to_is_never_removed(tmp_path):
    first = publish(tmp_path, keep=2)
    publish(tmp_path, keep=2)
    publication.rollback(tmp_path)  # The second is bad; the first serves again.
    third = publish(tmp_path, keep=2)
    assert first in release.versions(tmp_path)
    assert publication.rollback(tmp_path) == (third, first)


def test_two_builds_at_once_are_refused(tmp_path):
    refused = pytest.raises(command.InputError, match=f"another build .process {os.getpid()}.")
    with publication.building(tmp_path), refused:
        publish(tmp_path)
    publish(tmp_path)


def test_a_failing_build_leaves_nothing(tmp_path):
    before = publish(tmp_path)
    fails = pytest.raises(RuntimeError, match="no more memory")
    with fails, publication.building(tmp_path) as build:
        (build.directory("index") / "a").write_text("half")
        raise RuntimeError("no more memory")
    assert release.load(tmp_path).version == before
    assert not leftovers(tmp_path)


# Kills itself at the n-th change of name, the only steps that can make anything visible.
KILLED = textwrap.dedent(
    """
    import os, pathlib, signal, sys
    from serving.release import manifest as release
    from serving.release import publication

    root, left = pathlib.Path(sys.argv[1]), [int(sys.argv[2])]

    def dying(change):
        def step(self, *arguments, **options):
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return change(self, *arguments, **options)
        return step

    with publication.building(root) as build:
        for name in release.COMPONENTS:
            (build.directory(name) / "a").write_text(name)
        pathlib.Path.rename = dying(pathlib.Path.rename)
        pathlib.Path.replace = dying(pathlib.Path.replace)
        publication.Build.finished = dying(publication.Build.finished)
        build.publish(metrics={}, gates=[], lineage={}, keep=2)
    """
)


STEPS_BEFORE_CURRENT = 8


def run_killed(root, step):
    return subprocess.run(
        [sys.executable, "-c", KILLED, str(root), str(step)], cwd=REPOSITORY, check=False
    ).returncode


@pytest.mark.parametrize("step", range(1, 10))
def test_a_build_killed_at_any_step_serves_the_old_release_or_the_whole_new_one(tmp_path, step):
    old = publish(tmp_path)
    assert run_killed(tmp_path, step) == -signal.SIGKILL
    served = release.load(tmp_path)
    # Renamed before CURRENT: five components, the manifest, two files for the model server.
    assert (served.version == old) == (step <= STEPS_BEFORE_CURRENT)
    assert release.versions(tmp_path) == sorted({old, served.version})
    newest = publish(tmp_path)
    assert not leftovers(tmp_path)
    assert release.versions(tmp_path) == sorted({old, served.version, newest})
    for name in release.COMPONENTS:
        assert sorted(p.name for p in (tmp_path / name).iterdir()) == release.versions(tmp_path)
    release.load(tmp_path)


def test_a_build_killed_just_after_publishing_survives_a_rollback(tmp_path):
    old = publish(tmp_path)
    assert run_killed(tmp_path, STEPS_BEFORE_CURRENT + 1) == -signal.SIGKILL
    new = release.current(tmp_path)
    assert publication.rollback(tmp_path) == (new, old)
    assert publication.rollback(tmp_path, to=new) == (old, new)


def test_the_model_server_is_told_to_hold_the_version_that_serves_and_the_one_before(tmp_path):
    publish(tmp_path)
    first, second = publish(tmp_path), publish(tmp_path, ranker=False)
    assert held_by_model_server(tmp_path) == {
        "query_tower": (str(tmp_path / "query_tower"), [first, second]),
        "ranker": (str(tmp_path / "ranker"), [first]),
    }
    publication.rollback(tmp_path)
    assert second in held_by_model_server(tmp_path)["query_tower"][1]
