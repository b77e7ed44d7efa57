import hashlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import textwrap

import pytest
from google.protobuf import text_format
from tensorflow_serving.config import model_server_config_pb2

from features import command
from serving.release import manifest as release
from serving.release import publication, tf_serving_config

REPOSITORY = pathlib.Path(__file__).parents[3]


def publish(root, text="x", *, ranker=True, keep=3):
    with publication.building(root) as build:
        for name in release.COMPONENTS:
            if ranker or name != "ranker":
                (build.directory(name) / "files").mkdir()
                (build.directory(name) / "files" / "a").write_text(f"{name} {text}")
        build.publish(metrics={"map": 0.5}, gates=[], lineage={"examples": text}, keep=keep)
    return build.version


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


@pytest.mark.parametrize("component", release.COMPONENTS)
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


STEPS_BEFORE_CURRENT = 7


def run_killed(root, step):
    return subprocess.run(
        [sys.executable, "-c", KILLED, str(root), str(step)], cwd=REPOSITORY, check=False
    ).returncode


@pytest.mark.parametrize("step", range(1, 9))
def test_a_build_killed_at_any_step_serves_the_old_release_or_the_whole_new_one(tmp_path, step):
    old = publish(tmp_path)
    assert run_killed(tmp_path, step) == -signal.SIGKILL
    served = release.load(tmp_path)
    # Renamed before CURRENT: four components, the manifest, two files for the model server.
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


def held_by_model_server(root):
    config = model_server_config_pb2.ModelServerConfig()
    text_format.Parse((root / "tf_serving" / "models.config").read_text(), config)
    return {
        entry.name: (
            entry.base_path,
            [str(v) for v in entry.model_version_policy.specific.versions],
        )
        for entry in config.model_config_list.config
    }


def test_the_model_server_is_told_to_hold_the_version_that_serves_and_the_one_before(tmp_path):
    publish(tmp_path)
    first, second = publish(tmp_path), publish(tmp_path, ranker=False)
    assert held_by_model_server(tmp_path) == {
        "query_tower": (str(tmp_path / "query_tower"), [first, second]),
        "ranker": (str(tmp_path / "ranker"), [first]),
    }
    publication.rollback(tmp_path)
    assert second in held_by_model_server(tmp_path)["query_tower"][1]


# ---- what is broken is refused, never a traceback ------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        b"",
        bytes(range(256)),
        b"../../etc",
        b"1" * 5000,
        "\u0661\u0662\u0663".encode(),
        "\u00b2".encode(),
        b"020260101000000",
        b"20260101000000\n20260101000000",
        b"\xef\xbb\xbf20260101000000",
    ],
    ids=lambda content: repr(content[:20]),
)
def test_broken_current_is_refused_and_mended_by_naming_a_version(tmp_path, content):
    version = publish(tmp_path)
    (tmp_path / "CURRENT").write_bytes(content)
    with pytest.raises(command.InputError, match="rollback"):
        release.load(tmp_path)
    with pytest.raises(command.InputError):
        publication.rollback(tmp_path)
    publication.rollback(tmp_path, version)
    assert release.load(tmp_path).version == version


@pytest.mark.parametrize("content", [bytes(range(256)), b"1" * 5000])
def test_build_replaces_a_broken_current(tmp_path, content):
    publish(tmp_path)
    (tmp_path / "CURRENT").write_bytes(content)
    version = publish(tmp_path)
    assert release.load(tmp_path).version == version
    assert release.load_manifest(tmp_path).previous is None


def test_directory_in_place_of_current_is_refused_before_a_build_begins(tmp_path):
    version = publish(tmp_path)
    (tmp_path / "CURRENT").unlink()
    (tmp_path / "CURRENT").mkdir()
    with pytest.raises(command.InputError, match="Remove it"):
        release.load(tmp_path)
    with pytest.raises(command.InputError, match="Remove it"):
        publication.rollback(tmp_path, version)
    with pytest.raises(command.InputError, match="Remove it"):
        publish(tmp_path)
    (tmp_path / "CURRENT").rmdir()
    publication.rollback(tmp_path, version)
    assert release.current(tmp_path) == version


@pytest.mark.parametrize("how", ["to nothing", "to itself", "directory", "pipe"])
@pytest.mark.parametrize("component", ["index", "videos"])
def test_file_of_a_release_that_is_no_file_is_refused(tmp_path, component, how):
    version = publish(tmp_path)
    file = tmp_path / component / version / "files" / "a"
    file.unlink()
    {
        "to nothing": lambda: file.symlink_to("nothing"),
        "to itself": lambda: file.symlink_to("a"),
        "directory": file.mkdir,
        "pipe": lambda: os.mkfifo(file),
    }[how]()
    with pytest.raises(release.ReleaseRefusedError, match=f"its {component} in"):
        release.load(tmp_path)


