"""Raw logs -> raw examples: the first pipeline of the preprocessing job.

Whatever is wrong with logs shows here, before anything is fitted: rows that are set aside, logs
without labels, inputs that leak.
"""

import collections
import dataclasses
import pathlib
import shutil
import time
from collections.abc import Mapping, Sequence
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from absl import logging
from apache_beam.options.pipeline_options import PipelineOptions

from features import command, declarations, feedback, spec, vectors
from features.as_of import example_tables, replay
from features.spec import ResolvedSpec
from features.tables import logs, schema, site_facts, unlisted
from features.tables.site_facts import SiteFacts
from pipeline.preprocessing import cleaning, example_generation, leakage_audit, written_files
from pipeline.preprocessing.config import PreprocessConfig
from pipeline.preprocessing.incremental import IncrementalRun
from pipeline.preprocessing.log_report import shortened
from pipeline.preprocessing.table_files import num_rows

EVENTS_PER_BUCKET = 200_000
_STORED = ".stored"
SPLITS = (replay.TRAIN, replay.HOLDOUT)
_NAMES = {spec.CANDIDATE: "candidate_examples", spec.RANKER: "ranking_examples"}


def directory_of(examples_dir: pathlib.Path, model: str, split: str) -> pathlib.Path:
    """Returns where the raw examples of a model's split lie."""
    return examples_dir / _NAMES[model] / split


@dataclasses.dataclass(frozen=True)
class Made:
    """What :meth:`RawExamples.make` made.

    Attributes:
        resolved: The data set's features.
        until_s: End of the logs, Unix seconds, exclusive.
        train_until_s: End of training, exclusive, Unix seconds.
        counts: ``<model>_<split>`` to the number of raw examples.
        rows: Table and reason to rows, with ``read`` and ``accepted``.
        audit: Record of what the leakage audit saw.
        cache: Counts of what came from the cache; empty without one.
        no_ranking: Reason why there can be no ranker; "" where there can.
        site: What the training part of the log tells of its site.
    """

    resolved: ResolvedSpec
    until_s: int
    train_until_s: int
    counts: Mapping[str, int]
    rows: cleaning.Counts
    audit: dict[str, Any]
    cache: Mapping[str, int]
    no_ranking: str
    site: SiteFacts


