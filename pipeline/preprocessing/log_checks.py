"""Looks at a whole log before anything is made of it, and says everything that is wrong with it.

Files are found, columns are brought to their types and rows are set aside by the very code that
preprocessing runs; what it would refuse is a problem, the rest a warning. Rows are read a piece at
a time; of each event only a number is kept, in a file. Nothing here imports TensorFlow or Beam.
"""

import collections
import contextlib
import pathlib
import tempfile
import time
from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from features import command, declarations, vectors
from features.catalogue import combined
from features.screen import progress
from features.spec import ResolvedSpec
from features.tables import (
    casts,
    log_columns,
    log_files,
    log_writer,
    logs,
    schema,
    vector_files,
)
from features.tables import unlisted as unlisted_videos
from pipeline.preprocessing.config import (
    EXTRA_TABLES,
    NEEDED_TABLES,
    OPTIONAL_TABLES,
    PreprocessConfig,
)
from pipeline.preprocessing.log_report import Counts, Finding, LogReport, shortened
from pipeline.preprocessing.log_tallies import Copies, RejectedRows, Times

_EXAMPLES = 3
_VALUE = " with a value it cannot hold"


def check(
    logs_dir: pathlib.Path,
    config: PreprocessConfig,
    *,
    rejected_dir: pathlib.Path | None = None,
    now_s: int | None = None,
) -> LogReport:
    """Checks a log for preprocessing with these settings.

    Args:
        logs_dir: Directory of the raw logs.
        config: Settings of preprocessing.
        rejected_dir: Directory that is made of the rows set aside, ``<table>/*.parquet``, where
            there are any; None for none.
        now_s: The clock, Unix seconds; None for that of the machine.

    Raises:
        command.InputError: There is no such directory.
    """
    if not logs_dir.is_dir():
        raise command.InputError(f"{logs_dir} should be a logs directory, but does not exist.")
    with progress.shown("check_logs"), tempfile.TemporaryDirectory() as scratch:
        return _Check(
            logs_dir,
            config,
            now_s=int(time.time()) if now_s is None else now_s,
            rejected=RejectedRows(rejected_dir),
            scratch=pathlib.Path(scratch),
        ).run()