def _changed(**changes):
    return lambda body: body.update(changes)


def _changed_sum(value):
    return lambda body: body["components"]["index"].update({"files/a": value})


@pytest.mark.parametrize(
    "change",
    [
        _changed(version=7),
        _changed(created=None),
        _changed(previous=7),
        _changed(components=[]),
        _changed(components=None),
        _changed(components={"query_tower": "x"}),
        _changed(components={"query_tower": [1]}),
        _changed(metrics=None),
        _changed(gates="x"),
        _changed(gates=[1]),
        _changed(lineage=[]),
        _changed(forced=None),
        _changed(colour="red"),
        _changed(format="1"),
        _changed_sum([1]),
        _changed_sum({"bytes": 1}),
        _changed_sum({"sha256": "0", "bytes": "many"}),
        _changed_sum({"sha256": "0", "bytes": -1}),
        _changed_sum({"sha256": "0", "bytes": True}),
        lambda body: body["components"]["index"].update({"../../x": {"sha256": "0", "bytes": 1}}),
        lambda body: body["components"]["index"].update({"/etc/x": {"sha256": "0", "bytes": 1}}),
    ],
)
def test_manifest_of_wrong_types_is_refused_although_it_is_signed(tmp_path, change):
    version = publish(tmp_path)
    path = release.manifest_path(tmp_path, version)
    body = json.loads(path.read_text())["release"]
    change(body)
    digest = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
    path.write_text(json.dumps({"sha256": digest, "release": body}))
    with pytest.raises(release.ReleaseRefusedError):
        release.load(tmp_path)


@pytest.mark.parametrize("content", ["[" * 200_000, '{"a":' * 100_000, "1" * 100_000, "null"])
def test_manifest_that_is_no_manifest_is_refused(tmp_path, content):
    version = publish(tmp_path)
    release.manifest_path(tmp_path, version).write_text(content)
    with pytest.raises(release.ReleaseRefusedError, match="cannot be used"):
        release.load(tmp_path)


def test_manifest_that_is_a_directory_or_a_loop_is_refused(tmp_path):
    path = release.manifest_path(tmp_path, publish(tmp_path))
    path.unlink()
    path.mkdir()
    with pytest.raises(release.ReleaseRefusedError, match="cannot be used"):
        release.load(tmp_path)
    path.rmdir()
    path.symlink_to(path.name)
    with pytest.raises(release.ReleaseRefusedError, match="cannot be used"):
        release.load(tmp_path)


@pytest.mark.parametrize("version", ["../../x", "", "1" * 5000, "a/b"])
def test_version_that_is_none_is_refused(tmp_path, version):
    publish(tmp_path)
    with pytest.raises(command.InputError, match="there is no release"):
        publication.rollback(tmp_path, version or " ")


def test_the_model_server_is_never_told_to_hold_nothing(tmp_path):
    publish(tmp_path)
    before = held_by_model_server(tmp_path)
    with pytest.raises(ValueError, match="must hold some version of a model"):
        tf_serving_config.write(tmp_path, {"query_tower": [], "ranker": []})
    assert held_by_model_server(tmp_path) == before


def test_a_reader_of_the_models_of_a_model_server_sees_one_whole_list_or_the_other(tmp_path):
    file = tmp_path / "tf_serving" / "models.config"
    tf_serving_config.write(tmp_path, {"ranker": ["1"]})
    with file.open() as reading:
        tf_serving_config.write(tmp_path, {"ranker": ["1", "2"]})
        # The file was replaced, not written over: who reads the old one reads it to its end.
        assert "versions: 2" not in reading.read()
    assert held_by_model_server(tmp_path)["ranker"][1] == ["1", "2"]


def test_a_path_with_quotes_and_other_scripts_reaches_the_model_server_whole(tmp_path):
    root = tmp_path / 'shop "süd"\\1'
    root.mkdir()
    tf_serving_config.write(root, {"ranker": ["10", "9", "10"], "query_tower": []})
    assert held_by_model_server(root) == {"ranker": (str(root / "ranker"), ["9", "10"])}


