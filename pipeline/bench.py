r"""Measures, and writes one flat JSON object of dotted keys to numbers.

    python -m pipeline.bench --output=build/bench.json
    python -m pipeline.bench --output=build/bench.json --groups=preprocess
    python -m pipeline.bench --output=build/bench.json --groups=funnel --against=v0.9 --videos=60000
    python -m pipeline.bench --output=build/bench.json --groups=preprocess --against=v0.9

Group ``x`` is ``measure`` in ``pipeline/benchmarks/x.py``. It measures on this machine, with ratios
taken side by side in one run, and each group in a process of its own: what one has used is given
back before the next one begins. The figures of groups that are not run stay as they are in the
file; a group that never ran leaves its keys out.
"""

import importlib
import json
import pathlib
import tempfile
from collections.abc import Mapping
from typing import Any

from absl import flags

from features import command, config_flags, files
from pipeline.steps import commands

_GROUPS_WITH = {
    "against": ("preprocess", "candidate", "funnel"),
    "videos": ("funnel",),
    "processes": ("funnel",),
    "events": ("preprocess",),
}
_FEWEST_EVENTS = 10_000
GROUPS = ("preprocess", "candidate", "ranker", "index", "funnel")
_OUTPUT = config_flags.path("output", "writes", "File to write.", default="build/bench.json")
_GROUPS = flags.DEFINE_list("groups", [], f"Which groups to run; default: {', '.join(GROUPS)}.")
_AGAINST = flags.DEFINE_string(
    "against",
    "",
    "Another commit, as Git names it: then the group gives ratios of this checkout over it, "
    "measured in turns in one run. Of funnel, both serve one release; of preprocess, both "
    "preprocess the same logs; of candidate, both train.",
)
_EVENTS = flags.DEFINE_list(
    "events", [], "With --against, of preprocess: events of the logs; default: 50000,200000."
)
_VIDEOS = flags.DEFINE_integer(
    "videos", None, "Size of the catalogue of the group funnel; default: a million.", 10_000
)
_NUM_PROCESSES = flags.DEFINE_integer(
    "processes", None, "Processes of the server of the group funnel; default: 1.", 1, 64
)


def main() -> None:
    """Runs groups and brings the file up to date after each."""
    chosen = _GROUPS.value or GROUPS
    unknown = sorted(set(chosen) - set(GROUPS))
    if unknown:
        raise command.InputError(f"--groups must be out of {list(GROUPS)}, got {unknown}.")
    settings = {"against": _AGAINST.value} if _AGAINST.value else {}
    settings |= {"videos": _VIDEOS.value} if _VIDEOS.value else {}
    settings |= {"processes": _NUM_PROCESSES.value} if _NUM_PROCESSES.value else {}
    settings |= {"events": _numbers_of_events()} if _EVENTS.value else {}
    for name in settings:
        if len(chosen) != 1 or chosen[0] not in _GROUPS_WITH[name]:
            raise command.InputError(
                f"--{name} is for one group out of {', '.join(_GROUPS_WITH[name])}: give --groups."
            )
    output = pathlib.Path(_OUTPUT.value)
    for name in chosen:
        with tempfile.TemporaryDirectory(prefix="bench-") as work:
            figures = commands.in_own_process(_measured, name, pathlib.Path(work), settings)
        earlier = json.loads(output.read_text()) if output.is_file() else {}
        files.atomic_write(output, merged(earlier, name, figures))
        for key, value in figures.items():
            print(f"{key:<40} {value:,.3f}")
    print(f"Wrote {output}.")


def _numbers_of_events() -> list[int]:
    wrong = [text for text in _EVENTS.value if not text.isdecimal() or int(text) < _FEWEST_EVENTS]
    if wrong:
        raise command.InputError(
            f"--events must be numbers of at least {_FEWEST_EVENTS}, got {', '.join(wrong)}."
        )
    return [int(text) for text in _EVENTS.value]


def _measured(group: str, work: pathlib.Path, settings: Mapping[str, Any]) -> dict[str, float]:
    """Returns the figures of a group."""
    module = importlib.import_module(f"pipeline.benchmarks.{group}")
    return module.measure(work, **settings)


def merged(earlier: Mapping[str, float], group: str, figures: Mapping[str, float]) -> str:
    """Returns the text of the file: the figures of a group in place of its earlier ones."""
    others = {key: v for key, v in earlier.items() if key.partition(".")[0] != group}
    ordered = dict(sorted({**others, **figures}.items()))
    return json.dumps(ordered, indent=1, allow_nan=False) + "\n"


if __name__ == "__main__":
    command.run(main)
