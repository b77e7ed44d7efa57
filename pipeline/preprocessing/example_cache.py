"""Raw examples of earlier runs, by day: a daily run replays the new day only.

An entry holds the raw examples of one period (:mod:`pipeline.preprocessing.periods`) under the key
of what they depend on. Two things are not in the key and are mended when an entry is used: the
example age, which counts from the end of training, and which K examples of a user train, since
later days bring more to choose from. An entry holds all that could be chosen: the watches of a
period only ever drop out of a user's K as days go by.
"""

import contextlib
import os
import pathlib
import shutil
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from absl import logging

from features import command, files, spec
from features.as_of import example_tables, replay
from features.as_of.replay import HOLDOUT, TRAIN
from features.catalogue import combined
from features.spec import ResolvedSpec
from pipeline.preprocessing.periods import Period

_ALL = "all"  # selected_until_s of an entry that holds every watch of its period
Raw = Mapping[tuple[str, str], pathlib.Path]  # (model, split) -> directory of raw examples


class ExampleCache:
    """Entries in one directory.

    Args:
        directory: Directory of the entries; need not exist.
        train_until_s: End of training of this run, exclusive, Unix seconds.
    """

    def __init__(self, directory: pathlib.Path, *, train_until_s: int) -> None:
        self._directory = directory
        self._train_until_s = train_until_s

    def keys(self) -> frozenset[str]:
        """Returns the keys of the entries that hold what this run may choose from."""
        usable = set()
        for path in self._directory.glob("[!.]*-key-*"):
            info = files.read_complete(path)
            if info is None:
                continue
            selected_until = info["selected_until_s"]
            if selected_until == _ALL or selected_until <= self._train_until_s:
                usable.add(path.name.partition("-key-")[2])
        return frozenset(usable)

    def split_of(self, period: Period) -> str:
        """Returns whether a period trains or is held out."""
        return TRAIN if period.start < self._train_until_s else HOLDOUT

    # ---- entries into the raw examples of this run --------------------------------------------

    def bring_in(
        self, periods: Sequence[Period], raw: Raw, resolved: ResolvedSpec, *, most: int, seed: int
    ) -> int:
        """Puts the examples of ``periods`` beside those that this run has made.

        Args:
            periods: Periods that were not made; all have entries.
            raw: Directories of this run's raw examples.
            resolved: Features of this run, and of the entries.
            most: Number K of examples of a user, 0 for all.
            seed: Seed of the choice among them.

        Returns:
            Number of examples that came from entries.
        """
        taken = 0
        for period in periods:
            target = raw[spec.RANKER, self.split_of(period)]
            source = self._entry(period) / f"{spec.RANKER}.parquet"
            target.mkdir(parents=True, exist_ok=True)
            _link(source, target / _part(period))
            taken += pq.read_metadata(source).num_rows
        training = [p for p in periods if self.split_of(p) == TRAIN]
        chosen = self._chosen(training, raw[spec.CANDIDATE, TRAIN], most=most, seed=seed)
        for period in periods:
            split = self.split_of(period)
            rows = self._candidates(period)
            if split == TRAIN:
                rows = rows.filter(chosen[period])
            target = raw[spec.CANDIDATE, split]
            target.mkdir(parents=True, exist_ok=True)
            until_s = self._train_until_s if split == TRAIN else None
            aged = example_tables.with_example_age(rows, resolved, until_s=until_s)
            pq.write_table(aged, target / _part(period), **_PARQUET)
            taken += rows.num_rows
        return taken

    def _chosen(
        self, periods: Sequence[Period], made: pathlib.Path, *, most: int, seed: int
    ) -> dict[Period, pa.Array]:
        """Returns which rows of each period's entry are among their users' K, bool."""
        columns = ["user_id", "label_video_id", "time"]
        parts = [self._candidates(period, columns) for period in periods]
        fresh = [pq.read_table(path, columns=columns) for path in sorted(made.glob("*.parquet"))]
        together = pa.concat_tables([*parts, *fresh]) if parts or fresh else None
        if together is None:
            return {}
        together = together.rename_columns(["user_id", "video_id", "time"])
        rows = replay.chosen_examples(together, most=most, seed=seed)
        is_chosen = np.zeros(together.num_rows, bool)
        is_chosen[np.asarray(rows)] = True
        ends = np.cumsum([part.num_rows for part in parts])
        return {
            period: pa.array(is_chosen[end - part.num_rows : end])
            for period, part, end in zip(periods, parts, ends, strict=True)
        }

    def _candidates(self, period: Period, columns: Sequence[str] | None = None) -> pa.Table:
        path = self._entry(period) / f"{spec.CANDIDATE}.parquet"
        return pq.read_table(path, columns=columns)

    # ---- this run's raw examples into entries -------------------------------------------------

    def keep(self, periods: Sequence[Period], raw: Raw, schemas: Mapping[str, pa.Schema]) -> None:
        """Writes entries of the periods that this run has made.

        Args:
            periods: Periods that were made, all of them.
            raw: Directories of this run's raw examples; files from :meth:`take` are not read.
            schemas: Model to the schema of its raw examples.
        """
        with contextlib.ExitStack() as stack:
            entries = {
                period.start: stack.enter_context(files.atomic_directory(self._entry(period)))
                for period in periods
            }
            for (model, split), made in raw.items():
                starts = [p.start for p in periods if self.split_of(p) == split]
                parts = {s: entries[s] / f"{model}.parquet" for s in starts}
                _deal_out(made, parts, schemas[model])
            for period in periods:
                is_train = self.split_of(period) == TRAIN
                selected = self._train_until_s if is_train else _ALL
                files.mark_complete(entries[period.start], {"selected_until_s": selected})

    def remove_outdated(self, periods: Sequence[Period]) -> None:
        """Removes entries of days before the log, of its days under other keys, and leftovers.

        No other run may use the directory: what is unfinished in it counts as a leftover.
        """
        current = {self._entry(period).name for period in periods}
        days = {name.partition("-key-")[0] for name in current}
        first = min(days, default="")
        for path in self._directory.glob("*-key-*"):
            day = path.name.partition("-key-")[0]
            unfinished = day.startswith(".")
            if path.name not in current and (unfinished or day in days or day < first):
                logging.info("Cached examples %s are out of date and are removed.", path.name)
                shutil.rmtree(path)

    def _entry(self, period: Period) -> pathlib.Path:
        day = command.format_time(period.start).replace(":", "")
        return self._directory / f"{day}-key-{period.key}"


