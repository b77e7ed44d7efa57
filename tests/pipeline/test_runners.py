"""The same output on every runner: in one process, in two, on Prism, and on a real Flink cluster.

Flink's parts are processes of their own, and its Python workers live in an environment that has
this package from the sdist of setup.py, not from the checkout. ``make flink`` fetches the jars.
"""

import os
import pathlib
import shutil
import subprocess
import sys
import sysconfig
import time
import venv

import pyarrow as pa
import pytest
from apache_beam.options import pipeline_options
from apache_beam.portability.api import beam_runner_api_pb2
from apache_beam.runners.portability import stager

from features.tables import logs
from pipeline.flink.processes import FLINK, Cluster
from tests.pipeline import runner_outputs

CHECKOUT = pathlib.Path(__file__).resolve().parents[2]
LIMIT_S = 1200  # Far more than any job here takes; a hung one must end at some time.


def preprocess(logs_dir, output, beam_flags):
    """Starts the job as a user would; its messages go to a file."""
    with (output.parent / f"{output.name}.log").open("wb") as log:
        return subprocess.Popen(
            [
                *(sys.executable, "-m", "pipeline.preprocess"),
                *(f"--logs={logs_dir}", f"--examples={output}", *beam_flags),
            ],
            cwd=CHECKOUT,
            stdout=log,
            stderr=subprocess.STDOUT,
        )


def finish(process, output):
    """Waits for the job; returns its exit code and its messages."""
    try:
        code = process.wait(LIMIT_S)
    finally:
        process.kill()
    return code, (output.parent / f"{output.name}.log").read_text()


def run(logs_dir, output, *beam_flags):
    code, text = finish(preprocess(logs_dir, output, beam_flags), output)
    assert code == 0, text[-5000:]
    return output


def wait_until(condition, process):
    deadline = time.monotonic() + LIMIT_S
    while not (found := condition()):
        assert process.poll() is None, "the job ended first"
        assert time.monotonic() < deadline
        time.sleep(0.2)
    return found


def assert_nothing_visible(output):
    """What is not published is not there: neither under its name nor as a hidden part of it."""
    assert not output.exists()
    assert not [path for path in output.parent.glob(f".{output.name}.*") if path.is_dir()]


@pytest.fixture(scope="module")
def site(tmp_path_factory, run_command):
    """Logs of a tiny site with every table, and with rows to set aside."""
    directory = tmp_path_factory.mktemp("site") / "logs"
    made = run_command(
        *("pipeline.simulate", "--preset=tiny", "--users=80", f"--logs={directory}", "--seed=3")
    )
    assert made.returncode == 0, made.stderr
    watches = logs.read_table(directory, "watches")
    logs.append(directory, "watches", watches.slice(0, 3))
    negative = watches.slice(0, 1)
    number = negative.column_names.index("watch_time_s")
    column = pa.array([-1.0], negative.schema.field(number).type)
    logs.append(directory, "watches", negative.set_column(number, "watch_time_s", column))
    return directory


@pytest.fixture(scope="module")
def watches_only(site):
    """The same site without impressions and searches: no ranker, so a much smaller job."""
    directory = site.parent / "watches_only"
    for table in ("videos", "users", "watches"):
        shutil.copytree(site / table, directory / table)
    return directory


@pytest.fixture(scope="module")
def embedded(site):
    return run(site, site.parent / "embedded")


@pytest.fixture(scope="module")
def embedded_watches_only(watches_only):
    return run(watches_only, watches_only.parent / "embedded_watches_only")


@pytest.fixture(scope="module")
def sdist(tmp_path_factory):
    """The package as Beam's own stager builds and stages it for a remote runner."""
    options = pipeline_options.PipelineOptions([f"--setup_file={CHECKOUT / 'setup.py'}"])
    directory = tmp_path_factory.mktemp("staged")
    staged = stager.Stager.create_job_resources(options, str(directory))
    payloads = [beam_runner_api_pb2.ArtifactFilePayload.FromString(a.type_payload) for a in staged]
    return next(pathlib.Path(p.path) for p in payloads if p.path.endswith(".tar.gz"))


