"""Runs work in a process of its own: a binary, as a person would type it, or a function."""

import concurrent.futures
import multiprocessing
import os
import re
import shlex
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from absl import logging

from features import command
from features.screen import quiet

Result = TypeVar("Result")
# What a step says of what it made; that of a retraining as a whole says nothing new.
_WROTE = re.compile(r"Wrote (?!a release)|Published release")
_TITLE_WIDTH, _WIDTH = 22, 70


def run_binary(binary: str, *arguments: str) -> None:
    """Runs ``python -m binary arguments`` and waits for it.

    Raises:
        command.InputError: It failed; what it had to say stands on standard error.
    """
    logging.info("%s %s", binary, " ".join(arguments))
    code = subprocess.run([sys.executable, "-m", binary, *arguments], check=False).returncode
    if code:
        raise command.InputError(f"{binary} failed with exit code {code}; it said why above.")


def brief() -> dict[str, str]:
    """Returns the environment of a process that says no more than warnings, unless asked to."""
    is_loud = quiet.verbosity() is not None
    return {**os.environ, **({} if is_loud else {quiet.VARIABLE: quiet.BRIEF})}


def told(title: str, seconds: float, text: str) -> str:
    """Returns one line of what a step wrote, at most 100 characters."""
    short = textwrap.shorten(text.rstrip(":\n"), _WIDTH, placeholder=" ...")
    return f"{title:<{_TITLE_WIDTH}}{seconds:5.0f} s  {short}\n"


def teller(titles: Mapping[str, str]) -> Callable[[str], None]:
    """Returns what is given each line that a command says and tells what its steps wrote.

    Args:
        titles: Path that a step writes to the title of its line, such as ``3/10 train_candidate``.
    """
    started = time.monotonic()

    def hear(text: str) -> None:
        if _WROTE.match(text):
            title = next((titles[path] for path in titles if path in text), "")
            sys.stdout.write(told(title, time.monotonic() - started, text))
            sys.stdout.flush()

    return hear


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

    Raises:
        command.InputError: A quotation is not closed; says in which flag.
    """
    words = {}
    for step, text in given.items():
        try:
            words[step] = shlex.split(text)
        except ValueError as error:
            raise command.InputError(f"--{flags[step]}={text!r}: {error}.") from None
    return words
