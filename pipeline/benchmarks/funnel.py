"""Benchmark of the funnel: a real server, a million videos, load from a process of its own.

The server is ``serving.serve`` as anybody would start it: HTTP, history store, event log, all
sources, 500 ranked candidates, models in its process. Server and load share the machine. See
:mod:`pipeline.benchmarks.million` for the release and :mod:`pipeline.load_generator` for the load.
"""

import contextlib
import json
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from absl import logging

from features import command, files
from pipeline.benchmarks import million as bench_million
from pipeline.steps import commands

_CANDIDATES = 500
# With what the other sources add, some 500 candidates are ranked.
_SERVER = ("--retrieved=300", "--threads=4", "--port=0")
_MARK = "(2)"
_RATE = 50.0
_LIMIT_MS = 50.0
_STEP = 1.15
_MOST_RATE = 200.0
_BEFORE_SWAP_S, _AFTER_SWAP_S = 15.0, 105.0
_SETTLED_S = 10.0  # After its first answer a release serves as it will.
_READY_S = 300.0


def measure(work: pathlib.Path) -> dict[str, float]:
    """Returns latencies, the highest rate that holds, memory, start and the price of a swap."""
    users = work / "users.txt"
    # Beside the servers there must be no memory of what it took to build a million videos.
    site, first, second = commands.in_own_process(_build, work, users)
    figures: dict[str, float] = {"funnel.inputs": site.num_inputs}
    with _server(site, work) as server:
        figures["funnel.start_s"] = server.start_s
        figures["funnel.ranked"] = _ranked(server.address, users)
        load = _Loads(server.address, users, work)
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


def _build(work: pathlib.Path, users: pathlib.Path) -> tuple[bench_million.Site, str, str]:
    """Returns the site, the version that serves, and the one to swap in; writes the users."""
    site = bench_million.build(work)
    first, second = bench_million.second_release(site.serving_root, mark=_MARK)
    _write_users(site.logs, users)
    return site, first, second


def _write_users(logs: pathlib.Path, users: pathlib.Path) -> None:
    ids = pq.read_table(logs / "watches", columns=["user_id"])["user_id"].unique().to_pylist()
    users.write_text("".join(f"{user_id}\n" for user_id in sorted(ids)))


# ---- the server ----------------------------------------------------------------------------------


class _Server:
    def __init__(self, process: subprocess.Popen[str], address: str, start_s: float) -> None:
        self.process = process
        self.address = address
        self.start_s = start_s

    def memory_gb(self) -> float:
        """Returns memory of the server and its children, 1e9 bytes; what they share counts once."""
        rollups = (f"/proc/{pid}/smaps_rollup" for pid in _with_children(self.process.pid))
        rollup = [re.search(r"Pss:\s+(\d+) kB", pathlib.Path(path).read_text()) for path in rollups]
        return sum(int(match[1]) for match in rollup if match is not None) * 1024 / 1e9


def _with_children(pid: int) -> list[int]:
    children = pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(each for child in children for each in _with_children(int(child)))]


@contextlib.contextmanager
def _server(site: bench_million.Site, work: pathlib.Path) -> Iterator[_Server]:
    """Runs the server on its own copy of the logs, as of the end of the logs."""
    place = work / "server"
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(site.logs, place / "logs")
    arguments = [
        f"--serving_root={site.serving_root}",
        f"--logs={place / 'logs'}",
        f"--history={place / 'history.sqlite'}",
        f"--now={command.format_time(_end_of(site.logs))}",
        *_SERVER,
    ]
    logging.info("serving.serve %s", " ".join(arguments))
    started = time.monotonic()
    with (place / "server.log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "serving.serve", *arguments],
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        announced = re.search(r"http://([\d.]+:\d+)", line)
        if announced is None:
            raise command.InputError(f"the server did not start; see {place / 'server.log'}.")
        yield _Server(process, announced[1], time.monotonic() - started)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(_READY_S)
        if process.stdout is not None:
            process.stdout.close()


def _end_of(logs: pathlib.Path) -> int:
    times = pq.read_table(logs / "impressions", columns=["time"])["time"]
    return int(np.asarray(times).max()) + 1


def _ranked(address: str, users: pathlib.Path) -> int:
    """Returns how many candidates are ranked for a page; refuses figures about another funnel."""
    user_id = users.read_text().split()[0]
    body = json.dumps({"user_id": user_id, "k": 20, "debug": True}).encode()
    request = urllib.request.Request(
        f"http://{address}/v1/recommendations", body, {"content-type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        page = json.loads(answer.read())
    ranked = int(page["debug"]["candidates"])
    if page["rung"] != "full" or ranked < _CANDIDATES:
        raise command.InputError(
            f"the benchmark needs {_CANDIDATES} ranked candidates, got {ranked} on the rung "
            f"{page['rung']}: {page['debug']['reasons']}."
        )
    return ranked


# ---- the load ------------------------------------------------------------------------------------


class _Loads:
    def __init__(self, address: str, users: pathlib.Path, work: pathlib.Path) -> None:
        self._address = address
        self._users = users
        self._output = work / "load.json"
        self._seed = 0

    def arguments(self, rate: float, seconds: float) -> list[str]:
        """Returns the flags of one run."""
        self._seed += 1
        return [
            f"--address={self._address}",
            f"--users={self._users}",
            f"--rate={rate}",
            f"--seconds={seconds}",
            f"--seed={self._seed}",
            f"--mark={_MARK}",
            f"--output={self._output}",
        ]

    def run(self, rate: float, seconds: float) -> dict[str, Any]:
        """Runs the generator and returns its report."""
        commands.run_binary("pipeline.load_generator", *self.arguments(rate, seconds))
        return self.report()

    def report(self) -> dict[str, Any]:
        """Returns the report of the last run."""
        report: dict[str, Any] = json.loads(self._output.read_text())
        logging.info(
            "%.0f/s: p50 %.1f ms, p99 %.1f ms, %s, failures %s, load generator %.1f CPU s",
            report["rate"],
            report["p50_ms"],
            report["p99_ms"],
            report["rungs"],
            report["failures"],
            report["cpu_s"],
        )
        return report


def _holds(report: dict[str, Any]) -> bool:
    whole = report["rungs"].get("full", 0) == report["sent"]
    return whole and not report["failures"] and report["p99_ms"] <= _LIMIT_MS


def _highest_rate(load: _Loads) -> float:
    """Returns the highest rate tried at which every page is whole and the p99 holds; 0 for none."""
    rate, best = 20.0, 0.0
    while rate <= _MOST_RATE:
        if not _holds(load.run(rate, 8.0)):
            break
        best = rate
        rate = round(rate * _STEP, 1)
    return best


def _swap(load: _Loads, root: pathlib.Path, second: str, *, rate: float) -> dict[str, float]:
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
