"""How every binary starts, reports a bad input, and reads a time.

A binary ends with ``command.run(main)``. An :class:`InputError` then becomes one message on
standard error and exit code 2, never a traceback: it says what is wrong, where, and what to do.
What a code means is in :data:`EXIT_CODES`.
"""

import contextlib
import datetime
import inspect
import logging as std_logging
import os
import pathlib
import shlex
import shutil
import signal
import sys
import textwrap
import typing
from collections.abc import Callable, Iterator, Sequence
from typing import Literal, NoReturn

from absl import app, flags, logging  # noqa: TID251 - parses them, defines none

from features.screen import quiet

# Environment variable: a file that a binary makes when it has succeeded, for whoever started it and
# may not be there any more.
DONE = "WATCHNEXT_DONE"
# Environment variable: what local paths stand for, JSON, for processes that are given such paths.
STANDS_FOR = "WATCHNEXT_STANDS_FOR"
_STORES = ("s3://", "gs://")
# What a command does with what a flag names: reads it, creates it where nothing may be without
# --overwrite, writes it anew, goes on with it if it is there, or wants the flag itself as it is.
Use = Literal["reads", "creates", "writes", "updates", "itself"]
# The flags that name what may be in an object store; features.config_flags fills it.
PATHS: dict[str, Use] = {}


# Exit code to what it means, of all commands. Somebody else's signals are 128 and their number.
EXIT_CODES = {
    0: "It is done. Also after --help, and when a server or the demo was asked to stop.",
    1: "It failed: by a fault, with a traceback; `doctor` found a problem; a step was killed.",
    2: "Bad input: a flag, a file, logs that teach nothing. The message says which.",
    3: "Refused: a gate failed, and nothing was published. The same again is refused again.",
    75: "In use: another process holds what this one needs. The same again may do later.",
    130: "Stopped by Ctrl-C (SIGINT). What was made so far is there whole or not at all.",
    143: "Stopped by SIGTERM.",
}


class InputError(Exception):
    """Something that the caller gave cannot be used: what is wrong, where, what to do."""

    exit_code = 2


class RefusedError(InputError):
    """A gate failed: what was made is not let through, and will not be another time."""

    exit_code = 3


class InUseError(InputError):
    """Another process holds what is needed; the same may do later (EX_TEMPFAIL of sysexits.h)."""

    exit_code = 75


def run(main: Callable[..., None], *, passes_unknown_flags: bool = False) -> None:
    """Parses flags and runs ``main``, which finds local paths in those of :data:`PATHS`.

    Args:
        main: Function without arguments; where unknown flags are passed, of these, behind the
            program's name.
        passes_unknown_flags: Whether what is not defined is passed to ``main``, values that stand
            behind their flag included (``--runner DirectRunner``, Beam's options), which then
            refuses what nobody knows; otherwise it is an error.

    Raises:
        SystemExit: One of :data:`EXIT_CODES`.
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
            with _doors():
                main(*([argv] if passes_unknown_flags else []))
        except InputError as error:
            _end(f"error: {error}", code=error.exit_code)
        except KeyboardInterrupt:
            _end("stopped.", code=128 + signal.SIGINT)
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


@contextlib.contextmanager
def _doors() -> Iterator[None]:
    """Has flags that name paths in object stores name local ones meanwhile."""
    every = {name: flags.FLAGS[name].value for name in flags.FLAGS}
    values = {n: v for n, v in every.items() if isinstance(v, str) and v.startswith(_STORES)}
    if not values and not os.environ.get(STANDS_FOR):
        yield
        return
    from features.stores import door

    paths = {use: [n for n in every if PATHS.get(n) == use] for use in typing.get_args(Use)}
    if not values:
        with door.translated():
            yield
        return
    given = dict(values)
    overwrite = "overwrite" in flags.FLAGS and bool(flags.FLAGS["overwrite"].value)
    try:
        with door.opened(values, **paths, overwrite=overwrite):
            for name, local in values.items():
                flags.FLAGS[name].value = local
            yield
    except InputError as error:
        shown = InputError(door.shown(error))
        shown.exit_code = error.exit_code
        raise shown from error
    finally:
        for name, value in given.items():
            flags.FLAGS[name].value = value


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
    verbosity = quiet.verbosity()
    if verbosity is None:
        logging.get_absl_handler().addFilter(_is_ours_or_serious)
        verbosity = logging.WARNING if quiet.is_brief() else logging.INFO
    logging.set_verbosity(verbosity)


_OUR_CODE = pathlib.Path(__file__).resolve().parent.parent


def _is_ours_or_serious(record: std_logging.LogRecord) -> bool:
    """Keeps our lines and everybody's errors: TensorFlow and Beam say much below that."""
    if record.levelno >= std_logging.ERROR:
        return True
    path = pathlib.Path(record.pathname)
    return _OUR_CODE in path.parents and "site-packages" not in path.parts


_HELP = ("help", "h", "?", "helpshort", "helpfull", "helpxml")


def _print_help(name: str) -> NoReturn:
    """Prints docstring and flags, and ends with code 0, which absl does not."""
    if name == "helpxml":
        flags.FLAGS.write_help_in_xml_format(sys.stdout)
    elif name == "helpfull":
        app.usage(shorthelp=False, writeto_stdout=True)
    else:
        sys.stdout.write(_help_text())
    sys.stdout.flush()
    raise SystemExit(0)


def _help_text() -> str:
    """Returns the docstring of the program, and its own flags in the order of their definition."""
    lines = [inspect.cleandoc(sys.modules["__main__"].__doc__ or ""), "", "Flags:"]
    width, margin = min(shutil.get_terminal_size((100, 24)).columns, 100), " " * 6
    for flag in flags.FLAGS.get_key_flags_for_module(sys.argv[0]):
        is_required = any("must have a value" in (v.message or "") for v in flag.validators)
        default = "" if flag.default is None else f"default: {flag.default_as_str}"
        facts = [flag.parser.syntactic_help, "required" if is_required else default]
        told = "; ".join(filter(None, facts))
        name = f"[no]{flag.name}" if flag.boolean else flag.name
        lines.append(f"  --{name}" + (f"  ({told})" if told else ""))
        lines += textwrap.wrap(flag.help, width, initial_indent=margin, subsequent_indent=margin)
    return "\n".join([*lines, "", "--helpfull shows the flags of libraries too.", ""])


def _refuse(message: str) -> NoReturn:
    _end(f"error: {message}", code=2)


def _end(message: str, *, code: int) -> NoReturn:
    logging.flush()
    sys.stdout.flush()
    sys.stderr.write(f"{message}\n")
    sys.stderr.flush()
    raise SystemExit(code)


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
