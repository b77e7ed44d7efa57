r"""Measures, and writes one flat JSON object of dotted keys to numbers.

    python -m pipeline.bench --output=build/bench.json
    python -m pipeline.bench --output=build/bench.json --groups=preprocess

A group is a function that measures by running the commands themselves. The figures of groups that
are not run stay as they are in the file; a group that never ran leaves its keys out.
"""

import json
import pathlib
import subprocess
import sys
import tempfile
import time
import types
from collections.abc import Callable, Mapping, Sequence

from absl import flags, logging

from features import command, files
from features.spec import ResolvedSpec

# Some 100,000 impressions: enough for the time of the work to stand above that of starting up.
_SITE = ("--preset=small", "--days=7", "--seed=1")


def preprocess(work: pathlib.Path) -> dict[str, float]:
    """Measures preprocessing from start to finish, on all features, on this machine."""
    logs, examples = work / "logs", work / "examples"
    _run("pipeline.simulate", f"--logs={logs}", *_SITE)
    seconds = _run("pipeline.preprocess", f"--logs={logs}", f"--examples={examples}")
    info = files.require_complete(examples, what="examples", made_by="pipeline.preprocess")
    impressions = info["rows"]["impressions"]["read"]
    return {
        "preprocess.impressions_per_s": impressions / seconds,
        "preprocess.inputs": len(ResolvedSpec.load(examples).features),
        "preprocess.seconds": seconds,
    }


GROUPS: Mapping[str, Callable[[pathlib.Path], dict[str, float]]] = types.MappingProxyType(
    {"preprocess": preprocess}
)
_OUTPUT = flags.DEFINE_string("output", "build/bench.json", "File to write.")
_GROUPS = flags.DEFINE_list("groups", [], f"Which groups to run; default: {', '.join(GROUPS)}.")


def main(argv: Sequence[str]) -> None:
    """Runs groups and brings the file up to date after each."""
    del argv
    chosen = _GROUPS.value or list(GROUPS)
    unknown = sorted(set(chosen) - set(GROUPS))
    if unknown:
        raise command.InputError(f"--groups must be out of {sorted(GROUPS)}, got {unknown}.")
    output = pathlib.Path(_OUTPUT.value)
    for name in chosen:
        with tempfile.TemporaryDirectory(prefix="bench-") as work:
            figures = GROUPS[name](pathlib.Path(work))
        files.atomic_write(output, merged(_earlier(output), name, figures))
        for key, value in figures.items():
            print(f"{key:<40} {value:,.3f}")
    print(f"Wrote {output}.")


def merged(earlier: Mapping[str, float], group: str, figures: Mapping[str, float]) -> str:
    """Returns the text of the file: the figures of a group in place of its earlier ones."""
    others = {key: v for key, v in earlier.items() if key.partition(".")[0] != group}
    ordered = dict(sorted({**others, **figures}.items()))
    return json.dumps(ordered, indent=1, allow_nan=False) + "\n"


def _earlier(output: pathlib.Path) -> dict[str, float]:
    return dict(json.loads(output.read_text())) if output.is_file() else {}


def _run(binary: str, *arguments: str) -> float:
    """Runs a command and returns its wall time in seconds."""
    logging.info("%s %s", binary, " ".join(arguments))
    started = time.monotonic()
    code = subprocess.run([sys.executable, "-m", binary, *arguments], check=False).returncode
    if code:
        raise command.InputError(f"{binary} failed with exit code {code}; it said why above.")
    return time.monotonic() - started


if __name__ == "__main__":
    command.run(main)
