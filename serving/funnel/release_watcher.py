"""Holds the release that serves, and follows what is published.

A small release is loaded beside the one that serves and swapped in. A large one is for another
process, which then takes over from this one: see :mod:`serving.process.handover`.
"""

import contextlib
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Protocol

from absl import logging

from features import command
from serving import errors
from serving.funnel.loaded_release import LoadedRelease
from serving.process import cores

POLL_PERIOD_S = 3.0
_MAX_BACKOFF_S = 300.0
# A model server reads its configuration every few seconds, and loads for a minute or two.
_PATIENCE_S = 600.0
_EXPECTED = (command.InputError, errors.ServingError, OSError)


class Releases(Protocol):
    """Holder of the release that the funnel serves from."""

    def pin(self) -> contextlib.AbstractContextManager[LoadedRelease]:
        """Gives the release for one request; a swap meanwhile does not touch it.

        Raises:
            NotReadyError: None is loaded.
        """


class ReleaseWatcher:
    """Follows what is published.

    A new version is loaded and warmed while the old one answers, then takes its place in one
    assignment, unless another process is to do so. A version that cannot be loaded is tried again
    ever less often, and the old one goes on serving; whatever else is published meanwhile is loaded
    at the next look. One that a model server does not have yet is no failure: it is waited for, and
    looked for steadily.

    Attributes:
        failures: Number of loads that failed so far.
        renewal_failures: Renewals of the release that serves which failed so far. They neither
            count as loads nor keep a new release waiting.
        loaded_at: Moment at which the serving release was swapped in, Unix seconds.
    """

    def __init__(
        self,
        *,
        published: Callable[[], str],
        load: Callable[[str], LoadedRelease],
        renew: Callable[[LoadedRelease], LoadedRelease | None] = lambda _: None,
        hand_over: Callable[[str], bool] = lambda _: False,
        awaited: Callable[[str], str] = lambda _: "",
        period_s: float = POLL_PERIOD_S,
    ) -> None:
        """Prepares; :meth:`refresh` loads.

        Args:
            published: Function that returns the version that should serve.
            load: Loader of a version, warmed.
            renew: Function that is given the release that serves, time and again, and may return
                one to serve in its place: the same version with new videos on its shelf.
            hand_over: Function that is given a new version, time and again, while another serves;
                returns whether it is for another process to load. Raises where that process has
                failed.
            awaited: Function that is given a new version, time and again, while another serves;
                returns what must come before it can be loaded, "" for nothing.
            period_s: Seconds between two looks.
        """
        self.failures = 0
        self.renewal_failures = 0
        self.loaded_at = 0.0
        self._published = published
        self._load = load
        self._renew = renew
        self._hand_over = hand_over
        self._awaited = awaited
        self._period_s = period_s
        self._current: LoadedRelease | None = None
        self._refused = ""  # The version that could not be loaded last.
        self._retry_at = 0.0
        self._backoff_s = period_s
        self._waiting_since: float | None = None
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    @contextlib.contextmanager
    def pin(self) -> Iterator[LoadedRelease]:
        """Yields the release that serves; raises NotReadyError before the first."""
        current = self._current
        if current is None:
            raise errors.NotReadyError("no release is loaded yet.")
        yield current

    @property
    def current(self) -> LoadedRelease | None:
        """The release that serves, None before the first."""
        return self._current

    def refresh(self) -> bool:
        """Loads what is published unless it serves already; returns whether it was swapped.

        Raises:
            InputError, ServingError: It cannot be loaded.
        """
        version = self._published()
        before = self._current
        if before is not None and before.version != version and self._waits_for(version):
            self._renew_current()
            return False
        if before is not None and before.version != version and self._hand_over(version):
            self._renew_current()
            return False  # Nothing is known yet of the one that loads it.
        if before is not None and before.version == version:
            self._renew_current()
            self._backoff_s = self._period_s
            self._waiting_since = None  # What was waited for was taken back.
            return False
        loaded = self._load(version)
        self._current = loaded
        self._refused = ""
        self._backoff_s = self._period_s
        self.loaded_at = time.time()
        logging.info(
            "Serving release %s now%s.", version, f" instead of {before.version}" if before else ""
        )
        return True

    @property
    def waiting_s(self) -> float:
        """Seconds that a published release has been waited for; 0 where none is."""
        since = self._waiting_since
        return 0.0 if since is None else time.monotonic() - since

    def _waits_for(self, version: str) -> bool:
        reason = self._awaited(version)
        if not reason:
            self._waiting_since = None
            return False
        if self._waiting_since is None:
            self._waiting_since = time.monotonic()
            logging.info("Release %s is published; waiting for: %s", version, reason)
        if self.waiting_s >= _PATIENCE_S:
            logging.log_every_n_seconds(
                logging.WARNING,
                "Release %s has been waited for during %.0f s, the old one serves. Does the model "
                "server read models.config, and what does its log say? %s",
                _PATIENCE_S,
                *(version, self.waiting_s, reason),
            )
        return True

    def _renew_current(self) -> None:
        """Renews; what goes wrong is told and tried again at the next look, and stops nothing."""
        if self._current is None:
            return
        try:
            self._current = self._renew(self._current) or self._current
        except Exception as error:
            self.renewal_failures += 1
            is_known = isinstance(error, _EXPECTED)
            text = str(error) if is_known else traceback.format_exc()
            logging.log_every_n_seconds(
                logging.ERROR, "New videos do not reach the release that serves: %s", 60, text
            )

    def start(self) -> None:
        """Starts to look for new releases, until :meth:`close`."""
        self._thread = threading.Thread(target=self._watch, name=cores.LOADING, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while not self._stop.wait(self._period_s):
            self._try_refresh()

    def _try_refresh(self) -> None:
        try:
            version = self._published()
        except _EXPECTED as error:
            self.failures += 1
            message = "What is published cannot be read, the release that serves stays: %s"
            logging.log_every_n_seconds(logging.ERROR, message, 60, error)
            self._renew_current()
            return
        if version == self._refused and time.monotonic() < self._retry_at:
            self._renew_current()
            return
        try:
            self.refresh()
        except _EXPECTED as error:
            self._put_off(version, f"A new release cannot be loaded, the old one stays: {error}")
        except Exception:
            logging.exception("Loading a release failed.")
            self._put_off(version, "A new release cannot be loaded, the old one stays.")

    def _put_off(self, version: str, message: str) -> None:
        """Lets some time pass before this version is tried again; another one need not wait."""
        if version != self._refused:
            self._refused, self._backoff_s = version, self._period_s
        self.failures += 1
        self._backoff_s = min(2 * self._backoff_s, _MAX_BACKOFF_S)
        self._retry_at = time.monotonic() + self._backoff_s
        logging.error("%s (next try in %.0f s)", message, self._backoff_s)

    def close(self) -> None:
        """Stops looking."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
