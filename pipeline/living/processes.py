"""Processes that end with the one that started them, also where that is killed."""

import os
import subprocess
import sys
from collections.abc import Sequence
from typing import IO

# PR_SET_PDEATHSIG of linux/prctl.h and SIGTERM; a program that takes this one's place keeps it.
_FOLLOW = """
import ctypes, os, sys
ctypes.CDLL(None).prctl(1, 15)
if os.getppid() == int(sys.argv[1]):
    os.execv(sys.argv[2], sys.argv[2:])
"""


def start(line: Sequence[str], said: IO[bytes] | int) -> "subprocess.Popen[bytes]":
    """Starts a program that gets SIGTERM when the thread that calls this ends, however it does.

    Args:
        line: Path of the program, and arguments.
        said: File that gets what it says, or ``subprocess.PIPE``.
    """
    follow = [sys.executable, "-c", _FOLLOW, str(os.getpid()), *line]
    return subprocess.Popen(follow, stdout=said, stderr=subprocess.STDOUT)
