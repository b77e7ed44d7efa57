"""Benchmark of preprocessing: from start to finish, on all features, on this machine.

Times and memory are of whole commands, with the embedded runner, which is runner and worker in
one process. Ratios are taken side by side, on logs of the same simulated site.
"""

import dataclasses
import functools
import os
import pathlib
from collections.abc import Sequence

from features import files
from pipeline.benchmarks import commits, measured_runs
from pipeline.benchmarks.measured_runs import Run
from pipeline.steps import commands

# Users of a site of about 500 events each: 1, 4 and 10 million events.
_GROWING = {1: 2_000, 4: 8_000, 10: 20_000}
_ROUNDS = 2
_EVENTS_OF_A_USER = 44  # of a small site in five days


def measure(
    work: pathlib.Path, *, against: str = "", events: Sequence[int] = (50_000, 200_000)
) -> dict[str, float]:
    """Returns rates, ratios, and what the ratios were taken from.

    Args:
        work: Directory for what is made meanwhile.
        against: Another commit, as Git names it: then ratios of this checkout over it, and no more.
        events: Numbers of events of the logs on which the two are compared.
    """
    if against:
        with commits.beside(against, work, rounds=_ROUNDS) as comparison:
            return _against_a_commit(work, comparison, events)
    return _larger_logs(work)


def _larger_logs(work: pathlib.Path) -> dict[str, float]:
    seconds, gigabytes, impressions = {}, {}, {}
    for times, users in _GROWING.items():
        logs, examples = work / f"logs{times}", work / f"examples{times}"
        site = ("--preset=medium", f"--users={users}", "--videos=20000", "--seed=1")
        commands.run_binary("pipeline.simulate", f"--logs={logs}", *site)
        run = _preprocess(logs, examples)
        seconds[times], gigabytes[times] = run.wall_s, run.peak_gb
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


def _against_a_commit(
    work: pathlib.Path, comparison: commits.Comparison, sizes: Sequence[int]
) -> dict[str, float]:
    """Returns what the whole command takes in two trees, on the same logs, by number of events."""
    figures = {}
    for events in sizes:
        logs = work / f"logs{events}"
        site = ("--preset=small", f"--users={events // _EVENTS_OF_A_USER}", "--days=5", "--seed=1")
        commands.run_binary("pipeline.simulate", f"--logs={logs}", *site)
        figures_of = functools.partial(_figures_of, logs=logs, examples=work / f"examples{events}")
        for name, value in comparison.in_turns(figures_of).items():
            figures[f"preprocess.{events // 1000}k_events_{name}"] = value
    return figures


def _figures_of(
    name: str, tree: pathlib.Path, *, logs: pathlib.Path, examples: pathlib.Path
) -> dict[str, float]:
    del name
    run = _preprocess(logs, examples, tree=tree)
    info = files.require_complete(examples, what="examples", made_by="pipeline.preprocess")
    read = info["rows"]["impressions"]["read"]
    return {"impressions_per_cpu_s": read / run.cpu_s, **dataclasses.asdict(run)}


def _preprocess(
    logs: pathlib.Path, examples: pathlib.Path, *, tree: pathlib.Path = measured_runs.CHECKOUT
) -> Run:
    """Runs the job."""
    flags = (f"--logs={logs}", f"--examples={examples}")
    return measured_runs.run("pipeline.preprocess", *flags, tree=tree)
