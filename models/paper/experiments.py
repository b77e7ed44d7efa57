"""Experiments: what is asked, which models are made for it, and rows of figures with intervals.

The frame of ``models.reproduce``. An experiment is a function of a :class:`Setting`; its outcome
is plain data, kept as JSON the moment it is done, so that a run that was stopped goes on with the
next one. Models on the way are kept too: :meth:`Setting.directory` names each by what it is made
from.
"""

import dataclasses
import json
import math
import pathlib
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from absl import logging

from features import command, files
from features.charts import Plot, Series
from features.tables import log_files
from models.evaluation.intervals import Interval

FORMAT = 1
SHORT, FULL = "short", "full"
MODES = (SHORT, FULL)
NAN = math.nan


@dataclasses.dataclass(frozen=True, kw_only=True)
class Setting:
    """What all experiments of a run share.

    Attributes:
        logs: Raw logs; with ``truth/`` where they are simulated.
        examples: Directory that pipeline.preprocess made of the logs, impressions included.
        work: Scratch directory for variants of the examples and for models.
        mode: Extent of the run: ``short`` (a check that everything works, in minutes) or ``full``.
        seeds: Seeds of trainings; an experiment that can afford it repeats itself with each.
        preprocess_flags: Flags of pipeline.preprocess, for all examples that are made.
        rectools_python: Python that has RecTools; "": an environment is made where one is needed.
        epochs: Passes of models that are trained as they are shipped, and of RecTools'; 0: by the
            number of examples.
    """

    logs: pathlib.Path
    examples: pathlib.Path
    work: pathlib.Path
    mode: str
    seeds: tuple[int, ...]
    preprocess_flags: tuple[str, ...] = ()
    rectools_python: str = ""
    epochs: int = 0

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ValueError(f"mode must be in {MODES}, got {self.mode!r}.")
        if not self.seeds:
            raise ValueError("seeds must hold at least one number.")

    @property
    def is_simulated(self) -> bool:
        """Whether the truth behind the logs is known."""
        return (self.logs / "truth").is_dir()

    @property
    def is_full(self) -> bool:
        """Whether there is time for more than a check."""
        return self.mode == FULL

    def identity(self) -> dict[str, Any]:
        """Returns what a kept outcome must agree with to be used again."""
        return {
            "logs": str(self.logs),
            "mode": self.mode,
            "seeds": list(self.seeds),
            "preprocess_flags": list(self.preprocess_flags),
            "epochs": self.epochs,
        }

    def directory(self, label: str, *made_from: object) -> pathlib.Path:
        """Returns where to keep something that is costly to make: the same parts, the same path."""
        digest = zlib.crc32(repr((str(self.logs), self.mode, *made_from)).encode())
        return self.work / f"{label}-{digest:08x}"

    def variant(
        self, label: str, *flags: str, candidate_only: bool = False, features: str = ""
    ) -> pathlib.Path:
        """Returns examples made of the same logs in another way.

        Args:
            label: Part of the name of the directory.
            *flags: Further flags of pipeline.preprocess.
            candidate_only: Whether impressions are left out, which most of the time would go to.
            features: JSON of extra features, see ``features.json`` in docs/features.md.
        """
        flags = (*self.preprocess_flags, *flags)
        directory = self.directory(f"examples-{label}", *flags, candidate_only, features)
        if files.read_complete(directory) is None:
            logs = self._view(directory.name, candidate_only, features)
            run_command("pipeline.preprocess", f"--logs={logs}", f"--examples={directory}", *flags)
        return directory

    def _view(self, name: str, candidate_only: bool, features: str) -> pathlib.Path:  # noqa: FBT001
        """Returns the logs, or a directory of links to the parts of them that are wanted."""
        if not candidate_only and not features:
            return self.logs
        left_out = {"impressions"} if candidate_only else set()
        left_out |= {"features.json"} if features else set()
        with files.atomic_directory(self.work / f"logs-of-{name}") as view:
            for part in self.logs.iterdir():
                if (log_files.table_at(part) or part.name) not in left_out:
                    (view / part.name).symlink_to(part.resolve())
            if features:
                (view / "features.json").write_text(features)
        return self.work / f"logs-of-{name}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """One figure.

    Attributes:
        setting: Name of what was varied, as people say it: ``depth 2``.
        metric: Name of what was measured: ``map_at_100``.
        value: Measured value, in the unit of the metric.
        low: Lower end of its 95% interval, NaN without one.
        high: Upper end of its 95% interval, NaN without one.
        seed: Seed of the training; None where nothing was trained, or over all seeds.
        seconds: Wall time of making what was measured (training), NaN where it does not matter.
        n: Queries or impressions behind it.
    """

    setting: str
    metric: str
    value: float
    low: float = NAN
    high: float = NAN
    seed: int | None = None
    seconds: float = NAN
    n: int = 0

    @classmethod
    def of(cls, setting: str, metric: str, interval: Interval, **others: Any) -> "Row":
        """Takes the numbers of an interval."""
        return cls(
            setting=setting,
            metric=metric,
            value=interval.value,
            low=interval.low,
            high=interval.high,
            **others,
        )

    @property
    def excludes_zero(self) -> bool:
        """True where the whole interval lies on one side of 0; False without an interval."""
        return self.low > 0 or self.high < 0

    def __str__(self) -> str:
        if math.isnan(self.low):
            return f"{self.value:.4g}"
        return f"{self.value:.4g} [{self.low:.4g}, {self.high:.4g}]"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Experiment:
    """What was asked and what came out.

    Attributes:
        name: Name in file names and ``--experiments``: ``figure_6``.
        title: Title of the section.
        question: Question that it asks, in a sentence or two.
        paper: Claim of the paper, with its own figures where it has any; "" for our questions.
        settings: Conditions of the measurement: data, protocol, flags of models.
        rows: Figures of the outcome.
        plots: Drawings, maybe none.
        conclusion: Sentences computed from the rows, never written beforehand.
        seconds: Wall time of all; set by :func:`run`.
    """

    name: str
    title: str
    question: str
    paper: str
    settings: Mapping[str, Any]
    rows: Sequence[Row]
    plots: Sequence[Plot] = ()
    conclusion: str = ""
    seconds: float = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "rows", tuple(self.rows))
        object.__setattr__(self, "plots", tuple(self.plots))

    def row(self, setting: str, metric: str, seed: int | None = None) -> Row:
        """Returns the first row of a setting and a metric (and a seed, where given)."""
        for row in self.rows:
            if (row.setting, row.metric) == (setting, metric) and seed in {None, row.seed}:
                return row
        raise KeyError(f"{self.name} has no row {setting!r}, {metric!r}, seed {seed}.")

    def to_json(self) -> str:
        """Returns the JSON that :meth:`from_json` reads; NaN becomes null."""
        document = {"format": FORMAT, **dataclasses.asdict(self)}
        return json.dumps(_finite(document), indent=1, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "Experiment":
        """Inverse of :meth:`to_json`."""
        document = json.loads(text)
        if document.pop("format", None) != FORMAT:
            raise ValueError(f"expected an experiment of format {FORMAT}.")
        document.pop("made_for", None)
        document["rows"] = tuple(Row(**_with_nan(row)) for row in document["rows"])
        document["plots"] = tuple(
            Plot(**{**plot, "series": tuple(Series(**_with_nan(s)) for s in plot["series"])})
            for plot in document["plots"]
        )
        return cls(**document)


Make = Callable[[Setting], Experiment]


class NotApplicableError(Exception):
    """This data cannot answer the question; the message says what it lacks."""


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    # NumPy numbers and paths come from careless callers; they have an exact plain form.
    if hasattr(value, "item"):
        return _finite(value.item())
    return str(value) if isinstance(value, pathlib.Path) else value


def _with_nan(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Nulls were NaN, except that a seed may be absent."""

    def back(name: str, value: Any) -> Any:
        if isinstance(value, list):
            return tuple(NAN if one is None else one for one in value)
        return NAN if value is None and name != "seed" else value

    return {name: back(name, value) for name, value in fields.items()}