class RawExamples:
    """Makes raw examples, all of it below ``output``; only those since a moment, where it is given.

    What came before ``since_s``, Unix seconds, is history of those examples all the same.
    """

    def __init__(
        self,
        *,
        logs_dir: pathlib.Path,
        output: pathlib.Path,
        config: PreprocessConfig,
        options: PipelineOptions,
        tables: set[str],
        since_s: int | None = None,
    ) -> None:
        self._logs = logs_dir
        self._since_s = since_s
        self._output = output
        self._config = config
        self._options = options
        self._tables = tables
        self._now_s = int(time.time())
        self._counts: collections.Counter[tuple[str, str]] = collections.Counter()

    def make(self) -> Made:
        """Makes them.

        Raises:
            command.InputError: The logs cannot be used.
        """
        self._resolved = self._resolve()
        self._resolved.save(self._output)
        self._clean_videos()
        if "users" in self._tables:
            self._clean_entities("users")
        fragments = self._fragments()
        until_s = self._config.until_s or newest_time(fragments, now_s=self._now_s) + 1
        train_until_s = self._config.train_until_s(until_s)
        logging.info(
            "Training examples until %s, holdout until %s; %d features for the candidate model, "
            "%d for the ranker.",
            command.format_time(train_until_s),
            command.format_time(until_s),
            len(self._resolved.of(spec.CANDIDATE)),
            len(self._resolved.of(spec.RANKER)),
        )
        site = site_facts.of_logs(self._logs, from_s=self._config.from_s, until_s=train_until_s)
        self._config = self._config.for_site(site)
        days = self._incremental(until_s, train_until_s)
        self._replay(fragments, train_until_s, days)
        self._refuse_many_rejected()
        raw = {(m, s): directory_of(self._output, m, s) for m in spec.MODELS for s in SPLITS}
        cached = days.bring_in(raw) if days else {}
        audit = leakage_audit.check_replay(
            self._output,
            raw={f"{model}_{split}": path for (model, split), path in raw.items()},
            train_until_s=train_until_s,
            label=self._config.label,
        )
        if days:
            days.keep(
                raw, {m: example_tables.example_schema(self._resolved, m) for m in spec.MODELS}
            )
        counts = {f"{model}_{split}": num_rows(path) for (model, split), path in raw.items()}
        if not counts["candidate_train"]:
            raise command.InputError(self._why_no_label(fragments, train_until_s))
        if not counts["candidate_holdout"] and self._config.holdout_days:
            logging.warning(
                "No watch from %s on can be a label: nothing will be measured, and no gate "
                "compares the model with anything.",
                command.format_time(train_until_s),
            )
        no_ranking = "" if self._since_s is not None else self._why_no_ranking(train_until_s)
        if no_ranking:
            logging.warning("THERE WILL BE NO RANKER: %s.", no_ranking)
        return Made(
            resolved=self._resolved,
            until_s=until_s,
            train_until_s=train_until_s,
            counts=counts,
            rows=self._counts,
            audit=audit,
            cache=cached,
            no_ranking=no_ranking,
            site=site,
        )

    # ---- what is read -------------------------------------------------------------------------

    def _clean_videos(self) -> None:
        """Writes the videos for the workers: those of the table, and those only watched.

        Raises:
            command.InputError: So many watches are of videos that the table lacks that its ids
                seem to be written in another way.
        """
        listed = self._clean_entities("videos") if "videos" in self._tables else None
        only_watched = unlisted.checked(
            self._logs,
            listed,
            from_s=self._config.from_s,
            until_s=self._config.until_s,
            most=self._config.max_rejected_fraction,
        )
        self._counts["videos", "unlisted"] += only_watched.num_rows
        cleaning.write_part(self._output / "videos", unlisted.joined(listed, only_watched))

    def _clean_entities(self, name: str) -> pa.Table:
        """Validates videos or users, writes them for the workers and returns them."""
        table = logs.read_table(self._logs, name)
        accepted, rejected = schema.validate(
            name, table, known_video_ids=None, known_user_ids=None, now_s=self._now_s
        )
        self._counts[name, "read"] += table.num_rows
        self._counts[name, "accepted"] += accepted.num_rows
        for output in cleaning.set_aside(name, rejected, self._counts):
            cleaning.write_part(self._output / "rejected" / name, output.value[1])
        if not accepted.num_rows:
            raise command.InputError(
                f"table {name!r} in {self._logs} has no usable row: {self._reasons(name)}."
            )
        key = str(schema.table_of(name).key)
        vectors.require(accepted, self._resolved.features, name=name, key=key)
        cleaning.write_part(self._output / name, accepted)
        return accepted

    def _fragments(self) -> list[logs.Fragment]:
        by_table = {
            name: logs.fragments(
                self._logs, name, from_s=self._config.from_s, until_s=self._config.until_s
            )
            for name in cleaning.EVENT_TABLES
            if name in self._tables
        }
        if not by_table["watches"]:
            raise command.InputError(
                f"{self._logs} has no watches in the window {self._window()}; "
                "check --from and --until."
            )
        return [fragment for fragments in by_table.values() for fragment in fragments]

    def _window(self) -> str:
        bounds = (self._config.from_s, self._config.until_s)
        return " to ".join("open" if b is None else command.format_time(b) for b in bounds)

    def _resolve(self) -> ResolvedSpec:
        types = {name: logs.column_types(self._logs, name) for name in self._tables}
        types.setdefault("videos", dict(unlisted.TYPES))
        resolved = declarations.resolve(types, self._logs / logs.FEATURES_FILE)
        spaces = self._config.vocabularies.applied(resolved.all_spaces())
        from_s = self._config.from_s or 0
        said = self._kinds_of_feedback() if "feedback" in self._tables else ()
        # Of what is never said there is nothing to count.
        features = tuple(
            f
            for f in resolved.features
            if f.origin != "history" or feedback.kind_of(f.column) in {"", *said}
        )
        objectives = said if "impressions" in self._tables else ()
        return dataclasses.replace(
            resolved, features=features, spaces=spaces, history_from_s=from_s, feedback=objectives
        )

    def _kinds_of_feedback(self) -> tuple[str, ...]:
        """Returns the kinds that the logs have, in the order of ``feedback.KINDS``."""
        kinds = set()
        from_s, until_s = self._config.from_s, self._config.until_s
        for fragment in logs.fragments(self._logs, "feedback", from_s=from_s, until_s=until_s):
            rows = logs.read_fragment(fragment, columns=["kind"], from_s=from_s, until_s=until_s)
            kinds.update(pc.unique(rows["kind"]).to_pylist())
        return tuple(kind for kind in feedback.KINDS if kind in kinds)

    # ---- replay ----------------------------------------------------------------------------------

    def _incremental(self, until_s: int, train_until_s: int) -> IncrementalRun | None:
        if self._config.cache is None:
            return None
        return IncrementalRun(
            self._config,
            self._resolved,
            self._output,
            until_s=until_s,
            train_until_s=train_until_s,
        )

    def _replay(
        self, fragments: Sequence[logs.Fragment], train_until_s: int, days: IncrementalRun | None
    ) -> None:
        config = self._config
        events = sum(fragment.num_rows for fragment in fragments)
        buckets = max(2, -(-events // EVENTS_PER_BUCKET))
        logging.info("Replaying %d events in %d buckets of users.", events, buckets)
        known: dict[str, Any] = {
            "videos_dir": str(self._output / "videos"),
            "users_dir": str(self._output / "users") if "users" in self._tables else None,
            "num_buckets": buckets,
        }
        read = cleaning.ReadFragments(
            **known,
            num_events=events,
            now_s=self._now_s,
            window=(config.from_s, config.until_s),
            store_dir=self._output / _STORED,
        )
        make = example_generation.ReplayBuckets(
            replay.ReplayConfig(
                train_until_s=train_until_s,
                examples_per_user=config.examples_per_user,
                completed_only=config.completed_only is not False,
                seed=config.seed,
                label=config.label,
            ),
            spec_json=self._resolved.to_json(),
            **known,
            cached=days.cached() if days else None,
            since_s=self._since_s,
        )
        schemas = {m: example_tables.example_schema(self._resolved, m) for m in spec.MODELS}
        with beam.Pipeline(options=self._options) as pipeline:
            example_generation.add_example_generation(
                pipeline,
                fragments,
                read=read,
                replay=make,
                outputs={
                    f"{model}_{split}": (directory_of(self._output, model, split), schemas[model])
                    for model in spec.MODELS
                    for split in SPLITS
                },
                directory=self._output,
                has_impressions="impressions" in self._tables,
            )
        shutil.rmtree(self._output / _STORED)
        written_files.settle(self._output)
        self._counts.update(cleaning.read_counts(self._output))

    # ---- what is refused ------------------------------------------------------------------------

    def _reasons(self, table: str) -> dict[str, int]:
        return {
            reason: number
            for (name, reason), number in sorted(self._counts.items())
            if name == table and reason not in {"read", "accepted", "unlisted"}
        }

    def _refuse_many_rejected(self) -> None:
        for table in sorted(self._tables):
            read = self._counts[table, "read"]
            reasons = self._reasons(table)
            lost = sum(n for reason, n in reasons.items() if reason not in schema.HARMLESS)
            if reasons:
                logging.warning("Table %s: %d of %d rows set aside: %s", table, lost, read, reasons)
            if lost > self._config.max_rejected_fraction * read:
                raise command.InputError(
                    f"table {table!r} lost {lost} of {read} rows, more than "
                    f"--max_rejected_fraction={self._config.max_rejected_fraction}: {reasons}. "
                    f"For example: {self._rejected_examples(table)}. Mend the logs, or raise the "
                    "fraction if this is what you expect."
                )

    def _rejected_examples(self, table: str) -> list[dict[str, object]]:
        rows = pq.read_table(self._output / "rejected" / table)
        names = [c.name for c in schema.TABLES[table].columns if c.name in rows.column_names]
        is_lost = ~np.isin(rows["reason"].to_pylist(), list(schema.HARMLESS))
        rows = rows.filter(pa.array(is_lost)).select([*names[:5], "reason"])
        return [shortened(row) for row in rows.slice(0, 3).to_pylist()]

    def _why_no_label(self, fragments: Sequence[logs.Fragment], train_until_s: int) -> str:
        """Returns why no watch can be a training label, and what to do."""
        before = command.format_time(train_until_s)
        usable = self._counts["watches", "accepted"]
        watched, completed = _watches_before(fragments, train_until_s)
        if self._config.completed_only and watched and not completed:
            return (
                f"none of the {watched} watches before {before} has `completed` true, and only "
                "completed watches are labels. Give --nocompleted_only to learn from all watches, "
                "or mend the column: true where a video was watched to its end, null where that "
                "is not known (it then counts as completed)."
            )
        return (
            f"no watch before {before} can be a training label: {usable} usable watches in the "
            f"window {self._window()}, {watched} of those read lie before that time, "
            f"holdout_days={self._config.holdout_days}. Give more logs or a shorter holdout."
        )

    def _why_no_ranking(self, train_until_s: int) -> str:
        """Returns why a ranker has nothing to learn from; "" where it has."""
        if "impressions" not in self._tables:
            return "the logs have no impressions"
        before = command.format_time(train_until_s)
        directory = directory_of(self._output, spec.RANKER, replay.TRAIN)
        total = num_rows(directory)
        if not total:
            return f"no impression lies before {before}; give more logs or a shorter holdout"
        for path in sorted(directory.glob("*.parquet")):
            rows = pq.read_table(path, columns=["clicked", "watch_time_s"])
            watched = pc.and_(pc.greater(rows["clicked"], 0), pc.greater(rows["watch_time_s"], 0))
            if pc.any(watched).as_py():
                return ""
        return (
            f"none of the {total} impressions before {before} was clicked and watched; check the "
            "columns `clicked` and `watch_time_s` of the impressions"
        )


def newest_time(fragments: Sequence[logs.Fragment], *, now_s: int) -> int:
    """Returns the newest time of an event that is not in the future, Unix seconds."""
    newest = 0
    for fragment in fragments:
        times = logs.read_fragment(fragment, columns=["time"])["time"]
        past = times.filter(pc.less_equal(times, now_s))
        newest = max(newest, pc.max(past).as_py() or 0)
    return newest


def _watches_before(fragments: Sequence[logs.Fragment], time_s: int) -> tuple[int, int]:
    """Returns how many watches were read of before a time, and how many count as completed."""
    watched = completed = 0
    for fragment in fragments:
        if fragment.table == "watches":
            rows = logs.read_fragment(fragment, until_s=time_s)
            watched += rows.num_rows
            completed += rows.num_rows
            if "completed" in rows.column_names:
                completed -= pc.sum(pc.equal(rows["completed"], False)).as_py() or 0
    return watched, completed
