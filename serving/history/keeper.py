"""Notices that a shared history store lost something, and fills it again from the logs."""

import threading
from collections.abc import Callable

from absl import logging

from features import command
from serving import errors
from serving.history.user_history import HistoryStore

_PERIOD_S = 1.0


class HistoryKeeper:
    """Looks after a history store, in a thread of its own.

    A Redis that was emptied, or came back without its data, answers as if nobody had ever watched
    anything. Until it is filled again the store says that it cannot be read: pages are made
    without history, and events are refused. One that was restarted, or whose replica took over, may
    lack the last moments: what the event log holds is applied again.

    Attributes:
        losses: Number of times that everything was lost.
    """

    def __init__(
        self, history: HistoryStore, *, fill: Callable[[], None], period_s: float = _PERIOD_S
    ) -> None:
        """Prepares; :meth:`start` starts to look.

        Args:
            history: Store to look after.
            fill: Function that fills it where it is empty, and applies what the event log holds
                besides.
            period_s: Seconds between two looks.
        """
        self.losses = 0
        self._history = history
        self._fill = fill
        self._period_s = period_s
        self._is_lost = False
        self._holder = ""
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Looks from now on, until :meth:`close`."""
        self._thread = threading.Thread(target=self._watch, name="history", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stops looking; a filling that is under way is waited for."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(self._period_s):
            try:
                self.look()
            except (command.InputError, errors.ServingError) as error:
                logging.log_every_n_seconds(
                    logging.ERROR, "The history store cannot be filled again: %s", 10, error
                )
            except Exception:
                # Pages are made all the same, without history, and the next look tries again.
                logging.exception("Filling the history store again failed.")

    def look(self) -> None:
        """Fills the store again where it lost everything.

        Raises:
            InputError, ServingError: It cannot be filled.
        """
        try:
            self._history.ping()
            holder = self._history.holder()
            if self._holder not in {"", holder}:
                logging.warning("The history store is held by another process now.")
                self._fill()
            self._holder = holder
        except errors.HistoryLostError as error:
            if not self._is_lost:
                self._is_lost = True
                self.losses += 1
                logging.error("%s", error)
            self._fill()
            self._is_lost = False
            logging.info("The history store holds what the logs hold again.")
        except errors.HistoryUnavailableError:
            return  # Whoever reads it says so; there is nothing to fill as long as it is away.
