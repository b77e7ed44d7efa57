"""A release that arms of an experiment are kept on, where this server can have it."""

import contextlib
import time
from collections.abc import Callable, Iterator

from absl import logging

from features import command
from serving import errors
from serving.funnel.loaded_release import LoadedRelease

_RETRY_S = 30.0


class ArmRelease:
    """Serves one version, whatever is published; without it the funnel serves the current one.

    It may be missing for a while: not pinned early enough and removed, damaged, or not yet loaded
    by the model server. :meth:`look` tries again and again.

    Attributes:
        version: Release id to serve.
        current: The release; None as long as it cannot be had.
    """

    def __init__(
        self,
        version: str,
        *,
        load: Callable[[str], LoadedRelease],
        renew: Callable[[LoadedRelease], LoadedRelease | None] = lambda _: None,
        retry_s: float = _RETRY_S,
    ) -> None:
        """Prepares; :meth:`look` loads.

        Args:
            version: Release id to serve.
            load: Loader of a version, warmed.
            renew: Function that is given the release, time and again, and may return one in its
                place.
            retry_s: Pause after a load that failed, seconds.
        """
        self.version = version
        self.current: LoadedRelease | None = None
        self._load = load
        self._renew = renew
        self._retry_s = retry_s
        self._retry_at = 0.0
        self._why = "it is not loaded yet"

    @contextlib.contextmanager
    def pin(self) -> Iterator[LoadedRelease]:
        """Yields the release; raises NotReadyError while it cannot be had."""
        current = self.current
        if current is None:
            raise errors.NotReadyError(self._why)
        yield current

    def look(self) -> None:
        """Renews the release, or tries to load it; what fails is said, and tried again later."""
        if time.monotonic() < self._retry_at:
            return
        try:
            if self.current is not None:
                self.current = self._renew(self.current) or self.current
            else:
                self.current = self._load(self.version)
                logging.info("Release %s serves the arms that are kept on it.", self.version)
        except (command.InputError, errors.ServingError, OSError) as error:
            self._why = str(error)
            self._retry_at = time.monotonic() + self._retry_s
            logging.error(
                "Release %s, on which arms are kept, cannot be %s: %s",
                self.version,
                "renewed" if self.current else "had; the current one serves them",
                error,
            )
