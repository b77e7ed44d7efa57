"""The leakage audit of the preprocessing job: what replay saw, what transforms were fitted on.

:mod:`features.as_of.leakage` looks at every example while it is made. Here stand the checks of
what was written, and the verdict: an examples directory with a leak is not published.
"""

import collections
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from absl import logging

from features import command, dataset, files, spec
from features.as_of import leakage
from features.as_of.replay import HELD_OUT, TRAIN
from features.catalogue import combined
from features.durations import DAY_S
from features.spec import ResolvedSpec, Side

SEEN = "audit"
_SEEN_FILE = ".audit"
_ANALYSED_FILE = ".analysed_{model}"
# Sources of inputs that may leak where the label is held out, and in which examples.
_EXCUSED = {(spec.CANDIDATE, TRAIN, source) for source in ("watches", "searches", "counts")}


class LeakageError(command.InputError):
    """Something that was made of later events would go into training."""


def write_seen(seen: leakage.Seen, directory: pathlib.Path) -> None:
    """Writes what replay saw, for :func:`check_replay`."""
    findings = [[*key, vars(finding)] for key, finding in sorted(seen.findings.items())]
    events = [[*key, number] for key, number in sorted(seen.events.items())]
    content = json.dumps({"findings": findings, "events": events})
    files.atomic_write(directory / _SEEN_FILE, content)


def _read_seen(directory: pathlib.Path) -> leakage.Seen:
    """Returns what replay saw, and removes the file that carried it."""
    path = directory / _SEEN_FILE
    content = json.loads(path.read_text())
    path.unlink()
    return leakage.Seen(
        {(m, split, source): leakage.Finding(**f) for m, split, source, f in content["findings"]},
        collections.Counter({(name, day): number for name, day, number in content["events"]}),
    )


def write_analysed(newest_s: int, *, model: str, directory: pathlib.Path) -> None:
    """Writes the newest moment of what a transform was fitted to, for :func:`check_transform`.

    Args:
        newest_s: Newest moment, Unix seconds, taken from the very rows that were added up.
        model: Name of the model whose transform it is.
        directory: Examples directory.
    """
    files.atomic_write(directory / _ANALYSED_FILE.format(model=model), json.dumps(newest_s))


def _read_analysed(directory: pathlib.Path, model: str) -> int:
    """Returns the newest time that a transform was fitted on, and removes the file."""
    path = directory / _ANALYSED_FILE.format(model=model)
    newest = json.loads(path.read_text())
    path.unlink()
    return int(newest)


def check_replay(
    directory: pathlib.Path, *, raw: Mapping[str, pathlib.Path], train_until_s: int, label: str
) -> dict[str, Any]:
    """Judges the raw examples.

    Args:
        directory: Directory in which :func:`write_seen` wrote.
        raw: ``<model>_<split>`` to the directory of its raw examples.
        train_until_s: End of training, exclusive, Unix seconds.
        label: Watch that candidate examples of the training split predict, ``next`` or
            ``held_out``.

    Returns:
        ``inputs``: per ``<model>_<split>`` and source what was seen; ``newest_training_label``;
        ``excused``: what leaks on purpose.

    Raises:
        LeakageError: An input is not older than its example, or an example of the holdout's time
            is among those that train, or the other way round.
    """
    seen = _read_seen(directory)
    leaks = {key: finding for key, finding in seen.findings.items() if finding.leaking}
    excused = {key for key in leaks if label == HELD_OUT and key in _EXCUSED}
    for key in sorted(excused):
        logging.warning("LEAK, as --label=%s asks for: %s.", label, _described(key, leaks[key]))
    bad = [_described(key, leaks[key]) for key in sorted(leaks) if key not in excused]
    bad += _misdated(pq.read_table(directory / "video_statistics"), seen.events)
    newest, oldest = 0, np.iinfo(np.int64).max
    for name, path in raw.items():
        times = _bounds(path)
        if times is not None and name.endswith(TRAIN):
            newest = max(newest, times[1])
        elif times is not None:
            oldest = min(oldest, times[0])
    if newest >= train_until_s:
        bad.append(f"a training example of {command.format_time(newest)}")
    if oldest < train_until_s:
        bad.append(f"a holdout example of {command.format_time(oldest)}")
    _refuse(bad, train_until_s)
    inputs: dict[str, dict[str, Any]] = {}
    for (model, split, source), finding in sorted(seen.findings.items()):
        inputs.setdefault(f"{model}_{split}", {})[source] = vars(finding)
    return {
        "inputs": inputs,
        "newest_training_label": newest,
        "excused": [" ".join(key) for key in sorted(excused)],
    }


