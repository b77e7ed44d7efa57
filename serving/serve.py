"""Serves recommendations over HTTP, with a page to look at them.

    python -m serving.serve --serving_root=serving_root --port=8080

The release that ``CURRENT`` names is served, and followed when a new one is published. Models
run in here, or in TensorFlow Serving with ``--model_server``. What users do and are
shown goes to ``--logs`` in the layout of the raw logs, where the next retraining reads it; an
empty history store is filled from there first. SIGTERM and Ctrl-C drain: requests in flight are
answered, the exit code is 0; impressions whose click may still come wait in the event log.

A child of this process serves. A small release is swapped in there; a large one is loaded by a new
child, which then takes the place of the first. Port and process id stay the same.
"""

import os
import pathlib
import socket
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from absl import flags, logging

from features import command
from features.durations import DAY_S
from serving.history import redis_connection
from serving.process import cores, handover, listening, supervisor
from serving.release import manifest as release

if TYPE_CHECKING:  # They load TensorFlow, which --help and the parent do without.
    from serving.funnel import page
    from serving.server import service

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
    "history",
    None,
    "History store: a SQLite file, or redis://HOST:PORT/DATABASE for replicas. "
    "Default: <serving_root>/history.sqlite.",
)
_HISTORY_PASSWORD_FILE = flags.DEFINE_string(
    "history_password_file",
    None,
    "File with the password of the Redis server. Default: the environment variable "
    "WATCHNEXT_REDIS_PASSWORD, or none.",
)
_MODEL_SERVER = flags.DEFINE_string(
    "model_server",
    None,
    "HOST:PORT of TensorFlow Serving's gRPC; several replicas with commas. Default: models run in "
    "here.",
)
_MODEL_SERVER_CA = flags.DEFINE_string(
    "model_server_ca",
    None,
    "PEM file of the authorities behind the model servers' certificates, or 'system' for those "
    "of the machine. Default: no TLS.",
)
_PRECISION = flags.DEFINE_enum(
    "precision",
    "auto",
    ["auto", "float32", "bfloat16"],
    "In which the ranker multiplies. bfloat16 is faster on some machines and changes expected "
    "watch times by about a per cent, and so the order of videos of nearly the same value. auto "
    "tries which is faster here, and remembers it; with --model_server it is float32.",
)
_MODEL_SERVER_WAIT_S = flags.DEFINE_float(
    "model_server_wait_s",
    240.0,
    "How long the start waits until the model server has loaded the release.",
    0.0,
)
_THREADS = flags.DEFINE_integer("threads", 8, "Requests worked on at a time.", 1, 256)
_MAX_WAITING = flags.DEFINE_integer(
    "max_waiting", 64, "Requests that may wait for a thread; more get 503.", 0, 100_000
)
_MAX_CONNECTIONS = flags.DEFINE_integer(
    "max_connections",
    1000,
    "Open connections; one more takes the place of the one that has sent nothing whole for "
    "longest.",
    1,
    60_000,
)
_HISTORY_DEADLINE_S = flags.DEFINE_float(
    "history_deadline_s", 1.0, "Then a page is made without history.", 0.001
)
_QUERY_TOWER_DEADLINE_S = flags.DEFINE_float(
    "query_tower_deadline_s", 1.0, "Then the user's last embedding stands in.", 0.001
)
_SOURCES_DEADLINE_S = flags.DEFINE_float(
    "sources_deadline_s",
    1.0,
    "For all candidate sources; the page is made without late ones.",
    0.001,
)
_RANKER_DEADLINE_S = flags.DEFINE_float(
    "ranker_deadline_s", 2.0, "Then pages are ordered by retrieval score.", 0.001
)
_RETRIEVED = flags.DEFINE_integer("retrieved", 250, "Candidates from the index.", 1, 10_000)
_PER_CHANNEL = flags.DEFINE_integer(
    "per_channel", 3, "Videos of one channel on a page, while there are others.", 1
)
_MAX_SHOWN = flags.DEFINE_integer(
    "max_shown", 20, "A video shown to a user so often in --shown_window_s rests; 0: no limit.", 0
)
_SHOWN_WINDOW_S = flags.DEFINE_integer("shown_window_s", DAY_S, "See --max_shown.", 1)
_FILTER = flags.DEFINE_string(
    "filter",
    None,
    "MODULE:FUNCTION of your own: takes the viewer, the catalogue and rows, returns whether each "
    "video may be shown (bool array).",
)
_EXPERIMENT = flags.DEFINE_string(
    "experiment", None, "JSON file that splits users between releases or settings."
)
_TOKEN_FILE = flags.DEFINE_string(
    "token_file",
    None,
    "File with the bearer token that callers must send. Default: the environment variable "
    "WATCHNEXT_TOKEN; without either everybody is let in.",
)
_ADMIN_TOKEN_FILE = flags.DEFINE_string(
    "admin_token_file",
    None,
    "File with the bearer token for the console (/console), without which nothing can be changed "
    "from it. Default: the environment variable WATCHNEXT_ADMIN_TOKEN; without either the console "
    "can be read by whoever may ask for pages.",
)
_ALLOWED_HOSTS = flags.DEFINE_list(
    "allowed_hosts",
    [],
    "Names by which requests may call this server (Host header, without port); * is any. Default: "
    "any, and on loopback only those of loopback, as a page of the web could give itself its "
    "address.",
)
_IMAGE_HOSTS = flags.DEFINE_list(
    "image_hosts",
    [],
    "Hosts from which the page may load thumbnails (column thumbnail_url of the videos table, "
    "https alone), such as i.example.org or *.example.org. Default: none; thumbnails are drawn.",
)
_TRACES = flags.DEFINE_string(
    "traces", None, "OTLP endpoint for OpenTelemetry traces, as http://localhost:4318/v1/traces."
)
_NOW = flags.DEFINE_string(
    "now",
    None,
    "ISO 8601 time at which the server's clock starts, to serve old logs as of their end; "
    "only history before it is taken from the logs. Default: the machine's clock.",
)
_HAND_OVER_FROM_MB = flags.DEFINE_integer(
    "hand_over_from_mb",
    256,
    "New releases of so many megabytes or more are loaded by a new process, which then takes over "
    "without a pause; smaller ones by the process that serves. For a while there are two.",
    0,
)
_WORKER = flags.DEFINE_string(
    "worker", None, "Internal: what this program tells the processes that it starts to serve."
)


