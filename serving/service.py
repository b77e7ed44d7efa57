"""Puts the parts of a server together: release, models, history, event log, funnel."""

import dataclasses
import pathlib
import threading
import time
from collections.abc import Callable

import pyarrow as pa
from absl import logging

from features import command, logs
from serving import errors, history_seed, loaded_release, recorder, release
from serving.backends import Backend, EmbeddedBackend, TensorFlowServingBackend
from serving.event_log import EventLog
from serving.funnel import Funnel
from serving.history_store import SqliteHistoryStore
from serving.http_server import Service
from serving.loaded_release import LoadedRelease
from serving.recorder import Recorder
from serving.release_watcher import ReleaseWatcher

# What is popular in a region is counted over the last week before the release is loaded.
_REGIONAL_WINDOW_S = 7 * 86400


@dataclasses.dataclass(frozen=True, kw_only=True)
class ServiceConfig:
    """Where the parts are.

    Attributes:
        serving_root: Releases.
        logs: Raw logs, read to fill an empty history store, and added to.
        history: SQLite file.
        model_server: ``host:port`` of TensorFlow Serving; None runs models in this process.
        threads: Requests worked on at a time.
        max_waiting: Requests that may wait for a thread.
    """

    serving_root: pathlib.Path
    logs: pathlib.Path
    history: pathlib.Path
    model_server: str | None = None
    threads: int = 8
    max_waiting: int = 64


def build(config: ServiceConfig, *, clock: Callable[[], float] = time.time) -> Service:
    """Loads everything; returns a service that is ready to answer.

    Raises:
        InputError: There is no release, it is refused, or a path cannot be used.
    """
    release.current(config.serving_root)  # No release is the likeliest mistake: say so at once.
    try:
        return _build(config, clock)
    except errors.ServingError as error:
        raise command.InputError(str(error)) from error


def _build(config: ServiceConfig, clock: Callable[[], float]) -> Service:
    history = SqliteHistoryStore(config.history)
    log = EventLog(config.logs)
    if history.is_empty:
        log.compact()  # What an earlier process left is then in the tables.
        _fill(history, config.logs, now_s=int(clock()))
    # Before a compaction: afterwards nobody could tell what a crash kept from the store.
    recorder.replay(history, config.logs)
    log.compact()
    backend = _backend(config)
    releases = ReleaseWatcher(
        published=lambda: release.current(config.serving_root),
        load=lambda version: _load(config, version, backend, history, clock=clock),
    )
    releases.refresh()
    recording = Recorder(history, log)
    closing = threading.Lock()

    def close() -> None:
        if closing.acquire(blocking=False):  # Once.
            releases.close()
            log.close()
            history.close()
            backend.close()

    releases.start()
    log.start()
    return Service(
        funnel=Funnel(releases=releases, history=history, recorder=recording, clock=clock),
        history=history,
        recorder=recording,
        releases=releases,
        models=f"TensorFlow Serving at {config.model_server}"
        if config.model_server
        else "embedded",
        threads=config.threads,
        max_waiting=config.max_waiting,
        clock=clock,
        on_close=close,
    )


def _backend(config: ServiceConfig) -> Backend:
    if config.model_server:
        return TensorFlowServingBackend(config.model_server)
    return EmbeddedBackend()


def _load(
    config: ServiceConfig,
    version: str,
    backend: Backend,
    history: SqliteHistoryStore,
    *,
    clock: Callable[[], float],
) -> LoadedRelease:
    def regional() -> pa.Table:
        return history.watch_counts(int(clock()) - _REGIONAL_WINDOW_S)

    return loaded_release.load(
        config.serving_root, version, backend=backend, regional_watches=regional
    )


def _fill(history: SqliteHistoryStore, logs_dir: pathlib.Path, *, now_s: int) -> None:
    try:
        logs.tables_in(logs_dir)
    except command.InputError:
        logging.info("%s has no logs yet: starting without history.", logs_dir)
        return
    logging.info("Filling the empty history store %s from %s.", history.path, logs_dir)
    history_seed.seed(history, logs_dir, until_s=now_s)
