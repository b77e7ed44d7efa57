"""How every binary starts, reports a bad input, and reads a time.

A binary ends with ``command.run(main)``. An :class:`InputError` then becomes one message on
standard error and exit code 2, never a traceback: it says what is wrong, where, and what to do.
"""

import datetime
import logging as std_logging
import os
import pathlib
import shlex
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from absl import app, flags, logging  # noqa: TID251 - parses them, defines none

from features import quiet

# Environment variable: a file that a binary makes when it has succeeded, for whoever started it and
# may not be there any more.
DONE = "WATCHNEXT_DONE"


class InputError(Exception):
    """Something that the caller gave cannot be used: what is wrong, where, what to do."""


def run(main: Callable[[Sequence[str]], None], *, passes_unknown_flags: bool = False) -> None:
    """Parses flags and runs ``main``.

    Args:
        main: Function of the program's name, and of the flags that it did not define where it
            passes them on.
        passes_unknown_flags: Whether what is not defined is passed to ``main``, values that stand
            behind their flag included (``--runner DirectRunner``, Beam's options), which then
            refuses what nobody knows; otherwise it is an error.

    Raises:
        SystemExit: Code 0 after success or --help, 2 for a bad flag or an :class:`InputError`.
    """
    done = os.environ.pop(DONE, "")  # What this binary starts is not this binary.

    def guarded(argv: Sequence[str]) -> None:
        quiet.begin(flags.FLAGS.verbosity if flags.FLAGS["verbosity"].present else None)
        # The processor does it, unless somebody names a card.
        os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
        show_progress()
        if argv[1:] and not passes_unknown_flags:
            _refuse(f"unexpected arguments {argv[1:]}: give flags as --name=value.")
        try:
            main(argv)
        except InputError as error:
            _refuse(str(error))
        if done:
            pathlib.Path(done).touch()

    def parse(argv: Sequence[str]) -> list[str]:
        for argument in argv[1:]:
            name = argument.lstrip("-").partition("=")[0]
            if argument.startswith("-") and name in _HELP:
                _print_help(name)
        # Our flags are found behind the value of a flag that is not ours, too.
        flags.FLAGS.set_gnu_getopt(passes_unknown_flags)
        try:
            return flags.FLAGS(list(argv), known_only=passes_unknown_flags)
        except flags.Error as error:
            _refuse(f"{error} See --help.")

    app.run(guarded, flags_parser=parse)


def show_progress() -> None:
    """Writes our progress lines and everybody's errors to standard error.

    Where ``--verbosity`` was given, here or to the command that started this process, it writes
    everybody's lines of that level instead.
    """
    logging.use_absl_handler()
    # A log line per message is for people; the prefix that matters to them is the time.
    logging.get_absl_handler().setFormatter(
        std_logging.Formatter("%(asctime)s %(message)s", datefmt="%H:%M:%S")
    )
    if not flags.FLAGS.is_parsed():  # In a process that another started: there are none.
        flags.FLAGS.mark_as_parsed()
    verbosity = quiet.asked()
    if verbosity is None:
        logging.get_absl_handler().addFilter(_is_ours_or_serious)
    logging.set_verbosity(logging.INFO if verbosity is None else verbosity)


_OUR_CODE = pathlib.Path(__file__).resolve().parent.parent


def _is_ours_or_serious(record: std_logging.LogRecord) -> bool:
    """Keeps our lines and everybody's errors: TensorFlow and Beam say much below that."""
    if record.levelno >= std_logging.ERROR:
        return True
    path = pathlib.Path(record.pathname)
    return _OUR_CODE in path.parents and "site-packages" not in path.parts


_HELP = ("help", "h", "?", "helpshort", "helpfull", "helpxml")


def _print_help(name: str) -> NoReturn:
    """Prints docstring and flags as absl does, and ends with code 0, which absl does not."""
    if name == "helpxml":
        flags.FLAGS.write_help_in_xml_format(sys.stdout)
    else:
        app.usage(shorthelp=name != "helpfull", writeto_stdout=True)
    sys.stdout.flush()
    raise SystemExit(0)


def _refuse(message: str) -> NoReturn:
    logging.flush()
    sys.stdout.flush()
    sys.stderr.write(f"error: {message}\n")
    sys.stderr.flush()
    raise SystemExit(2)


def shell_line(binary: str, **given: object) -> str:
    """Returns a command as one would type it, for messages that say what to run next.

    Args:
        binary: Module of the binary, for example ``serving.serve``.
        given: Flags by name, all that it needs; what only the reader can know is in capitals.
    """
    flags_given = (f"--{name}={value}" for name, value in given.items())
    return shlex.join(["python", "-m", binary, *flags_given])


def parse_time(text: str | None, *, name: str = "time") -> int | None:
    """Returns Unix seconds of an ISO 8601 time; without an offset it is UTC.

    Args:
        text: ISO 8601 text, for example ``2022-05-01`` or ``2022-05-01T12:30:00+08:00``; None or ""
            gives None.
        name: Name of the value in the error, for example ``--until``.

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
