"""Flags whose paths are in an object store, given to a command as local ones.

Where a flag is defined is said what a command does with what it names
(:data:`features.command.PATHS`). What it reads is fetched before it starts; what it writes goes to
a directory of the cache, which keeps what a killed run had got to, and is published when the
command has succeeded. Its messages name the places in the store.
"""

import contextlib
import io
import json
import os
import pathlib
import re
import shutil
import sys
from collections.abc import Iterator, MutableMapping, Sequence
from typing import Any

from absl import logging

from features import command
from features.stores import cache, directories, leases, locations, objects
from features.stores.locations import Location

_STANDS_FOR: dict[str, str] = json.loads(os.environ.get(command.STANDS_FOR) or "{}")


def shown(path: object) -> str:
    """Returns a text with the places in stores that its local paths stand for."""
    text = str(path)
    for local, url in sorted(_STANDS_FOR.items(), key=lambda pair: -len(pair[0])):
        # Not what only begins like it: what lies beside an output is on this machine.
        text = re.sub(re.escape(local) + r"(?![\w-]|\.\w)", url.replace("\\", "\\\\"), text)
    return text


def stands_for(local: pathlib.Path, url: object) -> None:
    """Has messages of this process name a place in a store instead of a local path."""
    for path in (local, local.resolve()):
        _STANDS_FOR[str(path)] = str(url)


def for_children() -> str:
    """Returns the value of :data:`features.command.STANDS_FOR` for processes that it starts."""
    return json.dumps(_STANDS_FOR) if _STANDS_FOR else ""


@contextlib.contextmanager
def opened(
    values: MutableMapping[str, str],
    *,
    reads: Sequence[str] = (),
    creates: Sequence[str] = (),
    writes: Sequence[str] = (),
    updates: Sequence[str] = (),
    itself: Sequence[str] = (),
    overwrite: bool = False,
) -> Iterator[None]:
    """Has flags name local paths during the block, and publishes what it wrote if it succeeds.

    Args:
        values: Values of all text flags by name; those of stores are replaced.
        reads: Flags that name what is read.
        creates: Flags that name what is created, where nothing may be unless ``overwrite``.
        writes: Flags that name what is created or replaced.
        updates: Flags that name what is gone on with, if it is there.
        itself: Flags of which the command takes care itself.
        overwrite: Whether what stands at ``creates`` may be replaced.

    Raises:
        InputError: A store refuses, or a flag takes no path in a store.
    """
    remote = {name: str(v) for name, v in values.items() if locations.is_remote(v)}
    places = {name: locations.parse(url) for name, url in remote.items() if name not in itself}
    unknown = sorted(set(places) - {*reads, *creates, *writes, *updates})
    if unknown:
        raise command.InputError(
            f"--{unknown[0]}={remote[unknown[0]]} must be a path on this machine: this flag takes "
            "none in an object store."
        )
    with contextlib.ExitStack() as stack:
        for name in reads:
            if name in places:
                _replace(values, name, directories.fetch(places[name]), remote[name])
        outputs: dict[str, tuple[pathlib.Path, Location]] = {}
        for name in (*creates, *writes, *updates):
            if name in places:
                if name in creates and not overwrite:
                    _require_room(places[name], name)
                local = _output(stack, places[name], name=name, goes_on=name in updates)
                if name in creates and local.is_dir():
                    shutil.rmtree(local)
                outputs[name] = (local, places[name])
                _replace(values, name, local, remote[name])
        if remote:
            stack.enter_context(translated())
        yield
        for local, location in outputs.values():
            _publish(local, location)


def _replace(values: MutableMapping[str, str], name: str, local: pathlib.Path, url: str) -> None:
    values[name] = str(local)
    stands_for(local, url.rstrip("/"))


def _output(
    stack: contextlib.ExitStack, location: Location, *, name: str, goes_on: bool
) -> pathlib.Path:
    """Returns where an output is written, by this process alone."""
    local = cache.place("outputs", location)
    refusal = command.InputError(f"another command of this machine writes --{name}={location}.")
    stack.enter_context(cache.alone(local, lambda: refusal))
    # A bucket that is not there, or may not be read, is told before the work.
    there = next(objects.at(location).list(f"{location.key}/" if location.key else ""), None)
    if goes_on and there is not None and not local.exists():
        shutil.copytree(directories.fetch(location), local)
    return local


def _require_room(location: Location, name: str) -> None:
    prefix = f"{location.key}/" if location.key else ""
    there = {meta.key.removeprefix(prefix) for meta in objects.at(location).list(prefix)}
    writing = directories.WRITING
    if not there or (writing in there and leases.holder_of(location / writing) is None):
        return  # What a killed command left is no content.
    raise command.InputError(
        f"--{name}={location} has content: {', '.join(sorted(there)[:5])}. Give another place, or "
        "--overwrite to replace it."
    )


def _publish(local: pathlib.Path, location: Location) -> None:
    if not local.exists():
        return  # A command that only said what it would do.
    directories.publish(local, location)
    if local.is_dir():
        shutil.rmtree(local)
    else:
        local.unlink()
    logging.info("%s is complete.", location)


@contextlib.contextmanager
def translated() -> Iterator[None]:
    """Has what the process prints name places in stores."""
    before = sys.stdout
    sys.stdout = _Translator(before)
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stdout = before


class _Translator(io.TextIOBase):
    """A stream whose texts are :func:`shown`."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Writes a text, local paths translated."""
        self._stream.write(shown(text))
        return len(text)

    def flush(self) -> None:
        """Writes what is held back."""
        self._stream.flush()

    def fileno(self) -> int:
        """Returns the descriptor of the stream."""
        return int(self._stream.fileno())