class _Check:
    """One check; every step adds to the findings."""

    def __init__(
        self,
        logs_dir: pathlib.Path,
        config: PreprocessConfig,
        *,
        now_s: int,
        rejected: RejectedRows,
        scratch: pathlib.Path,
    ) -> None:
        self._logs = logs_dir
        self._config = config
        self._now_s = now_s
        self._rejected = rejected
        self._scratch = scratch
        self._findings: list[Finding] = []
        self._rows: Counts = collections.Counter()
        self._examples: dict[tuple[str, str], list[dict[str, object]]] = {}
        self._types: dict[str, dict[str, pa.DataType]] = {}
        self._resolved: ResolvedSpec | None = None  # None where columns are not known.
        # (table, problem without its value) -> the problem, and the files that have it.
        self._noted: dict[tuple[str, str], tuple[str, dict[pathlib.Path, None]]] = {}
        self._lost: set[str] = set()  # Tables of which some rows cannot be read at all.

    def run(self) -> LogReport:
        present = [name for name in schema.TABLES if self._is_present(name)]
        for name in present:
            self._look_at_columns(name)
        for stray in log_files.strays(self._logs):
            self._add("", stray)
        self._check_features()
        entities = [name for name in present if schema.table_of(name).key is not None]
        known = {name: self._check_entities(name) for name in entities}
        times = {n: self._check_events(n, known) for n in present if n not in entities}
        self._rejected.close()
        for (name, _), (text, paths) in self._noted.items():
            self._add(name, f"{text} {_in_files(list(paths))}", is_problem=True)
        self._noted.clear()
        sound = [name for name in present if not self._has_problem(name)]
        for name in present:
            self._judge_rejected(name)
        self._judge_times({name: times[name] for name in sound if name in times})
        findings = sorted(self._findings, key=lambda finding: not finding.is_problem)
        return LogReport(findings=findings, rows=self._rows)

    def _add(self, table: str, text: str, *, is_problem: bool = False) -> None:
        self._findings.append(Finding(table=table, text=text, is_problem=is_problem))

    # ---- files and columns ---------------------------------------------------------------------

    def _is_present(self, name: str) -> bool:
        listing = log_files.find(self._logs, name)
        for problem in listing.problems:
            self._add(name, problem, is_problem=True)
        if listing.left_alone:
            self._add(name, f"left alone: {listing.notice()}.")
        if listing.files:
            return not listing.problems
        expected = f"expected Parquet files below {self._logs / name}"
        if name in NEEDED_TABLES:
            columns = ", ".join(schema.table_of(name).required)
            why = f"{NEEDED_TABLES[name]}: {expected}, with at least {columns}."
            self._add(name, f"there is no such table. {why}", is_problem=True)
        elif (self._logs / name).is_dir():
            loss = {**OPTIONAL_TABLES, **EXTRA_TABLES}[name]
            self._add(name, f"has no files ({expected}): {loss}.")
        elif name in OPTIONAL_TABLES:
            self._add(name, f"there is no such table: {OPTIONAL_TABLES[name]}.")
        return False

    def _look_at_columns(self, name: str) -> None:
        """Looks at the columns of every file, without a row."""
        types: dict[str, dict[pa.DataType, pathlib.Path]] = {}
        num_rows = 0
        for file in log_files.find(self._logs, name).files:
            with self._noting(name, file.path):
                num_rows += log_columns.read_footer(file.path, name).num_rows
                for column, kind in log_columns.file_types(file, name).items():
                    types.setdefault(column, {}).setdefault(kind, file.path)
        # A file that has nothing but nulls in a column does not say what it is.
        self._types[name] = {
            column: next((kind for kind in kinds if not pa.types.is_null(kind)), pa.null())
            for column, kinds in types.items()
        }
        try:
            self._types[name] |= vector_files.types(self._logs, name)
        except command.InputError as error:
            self._add(name, str(error), is_problem=True)
        for column, kinds in types.items():
            parts = [pa.schema([(column, kind)]).empty_table() for kind in kinds]
            with self._noting(name, *kinds.values()):
                log_writer.concatenated(parts)
        if any(table == name and schema.LACKS in text for table, text in self._noted):
            optional = [c for c in schema.table_of(name).columns if not c.required]
            known = ", ".join(f"{c.name} ({casts.describe(c.type)})" for c in optional)
            self._add(name, f"may also have these columns, and any others: {known}.")
        if not num_rows and not self._has_problem(name):
            text = f"has no rows. Remove the directory {self._logs / name} to run without it"
            self._add(name, f"{text}, or fill it.", is_problem=True)

    @contextlib.contextmanager
    def _noting(self, name: str, *paths: pathlib.Path) -> Iterator[None]:
        """Notes what is wrong with files, once for all files that have it."""
        try:
            yield
        except command.InputError as error:
            problems = error.problems if isinstance(error, schema.ContractError) else [str(error)]
            for problem in problems:
                text = problem.removeprefix(f"{paths[0]}: ")
                # The value differs from file to file; the first will do.
                key = (name, text.partition(_VALUE)[0])
                self._noted.setdefault(key, (text, {}))[1].update(dict.fromkeys(paths))

    def _has_problem(self, name: str) -> bool:
        is_noted = any(table == name for table, _ in self._noted)
        return is_noted or any(f.table == name and f.is_problem for f in self._findings)

    def _check_features(self) -> None:
        if "watches" not in self._types or any(map(self._has_problem, self._types)):
            return  # What columns there are is not known yet.
        types = {"videos": unlisted_videos.TYPES, **self._types}
        try:
            self._resolved = declarations.resolve(types, self._logs / logs.FEATURES_FILE)
        except command.InputError as error:
            self._add("", str(error), is_problem=True)

    # ---- rows ----------------------------------------------------------------------------------

    def _pieces(self, name: str) -> Iterator[pa.Table]:
        """Yields what can be read of a table, and notes what cannot."""
        contract = schema.table_of(name)
        is_event = contract.time_column is not None
        from_s, until_s = (self._config.from_s, self._config.until_s) if is_event else (None, None)
        pieces: list[logs.Fragment] = []
        with self._noting(name, self._logs / name):
            pieces = logs.fragments(self._logs, name, from_s=from_s, until_s=until_s)
        rows_in_all = sum(piece.num_rows for piece in pieces)
        progress.at(f"checking {name}", total=rows_in_all, unit="rows")
        for piece in pieces:
            progress.add(piece.num_rows)
            for columns in (None, contract.required):
                rows = None
                with self._noting(name, pathlib.Path(piece.path)):
                    rows = logs.read_fragment(
                        piece, columns=columns, from_s=from_s, until_s=until_s
                    )
                if rows is not None:
                    yield rows
                    break
            else:  # Not even what it must have can be read.
                self._lost.add(name)

    def _check_entities(self, name: str) -> pa.Array | None:
        """Returns the usable ids, None where they are not known."""
        parts = list(self._pieces(name))
        if not parts or name in self._lost:
            return None
        accepted = self._judge_rows(name, self._whole(name, parts), {})
        if name == "videos" and accepted.num_rows == 1:
            self._add(name, "has a single video: there is nothing to choose from.")
        key = str(schema.table_of(name).key)
        if self._resolved and not self._has_problem(name):
            read = self._resolved.features
            for fault in vectors.faults(accepted, read, name=name, key=key):
                self._add(name, fault, is_problem=True)
        return combined(accepted[key]) if accepted.num_rows else None

    def _whole(self, name: str, parts: Sequence[pa.Table]) -> pa.Table:
        """Returns the rows of a table in the order that tells which row of an id is newer.

        Without its vectors, and in any order, where something is wrong with it.
        """
        if not self._has_problem(name):
            try:
                return logs.read_table(self._logs, name)
            except command.InputError as error:
                self._add(name, str(error), is_problem=True)
        return log_writer.concatenated(parts)

    def _check_events(self, name: str, known: dict[str, pa.Array | None]) -> Times:
        times, copies = Times(), Copies(self._scratch / name)
        users: set[str] = set()
        listed = known.get("videos")
        unlisted: collections.Counter[str] = collections.Counter()
        if name == "watches":  # A video without a row exists from its first watch.
            known["videos"] = None
        for rows in self._pieces(name):
            accepted = self._judge_rows(name, rows, known)
            times.add(name, accepted)
            copies.add(accepted)
            if name == "watches" and listed is not None:
                is_known = pc.is_in(accepted["video_id"], value_set=listed.cast(pa.string()))
                unlisted.update(accepted.filter(pc.invert(is_known))["video_id"].to_pylist())
            if len(users) < 2:
                users.update(pc.unique(accepted["user_id"])[:2].to_pylist())
        if name == "watches" and listed is not None:
            known["videos"] = pa.concat_arrays(
                [listed.cast(pa.string()), pa.array([*unlisted], pa.string())]
            )
            self._judge_unlisted(unlisted)
        count = copies.count()
        self._rows[name, "accepted"] -= count
        if count:
            self._rows[name, schema.EXACT_DUPLICATE] += count
        if len(users) == 1 and name == "watches":
            self._add(name, f"all are of one user, {users.pop()!r}: nothing can be compared.")
        return times

    def _judge_rows(self, name: str, rows: pa.Table, known: dict[str, pa.Array | None]) -> pa.Table:
        accepted, rejected = schema.validate(
            name,
            rows,
            known_video_ids=known.get("videos"),
            known_user_ids=known.get("users"),
            now_s=self._now_s,
        )
        self._rejected.add(name, rejected)
        self._rows[name, "read"] += rows.num_rows
        self._rows[name, "accepted"] += accepted.num_rows
        names = [*schema.table_of(name).required]
        for reason in pc.unique(rejected["reason"]).to_pylist():
            of_reason = rejected.filter(pc.equal(rejected["reason"], reason))
            self._rows[name, reason] += of_reason.num_rows
            kept = self._examples.setdefault((name, reason), [])
            examples = of_reason.select(names).slice(0, _EXAMPLES - len(kept)).to_pylist()
            kept.extend(shortened(row) for row in examples)
        return accepted

    # ---- verdicts ------------------------------------------------------------------------------

    def _judge_rejected(self, name: str) -> None:
        """Tells of every reason; together they are a problem where preprocessing would stop."""
        read = self._rows[name, "read"]
        reasons = [r for r in schema.REASONS if self._rows[name, r] and r not in schema.HARMLESS]
        lost = sum(self._rows[name, reason] for reason in reasons)
        is_lost = read > 0 and not self._rows[name, "accepted"]
        is_problem = is_lost or lost > self._config.max_rejected_fraction * read
        for reason in reasons:
            text = f"{self._rows[name, reason]:,} of {read:,} rows are set aside as {reason}."
            self._findings.append(
                Finding(
                    table=name,
                    text=f"{text} {schema.REMEDIES[reason]}",
                    is_problem=is_problem,
                    examples=tuple(self._examples[name, reason]),
                )
            )
        if is_problem and not is_lost:
            share = f"--max_rejected_fraction={self._config.max_rejected_fraction}"
            text = f"loses {lost:,} of {read:,} rows, more than {share}: mend them, or raise it."
            self._add(name, text, is_problem=True)
        for reason in sorted(schema.HARMLESS):
            if self._rows[name, reason]:
                what = "exact copies" if reason == schema.EXACT_DUPLICATE else "older rows of an id"
                self._add(name, f"{self._rows[name, reason]:,} {what} are left out.")

    def _judge_unlisted(self, unlisted: collections.Counter[str]) -> None:
        """Tells of watches of videos without a row; too many look like other ids."""
        if not unlisted:
            return
        read, number = self._rows["watches", "read"], unlisted.total()
        text = (
            f"{number:,} of {read:,} rows are of {len(unlisted):,} videos that the table videos "
            f"does not have, such as {next(iter(unlisted))!r}"
        )
        if number > self._config.max_rejected_fraction * read:
            share = f"--max_rejected_fraction={self._config.max_rejected_fraction}"
            text += f", more than {share}. {schema.REMEDIES['unknown_video']}"
            self._add("watches", text, is_problem=True)
        else:
            self._add("watches", f"{text}: they exist from their first watch.")

    def _judge_times(self, times: dict[str, Times]) -> None:
        watches = times.get("watches")
        if watches is None:
            return  # Something else is wrong with them.
        newest = max(of_table.newest for of_table in times.values())
        until_s = self._config.until_s or newest + 1
        train_until_s = self._config.train_until_s(until_s)
        before = command.format_time(train_until_s)
        usable = self._rows["watches", "accepted"]
        if not self._rows["watches", "read"]:
            text = "has no row between --from and --until."
            self._add("watches", text, is_problem=True)
        elif usable and not watches.positives and self._config.completed_only is not False:
            self._add(
                "watches",
                f"none of the {usable:,} usable rows has `completed` true, and only completed "
                "watches are labels. Give --nocompleted_only to learn from all watches, or leave "
                "out the column where it is not known.",
                is_problem=True,
            )
        elif usable and (watches.first_positive or 0) >= train_until_s:
            self._add(
                "watches",
                f"no watch before {before} can be a training label: all lie within the last "
                f"--holdout_days={self._config.holdout_days}. Give more logs or a shorter holdout.",
                is_problem=True,
            )
        shown = times.get("impressions")
        if shown is not None and (shown.first_positive or train_until_s) >= train_until_s:
            self._add(
                "impressions",
                f"none before {before} was clicked and watched, so there will be no ranker; pages "
                "are ordered by retrieval score. Check the columns `clicked` and `watch_time_s`.",
            )


def _in_files(paths: Sequence[pathlib.Path]) -> str:
    count = len(paths)
    return f"({paths[0]})" if count == 1 else f"({count} files, such as {paths[0]})"
