r"""Measures, and writes one flat JSON object of dotted keys to numbers.

    python -m pipeline.bench --output=build/bench.json
    python -m pipeline.bench --output=build/bench.json --groups=preprocess
    python -m pipeline.bench --groups=preprocess --against=v1.0 --events=50000,400000

Group ``x`` is ``measure`` in ``pipeline/benchmarks/x.py``. It measures on this machine, with ratios
taken side by side in one run, and each group in a process of its own: what one has used is given
back before the next one begins. The figures of groups that are not run stay as they are in the
file; a group that never ran leaves its keys out. With ``--against`` this commit is measured beside
another one, in turns (``pipeline/benchmarks/against.py``), under the keys of group ``x_against``.
"""

import importlib
import json
import pathlib
import tempfile
from collections.abc import Mapping, Sequence

from absl import flags

from features import command, files
from pipeline.benchmarks import against
from pipeline.steps import commands

_FEWEST_EVENTS = 10_000
GROUPS = ("preprocess", "candidate", "ranker", "index", "funnel")
_OUTPUT = flags.DEFINE_string("output", "build/bench.json", "File to write.")
_GROUPS = flags.DEFINE_list("groups", [], f"Which groups to run; default: {', '.join(GROUPS)}.")
_AGAINST = flags.DEFINE_string(
    "against", None, "Another commit, as git names it, to measure beside this one."
)
_ROUNDS = flags.DEFINE_integer("rounds", 2, "With --against: turns of each commit.", lower_bound=1)
_EVENTS = flags.DEFINE_list(
    "events",
    ["50000", "200000"],
    "With --against, of preprocess: events of the logs that both preprocess.",
)


def main(argv: Sequence[str]) -> None:
    """Runs groups and brings the file up to date after each."""
    del argv
    chosen = _GROUPS.value or GROUPS
    unknown = sorted(set(chosen) - set(GROUPS))
    if unknown:
        raise command.InputError(f"--groups must be out of {list(GROUPS)}, got {unknown}.")
    output = pathlib.Path(_OUTPUT.value)
    events = _numbers_of_events()
    for name in chosen:
        with tempfile.TemporaryDirectory(prefix="bench-") as work:
            if _AGAINST.value:
                figures = against.measure(
                    name,
                    pathlib.Path(work),
                    ref=_AGAINST.value,
                    rounds=_ROUNDS.value,
                    events=events,
                )
            else:
                figures = commands.in_own_process(_measured, name, pathlib.Path(work))
        of_group = f"{name}_against" if _AGAINST.value else name
        files.atomic_write(output, merged(_earlier(output), of_group, figures))
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


def _measured(group: str, work: pathlib.Path) -> dict[str, float]:
    """Returns the figures of a group."""
    figures: dict[str, float] = importlib.import_module(f"pipeline.benchmarks.{group}").measure(
        work
    )
    return figures


def merged(earlier: Mapping[str, float], group: str, figures: Mapping[str, float]) -> str:
    """Returns the text of the file: the figures of a group in place of its earlier ones."""
    others = {key: v for key, v in earlier.items() if key.partition(".")[0] != group}
    ordered = dict(sorted({**others, **figures}.items()))
    return json.dumps(ordered, indent=1, allow_nan=False) + "\n"


def _earlier(output: pathlib.Path) -> dict[str, float]:
    return dict(json.loads(output.read_text())) if output.is_file() else {}


if __name__ == "__main__":
    command.run(main, writes=("output",))
