"""Waits at the start until the model server can be asked for the release that is to serve.

A model server opens its port only when all its models are loaded, or has tried, and one that has
run before loads a new version within seconds or minutes. So "not yet" is the usual answer to a
funnel that is started beside it, and no error until the time for it is over.
"""

import time

from absl import logging

from features import command
from serving.release import manifest as release
from serving.servables.tensorflow_serving import Backend

_POLL_S = 0.5
_TELL_EVERY_S = 10.0


def wait(backend: Backend, manifest: release.Manifest, *, up_to_s: float) -> None:
    """Returns when the models of a release can be asked; tells every 10 s what it waits for.

    Args:
        backend: Backend whose servers are asked; one of several that has the models is enough.
        manifest: Manifest of the release.
        up_to_s: Longest wait, seconds; 0 asks once.

    Raises:
        command.InputError: They cannot be asked in time: says why, and what to look at.
    """
    started = time.monotonic()
    tell_at = started
    while lacks := backend.lacks(manifest):
        now = time.monotonic()
        if now - started >= up_to_s:
            raise command.InputError(
                f"the model server cannot be asked for release {manifest.version} after "
                f"{now - started:.0f} s: {lacks}. Look whether it runs (its log says what it "
                "loads), whether --model_server names its gRPC port (--port there, not "
                "--rest_api_port), whether it reads tf_serving/models.config below this "
                "--serving_root, and whether it asks for TLS (--model_server_ca). Where models "
                "only take longer, give a higher --model_server_wait_s."
            )
        if now >= tell_at:
            logging.info(
                "Waiting for the model server, %.0f of %.0f s: %s", now - started, up_to_s, lacks
            )
            tell_at = now + _TELL_EVERY_S
        time.sleep(_POLL_S)
    if tell_at > started:
        logging.info("The model server has release %s.", manifest.version)
