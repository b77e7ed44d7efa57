"""Releases that experiments keep."""

import json

import pytest

from serving.release import manifest as release
from serving.release import publication
from tests.serving.release.releases import held_by_model_server, publish


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
