"""What is asked of the client of a store, whoever's it is; and which client is whose."""

import dataclasses
import pathlib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

from features import command


class ConflictError(Exception):
    """An object is not the one that a conditional read or write was about."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Meta:
    """What a store says of an object.

    Attributes:
        key: Key of the object.
        size: Bytes.
        tag: What changes whenever the content does: S3's entity tag, Google's generation.
        modified_s: Time of the last write by the store's clock, Unix seconds.
        token: What conditional reads and writes take to mean this very content; empty for any.
    """

    key: str
    size: int
    tag: str
    modified_s: float = dataclasses.field(compare=False)
    token: Mapping[str, Any] = dataclasses.field(repr=False, compare=False)


class Client(Protocol):
    """One bucket; safe for threads.

    What is not there is a FileNotFoundError, an unmet condition a :class:`ConflictError`, and what
    may pass one of :attr:`failures`.
    """

    failures: tuple[type[Exception], ...]

    def get(self, key: str) -> tuple[bytes, Meta]:
        """Returns an object's content."""

    def blocks(self, meta: Meta) -> tuple[int, Iterator[bytes]]:
        """Returns the size and the content, in blocks, of an object in that very version."""

    def head(self, key: str) -> Meta:
        """Returns what is known of an object."""

    def put(self, key: str, content: bytes | pathlib.Path, mode: Any) -> Meta:
        """Writes an object; ``mode`` is ``overwrite``, ``create`` or a token."""

    def list(self, prefix: str) -> list[Meta]:
        """Returns the objects below a prefix, which is empty or ends at a slash."""

    def delete(self, keys: Sequence[str]) -> None:
        """Removes objects; one that is gone is no error."""

    def refusal(self, error: Exception) -> str:
        """Says in one message why the store will never do it; "" where it may yet."""


def open_client(scheme: str, bucket: str) -> Client:
    """Opens a bucket.

    Raises:
        InputError: The extra is not installed, or the settings cannot be used.
    """
    try:
        if scheme == "gs":
            from features.stores import google_client

            return google_client.GoogleClient(bucket)
        from features.stores import s3_client

        return s3_client.S3Client(bucket)
    except ImportError as error:
        extra = {"s3": "s3", "gs": "gcs"}[scheme]
        raise command.InputError(
            f"{scheme}://{bucket}: paths of {scheme}:// need an extra that is not installed "
            f"({error}): pip install '.[{extra}]' in the checkout."
        ) from None
    except command.InputError:
        raise
    except Exception as error:
        raise command.InputError(
            f"{scheme}://{bucket} cannot be opened: {first_line(error)}."
        ) from None


def no_bucket(store: str) -> str:
    """Returns what is said of a bucket that is not there."""
    return f"{store} does not exist: create the bucket, or give another path."


def first_line(error: BaseException) -> str:
    """Returns what an error says before a client's own dump of it."""
    text = re.split(r"\n\s*\nDebug source:|Debug source:", str(error))[0]
    return " ".join(text.split())[:300].rstrip(".")