def _described(key: tuple[str, str, str], finding: leakage.Finding) -> str:
    model, split, source = key
    newest = "" if finding.newest_s is None else f", the newest {finding.newest_s} s after it"
    return (
        f"{finding.leaking} of {finding.examples} {split} examples of the {model} model have inputs"
        f" from {source!r} that are not older than their moment{newest}"
    )


def _refuse(bad: Sequence[str], train_until_s: int) -> None:
    if bad:
        raise LeakageError(
            f"the leakage audit found: {'; '.join(bad)} (training ends at "
            f"{command.format_time(train_until_s)}). Nothing was published. This is a fault in the "
            "code that makes features, or in the clocks of the logs, and no setting allows it."
        )


def _bounds(directory: pathlib.Path) -> tuple[int, int] | None:
    """Returns the first and the last time of a directory of raw examples, read from its rows."""
    times = [combined(pq.read_table(p, columns=["time"])["time"]) for p in _parts(directory)]
    bounds = [pc.min_max(column).as_py() for column in times if len(column)]
    if not bounds:
        return None
    return min(b["min"] for b in bounds), max(b["max"] for b in bounds)


def _parts(directory: pathlib.Path) -> list[pathlib.Path]:
    return sorted(directory.glob("*.parquet"))


def _misdated(daily: pa.Table, events: Mapping[tuple[str, int], int]) -> list[str]:
    """Names the days that had more events than the video statistics have counted in them.

    Those events stand in another day; in an earlier one, what happened later is known too soon.
    """
    bad = []
    for name in ("watches", "impressions", "clicks"):
        sums = daily.group_by("day").aggregate([(name, "sum")])
        counted = dict(zip(sums["day"].to_pylist(), sums[f"{name}_sum"].to_pylist(), strict=True))
        for (measure, day), number in sorted(events.items()):
            if measure == name and number > counted.get(day, 0):
                bad.append(
                    f"{number} {name} of the day from {command.format_time(day * DAY_S)}, of which "
                    f"the video statistics have {counted.get(day, 0)} there"
                )
    return bad


def check_transform(
    directory: pathlib.Path, resolved: ResolvedSpec, model: str, *, train: pathlib.Path,
    train_until_s: int,
) -> dict[str, Any]:  # fmt: skip
    """Judges what a transform was fitted on.

    Args:
        directory: Examples directory with the transform graph.
        resolved: The data set's features.
        model: Name of the model whose transform it is.
        train: Directory of its raw training examples.
        train_until_s: End of training, exclusive, Unix seconds.

    Returns:
        ``newest``: of the analysed rows, Unix seconds; ``tokens``: how many were looked up.

    Raises:
        LeakageError: The analysed rows reach into the holdout, or a vocabulary has a token that
            no training example has.
    """
    newest = _read_analysed(directory, model)
    bad = []
    if newest >= train_until_s:
        bad.append(
            f"vocabularies and quantiles of the {model} model were fitted on an example of "
            f"{command.format_time(newest)}"
        )
    tokens = 0
    for space in resolved.spaces_of(model):
        vocabulary = dataset.vocabulary(directory, model, space.name)
        tokens += len(vocabulary)
        left = _unseen(vocabulary, resolved, model, space.name, train=train)
        if left:
            bad.append(
                f"{len(left)} of {len(vocabulary)} tokens of the {model} model's vocabulary "
                f"{space.name!r} are in no training example, for example {sorted(left)[0]!r}"
            )
    _refuse(bad, train_until_s)
    return {"newest": newest, "tokens": tokens}


def _unseen(
    vocabulary: Sequence[str],
    resolved: ResolvedSpec,
    model: str,
    space: str,
    *,
    train: pathlib.Path,
) -> set[str]:
    """Returns the tokens that are in no training example. Stops reading when none are left."""
    left = set(vocabulary)
    features = [f for f in resolved.of(model) if f.space == space]
    own = [f for f in features if f.side is Side.CANDIDATE]
    features = features if space == "category" or not own else own
    names = [f.name for f in features]
    for path in _parts(train):
        with pq.ParquetFile(path) as file:
            for group in range(file.num_row_groups):
                if not left:
                    return left
                rows = file.read_row_group(group, columns=names, use_threads=False)
                for name in names:
                    column = combined(rows[name])
                    values = column.flatten() if pa.types.is_list(column.type) else column
                    tag = f"{name}=" if space == "category" else ""
                    left.difference_update(tag + v for v in values.unique().to_pylist() if v)
    return left