def test_a_list_of_models_is_written_where_it_says_the_same_in_whatever_form(tmp_path):
    file = tmp_path / "tf_serving" / "models.config"
    assert not tf_serving_config.is_written(tmp_path, {"ranker": ["1"]})
    tf_serving_config.write(tmp_path, {"ranker": ["1"]})
    file.write_text(file.read_text().replace("\n", " ").partition("lost. ")[2])
    assert tf_serving_config.is_written(tmp_path, {"ranker": ["1"]})
    assert not tf_serving_config.is_written(tmp_path, {"ranker": ["1", "2"]})
    file.write_text("model_config_list {")
    assert not tf_serving_config.is_written(tmp_path, {"ranker": ["1"]})


# ---- releases that experiments keep --------------------------------------------------------------


def test_pinned_releases_are_neither_removed_nor_unloaded_until_they_are_unpinned(tmp_path):
    made = [publish(tmp_path, keep=2) for _ in range(2)]
    publication.pin(tmp_path, "older", [made[0]])
    made += [publish(tmp_path, keep=2) for _ in range(4)]
    assert release.versions(tmp_path) == [made[0], *made[-2:]]
    for name in ("query_tower", "ranker"):
        assert held_by_model_server(tmp_path)[name][1] == [made[0], *made[-2:]]
    release.load(tmp_path, made[0])
    publication.rollback(tmp_path)
    assert made[0] in held_by_model_server(tmp_path)["query_tower"][1]

    publication.pin(tmp_path, "older", [])
    assert release.pins(tmp_path) == {}
    assert made[0] not in held_by_model_server(tmp_path)["query_tower"][1]
    publish(tmp_path, keep=2)
    assert made[0] not in release.versions(tmp_path)


def test_a_pin_is_told_to_the_model_server_at_once(tmp_path):
    made = [publish(tmp_path) for _ in range(3)]
    assert held_by_model_server(tmp_path)["ranker"][1] == made[1:]
    publication.pin(tmp_path, "x", [made[0]])
    assert held_by_model_server(tmp_path)["ranker"][1] == made


def test_each_experiment_pins_for_itself(tmp_path):
    made = [publish(tmp_path) for _ in range(3)]
    publication.pin(tmp_path, "a", made[:2])
    publication.pin(tmp_path, "b", made[:1])
    assert release.pins(tmp_path) == {"a": made[:2], "b": made[:1]}
    publication.pin(tmp_path, "a", [])
    for _ in range(3):
        publish(tmp_path)
    assert made[0] in release.versions(tmp_path)
    assert made[1] not in release.versions(tmp_path)


def test_a_pin_that_stands_writes_nothing_so_that_servers_need_not_be_able_to(tmp_path):
    version = publish(tmp_path)
    publication.pin(tmp_path, "x", [version])
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    publication.pin(tmp_path, "x", [version])
    publication.pin(tmp_path, "without releases", [])
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


@pytest.mark.parametrize("content", ["7\n", "latest\n", "../../x", "\udcff"])
def test_a_pin_of_what_is_not_there_stops_no_publication(tmp_path, content):
    first = publish(tmp_path)
    (tmp_path / "pinned").mkdir()
    text = f"{first}\n{content}".encode("utf-8", "surrogateescape")
    (tmp_path / "pinned" / "by-hand").write_bytes(text)
    for _ in range(4):
        publish(tmp_path)
    assert first in release.versions(tmp_path)
    assert first in held_by_model_server(tmp_path)["query_tower"][1]


def test_the_command_pins_what_an_experiment_names_and_unpins_it(tmp_path, run_command):
    root, version = tmp_path / "root", publish(tmp_path / "root")
    file = tmp_path / "experiment.json"
    arms = [{"name": "a", "share": 0.5}, {"name": "b", "share": 0.5, "release": version}]
    file.write_text(json.dumps({"name": "older", "arms": arms}))
    command_line = ("serving.pin_releases", f"--serving_root={root}")
    pinned = run_command(*command_line, f"--experiment={file}")
    assert pinned.stdout == f"Pinned by older: {version}\n", pinned.stderr
    assert release.pins(root) == {"older": [version]}
    assert run_command(*command_line, "--unpin=other").returncode == 2
    assert run_command(*command_line, "--unpin=older").stdout == "Nothing is pinned.\n"
    arms[1]["release"] = "7"
    file.write_text(json.dumps({"name": "older", "arms": arms}))
    refused = run_command(*command_line, f"--experiment={file}")
    assert refused.returncode == 2
    assert f"no release 7 to pin; it has: {version}" in refused.stderr
