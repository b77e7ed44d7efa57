"""How a store is opened: extras, credentials, endpoints; and what its refusals mean.

Credentials and endpoint come from where the stores' own libraries look: ``AWS_ACCESS_KEY_ID``,
``AWS_SECRET_ACCESS_KEY``, ``AWS_REGION``, ``AWS_ENDPOINT_URL`` and so on, else whatever boto3 finds
(profiles, single sign-on, the machine's role); ``GOOGLE_APPLICATION_CREDENTIALS``, else gcloud's or
the machine's; ``STORAGE_EMULATOR_HOST`` for an emulator, which is asked without credentials.
"""

import datetime
import importlib.util
import os
import re
from typing import Any

from features import command
from features.stores.locations import Location

_EXTRAS = {"s3": "s3", "gs": "gcs"}
_CREDENTIALS = {
    "s3": "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_ENDPOINT_URL, or a profile",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS",
}
_REQUEST_TIMEOUT = "120s"


def open_client(scheme: str, bucket: str) -> Any:
    """Returns obstore's client."""
    if importlib.util.find_spec("obstore") is None:
        raise command.InputError(
            f"{scheme}://{bucket}: paths of {scheme}:// need an extra that is not installed: "
            f"pip install 'watchnext[{_EXTRAS[scheme]}]', in the checkout pip install "
            f"'.[{_EXTRAS[scheme]}]'."
        )
    from obstore.store import GCSStore, S3Store

    client: dict[str, Any] = {"timeout": _REQUEST_TIMEOUT, "connect_timeout": "10s"}
    # The client's own retries are short and silent; the longer ones are ours.
    retries = {"max_retries": 3, "retry_timeout": datetime.timedelta(seconds=15)}
    try:
        if scheme == "gs":
            emulator = os.environ.get("STORAGE_EMULATOR_HOST", "")
            if not emulator:
                return GCSStore(bucket, client_options=client, retry_config=retries)
            url = emulator if "://" in emulator else f"http://{emulator}"
            client["allow_http"] = url.startswith("http://")
            return GCSStore(
                bucket,
                client_options=client,
                retry_config=retries,
                base_url=url,
                skip_signature=True,
            )
        endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
        settings: dict[str, Any] = {}
        if endpoint:
            settings["endpoint"] = endpoint
            client["allow_http"] = endpoint.startswith("http://")
        if not (os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")):
            settings["region"] = "us-east-1"
        provider = _provider_of_boto3()
        if provider is not None:
            settings["credential_provider"] = provider
        return S3Store(bucket, client_options=client, retry_config=retries, **settings)
    except Exception as error:
        raise command.InputError(
            f"{scheme}://{bucket} cannot be opened: {first_line(error)}"
        ) from None


def _provider_of_boto3() -> Any:
    """Returns where boto3 finds credentials, for those that are not in the environment."""
    if os.environ.get("AWS_ACCESS_KEY_ID") or importlib.util.find_spec("boto3") is None:
        return None
    import boto3
    from obstore.auth.boto3 import Boto3CredentialProvider

    session = boto3.Session()
    return Boto3CredentialProvider(session) if session.get_credentials() is not None else None


def refusal(location: Location, error: Exception) -> str:
    """Says in one message why a store will never do what was asked; "" where it may yet."""
    import obstore

    text = str(error)
    store = f"{location.scheme}://{location.bucket}"
    if isinstance(error, obstore.exceptions.PermissionDeniedError | PermissionError) or any(
        code in text for code in ("InvalidAccessKeyId", "SignatureDoesNotMatch", "AccessDenied")
    ):
        return (
            f"{store} refuses these credentials: {first_line(error)}. Check the user's rights and "
            f"{_CREDENTIALS[location.scheme]}."
        )
    is_unknown = isinstance(error, obstore.exceptions.UnauthenticatedError)
    if is_unknown or "instance metadata" in text or "metadata.google" in text:
        return (
            f"{store} needs credentials that it knows: {first_line(error)}. Set "
            f"{_CREDENTIALS[location.scheme]}."
        )
    if isinstance(error, FileNotFoundError) or "NoSuchBucket" in text:
        return f"{store} does not exist: create the bucket, or give another path."
    if isinstance(error, ValueError | obstore.exceptions.InvalidPathError):
        return f"{store}: {first_line(error)}"
    if isinstance(error, obstore.exceptions.NotSupportedError):
        return (
            f"{store} has no conditional writes (If-Match, If-None-Match), without which nothing "
            f"can be published there safely: {first_line(error)}"
        )
    return ""


def first_line(error: BaseException) -> str:
    """Returns what an error says before the client's own dump of it."""
    text = re.split(r"\n\s*\nDebug source:|Debug source:", str(error))[0]
    return " ".join(text.split())[:300].rstrip(".")
