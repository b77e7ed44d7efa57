"""Objects of S3 and Google Cloud Storage: read, listed, and written on condition.

One client speaks both (obstore, Python's door to Rust's object_store), because what a publication
needs is a write that succeeds only if the object is the one that was read, or is not there:
``If-Match`` and ``If-None-Match`` of S3, generations of Google's. Neither pyarrow's file systems
nor Beam's have that, and s3fs has it for S3 alone, at the price of a botocore that boto3 refuses.
"""

import contextlib
import dataclasses
import functools
import os
import pathlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from absl import logging

from features import command
from features.stores import clients
from features.stores.locations import Location

# How long a store may not answer before a command gives up; it says so each time it tries again.
PATIENCE = "WATCHNEXT_STORE_PATIENCE_S"
_PATIENCE_S = 120.0
_LONGEST_WAIT_S = 15.0
# Parts of an upload are sent side by side; a smaller object is one request, and appears with it.
_PART_BYTES = 32 << 20
_DELETED_AT_ONCE = 1000

T = TypeVar("T")


class StoreUnavailableError(command.InputError, OSError):
    """A store did not answer for longer than it was waited for."""


class ConflictError(Exception):
    """An object is not the one that a conditional write was to replace."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Meta:
    """What a store says of an object.

    Attributes:
        key: Key of the object.
        size: Bytes.
        tag: What changes whenever the content does: S3's entity tag, Google's generation.
        modified_s: Time of the last write by the store's clock, Unix seconds.
        token: What :meth:`Bucket.write` takes to replace this very content.
    """

    key: str
    size: int
    tag: str
    modified_s: float = dataclasses.field(compare=False)
    token: Any = dataclasses.field(repr=False, compare=False)


class Bucket:
    """A bucket; safe for threads. What fails for a while is tried again, and says so."""

    def __init__(self, location: Location) -> None:
        """Opens the bucket that a location lies in.

        Raises:
            InputError: The extra is not installed, or the settings cannot be used.
        """
        self._location = dataclasses.replace(location, key="")
        self._store = clients.open_client(location.scheme, location.bucket)

    def read(self, key: str, *, unless: Meta | None = None) -> tuple[bytes, Meta] | None:
        """Returns an object's content and what is known of it; None where there is none.

        Args:
            key: Key of the object.
            unless: What is known already: None is returned where the object is still that.
        """
        import obstore

        options = {"if_none_match": unless.token["e_tag"]} if unless else {}

        def get() -> tuple[bytes, Meta] | None:
            try:
                got = obstore.get(self._store, key, options=options)
                return bytes(got.bytes()), _meta(got.meta)
            except (FileNotFoundError, obstore.exceptions.NotModifiedError):
                return None

        return self._tried(get, f"reading {key}")

    def download(self, meta: Meta, path: pathlib.Path) -> None:
        """Writes an object's content to a new file, durably.

        Args:
            meta: Object that was listed; without a token whatever has its key and size.
            path: File to write.

        Raises:
            ConflictError: The object is no longer the one that was listed.
        """
        import obstore

        options = {"if_match": meta.token["e_tag"]} if meta.token.get("e_tag") else {}

        def get() -> None:
            try:
                got = obstore.get(self._store, meta.key, options=options)
                if got.meta["size"] != meta.size:
                    raise ConflictError(
                        f"{self._named(meta.key)} has {got.meta['size']} bytes instead of "
                        f"{meta.size}"
                    )
                with path.open("wb") as file:
                    for block in got.stream():
                        file.write(block)
                    file.flush()
                    os.fsync(file.fileno())
                if path.stat().st_size != meta.size:
                    raise OSError(f"got {path.stat().st_size} of {meta.size} bytes")
            except (FileNotFoundError, obstore.exceptions.PreconditionError) as error:
                raise ConflictError(f"{self._named(meta.key)} was replaced meanwhile") from error

        self._tried(get, f"reading {meta.key}")

    def head(self, key: str) -> Meta | None:
        """Returns what is known of an object; None where there is none."""
        import obstore

        def ask() -> Meta | None:
            try:
                return _meta(obstore.head(self._store, key))
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
        import obstore

        size = len(content) if isinstance(content, bytes) else content.stat().st_size
        data = content if isinstance(content, bytes) or size else b""

        def put() -> Meta:
            try:
                got = obstore.put(
                    self._store, key, data, mode=mode, chunk_size=_PART_BYTES, max_concurrency=4
                )
            except (
                obstore.exceptions.AlreadyExistsError,
                obstore.exceptions.PreconditionError,
                FileNotFoundError,
            ) as error:
                if isinstance(error, FileNotFoundError) and mode == "overwrite":
                    raise
                raise ConflictError(f"{self._named(key)} is not what it was") from error
            return Meta(
                key=key, size=size, tag=_tag(got), modified_s=time.time(), token=_token(got)
            )

        try:
            return self._tried(put, f"writing {key}")
        except ConflictError:
            # An answer may have been lost, and the request was sent again: then it is ours.
            found = self.read(key) if isinstance(content, bytes) else None
            if found is None or found[0] != content:
                raise
            return found[1]

    def list(self, prefix: str) -> Iterator[Meta]:
        """Yields the objects below a prefix, which ends at a slash, in the order of their keys."""
        import obstore

        def everything() -> list[Meta]:
            chunks = obstore.list(self._store, prefix=prefix or None)
            return [_meta(found) for chunk in chunks for found in chunk]

        yield from sorted(self._tried(everything, f"listing {prefix}"), key=lambda meta: meta.key)

    def delete(self, keys: Sequence[str]) -> None:
        """Removes objects; one that is gone is no error."""
        import obstore

        for first in range(0, len(keys), _DELETED_AT_ONCE):
            part = list(keys[first : first + _DELETED_AT_ONCE])

            def remove(part: list[str] = part) -> None:
                with contextlib.suppress(FileNotFoundError):
                    obstore.delete(self._store, part)
                    return
                for key in part:
                    with contextlib.suppress(FileNotFoundError):
                        obstore.delete(self._store, key)

            self._tried(remove, f"removing {len(part)} objects")

    def _named(self, key: str) -> str:
        return str(self._location / key)

    def _tried(self, function: Callable[[], T], doing: str) -> T:
        """Returns what a function returns; one that fails for a while is called again.

        Raises:
            InputError: The store refuses, for good, or did not answer for too long.
        """
        import obstore

        begun = time.monotonic()
        patience_s = float(os.environ.get(PATIENCE) or _PATIENCE_S)
        wait_s = 0.5
        while True:
            try:
                return function()
            except (obstore.exceptions.BaseError, OSError, ValueError) as error:
                if isinstance(error, OSError) and error.errno is not None:
                    raise  # Of this machine: a full disk.
                refused = clients.refusal(self._location, error)
                if refused:
                    raise command.InputError(refused) from None
                if time.monotonic() - begun + wait_s > patience_s:
                    raise StoreUnavailableError(
                        f"{self._location} does not answer ({doing}): "
                        f"{clients.first_line(error)}. Given up after "
                        f"{time.monotonic() - begun:.0f} s; {PATIENCE} sets how long to wait."
                    ) from None
                logging.warning(
                    "%s: %s failed: %s. Trying again in %.1f s.",
                    *(self._location, doing, clients.first_line(error), wait_s),
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


def _meta(found: Any) -> Meta:
    return Meta(
        key=found["path"],
        size=int(found["size"]),
        tag=_tag(found),
        modified_s=found["last_modified"].timestamp(),
        token=_token(found),
    )


def _token(found: Any) -> dict[str, str]:
    return {name: found[name] for name in ("e_tag", "version") if found.get(name)}


def _tag(found: Any) -> str:
    return str(found.get("e_tag") or found.get("version") or "").strip('"')
