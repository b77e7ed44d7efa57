"""Benchmark of preprocessing: from start to finish, on all features, on this machine."""

import pathlib
import time

from features import files
from features.spec import ResolvedSpec
from pipeline import commands

# Some 100,000 impressions: enough for the time of the work to stand above that of starting up.
_SITE = ("--preset=small", "--days=7", "--seed=1")


def measure(work: pathlib.Path) -> dict[str, float]:
    """Returns impressions a second, the number of features, and the wall time in seconds."""
    logs, examples = work / "logs", work / "examples"
    commands.run_binary("pipeline.simulate", f"--logs={logs}", *_SITE)
    started = time.monotonic()
    commands.run_binary("pipeline.preprocess", f"--logs={logs}", f"--examples={examples}")
    seconds = time.monotonic() - started
    info = files.require_complete(examples, what="examples", made_by="pipeline.preprocess")
    return {
        "preprocess.impressions_per_s": info["rows"]["impressions"]["read"] / seconds,
        "preprocess.inputs": len(ResolvedSpec.load(examples).features),
        "preprocess.seconds": seconds,
    }