def run(
    chosen: Mapping[str, Make], setting: Setting, output: pathlib.Path
) -> tuple[list[Experiment], dict[str, str]]:
    """Runs experiments, or reads what an earlier run with the same setting has left.

    Args:
        chosen: Experiments by name.
        setting: Setting of all experiments.
        output: Directory in which ``<name>.json`` is written.

    Returns:
        The outcomes in order; and by name, why an experiment does not apply to this data.
    """
    outcomes, left_out = [], {}
    for place, (name, make) in enumerate(chosen.items(), start=1):
        title = f"experiment {place} of {len(chosen)}, {name}"
        path = output / f"{name}.json"
        kept = _kept(path, setting)
        if kept is not None:
            logging.info("%s: kept from an earlier run (%s)", title, path)
            outcomes.append(kept)
            continue
        logging.info("%s: starts", title)
        started = time.monotonic()
        try:
            outcome = make(setting)
        except NotApplicableError as error:
            logging.warning("%s: LEFT OUT: %s", title, error)
            left_out[name] = str(error)
            continue
        outcome = dataclasses.replace(outcome, seconds=round(time.monotonic() - started, 1))
        # As it will be read next time, so that both runs report the very same.
        outcome = Experiment.from_json(outcome.to_json())
        document = json.loads(outcome.to_json()) | {"made_for": setting.identity()}
        files.atomic_write(path, json.dumps(document, indent=1, allow_nan=False) + "\n")
        logging.info("%s: %.0f s. %s", title, outcome.seconds, outcome.conclusion)
        outcomes.append(outcome)
    return outcomes, left_out


def _kept(path: pathlib.Path, setting: Setting) -> Experiment | None:
    if not path.is_file():
        return None
    text = path.read_text()
    if json.loads(text).get("made_for") != setting.identity():
        return None
    return Experiment.from_json(text)


def run_command(module: str, *flags: str) -> float:
    """Runs one of our binaries and returns its wall seconds.

    Experiments need commands of layers that ``models`` may not import, such as pipeline.simulate.

    Raises:
        command.InputError: The binary failed; its own messages stand above.
    """
    line = [sys.executable, "-m", module, *flags]
    logging.info("runs: python -m %s %s", module, " ".join(flags))
    started = time.monotonic()
    done = subprocess.run(line, check=False, capture_output=True, text=True)
    if done.returncode:
        tail = "\n".join((done.stdout + done.stderr).splitlines()[-25:])
        raise command.InputError(
            f"python -m {module} {' '.join(flags)} ended with code {done.returncode}:\n{tail}"
        )
    return time.monotonic() - started
