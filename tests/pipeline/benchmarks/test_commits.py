"""Two commits side by side."""

import subprocess

import pytest

from features import command
from pipeline.benchmarks import commits, measured_runs
from pipeline.benchmarks.commits import OTHER, THIS, Comparison


def git(directory, *arguments):
    identity = ("-c", "user.name=a", "-c", "user.email=a@b.c")
    subprocess.run(["git", *identity, *arguments], cwd=directory, check=True, capture_output=True)


@pytest.fixture
def repository(tmp_path):
    """Two commits, of which the first is tagged ``old``."""
    directory = tmp_path / "repository"
    directory.mkdir()
    git(directory, "init", "-q")
    for text in ("old", "new"):
        (directory / "said.py").write_text(f"print({text!r})\n")
        git(directory, "add", ".")
        git(directory, "commit", "-qm", text)
        git(directory, "tag", text)
    return directory


def test_the_other_commit_lies_beside_and_is_gone_afterwards(repository, tmp_path):
    with commits.checked_out("old", tmp_path / "other", checkout=repository) as other:
        assert "old" in (other / "said.py").read_text()
        assert "new" in (repository / "said.py").read_text()
    assert not (tmp_path / "other").exists()
    listed = subprocess.run(
        ["git", "worktree", "list"], cwd=repository, check=True, capture_output=True, text=True
    )
    assert len(listed.stdout.splitlines()) == 1


def test_a_commit_that_is_not_there_is_named(repository, tmp_path):
    with (
        pytest.raises(command.InputError, match="--against=nowhere is no commit"),
        commits.checked_out("nowhere", tmp_path / "other", checkout=repository),
    ):
        raise AssertionError


def test_the_two_take_turns_and_neither_always_goes_first(tmp_path):
    trees = {THIS: tmp_path / "a", OTHER: tmp_path / "b"}
    seconds = {THIS: iter([2.0, 4.0]), OTHER: iter([8.0, 8.0])}
    order = []

    def figures_of(name, tree):
        assert tree == trees[name]
        order.append(name)
        return {"wall_s": next(seconds[name]), **({"new": 1.0} if name == THIS else {})}

    figures = Comparison(trees=trees, rounds=2).in_turns(figures_of)
    assert order == [THIS, OTHER, OTHER, THIS]
    assert figures == {
        "wall_s_this": 3.0,
        "wall_s_other": 8.0,
        "wall_s_ratio": 3 / 8,
        "wall_s_lowest_ratio": 0.25,
        "wall_s_highest_ratio": 0.5,
    }


def test_a_command_is_measured_in_its_tree(repository):
    run = measured_runs.run("said", tree=repository)
    assert run.wall_s > 0
    assert run.cpu_s > 0
    with pytest.raises(command.InputError, match="no_such_module in .* failed with exit code 1"):
        measured_runs.run("no_such_module", tree=repository)


def test_wrong_sizes_are_refused_before_anything_is_measured(run_command):
    done = run_command("pipeline.bench", "--groups=preprocess", "--events=9,1e6")
    assert done.returncode == 2
    assert "--events must be numbers of at least 10000, got 9, 1e6." in done.stderr
