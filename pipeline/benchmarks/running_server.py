"""A server as anybody would start it, of this checkout or another one, and load on it."""

import contextlib
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from absl import logging

from features import command
from pipeline.benchmarks import measured_runs
from pipeline.benchmarks import million as bench_million
from pipeline.steps import commands

CANDIDATES = 500
# With what the other sources add, some 500 candidates are ranked.
_SERVER = ("--retrieved=300", "--threads=4", "--port=0")
MARK = "(2)"
_READY_S = 300.0


class Server:
    """A running server.

    Attributes:
        process: Process that was started.
        address: HOST:PORT.
        start_s: Time from the start to the announcement, seconds.
    """

    def __init__(self, process: subprocess.Popen[str], address: str, start_s: float) -> None:
        self.process = process
        self.address = address
        self.start_s = start_s

    def memory_gb(self) -> float:
        """Returns memory of the server and its children, 1e9 bytes; what they share counts once."""
        rollups = (f"/proc/{pid}/smaps_rollup" for pid in measured_runs.family(self.process.pid))
        rollup = [re.search(r"Pss:\s+(\d+) kB", pathlib.Path(path).read_text()) for path in rollups]
        return sum(int(match[1]) for match in rollup if match is not None) * 1024 / 1e9

    def cpu_s(self) -> float:
        """Returns processor time of the server and its children, seconds."""
        return sum(cpu_s_of(pid) for pid in measured_runs.family(self.process.pid))


def cpu_s_of(pid: int) -> float:
    """Returns processor time of a process, user and system, seconds."""
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def running(
    site: bench_million.Site,
    place: pathlib.Path,
    *,
    checkout: pathlib.Path | None = None,
    flags: Sequence[str] = (),
    is_frozen: bool = False,
) -> Iterator[Server]:
    """Runs a server on its own copy of the logs, as of the end of the logs.

    Args:
        site: Site to serve.
        place: Directory for its logs, history and messages; replaced.
        checkout: Checkout whose code serves; None for that which runs.
        flags: Further flags of the server.
        is_frozen: Whether its clock stands still. The interpreter's does, since not every commit
            can be given one.

    Raises:
        InputError: It did not start.
    """
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(site.logs, place / "logs")
    now_s = _end_of(site.logs)
    arguments = [
        f"--serving_root={site.serving_root}",
        f"--logs={place / 'logs'}",
        f"--history={place / 'history.sqlite'}",
        f"--now={command.format_time(now_s)}",
        *_SERVER,
        *flags,
    ]
    environment = environment_of(checkout)
    if is_frozen:
        environment = with_frozen_clock(environment, place / "frozen", now_s)
    logging.info("serving.serve %s", " ".join(arguments))
    started = time.monotonic()
    with (place / "server.log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "serving.serve", *arguments],
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            cwd=checkout,
            env=environment,
        )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        announced = re.search(r"http://([\d.]+:\d+)", line)
        if announced is None:
            raise command.InputError(f"the server did not start; see {place / 'server.log'}.")
        yield Server(process, announced[1], time.monotonic() - started)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(_READY_S)
        if process.stdout is not None:
            process.stdout.close()


def environment_of(checkout: pathlib.Path | None) -> dict[str, str]:
    """Returns the environment of a process of a checkout; None for this one."""
    return dict(os.environ) | ({} if checkout is None else {"PYTHONPATH": str(checkout)})


def with_frozen_clock(
    environment: Mapping[str, str], directory: pathlib.Path, now_s: int
) -> dict[str, str]:
    """Returns an environment in which Python's clock shows one moment, whatever it runs.

    Args:
        environment: The other variables.
        directory: Directory that is made for it.
        now_s: Moment, Unix seconds.
    """
    directory.mkdir()
    frozen = f"import time\n\ntime.time = lambda: {now_s}.0\n"
    (directory / "sitecustomize.py").write_text(frozen)
    paths = [str(directory), environment.get("PYTHONPATH", "")]
    return {**environment, "PYTHONPATH": os.pathsep.join(filter(None, paths))}


def _end_of(logs: pathlib.Path) -> int:
    times = pq.read_table(logs / "impressions", columns=["time"])["time"]
    return int(np.asarray(times).max()) + 1


def ranked(address: str, users: pathlib.Path, *, least: int = CANDIDATES) -> int:
    """Returns how many candidates are ranked for a page; refuses figures about another funnel."""
    user_id = users.read_text().split()[0]
    body = json.dumps({"user_id": user_id, "k": 20, "debug": True}).encode()
    request = urllib.request.Request(
        f"http://{address}/v1/recommendations", body, {"content-type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        page = json.loads(answer.read())
    count = int(page["debug"]["candidates"])
    if page["rung"] != "full" or count < least:
        raise command.InputError(
            f"the benchmark needs {least} ranked candidates, got {count} on the rung "
            f"{page['rung']}: {page['debug']['reasons']}."
        )
    return count


class Loads:
    """Runs of the load generator on one server."""

    def __init__(self, address: str, users: pathlib.Path, work: pathlib.Path) -> None:
        self._address = address
        self._users = users
        self._output = work / f"load-{address.rpartition(':')[2]}.json"
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
            f"--mark={MARK}",
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


def holds(report: dict[str, Any], *, limit_ms: float) -> bool:
    """Whether every page was whole, none failed, and the p99 stayed within a limit."""
    whole = report["rungs"].get("full", 0) == report["sent"]
    return whole and not report["failures"] and report["p99_ms"] <= limit_ms