_TAKEN = "cached-"
_DEALT_AT_ONCE = 32_768  # rows: a batch is dealt out to all days
_PARQUET = {"compression": "zstd", "row_group_size": replay.ROWS_PER_BATCH}


def _part(period: Period) -> str:
    return f"{_TAKEN}{period.start}.parquet"


def _link(source: pathlib.Path, target: pathlib.Path) -> None:
    """Links a file that is never written again; copies it to another file system."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _deal_out(
    made: pathlib.Path, parts: Mapping[int, pathlib.Path], example_schema: pa.Schema
) -> None:
    """Writes the rows of a directory of raw examples to one file for each period.

    Args:
        made: Directory; what :meth:`ExampleCache.take` put there is not read.
        parts: Start of a period to its file. All rows lie in one of the periods.
        example_schema: Schema of the rows.
    """
    if not parts:
        return
    starts = np.sort(np.fromiter(parts, np.int64))
    waiting: dict[int, list[pa.Table]] = {start: [] for start in parts}
    with contextlib.ExitStack() as stack:
        writers = {
            start: stack.enter_context(pq.ParquetWriter(path, example_schema, compression="zstd"))
            for start, path in parts.items()
        }

        def flush(start: int) -> None:
            if waiting[start]:
                together = pa.concat_tables(waiting[start])
                writers[start].write_table(together, row_group_size=replay.ROWS_PER_BATCH)
                waiting[start] = []

        for path in sorted(made.glob("*.parquet")):
            if path.name.startswith(_TAKEN):
                continue
            for batch in pq.ParquetFile(path).iter_batches(_DEALT_AT_ONCE):
                rows = pa.Table.from_batches([batch]).cast(example_schema)
                times = np.asarray(combined(rows["time"]), np.int64)
                place = np.searchsorted(starts, times, side="right") - 1
                for number in np.unique(place):
                    start = int(starts[number])
                    waiting[start].append(rows.filter(pa.array(place == number)))
                    if sum(part.num_rows for part in waiting[start]) >= replay.ROWS_PER_BATCH:
                        flush(start)
        for start in parts:
            flush(start)
