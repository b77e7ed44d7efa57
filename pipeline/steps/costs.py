"""What a step costs: processor time, memory at its peak, bytes of what it made."""

import dataclasses
import os
import pathlib
import subprocess

from pipeline.steps import declared
from serving.release import manifest as release

_MEBIBYTE = 1 << 20


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cost:
    """Cost of a process, those that it started and waited for included.

    Attributes:
        cpu_s: Processor time, user's and system's, seconds.
        peak_memory_bytes: Largest resident set of any one of the processes; what they were forked
            from, some 100 MiB, is the least.
        output_bytes: Size of what it made.
    """

    cpu_s: float = 0.0
    peak_memory_bytes: int = 0
    output_bytes: int = 0

    def __str__(self) -> str:
        return (
            f"{self.cpu_s:.1f} s of processor, {self.peak_memory_bytes / _MEBIBYTE:,.0f} MiB at "
            f"its peak, made {self.output_bytes / _MEBIBYTE:,.1f} MiB"
        )


NOTHING = Cost()


def wait(process: subprocess.Popen[bytes]) -> Cost:
    """Waits for the end of a process, whose ``returncode`` is then set, and returns its cost."""
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return Cost(
        cpu_s=round(usage.ru_utime + usage.ru_stime, 2),
        peak_memory_bytes=usage.ru_maxrss * 1024,  # Linux counts in KiB.
    )


def size_of(artefact: str, path: pathlib.Path) -> int:
    """Returns the bytes of a complete artefact; of a serving root, those of its release."""
    if artefact == declared.SERVING_ROOT:
        return release.size_bytes(release.load_manifest(path))
    return sum(one.stat().st_size for one in path.rglob("*") if one.is_file())
