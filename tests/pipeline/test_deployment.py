"""The packaged launch commands: what Beam understands of them, and the package that they send.

No cluster and no cloud: a stand-in for Python records the arguments that a script gives it.
"""

import os
import pathlib
import subprocess
import tarfile

import pytest
from apache_beam.options import pipeline_options
from apache_beam.portability.api import beam_runner_api_pb2
from apache_beam.runners.portability import stager

CHECKOUT = pathlib.Path(__file__).resolve().parents[2]
SCRIPTS = CHECKOUT / "pipeline" / "deployment"
COMMON = {"LOGS": "/mnt/site/logs", "EXAMPLES": "/mnt/site/examples"}


def launch(script, tmp_path, settings, *arguments):
    """Runs a script and returns its exit code, the arguments of its command, and its errors."""
    stand_in = tmp_path / "python"
    stand_in.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    stand_in.chmod(0o755)
    made = subprocess.run(
        ["sh", str(SCRIPTS / script), *arguments],
        env={"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}", **settings},
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        check=False,
    )
    return made.returncode, made.stdout.splitlines(), made.stderr


def options_of(script, tmp_path, settings, *arguments):
    """Returns Beam's options, after checking the part that is ours."""
    code, command_line, errors = launch(script, tmp_path, {**COMMON, **settings}, *arguments)
    assert code == 0, errors
    assert command_line[:2] == ["-m", "pipeline.preprocess"]
    ours = {"--logs=/mnt/site/logs", "--examples=/mnt/site/examples"}
    assert ours <= set(command_line)
    beam_flags = [a for a in command_line[2:] if a not in ours]
    options = pipeline_options.PipelineOptions(beam_flags)
    known = options.get_all_options(drop_default=True, retain_unknown_options=False)
    # Each flag is one that Beam knows: a misspelt one would be dropped in silence.
    assert len(known) == len(beam_flags), (known, beam_flags)
    return options


def test_flink_options(tmp_path):
    settings = {"FLINK_MASTER": "flink:8081", "PARALLELISM": "6"}
    options = options_of("flink.sh", tmp_path, settings)
    flink = options.view_as(pipeline_options.FlinkRunnerOptions)
    assert options.view_as(pipeline_options.StandardOptions).runner == "FlinkRunner"
    assert (flink.flink_master, flink.flink_version, flink.parallelism) == ("flink:8081", "1.20", 6)
    portable = options.view_as(pipeline_options.PortableOptions)
    assert (portable.environment_type, portable.environment_config) == (
        "EXTERNAL",
        "localhost:50000",
    )


def test_spark_options(tmp_path):
    settings = {"IMAGE": "registry/worker:7", "JOB_ENDPOINT": "spark:8099"}
    options = options_of("spark.sh", tmp_path, settings)
    assert options.view_as(pipeline_options.StandardOptions).runner == "PortableRunner"
    portable = options.view_as(pipeline_options.PortableOptions)
    assert portable.job_endpoint == "spark:8099"
    assert (portable.environment_type, portable.environment_config) == (
        "DOCKER",
        "registry/worker:7",
    )
    assert options.view_as(pipeline_options.SetupOptions).setup_file == "./setup.py"


def test_dataflow_options(tmp_path):
    settings = {
        **{"PROJECT": "p", "REGION": "europe-west4", "BUCKET": "gs://b/watchnext"},
        **{"IMAGE": "registry/worker:7", "MAX_WORKERS": "5"},
    }
    options = options_of("dataflow.sh", tmp_path, settings, "--experiments=use_runner_v2")
    assert options.view_as(pipeline_options.StandardOptions).runner == "DataflowRunner"
    cloud = options.view_as(pipeline_options.GoogleCloudOptions)
    assert (cloud.project, cloud.region, cloud.job_name) == (
        *("p", "europe-west4"),
        "watchnext-preprocess",
    )
    assert cloud.temp_location == "gs://b/watchnext/temp"
    assert cloud.staging_location == "gs://b/watchnext/staging"
    worker = options.view_as(pipeline_options.WorkerOptions)
    assert worker.sdk_container_image == "registry/worker:7"
    assert (worker.machine_type, worker.max_num_workers, worker.disk_size_gb) == (
        *("n2-highmem-4", 5),
        100,
    )
    setup = options.view_as(pipeline_options.SetupOptions)
    assert setup.setup_file == "./setup.py"
    assert options.view_as(pipeline_options.DebugOptions).experiments == ["use_runner_v2"]


@pytest.mark.parametrize(
    ("script", "variable"),
    [("flink.sh", "FLINK_MASTER"), ("spark.sh", "IMAGE"), ("dataflow.sh", "PROJECT")],
)
def test_a_missing_setting_is_named_before_anything_runs(tmp_path, script, variable):
    code, command_line, errors = launch(script, tmp_path, COMMON)
    assert code != 0
    assert command_line == []
    assert variable in errors


def test_beam_stages_a_package_with_all_that_a_worker_imports(tmp_path):
    options = pipeline_options.PipelineOptions([f"--setup_file={CHECKOUT / 'setup.py'}"])
    staged = {}
    for artifact in stager.Stager.create_job_resources(options, str(tmp_path)):
        role = beam_runner_api_pb2.ArtifactStagingToRolePayload.FromString(artifact.role_payload)
        file = beam_runner_api_pb2.ArtifactFilePayload.FromString(artifact.type_payload)
        staged[role.staged_name] = file.path
    with tarfile.open(staged[stager.WORKFLOW_TARBALL_FILE]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    modules = {
        str(path.relative_to(CHECKOUT))
        for package in ("features", "pipeline")
        for path in (CHECKOUT / package).glob("*.py")
    }
    assert modules <= names
    assert {"setup.py", "pipeline/flink/pom.xml", "pipeline/deployment/dataflow.sh"} <= names
