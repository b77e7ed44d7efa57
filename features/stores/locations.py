"""Places in object stores: their URLs and what these are made of."""

import dataclasses
import re

from features import command

_URL = re.compile(r"(s3|gs)://([^/]+)/*(.*)", re.DOTALL)


@dataclasses.dataclass(frozen=True, order=True)
class Location:
    """A place in a store.

    Attributes:
        scheme: ``s3`` or ``gs``.
        bucket: Name of the bucket.
        key: Key of an object, or of what a prefix of keys makes look like a directory; without
            slashes around it.
    """

    scheme: str
    bucket: str
    key: str

    def __str__(self) -> str:
        return f"{self.scheme}://{self.bucket}/{self.key}"

    def __truediv__(self, name: str) -> "Location":
        return dataclasses.replace(self, key=f"{self.key}/{name}" if self.key else name)

    @property
    def name(self) -> str:
        """The last part of the key; the bucket's name where there is no key."""
        return self.key.rpartition("/")[2] or self.bucket


def is_remote(path: object) -> bool:
    """Returns whether a path is in an object store."""
    return isinstance(path, str) and _URL.match(path) is not None


def parse(url: str) -> Location:
    """Returns the place that a URL names.

    Raises:
        InputError: It is no URL of a store, or names what no file can be called.
    """
    match = _URL.fullmatch(url)
    if match is None:
        raise command.InputError(f"{url!r} must be s3://BUCKET/PATH or gs://BUCKET/PATH.")
    scheme, bucket, key = match.groups()
    parts = [part for part in key.split("/") if part]
    if {".", ".."} & set(parts):
        raise command.InputError(f"{url} must not have . or .. among its parts.")
    return Location(scheme, bucket, "/".join(parts))
