"""How far a long step is: one bar on a terminal; elsewhere one line every ten seconds.

    with progress.shown("simulate", total=days, unit="days") as bar:
        for day in range(days):
            ...
            bar.add(1)

    with progress.shown("evaluate"):
        progress.at("ranking with the model", total=len(queries), unit="queries")
        ...
        progress.add(len(batch))                # wherever it is done, in this process

There is one bar at a time: what is shown while another is shown adds nothing to the screen. Log
lines appear above the bar and do not tear it.
"""

import contextlib
import io
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, TextIO

import tqdm
from absl import logging

EVERY_S = 10.0
_LOOK_EVERY_S = 1.0
_COUNTED = "{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{rate_fmt}, {remaining} left]"
_UNCOUNTED = "{desc}: {n_fmt} [{elapsed}, {rate_fmt}]"
_PHASES = "{desc} [{elapsed}]"

_NOWHERE = io.StringIO()  # No terminal.
_current: "Bar | None" = None


class Bar:
    """How far one step is.

    Args:
        title: What is under way, for example the name of the command.
        total: Number of units in all; None where nobody knows.
        unit: What is counted, in the plural; "" where nothing is counted and phases are named.
        stream: Stream to show it on; a bar where that is a terminal.
        clock: Function that returns seconds, of any start.
        every_s: Seconds between two lines where there is no terminal.
    """

    def __init__(
        self,
        title: str,
        *,
        total: int | None = None,
        unit: str = "",
        stream: TextIO,
        clock: Callable[[], float] = time.monotonic,
        every_s: float = EVERY_S,
    ) -> None:
        self._title, self._total, self._unit = title, total, unit
        self._counts_all = bool(unit)  # Then a phase is a part of what is counted.
        self._clock, self._every_s = clock, every_s
        self._done, self._phase = 0, ""
        self._started = self._began = self._said = clock()
        self._bar: Any = None
        if stream.isatty():
            self._bar = tqdm.tqdm(
                desc=title, bar_format=_PHASES, file=stream, dynamic_ncols=True, leave=False
            )
            self._form()

    def add(self, number: int = 1) -> None:
        """Counts units that are done."""
        self._done += number
        if self._bar is not None:
            self._bar.update(number)  # It decides by itself when to draw.
        else:
            self.tick()

    def at(self, phase: str, *, total: int | None = None, unit: str = "") -> None:
        """Names what is being done just now, and what is counted of it, from 0.

        The phase that is named already goes on. Where the bar counts the whole step, a phase is
        only named.
        """
        if phase == self._phase:
            return
        self._phase = phase
        if not self._counts_all:
            self._total, self._unit, self._done = total, unit, 0
            self._began = self._clock()
        if self._bar is not None:
            self._bar.set_description_str(f"{self._title}: {phase}", refresh=False)
            if not self._counts_all:
                self._form()
            self._bar.refresh()

    def tick(self) -> None:
        """Says how far it is where it is time to; called now and then."""
        if self._bar is not None:
            self._bar.refresh()
        elif self._clock() - self._said >= self._every_s:
            self._said = self._clock()
            logging.info("%s", self.text())

    def text(self) -> str:
        """Returns how far it is, in words."""
        named = f"{self._title}: {self._phase}" if self._phase else self._title
        so_far = f"{_interval(self._clock() - self._started)} so far"
        if not self._unit:
            return f"{named}, {so_far}"
        seconds = self._clock() - self._began
        rate = self._done / seconds if seconds else 0.0
        told = f"{named}: {self._done:,}"
        if self._total is not None:
            told += f" of {self._total:,}"
        told += f" {self._unit}, {_rate(rate)} {self._unit}/s"
        if self._total is None or not self._done:
            return f"{told}, {so_far}"
        return f"{told}, {_interval((self._total - self._done) / rate)} left"

    @contextlib.contextmanager
    def beside(self) -> Iterator[None]:
        """Takes the bar off the screen while something else is written."""
        if self._bar is None:
            yield
            return
        with tqdm.tqdm.external_write_mode(file=self._bar.fp):
            yield

    def close(self) -> None:
        """Takes the bar off the screen for good."""
        if self._bar is not None:
            self._bar.close()

    def _form(self) -> None:
        """Makes the bar on the terminal one of what is counted now."""
        is_counted = self._total is not None
        self._bar.bar_format = _PHASES if not self._unit else _COUNTED if is_counted else _UNCOUNTED
        self._bar.unit, self._bar.total = f" {self._unit}", self._total
        self._bar.unit_scale = self._total is None or self._total >= 10_000
        self._bar.reset()


@contextlib.contextmanager
def shown(
    title: str, *, total: int | None = None, unit: str = "", stream: TextIO | None = None
) -> Iterator[Bar]:
    """Shows a bar while its block runs; arguments as of :class:`Bar`."""
    global _current  # noqa: PLW0603 - a terminal has one last line
    if _current is not None:
        yield Bar(title, total=total, unit=unit, stream=_NOWHERE, every_s=float("inf"))
        return
    stream = stream or sys.stderr
    bar = _current = Bar(title, total=total, unit=unit, stream=stream, every_s=EVERY_S)
    ended = threading.Event()
    ticking = threading.Thread(target=_tick, args=(bar, ended), name="progress", daemon=True)
    ticking.start()
    try:
        with _log_lines_beside(bar):
            yield bar
    finally:
        ended.set()
        ticking.join()
        _current = None
        bar.close()


def silence() -> None:
    """Shows nothing in this process, for those that share what another one shows."""
    global _current  # noqa: PLW0603 - as above
    _current = Bar("", stream=_NOWHERE, every_s=float("inf"))


def at(phase: str, *, total: int | None = None, unit: str = "") -> None:
    """Does :meth:`Bar.at` on the bar that is shown; nothing where there is none."""
    if _current is not None:
        _current.at(phase, total=total, unit=unit)


def add(number: int = 1) -> None:
    """Counts units that are done, on the bar that is shown; nothing where there is none."""
    if _current is not None:
        _current.add(number)


def write(line: str) -> None:
    """Writes a line to standard output, beside the bar that is shown."""
    with _current.beside() if _current is not None else contextlib.nullcontext():
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()


def _tick(bar: Bar, ended: threading.Event) -> None:
    while not ended.wait(_LOOK_EVERY_S):
        bar.tick()


class _Beside:
    """A stream whose writes leave the bar whole."""

    def __init__(self, stream: TextIO, bar: Bar) -> None:
        self._stream, self._bar = stream, bar

    def write(self, text: str) -> int:
        with self._bar.beside():
            return self._stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextlib.contextmanager
def _log_lines_beside(bar: Bar) -> Iterator[None]:
    handler = logging.get_absl_handler().python_handler
    before = handler.stream
    handler.stream = _Beside(before, bar)
    try:
        yield
    finally:
        handler.stream = before


def _interval(seconds: float) -> str:
    return str(tqdm.tqdm.format_interval(seconds))


def _rate(rate: float) -> str:
    return f"{rate:,.0f}" if rate >= 10 else f"{rate:.2g}"
