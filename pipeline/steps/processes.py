"""Processes of steps: to their end, or ended; with temporary files where they can be found."""

import contextlib
import os
import pathlib
import shutil
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence

from absl import logging

from pipeline.steps import costs

_SCRATCH = ".tmp"
# A socket in a temporary directory has a name of at most 107 bytes; Python's have 32 of their own.
_MAX_SCRATCH_CHARACTERS = 75
_TERMINATE_WAIT_S = 20


def exit_reason(code: int) -> str:
    """Returns in words how a process ended; "" where it ended well."""
    if code < 0:
        return f"killed by {signal.Signals(-code).name}"
    return f"exit code {code}" if code else ""


def run(
    arguments: Sequence[str], lock: int, environment: Mapping[str, str]
) -> tuple[int, costs.Cost]:
    """Runs a step to its end, or ends it when this process is asked to stop."""
    process = subprocess.Popen(arguments, pass_fds=(lock,), env={**os.environ, **environment})
    with _ended(process):
        cost = costs.wait(process)
        return process.returncode, cost


@contextlib.contextmanager
def scratch(work: pathlib.Path) -> Iterator[dict[str, str]]:
    """Yields the variables that make steps keep temporary files in the work directory.

    There the next run removes what a killed one left; it has the lock, so nobody writes there.
    """
    directory = (work / _SCRATCH).absolute()
    shutil.rmtree(directory, ignore_errors=True)
    if len(str(directory)) > _MAX_SCRATCH_CHARACTERS:
        logging.info(
            "%s is too long a path for sockets: steps keep temporary files in the system's "
            "directory, where a killed step leaves them.",
            directory,
        )
        yield {}
        return
    directory.mkdir()
    try:
        yield {"TMPDIR": str(directory)}
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@contextlib.contextmanager
def _ended(process: subprocess.Popen[bytes]) -> Iterator[None]:
    try:
        yield
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(_TERMINATE_WAIT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
