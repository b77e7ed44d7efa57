"""Google Cloud Storage by Google's own library, which Beam has with it.

Conditions are generations of objects. Credentials: ``GOOGLE_APPLICATION_CREDENTIALS``, else
gcloud's or the machine's; an emulator at ``STORAGE_EMULATOR_HOST`` is asked without.
"""

import concurrent.futures
import contextlib
import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import google.auth.exceptions
import requests
import urllib3
from google.api_core import exceptions
from google.auth import credentials
from google.cloud import storage

from features.stores import clients
from features.stores.clients import ConflictError, Meta

_THREADS = 8
_TIMEOUT_S = (10, 120)
_BLOCK_BYTES = 8 << 20


class GoogleClient:
    """A bucket of Google's; see :class:`features.stores.clients.Client`."""

    failures: tuple[type[Exception], ...] = (
        exceptions.GoogleAPIError,
        google.auth.exceptions.GoogleAuthError,
        requests.exceptions.RequestException,
        urllib3.exceptions.HTTPError,
        OSError,
        ValueError,
    )

    def __init__(self, bucket: str) -> None:
        """Opens the bucket; asks it nothing."""
        self._name = f"gs://{bucket}"
        if os.environ.get("STORAGE_EMULATOR_HOST"):
            client = storage.Client(project="-", credentials=credentials.AnonymousCredentials())
        else:
            client = storage.Client()
        self._client = client
        self._bucket = client.bucket(bucket)

    def get(self, key: str) -> tuple[bytes, Meta]:
        """Returns an object's content."""
        meta = self.head(key)
        _, blocks = self.blocks(meta)
        return b"".join(blocks), meta

    def blocks(self, meta: Meta) -> tuple[int, Iterator[bytes]]:
        """Returns the size and the content of an object in that very version."""
        # One that no token names is read in the version that stands there now.
        current = meta if meta.token.get("generation") else self.head(meta.key)
        blob = self._bucket.blob(meta.key, generation=current.token["generation"])

        def read() -> Iterator[bytes]:
            try:
                for start in range(0, current.size, _BLOCK_BYTES):
                    end = min(start + _BLOCK_BYTES, current.size) - 1
                    yield blob.download_as_bytes(
                        start=start, end=end, timeout=_TIMEOUT_S, retry=None, raw_download=True
                    )
            except exceptions.NotFound as error:
                raise ConflictError(f"{self._name}/{meta.key} was replaced meanwhile") from error

        return current.size, read()

    def head(self, key: str) -> Meta:
        """Returns what is known of an object."""
        blob = self._bucket.get_blob(key, timeout=_TIMEOUT_S, retry=None)
        if blob is None:
            raise FileNotFoundError(f"{self._name}/{key}")
        return _meta(blob)

    def put(self, key: str, content: bytes | pathlib.Path, mode: Any) -> Meta:
        """Writes an object, on condition."""
        blob = self._bucket.blob(key)
        conditions = {"overwrite": None, "create": 0}
        condition = conditions[mode] if isinstance(mode, str) else mode["generation"]
        given: dict[str, Any] = {
            "if_generation_match": condition,
            "timeout": _TIMEOUT_S,
            "retry": None,
        }
        try:
            if isinstance(content, bytes):
                blob.upload_from_string(content, "application/octet-stream", **given)
            else:
                blob.upload_from_filename(str(content), "application/octet-stream", **given)
        except exceptions.PreconditionFailed as error:
            raise ConflictError(f"{self._name}/{key} is not what it was") from error
        return _meta(blob)

    def list(self, prefix: str) -> list[Meta]:
        """Returns the objects below a prefix."""
        blobs = self._client.list_blobs(
            self._bucket, prefix=prefix or None, timeout=_TIMEOUT_S, retry=None
        )
        return [_meta(blob) for blob in blobs]

    def delete(self, keys: Sequence[str]) -> None:
        """Removes objects."""

        def remove(key: str) -> None:
            with contextlib.suppress(exceptions.NotFound):
                self._bucket.blob(key).delete(timeout=_TIMEOUT_S, retry=None)

        with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
            for call in [pool.submit(remove, key) for key in keys]:
                call.result()

    def refusal(self, error: Exception) -> str:
        """Says why the store will never do it."""
        said = clients.first_line(error)
        if isinstance(error, exceptions.Forbidden | exceptions.Unauthorized):
            return (
                f"{self._name} refuses these credentials: {said}. Check "
                "GOOGLE_APPLICATION_CREDENTIALS, and its rights."
            )
        if isinstance(
            error,
            google.auth.exceptions.DefaultCredentialsError | google.auth.exceptions.RefreshError,
        ):
            return (
                f"{self._name} needs credentials that it knows: {said}. Set "
                "GOOGLE_APPLICATION_CREDENTIALS."
            )
        if isinstance(error, exceptions.NotFound | FileNotFoundError):
            return clients.no_bucket(self._name)
        if isinstance(error, exceptions.BadRequest) or type(error) is ValueError:
            return f"{self._name}: {said}."
        return ""


def _meta(blob: Any) -> Meta:
    return Meta(
        key=blob.name,
        size=int(blob.size),
        tag=str(blob.generation),
        modified_s=blob.updated.timestamp() if blob.updated else 0.0,
        token={"generation": int(blob.generation)},
    )
