"""All commands under one name."""

import subprocess
import sys

import pytest

from pipeline.entry import table


def watchnext(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "pipeline.entry.main", *arguments],
        capture_output=True,
        text=True,
        check=False,
    )


def test_help_lists_every_command_with_one_line():
    helped = watchnext("--help")
    assert helped.returncode == 0
    lines = helped.stdout.splitlines()
    for command in table.commands().values():
        (told,) = [line for line in lines if line.split()[:1] == [command.name]]
        assert told.split()[1] == command.summary.split()[0]
    assert max(len(line) for line in lines) <= 100


def test_no_command_is_an_error_that_shows_them():
    alone = watchnext()
    assert alone.returncode == 2
    assert "usage: watchnext COMMAND" in alone.stderr
    assert alone.stdout == ""


@pytest.mark.parametrize(
    ("name", "near"), [("rolback", "rollback"), ("train-ranker", "train_ranker")]
)
def test_a_mistyped_command_is_answered_with_the_one_that_is_meant(name, near):
    refused = watchnext(name, "--serving_root=x")
    assert refused.returncode == 2
    assert f"Did you mean {near}?" in refused.stderr


def test_a_command_is_the_one_that_python_runs_by_its_module(tmp_path):
    given = ("--serving_root=nowhere", "--to=1")
    by_name = watchnext("rollback", *given)
    by_module = subprocess.run(
        [sys.executable, "-m", "serving.rollback", *given],
        capture_output=True,
        text=True,
        check=False,
    )
    assert by_name.returncode == by_module.returncode == 2
    assert by_name.stderr == by_module.stderr
    assert by_name.stderr.startswith("error: nowhere has no release")


def test_what_a_command_starts_finds_it_again(tmp_path):
    # A group of measurements runs in a process of its own, which imports the program anew.
    asked = watchnext("bench", "--groups=no_such", f"--output={tmp_path}/b.json")
    assert asked.returncode == 2
    assert "--groups must be out of" in asked.stderr


def test_help_of_a_command_has_an_example_and_the_defaults():
    helped = watchnext("train_candidate", "--help")
    assert helped.returncode == 0
    assert "python -m models.train_candidate --examples=EXAMPLES" in helped.stdout
    assert "  --examples  (required)" in helped.stdout
    assert "  --depth  (an integer in [0, 4]; default: '2')" in helped.stdout


def test_the_version_is_that_of_the_distribution():
    assert watchnext("--version").stdout.startswith("watchnext 0.")
