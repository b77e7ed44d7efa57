"""S3, and what speaks its language, by obstore (Python's door to Rust's object_store).

obstore, since a publication needs writes that succeed only if an object is the one that was read,
or is not there (``If-Match``, ``If-None-Match``). Neither pyarrow's file systems nor Beam's have
them; s3fs has, at the price of a botocore that boto3, which Beam reads S3 with, refuses.

Credentials and endpoint: ``AWS_ACCESS_KEY_ID``, ``AWS_SECRET_ACCESS_KEY``, ``AWS_REGION``,
``AWS_ENDPOINT_URL`` and so on; without a key what boto3 finds (profiles, single sign-on, the
machine's role).
"""

import contextlib
import datetime
import importlib.util
import os
import pathlib
import time
from collections.abc import Iterator, Sequence
from typing import Any

import obstore
from obstore import exceptions
from obstore.store import S3Store

from features.stores import clients
from features.stores.clients import ConflictError, Meta

# Parts of an upload are sent side by side; a smaller object is one request, and appears with it.
_PART_BYTES = 32 << 20
_REFUSED = ("InvalidAccessKeyId", "SignatureDoesNotMatch", "AccessDenied", "InvalidToken")


class S3Client:
    """A bucket of S3; see :class:`features.stores.clients.Client`."""

    failures: tuple[type[Exception], ...] = (exceptions.BaseError, OSError, ValueError)

    def __init__(self, bucket: str) -> None:
        """Opens the bucket; asks it nothing."""
        self._name = f"s3://{bucket}"
        client: Any = {"timeout": "120s", "connect_timeout": "10s"}
        settings: Any = {}
        endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
        if endpoint:
            settings["endpoint"] = endpoint
            client["allow_http"] = endpoint.startswith("http://")
        if not (os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")):
            settings["region"] = "us-east-1"
        provider = _provider_of_boto3()
        if provider is not None:
            settings["credential_provider"] = provider
        self._store = S3Store(
            bucket,
            client_options=client,
            # The client's own retries are short and silent; the longer ones are ours.
            retry_config={"max_retries": 3, "retry_timeout": datetime.timedelta(seconds=15)},
            **settings,
        )

    def get(self, key: str) -> tuple[bytes, Meta]:
        """Returns an object's content."""
        got = obstore.get(self._store, key)
        return bytes(got.bytes()), _meta(got.meta)

    def blocks(self, meta: Meta) -> tuple[int, Iterator[bytes]]:
        """Returns the size and the content of an object in that very version."""
        options: Any = {"if_match": meta.token["e_tag"]} if meta.token.get("e_tag") else {}
        try:
            got = obstore.get(self._store, meta.key, options=options)
        except exceptions.PreconditionError as error:
            raise ConflictError(f"{self._name}/{meta.key} was replaced meanwhile") from error
        return int(got.meta["size"]), iter(got.stream())

    def head(self, key: str) -> Meta:
        """Returns what is known of an object."""
        return _meta(obstore.head(self._store, key))

    def put(self, key: str, content: bytes | pathlib.Path, mode: Any) -> Meta:
        """Writes an object, on condition."""
        size = len(content) if isinstance(content, bytes) else content.stat().st_size
        data = content if isinstance(content, bytes) or size else b""
        try:
            got: Any = obstore.put(
                self._store, key, data, mode=mode, chunk_size=_PART_BYTES, max_concurrency=4
            )
        except (exceptions.AlreadyExistsError, exceptions.PreconditionError) as error:
            raise ConflictError(f"{self._name}/{key} is not what it was") from error
        except FileNotFoundError as error:
            if isinstance(mode, str):
                raise
            raise ConflictError(f"{self._name}/{key} is gone") from error
        return Meta(key=key, size=size, tag=_tag(got), modified_s=time.time(), token=_token(got))

    def list(self, prefix: str) -> list[Meta]:
        """Returns the objects below a prefix."""
        chunks: Any = obstore.list(self._store, prefix=prefix or None)
        return [_meta(item) for chunk in chunks for item in chunk]

    def delete(self, keys: Sequence[str]) -> None:
        """Removes objects."""
        with contextlib.suppress(FileNotFoundError):
            obstore.delete(self._store, list(keys))

    def refusal(self, error: Exception) -> str:
        """Says why the store will never do it."""
        said = clients.first_line(error)
        names = "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_ENDPOINT_URL, or the profile"
        is_refused = isinstance(error, exceptions.PermissionDeniedError | PermissionError)
        if is_refused or any(code in str(error) for code in _REFUSED):
            return f"{self._name} refuses these credentials: {said}. Check {names}, and its rights."
        is_unknown = isinstance(error, exceptions.UnauthenticatedError)
        if is_unknown or "instance metadata" in str(error) or "169.254.169.254" in str(error):
            return f"{self._name} needs credentials that it knows: {said}. Set {names}."
        if isinstance(error, FileNotFoundError) or "NoSuchBucket" in str(error):
            return clients.no_bucket(self._name)
        if isinstance(error, exceptions.NotSupportedError) or "NotImplemented" in str(error):
            return (
                f"{self._name} has no conditional writes (If-Match, If-None-Match), without which "
                f"nothing can be published there safely: {said}."
            )
        if isinstance(error, ValueError | exceptions.InvalidPathError):
            return f"{self._name}: {said}."
        return ""


def _provider_of_boto3() -> Any:
    """Returns where boto3 finds credentials, for those that are not in the environment."""
    if os.environ.get("AWS_ACCESS_KEY_ID") or importlib.util.find_spec("boto3") is None:
        return None
    import boto3
    from obstore.auth.boto3 import Boto3CredentialProvider

    session = boto3.Session()
    return Boto3CredentialProvider(session) if session.get_credentials() is not None else None


def _meta(item: Any) -> Meta:
    return Meta(
        key=item["path"],
        size=int(item["size"]),
        tag=_tag(item),
        modified_s=item["last_modified"].timestamp(),
        token=_token(item),
    )


def _token(item: Any) -> dict[str, str]:
    return {name: item[name] for name in ("e_tag", "version") if item.get(name)}


def _tag(item: Any) -> str:
    return str(item.get("e_tag") or item.get("version") or "").strip('"')
