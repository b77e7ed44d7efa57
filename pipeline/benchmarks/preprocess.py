"""Benchmark of preprocessing: from start to finish, on all features, on this machine.

Times and memory are of whole commands, with the embedded runner, which is runner and worker in
one process. Ratios are taken side by side, on logs of the same simulated site.
"""

import os
import pathlib
import subprocess
import sys
import time

from absl import logging

from features import command, files, spec
from features.spec import Kind, ResolvedSpec
from pipeline.benchmarks import plain_preprocessing
from pipeline.steps import commands

# Some 50,000 impressions: the obvious chain takes minutes for them.
_COMPARED = ("--preset=small", "--days=3", "--seed=1")
# Users of a site of about 500 events each: 1, 4 and 10 million events.
_GROWING = {1: 2_000, 4: 8_000, 10: 20_000}
_LOOK_EVERY_S = 0.5


def measure(work: pathlib.Path) -> dict[str, float]:
    """Returns rates, ratios, and what the ratios were taken from."""
    return {**_against_the_obvious_chain(work), **_against_larger_logs(work)}


def _against_the_obvious_chain(work: pathlib.Path) -> dict[str, float]:
    logs, examples = work / "logs", work / "examples"
    commands.run_binary("pipeline.simulate", f"--logs={logs}", *_COMPARED)
    seconds, _ = _preprocess(logs, examples)
    info = files.require_complete(examples, what="examples", made_by="pipeline.preprocess")
    resolved = ResolvedSpec.load(examples)
    impressions = info["rows"]["impressions"]["read"]
    logging.info("The obvious chain, on the same %d impressions.", impressions)
    started = time.monotonic()
    rows = plain_preprocessing.run(logs, resolved, work / "plain")
    plain_seconds = time.monotonic() - started
    return {
        "preprocess.inputs": num_inputs(resolved),
        "preprocess.small_impressions_per_s": impressions / seconds,
        "preprocess.naive_impressions_per_s": rows / plain_seconds,
        "preprocess.vs_naive_ratio": (impressions / seconds) / (rows / plain_seconds),
    }


def num_inputs(resolved: ResolvedSpec) -> int:
    """Returns how many inputs the ranker has: x, its square and its root count as three."""
    continuous = len([f for f in resolved.of(spec.RANKER) if f.kind is Kind.CONTINUOUS])
    return len(resolved.of(spec.RANKER)) + 2 * continuous


def _against_larger_logs(work: pathlib.Path) -> dict[str, float]:
    seconds, gigabytes, impressions = {}, {}, {}
    for times, users in _GROWING.items():
        logs, examples = work / f"logs{times}", work / f"examples{times}"
        site = ("--preset=medium", f"--users={users}", "--videos=20000", "--seed=1")
        commands.run_binary("pipeline.simulate", f"--logs={logs}", *site)
        seconds[times], gigabytes[times] = _preprocess(logs, examples)
        info = files.require_complete(examples, what="examples", made_by="pipeline.preprocess")
        impressions[times] = info["rows"]["impressions"]["read"]
    per_s = impressions[10] / seconds[10]
    return {
        "preprocess.impressions_per_s": per_s,
        "preprocess.impressions_per_s_per_core": per_s / (os.cpu_count() or 1),
        "preprocess.time_4x_events_ratio": seconds[4] / seconds[1],
        "preprocess.memory_10x_events_ratio": gigabytes[10] / gigabytes[1],
        "preprocess.seconds_1m_events": seconds[1],
        "preprocess.seconds_10m_events": seconds[10],
        "preprocess.peak_memory_gb_10m_events": gigabytes[10],
    }


def _preprocess(logs: pathlib.Path, examples: pathlib.Path) -> tuple[float, float]:
    """Runs the job; returns its wall time in seconds and its peak memory in gigabytes."""
    arguments = ["-m", "pipeline.preprocess", f"--logs={logs}", f"--examples={examples}"]
    logging.info("pipeline.preprocess %s", " ".join(arguments[2:]))
    started = time.monotonic()
    process = subprocess.Popen([sys.executable, *arguments])
    # Not ru_maxrss: that of a child counts the memory of this process, which it was forked from.
    peak = 0.0
    while process.poll() is None:
        peak = max(peak, _peak_gb(process.pid))
        time.sleep(_LOOK_EVERY_S)
    if process.returncode:
        raise command.InputError("pipeline.preprocess failed; it said why above.")
    return time.monotonic() - started, peak


def _peak_gb(pid: int) -> float:
    """Returns the largest resident set of a process so far; 0 where it has just ended."""
    try:
        status = pathlib.Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0.0
    sizes = [line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:")]
    return int(sizes[0]) / 1e6 if sizes else 0.0
