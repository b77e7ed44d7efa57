"""What a console may do with a serving root: list, compare, go back, look at other releases."""

import contextlib
import dataclasses
import pathlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from features import command
from serving import errors
from serving.batch import experiment_analysis
from serving.funnel.experiment import Experiment
from serving.funnel.loaded_release import LoadedRelease
from serving.insight import releases
from serving.release import manifest as release
from serving.release import publication, rollbacks

# A result is made of the logs, which takes seconds; whoever looks again sees it for so long.
_RESULT_HOLDS_S = 60.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class RolledBack:
    """A change of the release that serves.

    Attributes:
        old: The release that served until now.
        new: The release that serves from now on, as soon as servers have loaded it.
    """

    old: str
    new: str


class Console:
    """A serving root and logs, for those who run them; safe for threads."""

    def __init__(
        self,
        *,
        serving_root: pathlib.Path,
        logs: pathlib.Path,
        load: Callable[[str], LoadedRelease],
        size_bytes: Callable[[str], int],
        limit_bytes: int,
    ) -> None:
        """Puts it together.

        Args:
            serving_root: Directory in which releases are published.
            logs: Raw logs.
            load: Loader of a version, warmed.
            size_bytes: Function that returns how much of a release would be loaded.
            limit_bytes: Size from which on a release is not loaded to be looked at.
        """
        self.logs = logs
        self._root = serving_root
        self._load = load
        self._size_bytes = size_bytes
        self._limit_bytes = limit_bytes
        self._lock = threading.Lock()
        self._other: LoadedRelease | None = None
        self._result: tuple[float, dict[str, Any]] | None = None

    def listed(self) -> list[releases.Summary]:
        """Returns the releases of the serving root, newest first."""
        with _politely():
            return releases.listed(self._root)

    def detail(self, version: str) -> releases.Detail:
        """Returns all that is told of a release; raises NotPossibleError where that is nothing."""
        with _politely():
            return releases.detail(self._root, version)

    def card(self, version: str) -> dict[str, Any]:
        """Returns a model card; raises NotPossibleError where a release has none."""
        with _politely():
            return releases.card(self._root, version)

    def report(self, version: str, name: str) -> bytes:
        """Returns a report as it was published; raises NotPossibleError where it is not there."""
        with _politely():
            return release.report(self._root, version, name)

    def compared(self, one: str, other: str) -> releases.Comparison:
        """Returns two releases side by side; raises NotPossibleError where one is not there."""
        with _politely():
            return releases.compared(self._root, one, other)

    def roll_back(self, *, to: str | None, seen: str) -> RolledBack:
        """Makes another release serve.

        Args:
            to: Version; None for the one that served before.
            seen: The version that served when somebody decided so.

        Raises:
            NotPossibleError: There is none to go back to, it serves already, it is refused, or
                another one serves by now.
        """
        with _politely():
            if to == seen == release.stated_current(self._root):
                raise errors.NotPossibleError(f"release {to} serves already.")
            old, new = publication.rollback(self._root, to, seen=seen, by=rollbacks.CONSOLE)
        return RolledBack(old=old, new=new)

    def rollbacks(self) -> list[rollbacks.Rollback]:
        """Returns what was rolled back, newest first."""
        return rollbacks.read(self._root)

    @contextlib.contextmanager
    def pinned(self, version: str) -> Iterator[LoadedRelease]:
        """Gives a release that does not serve here, loaded to be looked at.

        The last one stays in memory, so that looking again is quick.

        Raises:
            NotPossibleError: There is none, it is refused, or it is too large to be loaded beside.
        """
        with self._lock:
            if self._other is None or self._other.version != version:
                with _politely():
                    size = self._size_bytes(version)
                    if size > self._limit_bytes:
                        raise errors.NotPossibleError(
                            f"release {version} has {size >> 20} MB, and a server loads at most "
                            f"{self._limit_bytes >> 20} MB beside the release that serves "
                            "(--hand_over_from_mb). Compare by: python -m serving.recommend_batch"
                        )
                    self._other = None  # Never three at once.
                    self._other = self._load(version)
            other = self._other
        yield other

    def result(self, experiment: Experiment | None) -> dict[str, Any]:
        """Returns what an experiment showed so far, as :mod:`serving.batch.experiment_analysis`.

        Raises:
            NotPossibleError: There is no experiment, or nothing to tell of it yet.
        """
        if experiment is None:
            raise errors.NotPossibleError(
                "no experiment runs on this server; start one with --experiment=FILE."
            )
        with self._lock:
            if self._result is None or time.monotonic() - self._result[0] > _RESULT_HOLDS_S:
                with _politely():
                    result = experiment_analysis.analyse(self.logs, experiment)
                self._result = (time.monotonic(), result)
            return self._result[1]


@contextlib.contextmanager
def _politely() -> Iterator[None]:
    try:
        yield
    except command.InputError as error:
        raise errors.NotPossibleError(str(error)) from error
    except OSError as error:
        raise errors.NotPossibleError(f"it cannot be done: {error}") from error
