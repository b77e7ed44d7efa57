"""How every binary starts, reports a bad input, and reads a time.

A binary ends with ``command.run(main)``. An :class:`InputError` then becomes one message on
standard error and exit code 2, never a traceback: it says what is wrong, where, and what to do.
"""

import datetime
import logging as std_logging
import os
import pathlib
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from absl import app, flags, logging  # noqa: TID251 - parses them, defines none


class InputError(Exception):
    """Something that the caller gave cannot be used: what is wrong, where, what to do."""


def run(main: Callable[[Sequence[str]], None], *, passes_unknown_flags: bool = False) -> None:
    """Parses flags and runs ``main``.

    Args:
        main: Receives the program's name, and the flags that it did not define where it
            passes them on.
        passes_unknown_flags: Whether flags that are not defined are passed to ``main`` (Beam's
            options); otherwise they are errors, as arguments that are not flags always are.

    Raises:
        SystemExit: Code 0 after success, 2 for a bad flag or an :class:`InputError`.
    """

    def guarded(argv: Sequence[str]) -> None:
        show_progress()
        stray = [a for a in argv[1:] if not (passes_unknown_flags and a.startswith("--"))]
        if stray:
            _refuse(f"unexpected arguments {stray}: give flags as --name=value.")
        try:
            main(argv)
        except InputError as error:
            _refuse(str(error))

    def parse(argv: Sequence[str]) -> list[str]:
        if any(a.lstrip("-").partition("=")[0] in _HELP for a in argv[1:]):
            return app.parse_flags_with_usage(list(argv))
        try:
            return flags.FLAGS(list(argv), known_only=passes_unknown_flags)
        except flags.Error as error:
            _refuse(f"{error} See --help.")

    app.run(guarded, flags_parser=parse)


def show_progress() -> None:
    """Writes our progress lines and everybody's warnings to standard error."""
    logging.use_absl_handler()
    # A log line per message is for people; the prefix that matters to them is the time.
    logging.get_absl_handler().setFormatter(
        std_logging.Formatter("%(asctime)s %(message)s", datefmt="%H:%M:%S")
    )
    logging.get_absl_handler().addFilter(_is_ours_or_serious)
    logging.set_verbosity(logging.INFO)


_OUR_CODE = pathlib.Path(__file__).resolve().parent.parent


def _is_ours_or_serious(record: std_logging.LogRecord) -> bool:
    """Keeps our progress lines and everybody's warnings: TensorFlow and Beam say much at INFO."""
    if record.levelno >= std_logging.WARNING:
        return True
    path = pathlib.Path(record.pathname)
    return _OUR_CODE in path.parents and "site-packages" not in path.parts


_HELP = ("help", "helpshort", "helpfull", "helpxml")


def _refuse(message: str) -> NoReturn:
    logging.flush()
    sys.stdout.flush()
    sys.stderr.write(f"error: {message}\n")
    sys.stderr.flush()
    raise SystemExit(2)


def parse_time(text: str | None, *, name: str = "time") -> int | None:
    """Returns Unix seconds of an ISO 8601 time; without an offset it is UTC.

    Args:
        text: For example ``2022-05-01`` or ``2022-05-01T12:30:00+08:00``; None or "" gives None.
        name: What the error calls it, for example ``--until``.

    Raises:
        InputError: The text is not ISO 8601.
    """
    if not text:
        return None
    try:
        moment = datetime.datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError:
        raise InputError(
            f"{name} must be an ISO 8601 time such as 2022-05-01 or 2022-05-01T12:00:00, "
            f"got {text!r}."
        ) from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=datetime.timezone.utc)
    return int(moment.timestamp())


def format_time(seconds: int) -> str:
    """Returns the ISO 8601 form, UTC, of Unix seconds."""
    moment = datetime.datetime.fromtimestamp(seconds, tz=datetime.timezone.utc)
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def quiet_tensorflow() -> None:
    """Silences TensorFlow's start-up chatter; call before TensorFlow is imported."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
