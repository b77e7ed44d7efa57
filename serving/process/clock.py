"""The clock of a server: the machine's, that of old logs, or one that a simulation moves.

A simulated clock is a file of one number that one process writes (:class:`SharedClock`) and all
others of the simulation read, without a call to anybody: days pass in minutes, and for each request
it is the same moment everywhere. ``serving.serve --clock`` takes such a file, on loopback alone.
"""

import dataclasses
import mmap
import os
import pathlib
import time
from collections.abc import Callable

from features import command, files
from features.durations import HOUR_S, MINUTE_S

_MAGIC = b"watchnext simulated clock\n\0\0\0\0\0\0"  # 32 bytes, so that the number is aligned.
_BYTES = len(_MAGIC) + 8
# A simulated day takes a minute or so: what happens every few seconds has to happen more often,
# and what happens every few minutes goes by the clock of the simulation.
_SIMULATED_POLL_S = 0.25
_SIMULATED_COMPACTION_S = float(HOUR_S)
_POLL_S, _LOOK_S, _COMPACTION_S = 3.0, 5.0, 5.0 * MINUTE_S


@dataclasses.dataclass(frozen=True, kw_only=True)
class Clock:
    """What the parts of a server go by.

    Attributes:
        now: Moment of requests and events, Unix seconds.
        wall: Clock by which the event log ages, Unix seconds.
        poll_s: Time between two looks for releases, seconds of the machine.
        look_s: Least time between two looks at the videos table, seconds of the machine.
        compaction_s: Time between two compactions of the event log, seconds of ``wall``.
    """

    now: Callable[[], float] = time.time
    wall: Callable[[], float] = time.time
    poll_s: float = _POLL_S
    look_s: float = _LOOK_S
    compaction_s: float = _COMPACTION_S


def machine(*, starts_at: int | None = None, since_s: float = 0.0) -> Clock:
    """Returns the machine's clock, or one that runs like it from another moment.

    Args:
        starts_at: What requests take for now when the machine's clock shows ``since_s``, Unix
            seconds; None for the machine's own time. The event log goes by the machine's.
        since_s: Moment of the machine's clock, Unix seconds.
    """
    if starts_at is None:
        return Clock()
    offset = starts_at - since_s
    return Clock(now=lambda: time.time() + offset)


def simulated(path: str | os.PathLike[str]) -> Clock:
    """Returns a clock that shows what the file of a :class:`SharedClock` says.

    Raises:
        InputError: It is not such a file.
    """
    shared = SharedClock(path)
    return Clock(
        now=shared,
        wall=shared,
        poll_s=_SIMULATED_POLL_S,
        look_s=_SIMULATED_POLL_S,
        compaction_s=_SIMULATED_COMPACTION_S,
    )


class SharedClock:
    """A moment in a file: Unix seconds, float64, behind a line that says what it is.

    Reading is a load from memory that the processes share; one of them writes.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Opens a file that :meth:`create` made.

        Raises:
            InputError: It is not there, or is another file.
        """
        try:
            with pathlib.Path(path).open("r+b") as file:
                head = file.read(_BYTES + 1)
                if len(head) != _BYTES or not head.startswith(_MAGIC):
                    raise command.InputError(
                        f"{path} is no simulated clock: its first line must be "
                        f"{_MAGIC.split(bytes([10]))[0].decode()!r}. pipeline.simulate --live and "
                        "pipeline.living_site make one with --clock."
                    )
                self._memory = mmap.mmap(file.fileno(), _BYTES)
        except OSError as error:
            raise command.InputError(
                f"{path} must be the file of a simulated clock: {error}. pipeline.simulate --live "
                "and pipeline.living_site make one with --clock."
            ) from error
        # One aligned store or load: nobody sees half of a number.
        self._cell = memoryview(self._memory)[len(_MAGIC) :].cast("d")

    @classmethod
    def create(cls, path: str | os.PathLike[str], now_s: float) -> "SharedClock":
        """Makes a clock that shows ``now_s``, or moves one that is there; servers see it at once.

        Raises:
            InputError: Something else is there.
        """
        if not pathlib.Path(path).exists():
            files.atomic_write(path, _MAGIC + bytes(8))
        clock = cls(path)
        clock.set(now_s)
        return clock

    def __call__(self) -> float:
        """Returns the moment, Unix seconds."""
        return float(self._cell[0])

    def set(self, now_s: float) -> None:
        """Moves the clock."""
        self._cell[0] = now_s
