"""Objects of a store: read, listed, and written on condition, patiently."""

import functools
import os
import pathlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from absl import logging

from features import command
from features.stores import clients
from features.stores.clients import ConflictError, Meta
from features.stores.locations import Location

# How long a store may not answer before a command gives up; it says so each time it tries again.
PATIENCE = "WATCHNEXT_STORE_PATIENCE_S"
_PATIENCE_S = 120.0
_LONGEST_WAIT_S = 15.0
_DELETED_AT_ONCE = 1000

T = TypeVar("T")


class StoreUnavailableError(command.InputError, OSError):
    """A store did not answer for longer than it was waited for."""


class Bucket:
    """A bucket; safe for threads. What fails for a while is tried again, and says so."""

    def __init__(self, location: Location) -> None:
        """Opens the bucket that a location lies in.

        Raises:
            InputError: The extra is not installed, or the settings cannot be used.
        """
        self._name = f"{location.scheme}://{location.bucket}"
        self._client = clients.open_client(location.scheme, location.bucket)

    def read(self, key: str, *, unless: Meta | None = None) -> tuple[bytes, Meta] | None:
        """Returns an object's content and what is known of it; None where there is none.

        Args:
            key: Key of the object.
            unless: What is known already: None is returned where the object is still that.
        """

        def get() -> tuple[bytes, Meta] | None:
            try:
                if unless is not None and self._client.head(key) == unless:
                    return None
                return self._client.get(key)
            except FileNotFoundError:
                return None

        while True:
            try:
                return self._tried(get, f"reading {key}")
            except ConflictError:  # It was replaced between two requests.
                continue

    def download(self, meta: Meta, path: pathlib.Path) -> None:
        """Writes an object's content to a new file, durably.

        Args:
            meta: Object that was listed; without a token whatever has its key and size.
            path: File to write.

        Raises:
            ConflictError: The object is no longer the one that was listed.
        """

        def get() -> None:
            try:
                size, blocks = self._client.blocks(meta)
            except FileNotFoundError as error:
                raise ConflictError(f"{self._name}/{meta.key} is gone") from error
            if size != meta.size:
                raise ConflictError(
                    f"{self._name}/{meta.key} has {size} bytes instead of {meta.size}"
                )
            with path.open("wb") as file:
                for block in blocks:
                    file.write(block)
                file.flush()
                os.fsync(file.fileno())
            if path.stat().st_size != meta.size:
                raise OSError(f"got {path.stat().st_size} of {meta.size} bytes")

        self._tried(get, f"reading {meta.key}")

    def head(self, key: str) -> Meta | None:
        """Returns what is known of an object; None where there is none."""

        def ask() -> Meta | None:
            try:
                return self._client.head(key)
            except FileNotFoundError:
                return None

        return self._tried(ask, f"looking for {key}")

    def write(self, key: str, content: bytes | pathlib.Path, *, mode: Any = "overwrite") -> Meta:
        """Writes an object, which appears whole or not at all.

        Args:
            key: Key of the object.
            content: Bytes, or a file that holds them.
            mode: ``overwrite``; ``create``, where there must be none; or the ``token`` of the
                object that is to be replaced.

        Raises:
            ConflictError: There is another object than ``mode`` says.
        """
        try:
            return self._tried(lambda: self._client.put(key, content, mode), f"writing {key}")
        except ConflictError:
            # An answer may have been lost, and the request was sent again: then it is ours.
            stored = self.read(key) if isinstance(content, bytes) else None
            if stored is None or stored[0] != content:
                raise
            return stored[1]

    def list(self, prefix: str) -> Iterator[Meta]:
        """Yields the objects below a prefix, which ends at a slash, in the order of their keys."""
        metas = self._tried(lambda: self._client.list(prefix), f"listing {prefix}")
        yield from sorted(metas, key=lambda meta: meta.key)

    def delete(self, keys: Sequence[str]) -> None:
        """Removes objects; one that is gone is no error."""
        for first in range(0, len(keys), _DELETED_AT_ONCE):
            part = keys[first : first + _DELETED_AT_ONCE]
            self._tried(functools.partial(self._client.delete, part), f"removing {len(part)}")

    def _tried(self, function: Callable[[], T], doing: str) -> T:
        """Returns what a function returns; one that fails for a while is called again.

        Raises:
            InputError: The store refuses, for good, or did not answer for too long.
        """
        begun = time.monotonic()
        patience_s = float(os.environ.get(PATIENCE) or _PATIENCE_S)
        wait_s = 0.5
        while True:
            try:
                return function()
            except self._client.failures as error:
                if isinstance(error, OSError) and error.filename is not None:
                    raise  # Of this machine: a full disk.
                refused = self._client.refusal(error)
                if refused:
                    raise command.InputError(refused) from None
                said = clients.first_line(error)
            if time.monotonic() - begun + wait_s > patience_s:
                raise StoreUnavailableError(
                    f"{self._name} does not answer ({doing}): {said}. Given up after "
                    f"{time.monotonic() - begun:.0f} s; {PATIENCE} sets how long to wait."
                )
            logging.warning(
                "%s: %s failed: %s. Trying again in %.1f s.", self._name, doing, said, wait_s
            )
            time.sleep(wait_s)
            wait_s = min(2 * wait_s, _LONGEST_WAIT_S)


@functools.lru_cache(maxsize=64)
def bucket_of(scheme: str, bucket: str) -> Bucket:
    """Returns the client of a bucket, the same one each time."""
    return Bucket(Location(scheme, bucket, ""))


def at(location: Location) -> Bucket:
    """Returns the client of the bucket that a location lies in."""
    return bucket_of(location.scheme, location.bucket)
