"""A night of a living site: the real retraining, what it cost, and what each gate said."""

import dataclasses
import json
import os
import pathlib
import re
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from features import command
from pipeline.living import processes
from pipeline.steps import retraining
from serving.release import manifest as release

PUBLISHED, REFUSED, FAILED = "published", "refused", "failed"
_GATE = re.compile(
    r"(?P<verdict>pass|FAIL|not checked)\s+(?P<rule>(?:\w+: )?.*?): "  # "watches: rows of: 0"
    r"(?P<value>.*) \(asked: (?P<asked>.*)\)$"
)
_MIB_IN_KIB = 1024


@dataclasses.dataclass(frozen=True, kw_only=True)
class Night:
    """What came of a night.

    Attributes:
        outcome: ``published``; ``refused``, where gates forbade a release; or ``failed``.
        release: The version that serves from then on; "" where nothing was ever published.
        exit_code: Exit code of the retraining.
        wall_s: Duration, seconds.
        cpu_s: Processor time of all its processes, seconds.
        peak_mib: Largest resident memory of one of its processes, MiB.
        steps: The steps as ``retrain.json`` has them.
        gates: ``verdict``, ``rule``, ``value`` and ``asked`` of each gate.
        said: Last lines of what it said, where it published nothing.
    """

    outcome: str
    release: str
    exit_code: int
    wall_s: float
    cpu_s: float
    peak_mib: float
    steps: Sequence[Mapping[str, Any]]
    gates: Sequence[Mapping[str, str]]
    said: str

    def to_json(self) -> dict[str, Any]:
        """Returns plain values."""
        return dataclasses.asdict(self)


def retrain(
    flags: Sequence[str],
    *,
    logs_dir: pathlib.Path,
    serving_root: pathlib.Path,
    work: pathlib.Path,
    said: pathlib.Path,
    hear: Callable[[str], None] = lambda _: None,
) -> Night:
    """Runs ``python -m pipeline.retrain`` to its end, whatever that is.

    Args:
        flags: Its further flags.
        logs_dir: Raw logs.
        serving_root: Directory in which it publishes.
        work: Directory of its work.
        said: File that gets what it says.
        hear: Function that is given each line of it at once.
    """
    before = release.stated_current(serving_root)
    paths = (f"--logs={logs_dir}", f"--serving_root={serving_root}", f"--work={work}")
    started = time.monotonic()
    process = processes.start(
        [sys.executable, "-m", "pipeline.retrain", *paths, *flags], subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        with said.open("wb") as kept, process.stdout as out:
            for line in out:
                kept.write(line)
                kept.flush()
                hear(line.decode(errors="replace"))
        _, status, usage = os.wait4(process.pid, 0)
    except BaseException:
        process.terminate()
        process.wait()
        raise
    code = process.returncode = os.waitstatus_to_exitcode(status)
    after = release.stated_current(serving_root)
    text = said.read_text(errors="replace")
    is_new = after is not None and after != before
    return Night(
        outcome=outcome_of(code, is_new=is_new),
        release=after or "",
        exit_code=code,
        wall_s=time.monotonic() - started,
        cpu_s=usage.ru_utime + usage.ru_stime,
        peak_mib=usage.ru_maxrss / _MIB_IN_KIB,
        steps=_steps(work),
        gates=gates_in(text),
        said="" if is_new or not code else "\n".join(text.splitlines()[-12:]),
    )


def outcome_of(exit_code: int, *, is_new: bool) -> str:
    """Returns the outcome of a retraining.

    Args:
        exit_code: Its exit code.
        is_new: Whether another release serves than before. One that ends well without it goes on
            where one that was killed had published.
    """
    if is_new or not exit_code:
        return PUBLISHED
    return REFUSED if exit_code == command.RefusedError.exit_code else FAILED


def gates_in(text: str) -> list[dict[str, str]]:
    """Returns the gates that ``serving.build_release`` printed."""
    matches = (_GATE.search(line) for line in text.splitlines())
    return [match.groupdict() for match in matches if match]


def _steps(work: pathlib.Path) -> list[Mapping[str, Any]]:
    try:
        steps = json.loads((work / retraining.REPORT).read_text())["steps"]
    except (OSError, ValueError, KeyError):
        return []  # It was refused before the first step.
    return [{k: v for k, v in step.items() if k != "command"} for step in steps]
