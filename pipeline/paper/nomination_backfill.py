"""Fills in, for logs of another recommender, what our candidate generation would have said.

Time is cut into blocks. The impressions of a block are scored by a candidate model that was trained
on what came before the block began, and on nothing else, as if it had been in production then:

    before the first block | block 1          | block 2          | ... | last block
    not filled in          | model: until 1   | model: until 2   |     | model: until last

So no score knows the watch that it is about to be an input for, and the log that comes out looks
like one of our own funnel, whose release changes from time to time.
"""

import dataclasses
import pathlib
import time
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from absl import logging

from features import command, files
from features.as_of import pages
from features.as_of.examples import Users
from features.as_of.replay import NO_USERS
from features.catalogue import Catalogue
from features.durations import DAY_S
from features.spec import ResolvedSpec
from features.tables import log_files, log_writer, logs
from models.candidate import model as candidate_model
from pipeline.steps import declared, retraining
from serving.batch.bucketed_log import BucketedLog, Shown
from serving.batch.past_nominations import COLUMNS, PastNominations, with_columns
from serving.events import compaction
from serving.servables import export

# Before the first block: one to train on, one to stop by.
_LEAST_DAYS = 2
RELEASE_PREFIX = "backfill-"
_STEPS = {"preprocess", "train_candidate", "join_holdout", "refit"}
_CHAIN = tuple(step for step in declared.STEPS if step.name in _STEPS)
_MODEL = "final_candidate_model"
_VIEW = "logs"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Backfill:
    """What to fill in, and how.

    Attributes:
        logs: Raw logs, impressions among them.
        output: Logs to write: the same, with the three columns of nominations filled in.
        work: Directory in which the models of the blocks are made, and found again by the next run.
        blocks: Number of times that a new model is trained, 1 or more.
        first_share: Share of all watches that must have come before the first block, in (0, 1).
        until_s: End of what is read, exclusive, Unix seconds; None for no bound.
        flags: Further flags of a step, by its name: preprocess, train_candidate, refit.
    """

    logs: pathlib.Path
    output: pathlib.Path
    work: pathlib.Path
    blocks: int = 3
    first_share: float = 0.2
    until_s: int | None = None
    flags: Mapping[str, Sequence[str]] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.blocks < 1:
            raise command.InputError(f"--blocks must be 1 or more, got {self.blocks}.")
        if not 0 < self.first_share < 1:
            raise command.InputError(f"--first_share must be in (0, 1), got {self.first_share}.")

    def run(self) -> "Counts":
        """Trains a model per block, scores its impressions, writes the logs.

        Raises:
            command.InputError: The logs lack impressions or what a model needs, or a step failed.
        """
        # Before anything is made: --output is refused now rather than after the trainings.
        writer = log_writer.LogWriter(self.output)
        compaction.compact(self.logs, wall_s=time.time())
        starts = block_starts(
            self.logs, blocks=self.blocks, first_share=self.first_share, until_s=self.until_s
        )
        logging.info("Blocks begin at %s.", ", ".join(command.format_time(s) for s in starts))
        view = self._without_impressions()
        models = [self._train(view, start) for start in starts]
        log = BucketedLog.open(self.logs, self.until_s)
        catalogue = Catalogue(log.videos)
        users = Users(NO_USERS if log.users is None else log.users)
        nominations = [
            _nominations(model, start, catalogue, users)
            for model, start in zip(models, starts, strict=True)
        ]
        with writer:
            counts = self._fill(writer, log, catalogue, list(zip(starts, nominations, strict=True)))
            for path in self.logs.iterdir():
                if log_files.table_at(path) != "impressions" and not path.name.startswith("."):
                    writer.link(path)
        return counts

    def _without_impressions(self) -> pathlib.Path:
        """Returns a view of the logs with what the candidate model reads."""
        tables = logs.tables_in(self.logs) - {"impressions"}
        with files.atomic_directory(self.work / _VIEW) as view:
            for path in sorted(self.logs.iterdir()):
                if log_files.table_at(path) in tables or path.name == log_writer.FEATURES_FILE:
                    files.link_tree(path, view / path.name)
        return self.work / _VIEW

    def _train(self, view: pathlib.Path, start_s: int) -> pathlib.Path:
        """Returns the work directory of a model that knows nothing from ``start_s`` on."""
        moment = command.format_time(start_s)
        flags = {name: list(given) for name, given in self.flags.items()}
        flags["preprocess"] = [*flags.get("preprocess", ()), f"--until={moment}"]
        work = self.work / f"until-{_compact(start_s)}"
        logging.info("The model of what came before %s:", moment)
        steps = retraining.Retraining(
            logs=view, serving_root=work / "unused", work=work, flags=flags, chain=_CHAIN
        ).run()
        if steps[-1].outcome is retraining.Outcome.FAILED:
            raise command.InputError(
                f"the step {steps[-1].name} of the model until {moment} failed "
                f"({steps[-1].reason}); it said why above. The same line again goes on from here."
            )
        return work

    def _fill(
        self,
        writer: log_writer.LogWriter,
        log: BucketedLog,
        catalogue: Catalogue,
        models: Sequence[tuple[int, PastNominations]],
    ) -> "Counts":
        counts = Counts()
        buckets = log.buckets()
        from_s = models[0][1].resolved.history_from_s  # All are trained with the same flags.
        for number, tables in enumerate(buckets, 1):
            if "impressions" not in tables:
                continue
            shown = Shown.of(log, tables, catalogue, from_s=from_s)
            page_time = np.asarray(shown.paged[pages.PAGE_TIME])
            block_of = np.searchsorted([start for start, _ in models], page_time, side="right")
            parts = [with_columns(shown.broken)]
            for block in range(len(models) + 1):
                rows = shown.paged.filter(pa.array(block_of == block))
                if block:
                    rows = models[block - 1][1].filled(rows, shown.codes, shown.history)
                parts.append(with_columns(rows).drop_columns([pages.PAGE_TIME]))
            written = log_writer.concatenated(parts)
            if "page_id" not in tables["impressions"].column_names:
                # What was made of pauses is made again by whoever reads it.
                written = written.drop_columns(["page_id"])
            writer.write("impressions", written)
            counts = counts + Counts.of(written)
            logging.info("Bucket %d of %d users is filled in.", number, len(buckets))
        return counts


