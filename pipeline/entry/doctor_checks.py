"""What the doctor says of what it measured: each check turns a measurement into a finding.

Nothing is measured here, so every finding can be tested on any machine.
"""

import dataclasses
import enum
import json
import pathlib
import re
import signal
from collections.abc import Iterable, Mapping

from packaging import requirements as packaging_requirements
from packaging import utils

SETUP = "run `make setup`"
# A connection is a descriptor, and so is each Parquet part and SavedModel shard.
_COMFORTABLE_OPEN_FILES = 4096


class Status(str, enum.Enum):
    """Gravity of a finding."""

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"


@dataclasses.dataclass(frozen=True)
class Finding:
    """The result of one check.

    Attributes:
        check: Name of what was looked at, one word or two.
        message: Account of what was found.
        remedy: Advice; empty when there is nothing to do.
        status: Gravity of what was found.
    """

    check: str
    message: str
    remedy: str = ""
    status: Status = Status.OK

    def line(self) -> str:
        """Returns the line that people read."""
        remedy = f"  Remedy: {self.remedy}." if self.remedy else ""
        return f"{self.status.value:<8} {self.check:<28} {self.message}{remedy}"


def problem(check: str, message: str, remedy: str) -> Finding:
    """Returns what keeps the project from working."""
    return Finding(check, message, remedy, Status.PROBLEM)


def warning(check: str, message: str, remedy: str) -> Finding:
    """Returns what some work lacks, or wants more of."""
    return Finding(check, message, remedy, Status.WARNING)


def check_python(version: tuple[int, int]) -> Finding:
    """Checks the interpreter, (major, minor)."""
    text = ".".join(map(str, version))
    if (3, 10) <= version <= (3, 13):
        return Finding("python", text)
    return problem(
        "python",
        f"{text} is outside 3.10-3.13, for which all dependencies have wheels",
        "make distclean, then make BASE_PYTHON=/path/to/python3.11 setup",
    )


def check_packages(locations: Mapping[str, pathlib.Path | None], home: pathlib.Path) -> Finding:
    """Checks that our four packages, whose names are generic, are ours.

    Args:
        locations: Directory that each package would be imported from; None if from nowhere.
        home: Directory that should hold them all.
    """
    foreign = {
        name: str(path)
        for name, path in locations.items()
        if path is None or path.resolve().parent != home.resolve()
    }
    if not foreign:
        return Finding("packages", f"imported from {home}")
    return problem(
        "packages",
        f"not imported from {home}: {foreign}",
        "use an environment of its own for this project: make distclean setup",
    )


def needed(requires: Iterable[str], role: str) -> list[packaging_requirements.Requirement]:
    """Returns the requirements of a role.

    Args:
        requires: Requirements as in the metadata of the distribution, with ``extra == "..."``
            markers.
        role: An extra, or "all" for preprocessing, training and serving together.
    """
    extras = ["preprocessing", "training", "serving"] if role == "all" else [role]
    chosen = {}
    for text in requires:
        requirement = packaging_requirements.Requirement(text)
        marker = requirement.marker
        if marker is None or any(marker.evaluate({"extra": extra}) for extra in extras):
            chosen[requirement.name] = requirement
    return [chosen[name] for name in sorted(chosen)]


def check_dependency(
    requirement: packaging_requirements.Requirement, installed: str | None
) -> Finding:
    """Checks an installed version, None if there is none, against its range."""
    wanted = str(requirement.specifier)
    if installed is None:
        return problem(requirement.name, f"is not installed; needed {wanted}", SETUP)
    if not requirement.specifier.contains(installed, prereleases=True):
        return problem(requirement.name, f"{installed} is outside {wanted}", SETUP)
    return Finding(requirement.name, f"{installed} ({wanted})")


def check_lock(lock: str, installed: Mapping[utils.NormalizedName, str]) -> Finding:
    """Checks the installed versions against the lock file, which is the set that is tested.

    Args:
        lock: Text of requirements.lock; a line that is for another Python is passed over.
        installed: Version by normalized name of the distribution.
    """
    # Below each pin, indented, are the hashes of its files.
    lines = [line.removesuffix("\\") for line in lock.splitlines() if line.strip()]
    pinned = [packaging_requirements.Requirement(line) for line in lines if line[0] != " "]
    here = [pin for pin in pinned if pin.marker is None or pin.marker.evaluate()]
    versions = {pin: installed.get(utils.canonicalize_name(pin.name), "missing") for pin in here}
    different = [
        f"{pin.name} {version} ({pin.specifier})"
        for pin, version in versions.items()
        if version == "missing" or not pin.specifier.contains(version)
    ]
    if not different:
        return Finding("requirements.lock", f"all {len(here)} versions as pinned")
    shown = ", ".join(different[:5]) + (", ..." if len(different) > 5 else "")
    return warning(
        "requirements.lock", f"{len(different)} of {len(here)} packages differ: {shown}", SETUP
    )


def check_legacy_keras_switch(value: str | None) -> Finding:
    """Checks TF_USE_LEGACY_KERAS as the shell exports it; None if it does not."""
    if value in {None, "1", "True", "true"}:
        return Finding("legacy Keras switch", "set by the project itself")
    return problem(
        "legacy Keras switch",
        f"TF_USE_LEGACY_KERAS={value!r} keeps TensorFlow Recommenders on Keras 3",
        "unset TF_USE_LEGACY_KERAS",
    )