def main(argv: Sequence[str]) -> None:
    """Serves until a signal: in a child of its own, or as that child."""
    del argv
    # The likeliest mistakes, before anything that takes long.
    start_s = command.parse_time(_NOW.value, name="--now")
    redis_connection.require_no_password(_HISTORY.value or "")
    release.current(pathlib.Path(_SERVING_ROOT.value))
    if _WORKER.value:
        _serve(handover.Place.from_text(_WORKER.value), start_s)
        return
    with listening.bind(_HOST.value, _PORT.value) as bound:
        code = supervisor.Supervisor(bound, announce=_announce).run()
    if code:
        raise SystemExit(code)


def _serve(place: handover.Place, start_s: int | None) -> None:
    """Builds the service and runs it until a signal, or until a successor has taken over."""
    control = handover.Control(place.control)
    if place.is_successor:
        cores.use_one()
    command.quiet_tensorflow()
    # Before NumPy loads: a product of a vector is no work to share, and the threads that OpenBLAS
    # would wake for it spin on the cores that other requests need.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    # Requests run side by side. To cut the small products of one of them into parts for several
    # threads costs more than it gains, and makes the others wait.
    os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")
    from serving.server import connections, service
    from serving.server import run as server

    built = service.build(_config(place, control), clock=_clock(start_s, place.started_s))
    try:
        cores.part()
        server.run(
            built,
            listening=socket.socket(fileno=place.listening),
            on_ready=control.ready,
            leaving=control.leaving,
            limits=connections.Limits(connections=_MAX_CONNECTIONS.value),
        )
    finally:
        built.on_close()
    logging.info("Stopped.")


def _config(place: handover.Place, control: handover.Control) -> "service.ServiceConfig":
    """Returns what the flags ask for."""
    from serving.server import access as http_access
    from serving.server import pages, service

    token = http_access.read_token(_TOKEN_FILE.value)
    if token is None and not listening.is_loopback(_HOST.value):
        logging.warning("%s may be reached by others, and no token is asked for.", _HOST.value)
    root = pathlib.Path(_SERVING_ROOT.value)
    return service.ServiceConfig(
        serving_root=root,
        logs=pathlib.Path(_LOGS.value or root / "logs"),
        history=_HISTORY.value or root / "history.sqlite",
        history_password=redis_connection.read_password(_HISTORY_PASSWORD_FILE.value),
        model_server=_MODEL_SERVER.value,
        model_server_ca=_MODEL_SERVER_CA.value,
        model_server_wait_s=_MODEL_SERVER_WAIT_S.value,
        precision=_PRECISION.value,
        threads=_THREADS.value,
        max_waiting=_MAX_WAITING.value,
        settings=_funnel_settings(),
        predicate=_FILTER.value,
        experiment=pathlib.Path(_EXPERIMENT.value) if _EXPERIMENT.value else None,
        token=token,
        admin_token=http_access.read_token(
            _ADMIN_TOKEN_FILE.value, variable=http_access.ADMIN_TOKEN_VARIABLE
        ),
        hosts=http_access.allowed_hosts(_HOST.value, _ALLOWED_HOSTS.value),
        image_hosts=pages.image_hosts(_IMAGE_HOSTS.value),
        traces=_TRACES.value,
        hand_over_from_bytes=_HAND_OVER_FROM_MB.value << 20,
        ask_for_successor=control.ask_for_successor,
        is_successor=place.is_successor,
    )


def _funnel_settings() -> "page.FunnelConfig":
    from serving.funnel import page

    return page.FunnelConfig(
        retrieved=_RETRIEVED.value,
        per_channel=_PER_CHANNEL.value,
        max_shown=_MAX_SHOWN.value,
        shown_window_s=_SHOWN_WINDOW_S.value,
        history_deadline_s=_HISTORY_DEADLINE_S.value,
        query_tower_deadline_s=_QUERY_TOWER_DEADLINE_S.value,
        sources_deadline_s=_SOURCES_DEADLINE_S.value,
        ranker_deadline_s=_RANKER_DEADLINE_S.value,
    )


def _announce(address: str) -> None:
    print(f"Serving at {address} (API: {address}/docs). Ctrl-C stops.", flush=True)


def _clock(start_s: int | None, started_s: float) -> Callable[[], float]:
    if start_s is None:
        return time.time
    offset = start_s - started_s
    return lambda: time.time() + offset


if __name__ == "__main__":
    command.run(main)
