"""Serves recommendations over HTTP, with a page to look at them.

    python -m serving.serve --serving_root=serving_root --port=8080

The release that ``CURRENT`` names is served, and followed when a new one is published. Models
run in here, or in TensorFlow Serving with ``--model_server``. What users do and are
shown goes to ``--logs`` in the layout of the raw logs, where the next retraining reads it; an
empty history store is filled from there first. SIGTERM and Ctrl-C drain: requests in flight are
answered, the exit code is 0; impressions whose click may still come wait in the event log.

A child of this process serves, or ``--processes`` of them side by side, which share what is mapped
from disk and know the same. A small release is swapped in there; a large one is loaded by a new
child, which then takes the place of one. Port and process id stay the same.
"""

import contextlib
import dataclasses
import pathlib
import socket
import time
from typing import NamedTuple

from absl import flags, logging

from features import command, config_flags
from features.stores import locations
from serving.events import stored_logs
from serving.history import redis_connection
from serving.process import clock as process_clock
from serving.process import cores, handover, listening, memory, sharing, supervisor
from serving.release import manifest as release
from serving.release import stored_root
from serving.server.config import ServiceConfig

_SETTINGS = config_flags.define(
    ServiceConfig,
    without={
        "history_password",
        "token",
        "admin_token",
        "hosts",
        "image_hosts",
        "ask_for_successor",
        "is_successor",
    },
    unset={
        "logs": "<serving_root>/logs",
        "history": "<serving_root>/history.sqlite, or in --state",
    },
)
_HOST = flags.DEFINE_string(
    "host", "127.0.0.1", "Address to listen on; 0.0.0.0 is open to everybody."
)
_PORT = flags.DEFINE_integer("port", 8080, "Port; 0 takes a free one.", 0, 65535)
_STATE = flags.DEFINE_string(
    "state",
    None,
    "Where --logs are in an object store: directory on this machine, of this server alone, that "
    "keeps events until they are there. Must outlive the process.",
)
_LOGS_DAYS = flags.DEFINE_integer(
    "logs_days",
    90,
    "Where --logs are in an object store: days of events that are copied from there at the start.",
    0,
)
_HISTORY_PASSWORD_FILE = flags.DEFINE_string(
    "history_password_file",
    None,
    "File with the password of the Redis server. Default: the environment variable "
    "WATCHNEXT_REDIS_PASSWORD, or none.",
)
_PROCESSES = flags.DEFINE_integer(
    "processes",
    1,
    "Processes that serve side by side on the port; one that dies is started anew while the others "
    "serve. --threads, --max_waiting and --max_connections are of each.",
    1,
    64,
)
_MAX_CONNECTIONS = flags.DEFINE_integer(
    "max_connections",
    1000,
    "Open connections; one more takes the place of the one that has sent nothing whole for "
    "longest.",
    1,
    60_000,
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
_NOW = flags.DEFINE_string(
    "now",
    None,
    "ISO 8601 time at which the server's clock starts, to serve old logs as of their end; "
    "only history before it is taken from the logs. Default: the machine's clock.",
)
_CLOCK = flags.DEFINE_string(
    "clock",
    None,
    "File of a simulated clock, which is then the time for everything that this server does: for "
    "simulations, on loopback alone. Default: the machine's clock.",
)
_WORKER = flags.DEFINE_string(
    "worker", None, "Internal: what this program tells the processes that it starts to serve."
)


def main() -> None:
    """Serves until a signal: in a child of its own, or as that child."""
    # The likeliest mistakes, before anything that takes long.
    _clock(0.0)
    paths = _paths()
    redis_connection.require_no_password(paths.history)
    _settings()  # What breaks a rule is said before anything is copied.
    if _WORKER.value:
        _require_release(paths.root)
        _serve(handover.Place.from_text(_WORKER.value))
        return
    # This process keeps copies of what is in an object store up to date, for those that serve.
    with contextlib.ExitStack() as stack:
        _require_release(stack.enter_context(stored_root.followed(flags.FLAGS.serving_root)))
        if locations.is_remote(paths.logs_url):
            now_s = _clock(time.time()).now()
            stack.enter_context(
                stored_logs.synced(paths.logs_url, paths.logs, now_s=now_s, days=_LOGS_DAYS.value)
            )
        bound = stack.enter_context(listening.bind(_HOST.value, _PORT.value))
        shared = stack.enter_context(sharing.directory(_PROCESSES.value))
        code = supervisor.Supervisor(
            bound, announce=_announce, processes=_PROCESSES.value, shared=shared
        ).run()
    if code:
        raise SystemExit(code)


class _Paths(NamedTuple):
    """Local directories, and where the logs are when those are a part of them."""

    root: pathlib.Path
    logs: pathlib.Path
    history: str
    logs_url: str


def _paths() -> _Paths:
    """Returns what is read and written on this machine."""
    root_url = flags.FLAGS.serving_root
    root = stored_root.mirror(root_url) if locations.is_remote(root_url) else pathlib.Path(root_url)
    logs_url = flags.FLAGS.logs or f"{root_url.rstrip('/')}/logs"
    history = flags.FLAGS.history
    if not locations.is_remote(logs_url):
        return _Paths(
            root, pathlib.Path(logs_url), history or str(root / "history.sqlite"), logs_url
        )
    if not _STATE.value:
        raise command.InputError(
            f"logs in an object store ({logs_url}) need --state=DIRECTORY: events are kept there "
            "until they are in the store. It must be on a disk of this machine and outlive the "
            "process."
        )
    state = pathlib.Path(_STATE.value)
    return _Paths(root, state / "logs", history or str(state / "history.sqlite"), logs_url)


def _require_release(root: pathlib.Path) -> None:
    """Refuses a root without a release, unless the server was told to do without."""
    if not flags.FLAGS.before_release:
        release.current(root)


def _serve(place: handover.Place) -> None:
    """Builds the service and runs it until a signal, or until a successor has taken over."""
    control = handover.Control(place.control)
    if place.is_successor:
        cores.use_one()
    memory.keep_freed()
    from serving.server import connections, service
    from serving.server import run as server

    built = service.build(_config(place, control), clock=_clock(place.started_s))
    try:
        cores.part(place.seat)
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


def _config(place: handover.Place, control: handover.Control) -> ServiceConfig:
    """Returns what the flags ask for."""
    from serving.server import access as http_access
    from serving.server import pages

    token = http_access.read_token(_TOKEN_FILE.value)
    if token is None and not listening.is_loopback(_HOST.value):
        logging.warning("%s may be reached by others, and no token is asked for.", _HOST.value)
    return dataclasses.replace(
        _settings(),
        history_password=redis_connection.read_password(_HISTORY_PASSWORD_FILE.value),
        token=token,
        admin_token=http_access.read_token(
            _ADMIN_TOKEN_FILE.value, variable=http_access.ADMIN_TOKEN_VARIABLE
        ),
        hosts=http_access.allowed_hosts(_HOST.value, _ALLOWED_HOSTS.value),
        image_hosts=pages.image_hosts(_IMAGE_HOSTS.value),
        ask_for_successor=control.ask_for_successor,
        is_successor=place.is_successor,
    )


def _settings() -> ServiceConfig:
    paths = _paths()
    return _SETTINGS.build(serving_root=paths.root, logs=paths.logs, history=paths.history)


def _announce(address: str) -> None:
    print(f"Serving at {address} (API: {address}/docs). Ctrl-C stops.", flush=True)


def _clock(since_s: float) -> process_clock.Clock:
    """Returns the clock that the flags ask for.

    Args:
        since_s: Moment of the machine's clock at which one of ``--now`` starts, Unix seconds.

    Raises:
        InputError: There are two, or a simulated one where others than this machine may ask.
    """
    start_s = command.parse_time(_NOW.value, name="--now")
    if _CLOCK.value is None:
        return process_clock.machine(starts_at=start_s, since_s=since_s)
    if start_s is not None:
        raise command.InputError("--clock and --now are two clocks; give one of them.")
    if not listening.is_loopback(_HOST.value):
        raise command.InputError(
            f"--clock is for simulations on this machine: --host must be of loopback, "
            f"got {_HOST.value}."
        )
    logging.warning("The time is that of the simulated clock %s.", _CLOCK.value)
    return process_clock.simulated(_CLOCK.value)


if __name__ == "__main__":
    command.run(main)
