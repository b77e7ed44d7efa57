"""Beam's options: every spelling of a runner is read as Beam reads it."""

import subprocess
import sys
import tempfile

import pytest
from apache_beam.options import pipeline_options

from features import command
from pipeline.preprocessing import beam_options


def runner_of(*arguments):
    options = beam_options.parse(arguments)
    return options.view_as(pipeline_options.StandardOptions).runner


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--streaming"],
        ["--runner=DirectRunner"],
        ["--runner", "DirectRunner"],
        ["--runner=direct"],
        ["--runner", "DIRECTRUNNER"],
        ["--runner=SwitchingDirectRunner"],
        ["--runner=apache_beam.runners.direct.direct_runner.DirectRunner"],
        ["--runner=FlinkRunner", "--runner", "DirectRunner"],
        ["--runner=FnApiRunner"],
        ["--runner="],
    ],
)
def test_beams_direct_runner_by_any_name_is_the_embedded_runner(arguments):
    assert runner_of(*arguments) == "FnApiRunner"


@pytest.mark.parametrize(
    ("arguments", "runner"),
    [
        (["--runner", "FlinkRunner"], "FlinkRunner"),
        (["--runner=flink", "--parallelism", "4"], "flink"),
        (["--runner=DirectRunner", "--runner=PrismRunner"], "PrismRunner"),
        (["--runner=PortableRunner", "--of_the_job_server=1", "--other", "2"], "PortableRunner"),
    ],
)
def test_another_runner_is_left_alone_with_options_of_its_own(arguments, runner):
    assert runner_of(*arguments) == runner


def test_reading_options_leaves_nothing_in_the_directory_for_temporary_files(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    beam_options.parse(["--runner=DirectRunner"])
    assert not list(tmp_path.iterdir())


def test_options_are_beams_whatever_their_form():
    options = beam_options.parse(["--direct_num_workers", "3", "--runner", "direct"])
    assert options.view_as(pipeline_options.DirectOptions).direct_num_workers == 3


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--runner=Flnk"], "Flnk.*FlinkRunner"),
        (["--runner=no.such.Runner"], "no.such"),
        (["--runner=apache_beam.runners.direct.direct_runner.NoRunner"], "NoRunner"),
        (["--runner"], "--runner: expected one argument"),
        (["--direct_num_workers=two"], "--direct_num_workers: invalid int value: 'two'"),
        (["--run=FlinkRunner"], "--run=FlinkRunner"),
        (["--holdout_day=2"], "--holdout_day=2"),
        (["--streaming", "oops"], "'oops'"),
        (["-runner=DirectRunner"], "-runner=DirectRunner"),
        (["--runner=FlinkRunner", "oops"], "'oops'"),
        (["--runner=DataflowRunner"], "project"),
    ],
)
def test_what_beam_would_pass_over_or_fail_at_later_is_refused_at_once(arguments, says):
    with pytest.raises(command.InputError, match=says):
        beam_options.parse(arguments)


def preprocess(*flags):
    line = [sys.executable, "-m", "pipeline.preprocess", "--logs=absent", *flags]
    return subprocess.run(line, capture_output=True, text=True, check=False)


def test_the_command_finds_its_own_flags_behind_a_flag_of_beam_in_two_words():
    done = preprocess("--runner", "DirectRunner", "--examples=examples")
    assert done.returncode == 2
    # Not "--examples must be given": the logs are looked for, with a runner that Beam knows.
    assert "absent" in done.stderr


def test_the_command_refuses_a_flag_that_nobody_knows():
    done = preprocess("--examples=examples", "--holdout_day=2")
    assert done.returncode == 2
    assert "--holdout_day=2" in done.stderr
    assert "Traceback" not in done.stderr
