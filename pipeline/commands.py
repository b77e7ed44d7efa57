"""Runs a binary of this project as a process of its own, as a person would type it."""

import subprocess
import sys

from absl import logging

from features import command


def run_binary(binary: str, *arguments: str) -> None:
    """Runs ``python -m binary arguments`` and waits for it.

    Raises:
        command.InputError: It failed; what it had to say stands on standard error.
    """
    logging.info("%s %s", binary, " ".join(arguments))
    code = subprocess.run([sys.executable, "-m", binary, *arguments], check=False).returncode
    if code:
        raise command.InputError(f"{binary} failed with exit code {code}; it said why above.")
