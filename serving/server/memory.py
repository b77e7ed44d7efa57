"""What a server remembers: the history store, the event log, and how one is filled of the other."""

import functools
import pathlib

from absl import logging

from features.tables import log_files
from serving.events import compaction
from serving.events.log import EventLog
from serving.funnel import recorder
from serving.history import redis_connection, redis_store, redis_stream
from serving.history import seed as history_seed
from serving.history.keeper import HistoryKeeper
from serving.history.sqlite_store import SqliteHistoryStore
from serving.history.user_history import HistoryStore
from serving.process.clock import Clock
from serving.server.config import ServiceConfig


def open_history(path: str | pathlib.Path, *, password: str | None = None) -> HistoryStore:
    """Opens a history store: ``redis://HOST:PORT/DATABASE``, or a SQLite file.

    Raises:
        InputError: The address is none.
        HistoryUnavailableError: It cannot be reached or opened.
    """
    if redis_connection.is_address(str(path)):
        return redis_store.RedisHistoryStore(str(path), password=password)
    return SqliteHistoryStore(path)


def stream_of(config: ServiceConfig, log: EventLog) -> redis_stream.RedisStream | None:
    """Returns what replicas with other logs directories record, where they share a Redis."""
    if not redis_connection.is_address(config.history):
        return None
    return redis_stream.RedisStream(config.history, log, password=config.history_password)


def opened(config: ServiceConfig, clock: Clock) -> tuple[HistoryStore, EventLog, HistoryKeeper]:
    """Opens history store and event log, and what fills a store that lost everything."""
    history = open_history(config.history, password=config.history_password)
    log = EventLog(
        config.logs,
        compaction_period_s=clock.compaction_s,
        wall=clock.wall,
        store=history.store_id,
        bring=functools.partial(recorder.bring, history),
    )
    if not config.is_successor:  # Else nothing was left over, and the store is in use.
        _catch_up(history, log, now_s=int(clock.now()))
    keeper = HistoryKeeper(history, fill=lambda: refill(history, log, now_s=int(clock.now())))
    return history, log, keeper


def _catch_up(history: HistoryStore, log: EventLog, *, now_s: int) -> None:
    """Brings store and tables up to what the event log holds."""
    if history.is_empty:
        # What an earlier process left is then in the tables, from which the store gets it.
        compaction.compact(log.logs_dir, wall_s=log.now())
    refill(history, log, now_s=now_s)
    log.compact()


def refill(history: HistoryStore, log: EventLog, *, now_s: int) -> None:
    """Fills a store that lost everything, of tables and event log, while others may do the same."""
    # What moved in between from one to the other would be missed.
    with compaction.paused(log.logs_dir):
        if history.is_empty:
            compaction.settle(log.logs_dir, history.store_id)  # The tables have it.
            _fill(history, log.logs_dir, now_s=now_s)
        recorder.catch_up(history, log.logs_dir)


def _fill(history: HistoryStore, logs_dir: pathlib.Path, *, now_s: int) -> None:
    if not log_files.has_tables(logs_dir):
        logging.info("%s has no logs yet: starting without history.", logs_dir)
        with history.filling():
            return  # With nothing; but a store that lost everything begins anew.
    logging.info("Filling the empty history store from %s.", logs_dir)
    history_seed.seed(history, logs_dir, until_s=now_s)
