"""How often a retraining runs, of which days, and what stays of its runs: plain values, a loop."""

import dataclasses
import re
import time
from collections.abc import Callable
from typing import Annotated

from absl import logging

from features import command
from features.config import Bounds, check
from features.durations import DAY_S, HOUR_S, MINUTE_S
from pipeline.steps import retraining

_UNITS = {"s": 1, "m": MINUTE_S, "h": HOUR_S, "d": DAY_S}


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """When a retraining runs, and on what.

    Attributes:
        every: Time from the start of a run to the start of the next one, as ``24h``, ``90m`` or
            ``7d``; a run that takes longer lets the ones in between out. Default: one run.
        window_days: Learns from the events since midnight UTC so many days ago; 0 from all.
        warm_start: Whether models start from those of the last run that published, where they fit.
            Default: with ``every``.
        cold_every: With ``warm_start``: each so many-th published run starts from nothing, so that
            what was learnt from days long gone does not live on; 0: none does.
        keep_runs: Reports of runs to keep in ``runs`` of the work directory, 1 or more.
        hook: Command, or http(s)://..., that is told how each run ended, as JSON: done, refused or
            failed. Default: nobody.
    """

    every: str | None = None
    window_days: Annotated[int, Bounds(ge=0)] = 0
    warm_start: bool | None = None
    cold_every: Annotated[int, Bounds(ge=0)] = 7
    keep_runs: Annotated[int, Bounds(ge=1)] = retraining.KEEP_RUNS
    hook: str | None = None

    def __post_init__(self) -> None:
        check(self)
        if self.every is not None:
            parse(self.every)

    @property
    def starts_warm(self) -> bool:
        """Whether models start from those of the last run that published, where they fit."""
        return self.every is not None if self.warm_start is None else self.warm_start

    def window_from(self, now_s: float) -> str | None:
        """Returns the day on which the window begins, ISO 8601; None for no window.

        It stays the same all day, so that a run that failed goes on where it stopped.
        """
        if not self.window_days:
            return None
        begin_s = now_s // DAY_S * DAY_S - self.window_days * DAY_S
        return command.format_time(int(begin_s))


def parse(text: str) -> int:
    """Returns the seconds of a length of time such as ``24h``.

    Raises:
        InputError: It is none.

    Example:
        >>> parse("90m")
        5400
    """
    match = re.fullmatch(r"([1-9][0-9]{0,6})([smhd])", text)
    if match is None:
        raise command.InputError(
            f"--every must be a number and one of s, m, h, d, such as 24h, got {text!r}."
        )
    return int(match[1]) * _UNITS[match[2]]


def repeat(
    run: Callable[[], int],
    every_s: float,
    *,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Runs again and again, until this process is asked to stop.

    What goes wrong in a run is said, and the next one comes at its time; only what the caller gave
    wrongly ends it at once, where it shows in the first run.

    Args:
        run: Function that returns an exit code, or raises InputError.
        every_s: Time between two starts, seconds, above 0.
        sleep: Function that waits for so many seconds.
        clock: Seconds since any moment.
    """
    begun, is_first = clock(), True
    while True:
        try:
            run()
        except command.InputError as error:
            if is_first and error.exit_code == command.InputError.exit_code:
                raise
            logging.error("error: %s", error)
        is_first = False
        passed = clock() - begun
        wait_s = every_s - passed % every_s
        logging.info("The next run starts in %.0f s.", wait_s)
        sleep(wait_s)
