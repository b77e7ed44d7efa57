"""Keeps what others say when they start off the screen, in a command and all that it starts.

TensorFlow writes some lines before any setting can silence them: its libraries do so while they are
loaded, whatever ``TF_CPP_MIN_LOG_LEVEL`` says. So what is written to standard error while
TensorFlow is imported goes through a filter, a process of its own, so that the last words of a
process that dies then are not lost with it. Lines that are not known to mean nothing pass.

A command begins it; the processes that it starts know by :data:`VARIABLE`, and begin it when they
import one of our packages. ``--verbosity`` ends it.
"""

import contextlib
import importlib.abc
import importlib.machinery
import os
import subprocess
import sys
import types
import warnings
from collections.abc import Iterator, Sequence

# Environment variable: QUIET, BRIEF (our warnings, and no progress in words), or the verbosity of
# absl that a command was asked for.
VARIABLE = "WATCHNEXT_VERBOSITY"
QUIET, BRIEF = "quiet", "brief"

# Notes and warnings of Abseil's logging in C++, and errors of a machine without a graphics card.
NOISE = (
    r"WARNING: All log messages before absl::InitializeLog\(\) is called",
    r"[IW]\d{4} \d\d:\d\d:\d+\.\d+ +\d+ \S+:\d+\] ",
    r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d+: [IW] \S+:\d+\] ",
    r"E\d{4} \S+ +\d+ cuda_\w+\.cc:\d+\] "
    r"(failed call to cuInit|Unable to register cu\w+ factory)",
    r"E\d{4} \S+ +\d+ util\.cc:\d+\] oneDNN supports DT_HALF only on",
    r"To enable the following instructions: .* rebuild TensorFlow",
)
_FILTER = """
import re, sys
noise = re.compile(sys.argv[1].encode())
for line in sys.stdin.buffer:
    if not noise.match(line):
        sys.stderr.buffer.write(line)
        sys.stderr.buffer.flush()
"""
_TENSORFLOW = "tensorflow"
_ENDS_WITHIN_S = 5


def begin(verbosity: int | None = None) -> None:
    """Makes this process, and those that it starts, quiet, or as loud as it was asked for.

    Args:
        verbosity: Verbosity of absl that somebody asked for; None for what the process was started
            with.
    """
    if verbosity is not None:
        os.environ[VARIABLE] = str(verbosity)
    os.environ.setdefault(VARIABLE, QUIET)
    install()


def verbosity() -> int | None:
    """Returns the verbosity that somebody asked for, here or where this process was started."""
    text = os.environ.get(VARIABLE, QUIET)
    return None if text in {QUIET, BRIEF} else int(text)


def is_brief() -> bool:
    """Returns whether only warnings are wanted of us, where no verbosity was asked for."""
    return os.environ.get(VARIABLE) == BRIEF


def install() -> None:
    """Makes this process quiet where a command that is quiet started it; else changes nothing."""
    if os.environ.get(VARIABLE) not in {QUIET, BRIEF}:
        return
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
        ours = r"(features|models|serving|pipeline)(\.|$)"
        for category in (UserWarning, RuntimeWarning):
            warnings.filterwarnings("default", category=category, module=ours)
    if _TENSORFLOW not in sys.modules and not any(isinstance(f, _Finder) for f in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


class _Finder(importlib.abc.MetaPathFinder):
    """Finds TensorFlow, once, to be loaded by :class:`_Loader`."""

    def find_spec(
        self,
        name: str,
        path: Sequence[str] | None = None,
        target: types.ModuleType | None = None,
    ) -> importlib.machinery.ModuleSpec | None:
        """Returns the spec of TensorFlow; None, which asks others, for anything else."""
        if name != _TENSORFLOW:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader)
        return spec


class _Loader(importlib.abc.Loader):
    """Loads TensorFlow without its start-up lines."""

    def __init__(self, loader: importlib.abc.Loader) -> None:
        self._loader = loader

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType | None:
        """Leaves it to the loader of the file."""
        return self._loader.create_module(spec)

    def exec_module(self, module: types.ModuleType) -> None:
        """Loads it, and has it look for devices, which is the other thing that it speaks of."""
        module.__loader__ = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        with filtered_stderr():
            self._loader.exec_module(module)
            module.config.list_physical_devices()


@contextlib.contextmanager
def filtered_stderr() -> Iterator[None]:
    """Sends what this process writes to standard error through the filter, C++ code included.

    Where everything is to be shown, or no command runs, it changes nothing.
    """
    if os.environ.get(VARIABLE) not in {QUIET, BRIEF}:
        yield
        return
    sys.stderr.flush()
    try:
        original = os.dup(2)
    except OSError:  # Closed: nobody reads it.
        yield
        return
    reading, writing = os.pipe()
    passing = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", _FILTER, "|".join(NOISE)],
        stdin=reading,
        stdout=subprocess.DEVNULL,
        stderr=original,
        start_new_session=True,  # Ctrl-C is for the process that it listens to.
    )
    os.close(reading)
    os.dup2(writing, 2)
    os.close(writing)
    try:
        yield
    finally:
        sys.stderr.flush()
        os.dup2(original, 2)
        os.close(original)
        # It ends when nobody writes any more; what was started meanwhile still may.
        with contextlib.suppress(subprocess.TimeoutExpired):
            passing.wait(_ENDS_WITHIN_S)
