"""Commands as a person runs them: what they take, with all the processes that they start."""

import dataclasses
import os
import pathlib
import subprocess
import sys
import time

from absl import logging

from features import command

CHECKOUT = pathlib.Path(__file__).resolve().parents[2]
_LOOK_EVERY_S = 0.25


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """What one command took.

    Attributes:
        wall_s: Time from its start to its end, seconds.
        cpu_s: Processor time of it and of the processes that it waited for, seconds: on a machine
            that others use too, this is what two commands can be compared by.
        peak_gb: Largest resident sets of its processes, added up, gigabytes.
    """

    wall_s: float
    cpu_s: float
    peak_gb: float


def run(binary: str, *arguments: str, tree: pathlib.Path = CHECKOUT) -> Run:
    """Runs ``python -m binary arguments`` and waits for it.

    Raises:
        command.InputError: It failed; what it had to say stands on standard error.
    """
    logging.info("%s %s in %s", binary, " ".join(arguments), tree)
    environment = {**os.environ, "PYTHONPATH": str(tree)}
    started = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", binary, *arguments], cwd=tree, env=environment
    )
    peaks: dict[int, float] = {}
    while True:
        # Not ru_maxrss: that of a child counts the memory of this process, which it is forked from.
        for pid in family(process.pid):
            peaks[pid] = max(peaks.get(pid, 0.0), _peak_gb(pid))
        pid, status, usage = os.wait4(process.pid, os.WNOHANG)
        if pid:
            break
        time.sleep(_LOOK_EVERY_S)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise command.InputError(
            f"{binary} in {tree} failed with exit code {process.returncode}; it said why above."
        )
    return Run(
        wall_s=time.monotonic() - started,
        cpu_s=usage.ru_utime + usage.ru_stime,
        peak_gb=sum(peaks.values()),
    )


def family(pid: int) -> list[int]:
    """Returns a process and all that descend from it."""
    try:
        children = pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return [pid]
    return [pid, *(one for child in children for one in family(int(child)))]


def _peak_gb(pid: int) -> float:
    """Returns the largest resident set of a process so far; 0 where it has just ended."""
    try:
        status = pathlib.Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0.0
    sizes = [line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:")]
    return int(sizes[0]) / 1e6 if sizes else 0.0