def check_stack(returncode: int, output: str) -> list[Finding]:
    """Checks what the trial of TensorFlow, Keras 2 and ScaNN in one process said.

    Args:
        returncode: Exit code of the process; minus the signal if one killed it.
        output: Output of the process; the last line of a good trial starts with REPORT.
    """
    names = ("TensorFlow with ScaNN", "Keras 2")
    if returncode < 0:
        killer = signal.Signals(-returncode).name
        return [
            problem(
                names[0],
                f"the trial was killed by {killer}",
                "SIGILL: use a processor with AVX and FMA; SIGKILL: give more memory",
            )
        ]
    report_line = re.search(r"^REPORT (.*)$", output, re.MULTILINE)
    if returncode or report_line is None:
        last = next((line for line in reversed(output.splitlines()) if line.strip()), "no output")
        clash = " (the symbol clash of ScaNN and TensorFlow)" if "undefined symbol" in last else ""
        return [
            problem(
                names[0],
                f"the trial failed{clash}: {last.strip()}",
                f"{SETUP}; the versions must be those of requirements.lock",
            )
        ]
    report = json.loads(report_line.group(1))
    return [_scann_finding(names[0], report), _keras_finding(names[1], report)]


def _scann_finding(name: str, report: Mapping[str, object]) -> Finding:
    if report.get("scann_found") == 3:
        return Finding(name, "load in one process, and ScaNN finds a neighbour")
    return problem(
        name,
        f"ScaNN does not work: {report['scann_error'] or 'wrong neighbour'}",
        f"{SETUP} (Linux on x86-64 only); without ScaNN every search is exact and slow",
    )


def _keras_finding(name: str, report: Mapping[str, object]) -> Finding:
    if report.get("legacy_keras"):
        return Finding(name, "tf.keras is tf_keras")
    return problem(
        name,
        "tf.keras is Keras 3, which TensorFlow Recommenders cannot use",
        "unset TF_USE_LEGACY_KERAS and KERAS_BACKEND; import models before TensorFlow",
    )


def check_processor(machine: str, features: frozenset[str]) -> Finding:
    """Checks the instruction sets that the wheels of TensorFlow and ScaNN were built for."""
    if machine not in {"x86_64", "AMD64"}:
        return problem(
            "processor",
            f"{machine}: ScaNN and tfx-bsl have wheels for x86-64 alone",
            "use an x86-64 machine or container",
        )
    lacking = sorted({"avx", "fma"} - features)
    if lacking:
        return problem(
            "processor",
            f"lacks {', '.join(lacking)}, which ScaNN and TensorFlow need",
            "use a processor (or a virtual machine type) of 2013 or later",
        )
    if "avx2" not in features:
        return warning(
            "processor",
            "has no AVX2: the index is searched several times slower",
            "use a processor with AVX2",
        )
    return Finding(
        "processor", "AVX2, FMA" + (", AVX-512" if "avx512f" in features else "; no AVX-512")
    )


def check_amount(
    check: str, have_gb: float, *, minimum_gb: float, comfortable_gb: float, remedy: str
) -> Finding:
    """Checks an amount of memory or disk, in GB."""
    message = f"{have_gb:.1f} GB"
    if have_gb >= comfortable_gb:
        return Finding(check, message)
    if have_gb >= minimum_gb:
        message += f"; enough for the demo, {comfortable_gb:.0f} GB are comfortable"
        return warning(check, message, remedy)
    message += f"; the demo needs {minimum_gb:.0f} GB"
    return problem(check, message, remedy)


def check_open_files(soft_limit: int) -> Finding:
    """Checks how many files and connections a process may hold open; -1 is no limit."""
    if soft_limit < 0 or soft_limit >= _COMFORTABLE_OPEN_FILES:
        text = "unlimited" if soft_limit < 0 else str(soft_limit)
        return Finding("open files", text)
    return warning(
        "open files", f"{soft_limit}: a busy server holds one per connection", "ulimit -n 65536"
    )


def check_port(port: int, error: str) -> Finding:
    """Checks a port; ``error`` is what binding it said, empty when it worked."""
    if not error:
        return Finding(f"port {port}", "free")
    return warning(
        f"port {port}", f"in use: {error}", "stop what listens there, or choose another port"
    )


def check_program(check: str, path: str | None, *, purpose: str, remedy: str) -> Finding:
    """Checks a program that only some work needs; ``path`` is None where it is missing."""
    if path:
        return Finding(check, path)
    return warning(check, f"missing; only for {purpose}", remedy)


def memory_bytes(meminfo: str, control_group: str) -> int:
    """Returns the memory that this process may use.

    Args:
        meminfo: Text of /proc/meminfo.
        control_group: Text of the control group's memory.max: a number, "max", or empty.
    """
    total = re.search(r"^MemTotal:\s+(\d+) kB", meminfo, re.M)
    machine = int(total.group(1)) * 1024 if total else 0
    limit = control_group.strip()
    return min(machine, int(limit)) if limit.isdigit() else machine