@dataclasses.dataclass(frozen=True)
class Counts:
    """What became of the impressions.

    Attributes:
        impressions: Number of all impressions.
        filled: Number of those with nominations that were made here.
        logged: Number of those with nominations of our own funnel, which were left as they are.
        retrieved: Number of filled ones that retrieval would have found.
    """

    impressions: int = 0
    filled: int = 0
    logged: int = 0
    retrieved: int = 0

    @classmethod
    def of(cls, impressions: pa.Table) -> "Counts":
        """Counts filled impressions."""
        made = pc.fill_null(pc.starts_with(impressions["release_id"], RELEASE_PREFIX), False)
        sources = impressions[COLUMNS[0]].filter(made)
        with_release = impressions.num_rows - impressions["release_id"].null_count
        return cls(
            impressions=impressions.num_rows,
            filled=len(sources),
            logged=with_release - len(sources),
            retrieved=pc.sum(pc.greater(pc.list_value_length(sources), 0)).as_py() or 0,
        )

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(
            *(
                a + b
                for a, b in zip(dataclasses.astuple(self), dataclasses.astuple(other), strict=True)
            )
        )


def block_starts(
    logs_dir: pathlib.Path, *, blocks: int, first_share: float, until_s: int | None = None
) -> list[int]:
    """Returns when each block begins: midnights UTC, ascending, at most ``blocks``.

    The first is the first midnight at or after which impressions are left, and before which
    ``first_share`` of the watches came, the oldest of them two days ago; the others cut the days
    from there on evenly.

    Raises:
        command.InputError: There are no impressions, or too few days.
    """
    if "impressions" not in logs.tables_in(logs_dir):
        raise command.InputError(f"{logs_dir} has no impressions, so there is nothing to fill in.")
    shown, watched = (
        np.sort(_times(logs_dir, table, until_s)) for table in ("impressions", "watches")
    )
    if not len(shown) or not len(watched):
        raise command.InputError(f"{logs_dir} has no impression or no watch before --until.")
    enough = int(watched[min(int(first_share * len(watched)), len(watched) - 1)])
    first = max(int(shown[0]) // DAY_S, -(-enough // DAY_S), int(watched[0]) // DAY_S + _LEAST_DAYS)
    last = int(shown[-1]) // DAY_S
    if first > last:
        raise command.InputError(
            f"--first_share={first_share:g} of the watches, and {_LEAST_DAYS} days of them, are "
            f"not over before the last impression ({command.format_time(int(shown[-1]))}): no day "
            "is left to fill in. Give a smaller --first_share, or longer logs."
        )
    days = np.unique(np.linspace(first, last + 1, blocks, endpoint=False).astype(np.int64))
    return [int(day) * DAY_S for day in days]


def _times(logs_dir: pathlib.Path, table: str, until_s: int | None) -> np.ndarray:
    column = logs.read_table(logs_dir, table, columns=["time"], until_s=until_s)["time"]
    return np.asarray(column.drop_null(), np.int64)


def _nominations(
    work: pathlib.Path, start_s: int, catalogue: Catalogue, users: Users
) -> PastNominations:
    """Opens the model of a block."""
    examples, directory = work / declared.FINAL_EXAMPLES, work / "query_tower"
    model = candidate_model.load(work / _MODEL, examples)
    with files.atomic_directory(directory) as target:
        export.export_query_tower(model, examples, target)
    return PastNominations.of_model(
        f"{RELEASE_PREFIX}{_compact(start_s)}",
        str(directory),
        resolved=ResolvedSpec.load(examples),
        catalogue=catalogue,
        users=users,
    )


def _compact(time_s: int) -> str:
    return command.format_time(time_s).replace("-", "").replace(":", "")