@pytest.fixture(scope="module")
def worker_python(tmp_path_factory, sdist):
    """A Python that has this package from its sdist, and the dependencies of this environment."""
    home = tmp_path_factory.mktemp("worker") / "venv"
    venv.create(home, symlinks=True)
    python = home / "bin" / "python"
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    target = home / "lib" / version / "site-packages"
    # A path in a .pth file, unlike a site directory, brings no other .pth file with it: what
    # installs the checkout for editing stays out.
    (target / "dependencies.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"),
            *("--no-build-isolation", "--target", str(target), str(sdist)),
        ],
        check=True,
    )
    found = subprocess.run(
        [python, "-c", "import pipeline; print(pipeline.__file__)"],
        cwd=home,
        check=True,
        capture_output=True,
        text=True,
    )
    assert found.stdout.startswith(str(target))
    return str(python)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory, request):
    """One job manager, two task managers, Beam's job server."""
    lacking = FLINK.missing()
    if lacking:
        pytest.skip(f"missing part flink: {lacking}")
    python = request.getfixturevalue("worker_python")
    directory = tmp_path_factory.mktemp("flink")
    with Cluster(directory, task_managers=2, slots=2, worker_python=python) as started:
        yield started


def subtasks(cluster, job_id):
    """Returns the task managers that took part in a job."""
    found = set()
    for vertex in cluster.get(f"/jobs/{job_id}")["vertices"]:
        answer = cluster.get(f"/jobs/{job_id}/vertices/{vertex['id']}/taskmanagers")
        found |= {manager["taskmanager-id"] for manager in answer["taskmanagers"]}
    return found


def test_flink_writes_what_the_embedded_runner_writes(cluster, site, embedded, tmp_path):
    before = set(cluster.jobs())
    output = run(site, tmp_path / "examples", *cluster.beam_flags())
    rows = runner_outputs.assert_equal(embedded, output)
    assert rows["transformed/ranker/train"] == rows["ranking_examples/train"] > 1000
    assert rows["transformed/candidate/videos"] == rows["videos"] > 0
    assert rows["rejected/watches"] == 4
    jobs = {job: state for job, state in cluster.jobs().items() if job not in before}
    assert set(jobs.values()) == {"FINISHED"}
    assert set.union(*(subtasks(cluster, job) for job in jobs)) == set(cluster.task_managers())


def running_job(cluster, before, *, finished_tasks):
    """Returns a new job that has done part of its work, or None."""
    for job in cluster.get("/jobs/overview")["jobs"]:
        begun = job["state"] == "RUNNING" and job["tasks"]["finished"] >= finished_tasks
        if begun and job["jid"] not in before:
            return job["jid"]
    return None


def test_a_job_outlives_a_killed_task_manager(
    cluster, watches_only, embedded_watches_only, tmp_path
):
    before, output = set(cluster.jobs()), tmp_path / "examples"
    process = preprocess(watches_only, output, cluster.beam_flags())
    job = wait_until(lambda: running_job(cluster, before, finished_tasks=10), process)
    cluster.kill(cluster.task_managers()[0])
    assert not output.exists()
    code, text = finish(process, output)
    cluster.add_task_manager()
    cluster.wait_for_slots(4)
    assert code == 0, text[-5000:]
    assert cluster.get(f"/jobs/{job}/exceptions")["exceptionHistory"]["entries"]
    runner_outputs.assert_equal(embedded_watches_only, output)


def test_a_cancelled_job_publishes_nothing(cluster, watches_only, tmp_path):
    before, output = set(cluster.jobs()), tmp_path / "examples"
    process = preprocess(watches_only, output, cluster.beam_flags())
    cluster.cancel(wait_until(lambda: running_job(cluster, before, finished_tasks=1), process))
    code, _ = finish(process, output)
    assert code != 0
    assert_nothing_visible(output)


def test_two_processes_write_what_one_writes(watches_only, embedded_watches_only, tmp_path):
    output = run(
        *(watches_only, tmp_path / "examples"),
        *("--direct_running_mode=multi_processing", "--direct_num_workers=2"),
    )
    runner_outputs.assert_equal(embedded_watches_only, output)


def test_prism_writes_what_the_embedded_runner_writes(
    watches_only, embedded_watches_only, tmp_path
):
    built = pathlib.Path.home() / ".cache" / "watchnext" / "bin"
    prism = shutil.which("prism", path=f"{os.environ['PATH']}{os.pathsep}{built}")
    if prism is None:
        pytest.skip("missing part prism: run make prism")
    output = run(
        *(watches_only, tmp_path / "examples"),
        *("--runner=PrismRunner", f"--prism_location={prism}"),
    )
    runner_outputs.assert_equal(embedded_watches_only, output)
