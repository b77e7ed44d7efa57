"""Tells somebody what happened: a command with the news on its standard input, or a webhook.

The news is one JSON object. A command also finds its ``event`` in WATCHNEXT_EVENT. What goes wrong
in telling is logged, and changes nothing of what is told.
"""

import json
import os
import shlex
import shutil
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from typing import Any

from absl import logging

from features import command

VARIABLE = "WATCHNEXT_EVENT"
_WEB = ("http://", "https://")
_TIMEOUT_S = 30.0
_SAID = 500  # Characters of what a command said, in the log.


def require(hook: str) -> None:
    """Raises InputError where a hook cannot be one: before hours of work, not after."""
    if hook.startswith(_WEB):
        if not urllib.parse.urlsplit(hook).hostname:
            raise command.InputError("--hook must be http(s)://HOST/... or a command; no host.")
        return
    try:
        words = shlex.split(hook)
    except ValueError as error:
        raise command.InputError(f"--hook={hook!r}: {error}.") from None
    if not words or shutil.which(words[0]) is None:
        raise command.InputError(
            f"--hook must be a command or http(s)://..., got {hook!r}: there is no such program."
        )


def tell(hook: str, event: str, news: Mapping[str, Any]) -> bool:
    """Tells a hook; returns whether that went well.

    Args:
        hook: Command with its arguments, as a shell splits it, or a URL that gets a POST.
        event: Name of what happened, such as ``done``.
        news: What there is to tell, plain values for JSON; ``event`` is added.
    """
    text = json.dumps({"event": event, **news}, allow_nan=False)
    if hook.startswith(_WEB):
        problem = _post(hook, text)
        name = urllib.parse.urlsplit(hook).hostname  # The rest of such a URL is often a secret.
    else:
        problem = _run(hook, event, text)
        name = shlex.split(hook)[0]
    if problem:
        logging.error("The hook %s was not told of %r: %s", name, event, problem)
    return not problem


def _post(url: str, text: str) -> str:
    request = urllib.request.Request(
        url, data=text.encode(), headers={"Content-Type": "application/json"}, method="POST"
    )
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT_S):
            return ""
    except urllib.error.HTTPError as error:
        return f"it answered {error.code}"
    except (OSError, ValueError) as error:
        return str(error)


def _run(line: str, event: str, text: str) -> str:
    try:
        done = subprocess.run(
            shlex.split(line),
            input=text,
            text=True,
            capture_output=True,
            check=False,
            timeout=_TIMEOUT_S,
            env={**os.environ, VARIABLE: event},
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    if done.returncode:
        said = (done.stderr or done.stdout).strip()[-_SAID:]
        return f"exit code {done.returncode}: {said}"
    return ""
