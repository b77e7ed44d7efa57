"""Names what is wrong with this environment, and the remedy.

    python -m pipeline.doctor                 one line per check
    python -m pipeline.doctor --role=serving  only what a funnel replica needs
    python -m pipeline.doctor --json          for a machine

Exit code 1 where something is a problem; a warning alone is 0. Here is the measuring; what is said
of the measurements stands in doctor_checks.py.
"""

import dataclasses
import importlib.metadata
import importlib.util
import json
import os
import pathlib
import platform
import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence

# A patient too ill to speak still gets an answer: an old Python fails on the syntax of what is
# imported here, and an empty environment has no absl.
try:
    from absl import flags
    from packaging import utils

    from features import command
    from pipeline.entry import doctor_checks
    from serving.process import listening
except (ImportError, SyntaxError, TypeError) as error:
    sys.exit(
        f"problem  python  {sys.version.split()[0]} at {sys.executable} cannot load this project "
        f"({error}). Remedy: with Python 3.10-3.13 on PATH run `make setup`, then "
        ".venv/bin/python -m pipeline.doctor"
    )

_JSON = flags.DEFINE_boolean("json", False, "Print JSON instead of lines.")
_ROLE = flags.DEFINE_enum(
    "role",
    "all",
    ["all", "preprocessing", "training", "serving"],
    "Which dependencies must be there; the names are the extras of setup.py.",
)
_PORTS = flags.DEFINE_list("ports", ["8080"], "Ports that should be free for servers.")

DISTRIBUTION = "watchnext"
PACKAGES = ("features", "models", "serving", "pipeline")
_CHECKOUT = pathlib.Path(__file__).resolve().parent.parent

# The demo peaks near 3 GB; ten million events and a million videos want the comfortable figure.
_MIN_MEMORY_GB, _COMFORTABLE_MEMORY_GB = 4.0, 8.0
_MIN_DISK_GB, _COMFORTABLE_DISK_GB = 2.0, 10.0
_PROBE_TIMEOUT_S = 180

# Runs in a process of its own: a processor without the instructions that a wheel was built for
# kills the process instead of raising.
_STACK_PROBE = """
import json, numpy as np
from models import environment
report = {"scann_error": environment.SCANN_ERROR}
if environment.scann is not None:
    vectors = np.eye(8, dtype=np.float32)
    builder = environment.scann.scann_ops_pybind.builder(vectors, 1, "dot_product")
    neighbours, _ = builder.score_brute_force().build().search(vectors[3])
    report["scann_found"] = int(neighbours[0])
import tensorflow as tf, tf_keras
report["legacy_keras"] = tf.keras.Model is tf_keras.Model
print("REPORT " + json.dumps(report))
"""


def examine(role: str, ports: Sequence[int]) -> Iterator[doctor_checks.Finding]:
    """Measures this environment and yields one finding after the other."""
    yield doctor_checks.check_python((sys.version_info.major, sys.version_info.minor))
    yield doctor_checks.check_packages({name: _location(name) for name in PACKAGES}, _CHECKOUT)
    yield from _dependencies(role)
    yield from _lock()
    yield doctor_checks.check_processor(platform.machine(), _processor_features())
    yield doctor_checks.check_legacy_keras_switch(os.environ.get("TF_USE_LEGACY_KERAS"))
    if role != "preprocessing":
        yield from doctor_checks.check_stack(*_run_stack_probe())
    yield from _resources()
    for port in ports:
        yield doctor_checks.check_port(port, _bind_error(port))
    yield from _programs()


def _location(package: str) -> pathlib.Path | None:
    spec = importlib.util.find_spec(package)
    return pathlib.Path(spec.origin).parent if spec is not None and spec.origin else None


def _dependencies(role: str) -> Iterator[doctor_checks.Finding]:
    try:
        requires = importlib.metadata.requires(DISTRIBUTION) or []
    except importlib.metadata.PackageNotFoundError:
        yield doctor_checks.Finding(
            check=DISTRIBUTION,
            status=doctor_checks.Status.PROBLEM,
            message="is not installed in this environment",
            remedy=doctor_checks.SETUP,
        )
        return
    for requirement in doctor_checks.needed(requires, role):
        try:
            installed = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            installed = None
        yield doctor_checks.check_dependency(requirement, installed)


