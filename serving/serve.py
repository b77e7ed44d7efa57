"""Serves recommendations over HTTP, with a page to look at them.

    python -m serving.serve --serving_root=serving_root --port=8080

The release that ``CURRENT`` names is served, and followed when a new one is published. Models
run in this process, or in TensorFlow Serving with ``--model_server``. What users do and are
shown goes to ``--logs`` in the layout of the raw logs, where the next retraining reads it; an
empty history store is filled from there first. SIGTERM and Ctrl-C drain: requests in flight are
answered, the event log is compacted, the exit code is 0.
"""

import pathlib
import time
from collections.abc import Callable, Sequence

from absl import flags, logging

from features import command
from serving import listening, release

_SERVING_ROOT = flags.DEFINE_string(
    "serving_root", None, "Where releases are published.", required=True
)
_HOST = flags.DEFINE_string(
    "host", "127.0.0.1", "Address to listen on; 0.0.0.0 is open to everybody."
)
_PORT = flags.DEFINE_integer("port", 8080, "Port; 0 takes a free one.", 0, 65535)
_LOGS = flags.DEFINE_string(
    "logs", None, "Raw logs to add events to. Default: <serving_root>/logs."
)
_HISTORY = flags.DEFINE_string(
    "history", None, "SQLite file of the history store. Default: <serving_root>/history.sqlite."
)
_MODEL_SERVER = flags.DEFINE_string(
    "model_server", None, "HOST:PORT of TensorFlow Serving's gRPC. Default: models run in here."
)
_THREADS = flags.DEFINE_integer("threads", 8, "Requests worked on at a time.", 1, 256)
_MAX_WAITING = flags.DEFINE_integer(
    "max_waiting", 64, "Requests that may wait for a thread; more get 503.", 0, 100_000
)
_NOW = flags.DEFINE_string(
    "now",
    None,
    "ISO 8601 time at which the server's clock starts, to serve old logs as of their end; "
    "only history before it is taken from the logs. Default: the machine's clock.",
)


def main(argv: Sequence[str]) -> None:
    """Builds the service and runs it until a signal."""
    del argv
    command.quiet_tensorflow()
    clock = _clock(command.parse_time(_NOW.value, name="--now"))
    root = pathlib.Path(_SERVING_ROOT.value)
    # The likeliest mistakes, before anything that takes long.
    release.current(root)
    listening.require_free_port(_HOST.value, _PORT.value)
    from serving import server, service

    built = service.build(
        service.ServiceConfig(
            serving_root=root,
            logs=pathlib.Path(_LOGS.value or root / "logs"),
            history=pathlib.Path(_HISTORY.value or root / "history.sqlite"),
            model_server=_MODEL_SERVER.value,
            threads=_THREADS.value,
            max_waiting=_MAX_WAITING.value,
        ),
        clock=clock,
    )
    try:
        server.run(built, host=_HOST.value, port=_PORT.value, on_ready=_announce)
    finally:
        built.on_close()
    logging.info("Stopped.")


def _announce(address: str) -> None:
    print(f"Serving at {address} (API: {address}/docs). Ctrl-C stops.", flush=True)


def _clock(start_s: int | None) -> Callable[[], float]:
    if start_s is None:
        return time.time
    offset = start_s - time.time()
    return lambda: time.time() + offset


if __name__ == "__main__":
    command.run(main)
