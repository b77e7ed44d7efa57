"""Runs work in a process of its own: a binary, as a person would type it, or a function."""

import concurrent.futures
import multiprocessing
import shlex
import subprocess
import sys
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from absl import logging

from features import command

Result = TypeVar("Result")


def run_binary(binary: str, *arguments: str) -> None:
    """Runs ``python -m binary arguments`` and waits for it.

    Raises:
        command.InputError: It failed; what it had to say stands on standard error.
    """
    logging.info("%s %s", binary, " ".join(arguments))
    code = subprocess.run([sys.executable, "-m", binary, *arguments], check=False).returncode
    if code:
        raise command.InputError(f"{binary} failed with exit code {code}; it said why above.")


def in_own_process(function: Callable[..., Result], *arguments: Any) -> Result:
    """Calls a function in a fresh process, whose memory is gone afterwards.

    Returns or raises what it does. Function, arguments and result must be picklable.
    """
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(
        1, mp_context=context, initializer=command.show_progress
    ) as pool:
        return pool.submit(function, *arguments).result()


def split_flags(given: Mapping[str, str], flags: Mapping[str, str]) -> dict[str, list[str]]:
    """Splits further flags of steps, each given in one string, as a shell would.

    Args:
        given: Step to the string.
        flags: Step to the name of the flag that gave it, for the message.

    Raises:
        command.InputError: A quotation is not closed; says in which flag.
    """
    found = {}
    for step, text in given.items():
        try:
            found[step] = shlex.split(text)
        except ValueError as error:
            raise command.InputError(f"--{flags[step]}={text!r}: {error}.") from None
    return found
