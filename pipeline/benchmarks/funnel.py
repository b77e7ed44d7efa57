"""Benchmark of the funnel: a real server, a million videos, load from a process of its own.

The server is ``serving.serve`` as anybody would start it: HTTP, history store, event log, all
sources, 500 ranked candidates, models in its process. Server and load share the machine. See
:mod:`pipeline.benchmarks.million` for the release and :mod:`pipeline.load_generator` for the load.
"""

import pathlib
import subprocess
import sys
import time

import numpy as np
import pyarrow.parquet as pq
from absl import logging

from features import command, files
from pipeline.benchmarks import against as rivals
from pipeline.benchmarks import million as bench_million
from pipeline.benchmarks import running_server
from pipeline.benchmarks.running_server import MARK, Loads
from pipeline.steps import commands

_RATE = 50.0
_LIMIT_MS = 50.0
_STEP = 1.15
_MOST_RATE = 200.0
_BEFORE_SWAP_S, _AFTER_SWAP_S = 15.0, 105.0
_SETTLED_S = 10.0  # After its first answer a release serves as it will.
_READY_S = 300.0


def measure(
    work: pathlib.Path,
    *,
    against: str = "",
    videos: int = bench_million.NUM_VIDEOS,
    processes: int = 1,
) -> dict[str, float]:
    """Returns latencies, the highest rate that holds, memory, start and the price of a swap.

    Args:
        work: Directory for everything.
        against: Another commit, as Git names it: then ratios of this checkout over it, and no more.
        videos: Size of the catalogue.
        processes: Number of processes of the server of this checkout.
    """
    flags = [f"--processes={processes}"] if processes > 1 else []
    users = work / "users.txt"
    # Beside the servers there must be no memory of what it took to build a million videos.
    site, first, second = commands.in_own_process(_build, work, users, videos)
    figures: dict[str, float] = {
        "funnel.inputs": site.num_inputs,
        "funnel.processes": processes,
    }
    if against:
        ratios = rivals.measure(site, users, work, ref=against, flags=flags)
        return {**figures, "funnel.videos": videos, **ratios}
    with running_server.running(site, work / "server", flags=flags) as server:
        figures["funnel.start_s"] = server.start_s
        figures["funnel.ranked"] = running_server.ranked(server.address, users)
        load = Loads(server.address, users, work)
        load.run(20.0, 15.0)  # Caches fill, threads start.
        for rate in (10.0, _RATE):
            report = load.run(rate, 20.0)
            figures[f"funnel.p50_ms_at_{rate:g}rps"] = report["p50_ms"]
            figures[f"funnel.p99_ms_at_{rate:g}rps"] = report["p99_ms"]
        figures["funnel.max_rps_p99_under_50ms"] = _highest_rate(load)
        # Where the machine is idle half of the time: loading a release needs some of it.
        rate = max(5.0, figures["funnel.max_rps_p99_under_50ms"] / 2)
        figures |= _swap(load, site.serving_root, second, rate=rate)
        figures["funnel.memory_gb"] = server.memory_gb()
    files.atomic_write(site.serving_root / "CURRENT", f"{first}\n")
    return figures


def _build(
    work: pathlib.Path, users: pathlib.Path, videos: int
) -> tuple[bench_million.Site, str, str]:
    """Returns the site, the version that serves, and the one to swap in; writes the users."""
    site = bench_million.build(work, num_videos=videos)
    first, second = bench_million.second_release(site.serving_root, mark=MARK)
    _write_users(site.logs, users)
    return site, first, second


def _write_users(logs: pathlib.Path, users: pathlib.Path) -> None:
    ids = pq.read_table(logs / "watches", columns=["user_id"])["user_id"].unique().to_pylist()
    users.write_text("".join(f"{user_id}\n" for user_id in sorted(ids)))


# ---- the load ----------------------------------------------------------------------------------


def _highest_rate(load: Loads) -> float:
    """Returns the highest rate tried at which every page is whole and the p99 holds; 0 for none."""
    rate, best = 20.0, 0.0
    while rate <= _MOST_RATE:
        if not running_server.holds(load.run(rate, 8.0), limit_ms=_LIMIT_MS):
            break
        best = rate
        rate = round(rate * _STEP, 1)
    return best


def _swap(load: Loads, root: pathlib.Path, second: str, *, rate: float) -> dict[str, float]:
    """Publishes a release under load; compares the tail before and during the swap."""
    arguments = load.arguments(rate, _BEFORE_SWAP_S + _AFTER_SWAP_S)
    process = subprocess.Popen([sys.executable, "-m", "pipeline.load_generator", *arguments])
    time.sleep(_BEFORE_SWAP_S + 1.5)  # The generator needs a moment to start.
    files.atomic_write(root / "CURRENT", f"{second}\n")
    if process.wait(_READY_S):
        raise command.InputError("the load generator failed; it said why above.")
    report = load.report()
    mixed = sum(count for name, count in report["releases"].items() if name.endswith("MIXED"))
    swapped = sum(n for name, n in report["releases"].items() if name == f"{second} marked")
    honest = {name.partition(" ")[::2] for name in report["releases"]}
    logging.info("Swap: answers by release and mark: %s", report["releases"])
    if not swapped:
        logging.error("The new release did not serve within %.0f s: no figures.", _AFTER_SWAP_S)
        return {}
    due, latencies = np.array(report["due_s"]), np.array(report["latencies_ms"])
    serves_s = report["first_due_s"][second]
    is_during = (due >= _BEFORE_SWAP_S) & (due < serves_s + _SETTLED_S)
    before = float(np.percentile(latencies[due < _BEFORE_SWAP_S], 99))
    during = float(np.percentile(latencies[is_during], 99))
    wrong = sum(1 for name, mark in honest if (name == second) != (mark == "marked"))
    return {
        "funnel.swap_s": serves_s - _BEFORE_SWAP_S,
        "funnel.swap_p99_ms_before": before,
        "funnel.swap_p99_ms_during": during,
        "funnel.swap_p99_ratio": during / before,
        "funnel.swap_failed_requests": float(sum(report["failures"].values())),
        "funnel.swap_mixed_answers": float(mixed + wrong),
    }