def _lock() -> Iterator[doctor_checks.Finding]:
    lock = _CHECKOUT / "requirements.lock"
    if lock.is_file():  # An installed distribution has none beside it.
        installed = {
            utils.canonicalize_name(distribution.name): distribution.version
            for distribution in importlib.metadata.distributions()
        }
        yield doctor_checks.check_lock(lock.read_text(), installed)


def _processor_features() -> frozenset[str]:
    cpuinfo = pathlib.Path("/proc/cpuinfo")
    match = re.search(r"^flags\s*: (.*)$", cpuinfo.read_text(), re.M) if cpuinfo.exists() else None
    return frozenset(match.group(1).split()) if match else frozenset()


def _run_stack_probe() -> tuple[int, str]:
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    try:
        done = subprocess.run(
            [sys.executable, "-c", _STACK_PROBE],
            capture_output=True,
            text=True,
            cwd=_CHECKOUT,
            env=environment,
            timeout=_PROBE_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return 1, f"no answer within {_PROBE_TIMEOUT_S} s"
    return done.returncode, done.stdout + done.stderr


def _text(path: str) -> str:
    try:
        return pathlib.Path(path).read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""


def _resources() -> Iterator[doctor_checks.Finding]:
    memory = doctor_checks.memory_bytes(_text("/proc/meminfo"), _text("/sys/fs/cgroup/memory.max"))
    yield doctor_checks.check_amount(
        "memory",
        memory / 1e9,
        minimum_gb=_MIN_MEMORY_GB,
        comfortable_gb=_COMFORTABLE_MEMORY_GB,
        remedy="use a machine, or a container limit, with more memory",
    )
    yield doctor_checks.check_amount(
        "disk",
        shutil.disk_usage(_CHECKOUT).free / 1e9,
        minimum_gb=_MIN_DISK_GB,
        comfortable_gb=_COMFORTABLE_DISK_GB,
        remedy="free some, or put --work and --serving_root on another disk",
    )
    yield doctor_checks.check_open_files(resource.getrlimit(resource.RLIMIT_NOFILE)[0])


def _bind_error(port: int) -> str:
    try:
        listening.require_free_port("127.0.0.1", port)
    except command.InputError as error:
        return str(error)
    return ""


def _programs() -> Iterator[doctor_checks.Finding]:
    which: Callable[[str], str | None] = shutil.which
    yield doctor_checks.check_program(
        "Java",
        which("java"),
        purpose="Beam on Flink or Spark",
        remedy="apt-get install default-jre-headless",
    )
    yield doctor_checks.check_program(
        "Redis",
        which("redis-server"),
        purpose="a history store that replicas share, and its tests",
        remedy="apt-get install redis-server",
    )
    yield doctor_checks.check_program(
        "Chromium",
        which("chromium") or which("google-chrome"),
        purpose="the tests of the web page",
        remedy="apt-get install chromium chromium-driver",
    )


def main() -> None:
    """Prints the findings."""
    ports = [int(port) for port in _PORTS.value if port.isdecimal() and int(port) < 1 << 16]
    if len(ports) != len(_PORTS.value):
        raise command.InputError(f"--ports must be numbers in [0, 65535], got {_PORTS.value}.")
    findings = []
    for finding in examine(_ROLE.value, ports):
        findings.append(finding)
        if not _JSON.value:
            print(finding.line(), flush=True)
    counts = {
        s.value: sum(finding.status is s for finding in findings) for s in doctor_checks.Status
    }
    if _JSON.value:
        rows = [dataclasses.asdict(finding) for finding in findings]
        print(json.dumps({"counts": counts, "findings": rows}, indent=1))
    else:
        print(f"{counts['problem']} problems, {counts['warning']} warnings, {counts['ok']} ok.")
    if counts["problem"]:
        raise SystemExit(1)


if __name__ == "__main__":
    command.run(main)
