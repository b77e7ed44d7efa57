"""The server of this checkout beside that of another commit: one release, one run, load in turns.

What disturbs one disturbs the other, so that their ratio says something on a machine that others
use too. Processor time and memory are those of the servers themselves, whatever else runs. Times
are not: where other work took more than a tenth of the machine, ratios of latencies and rates are
left out.
"""

import contextlib
import dataclasses
import os
import pathlib
import statistics
from collections.abc import Sequence

from absl import logging

from pipeline.benchmarks import commits, running_server, same_pages
from pipeline.benchmarks.million import Site
from pipeline.benchmarks.running_server import Loads, Server

_ROUNDS = 6
_RATE, _SECONDS = 10.0, 8.0
_LIMIT_MS = 50.0
_FIRST_RATE, _STEP, _MOST_RATE = 10.0, 1.25, 400.0
_MOST_OTHER_WORK = 0.1
_LEAST_RANKED = 400  # The sources find fewer of a smaller catalogue.
BASE, OURS = "base", "ours"


@dataclasses.dataclass
class _Side:
    server: Server
    load: Loads
    p50_ms: list[float] = dataclasses.field(default_factory=list)
    cpu_ms: list[float] = dataclasses.field(default_factory=list)
    best_rate: float = 0.0

    def take_turn(self) -> None:
        """Asks for pages at a rate that both hold, and notes what they cost."""
        before = self.server.cpu_s()
        report = self.load.run(_RATE, _SECONDS)
        self.p50_ms.append(report["p50_ms"])
        self.cpu_ms.append(1000 * (self.server.cpu_s() - before) / report["sent"])


def measure(
    site: Site, users: pathlib.Path, work: pathlib.Path, *, ref: str, flags: Sequence[str] = ()
) -> dict[str, float]:
    """Returns ratios of this checkout over a commit.

    Args:
        site: Site whose current release both serve.
        users: File with one user id per line.
        work: Directory for what the servers write.
        ref: The other commit, as Git names it.
        flags: Further flags of the server of this checkout.

    Raises:
        InputError: There is no such commit, or one of the servers does not start.
    """
    with contextlib.ExitStack() as stack:
        checkout = stack.enter_context(commits.checked_out(ref, work / "base"))
        pages = _compared(site, users, work, checkout=checkout, flags=flags)
        machine = _Machine()
        sides: dict[str, _Side] = {}
        for name, where, more in ((BASE, checkout, ()), (OURS, None, flags)):
            server = stack.enter_context(
                running_server.running(site, work / f"server-{name}", checkout=where, flags=more)
            )
            running_server.ranked(server.address, users, least=_LEAST_RANKED)
            sides[name] = _Side(server, Loads(server.address, users, work))
        for side in sides.values():
            side.load.run(_RATE, _SECONDS)  # Caches fill, threads start.
        for turn in range(_ROUNDS):
            for name in (BASE, OURS) if turn % 2 else (OURS, BASE):
                sides[name].take_turn()
        _climb(list(sides.values()))
        other = machine.other_work([side.server for side in sides.values()])
        return pages | _figures(sides[OURS], sides[BASE], other)


def _compared(
    site: Site,
    users: pathlib.Path,
    work: pathlib.Path,
    *,
    checkout: pathlib.Path,
    flags: Sequence[str],
) -> dict[str, float]:
    """Returns how many pages are the same, of servers whose clocks stand still."""
    with contextlib.ExitStack() as stack:
        addresses = [
            stack.enter_context(
                running_server.running(
                    site, work / f"server-{name}", checkout=where, flags=more, is_frozen=True
                )
            ).address
            for name, where, more in ((OURS, None, flags), (BASE, checkout, ()))
        ]
        return same_pages.share(addresses, users)


def _figures(ours: _Side, base: _Side, other: float) -> dict[str, float]:
    cpu = {name: statistics.median(side.cpu_ms) for name, side in ((OURS, ours), (BASE, base))}
    memory = {name: side.server.memory_gb() for name, side in ((OURS, ours), (BASE, base))}
    figures = {
        "funnel.other_work": other,
        "funnel.cpu_ms_per_page": cpu[OURS],
        "funnel.base_cpu_ms_per_page": cpu[BASE],
        "funnel.cpu_over_base_ratio": cpu[OURS] / cpu[BASE],
        "funnel.memory_gb": memory[OURS],
        "funnel.base_memory_gb": memory[BASE],
        "funnel.memory_over_base_ratio": memory[OURS] / memory[BASE],
    }
    if other > _MOST_OTHER_WORK:
        logging.error(
            "Other work took %.0f %% of the machine, at most %.0f %% may: ratios of latencies and "
            "rates are left out. Measure again when nothing else runs.",
            *(100 * other, 100 * _MOST_OTHER_WORK),
        )
        return figures
    p50 = [statistics.median(side.p50_ms) for side in (ours, base)]
    figures["funnel.p50_over_base_ratio"] = p50[0] / p50[1]
    figures["funnel.start_over_base_ratio"] = ours.server.start_s / base.server.start_s
    if base.best_rate:
        figures["funnel.rps_over_base_ratio"] = ours.best_rate / base.best_rate
    return figures


def _climb(sides: list[_Side]) -> None:
    """Finds the highest rate at which each holds, both in turns; one that failed is left alone."""
    rate, climbing = _FIRST_RATE, list(sides)
    while climbing and rate <= _MOST_RATE:
        for side in list(climbing):
            if running_server.holds(side.load.run(rate, _SECONDS), limit_ms=_LIMIT_MS):
                side.best_rate = rate
            else:
                climbing.remove(side)
        rate = round(rate * _STEP, 1)


class _Machine:
    """How much of the machine works for others than this benchmark, since this was made."""

    def __init__(self) -> None:
        self._start = _busy_s()
        self._own = _own_s()

    def other_work(self, servers: list[Server]) -> float:
        """Returns the share of the machine's processor time, in [0, 1]."""
        busy, whole = (now - then for now, then in zip(_busy_s(), self._start, strict=True))
        own = _own_s() - self._own + sum(server.cpu_s() for server in servers)
        return min(max((busy - own) / whole, 0.0), 1.0) if whole else 0.0


def _busy_s() -> tuple[float, float]:
    """Returns processor time that was worked, and all of it, seconds, of all cores."""
    fields = pathlib.Path("/proc/stat").read_text().splitlines()[0].split()[1:9]
    ticks = [int(field) / os.sysconf("SC_CLK_TCK") for field in fields]
    idle = ticks[3] + ticks[4]  # Idle, and waiting for a disk.
    return sum(ticks) - idle, sum(ticks)


def _own_s() -> float:
    """Returns processor time of this process, and of those that it started and that have ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system
