"""The preprocessing job: raw logs -> examples/, in two Beam pipelines.

The first reads, cleans and replays the logs into raw examples; the second fits tf.Transform on
the training examples and transforms all. Raw examples lie on disk in between, so that memory
does not grow with their number, and they are kept: the skew proof, tree baselines and people
read them. The directory appears under its name only when all of it is whole.
"""

import collections
import dataclasses
import json
import pathlib
import tempfile
import time
from collections.abc import Mapping, Sequence

import apache_beam as beam
import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import tensorflow_transform.beam as tft_beam
from absl import logging
from apache_beam.options.pipeline_options import PipelineOptions

from features import command, files, logs, replay, schema, spec
from features.catalogue import Catalogue
from features.spec import ResolvedSpec
from features.statistics import DAY_S
from pipeline import cleaning, example_generation, statistics_report, transforming

EVENTS_PER_BUCKET = 200_000
RAW_EXAMPLES = {spec.CANDIDATE: "candidate_examples", spec.RANKER: "ranking_examples"}
SPLITS = (replay.TRAIN, replay.HOLDOUT)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PreprocessConfig:
    """Settings of the preprocessing job.

    Attributes:
        from_s: First second of events to read, Unix; None for all.
        until_s: First second not to read, Unix; None for all.
        holdout_days: Last days, up to ``until`` or the newest event, that are not trained on.
        examples_per_user: K, most candidate examples of one user; 0 for all (section 3.4).
        completed_only: Whether only completed watches are labels of candidate examples.
        seed: Chooses which K.
        label: What a candidate example of the training split predicts: ``next`` watch, or
            ``held_out``, which leaks the future and is for experiments (Figure 5).
        max_rejected_fraction: The job fails when a table loses more of its rows, in [0, 1].
            Exact duplicates do not count: nothing is lost with them.
    """

    from_s: int | None = None
    until_s: int | None = None
    holdout_days: float = 1.0
    examples_per_user: int = 64
    completed_only: bool = True
    seed: int = 0
    label: str = replay.NEXT
    max_rejected_fraction: float = 0.1

    def __post_init__(self) -> None:
        if self.holdout_days < 0:
            raise command.InputError(f"holdout_days must be 0 or more, got {self.holdout_days}.")
        if self.examples_per_user < 0:
            raise command.InputError(
                f"examples_per_user must be 0 (all) or more, got {self.examples_per_user}."
            )
        if self.label not in replay.LABELS:
            raise command.InputError(f"label must be in {replay.LABELS}, got {self.label!r}.")
        if not 0 <= self.max_rejected_fraction <= 1:
            raise command.InputError(
                f"max_rejected_fraction must be in [0, 1], got {self.max_rejected_fraction}."
            )


def run(
    logs_dir: str, examples_dir: str, config: PreprocessConfig, beam_args: Sequence[str]
) -> dict[str, object]:
    """Runs the job and returns what COMPLETE holds.

    Raises:
        command.InputError: The logs cannot be used; nothing is written.
    """
    tables = logs.tables_in(logs_dir)
    for needed in ("videos", "watches"):
        if needed not in tables:
            raise command.InputError(
                f"{logs_dir} has no table {needed!r}; it has {sorted(tables)}. Candidate "
                "generation learns from watches of known videos, so both are needed."
            )
    for absent, loss in _OPTIONAL.items():
        if absent not in tables:
            logging.warning("The logs have no table %r: %s.", absent, loss)
    if config.label == replay.HELD_OUT:
        logging.warning("label=held_out LEAKS THE FUTURE into training: for experiments only.")
    with files.atomic_directory(examples_dir) as output:
        job = _Job(
            logs_dir=pathlib.Path(logs_dir),
            output=output,
            config=config,
            beam_args=list(beam_args),
            tables=tables,
        )
        info = job.run()
        files.mark_complete(output, info)
    return info


_OPTIONAL = {
    "impressions": "no ranking examples, so no ranker; pages are ordered by retrieval score",
    "searches": "no search features",
    "users": "no demographic features, and user ids cannot be checked",
}


class _Job:
    """One run; every step writes below the temporary directory ``output``."""

    def __init__(
        self,
        *,
        logs_dir: pathlib.Path,
        output: pathlib.Path,
        config: PreprocessConfig,
        beam_args: list[str],
        tables: set[str],
    ) -> None:
        self._logs = logs_dir
        self._output = output
        self._config = config
        self._beam_args = beam_args
        self._tables = tables
        self._now_s = int(time.time())
        self._counts: collections.Counter[tuple[str, str]] = collections.Counter()

    def run(self) -> dict[str, object]:
        started = time.monotonic()
        self._clean_entities("videos")
        if "users" in self._tables:
            self._clean_entities("users")
        fragments = self._fragments()
        self._resolved = self._resolve()
        self._resolved.save(self._output)
        until_s = self._config.until_s or newest_time(fragments, now_s=self._now_s) + 1
        train_until_s = int(until_s - self._config.holdout_days * DAY_S)
        logging.info(
            "Training examples until %s, holdout until %s; %d features for the candidate model, "
            "%d for the ranker.",
            command.format_time(train_until_s),
            command.format_time(until_s),
            len(self._resolved.of(spec.CANDIDATE)),
            len(self._resolved.of(spec.RANKER)),
        )
        self._replay(fragments, train_until_s)
        self._refuse_many_rejected()
        counts = {
            f"{model}_{split}": _num_rows(self._raw(model, split))
            for model in spec.MODELS
            for split in SPLITS
        }
        self._refuse_no_examples(counts, train_until_s)
        has_ranking = counts["ranker_train"] > 0
        logging.info("Raw examples after %.0f s: %s", time.monotonic() - started, counts)
        self._transform(has_ranking=has_ranking)
        info = self._info(until_s, train_until_s, counts)
        report = statistics_report.build(self._output, self._resolved, info)
        files.atomic_write(self._output / "statistics.json", json.dumps(report, indent=1) + "\n")
        logging.info("Preprocessing took %.0f s.", time.monotonic() - started)
        return info

    # ---- what is read -------------------------------------------------------------------------

    def _clean_entities(self, name: str) -> None:
        """Validates videos or users and writes them for the workers."""
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
        cleaning.write_part(self._output / name, accepted)

    def _fragments(self) -> list[logs.Fragment]:
        found = {
            name: logs.fragments(
                self._logs, name, from_s=self._config.from_s, until_s=self._config.until_s
            )
            for name in cleaning.EVENT_TABLES
            if name in self._tables
        }
        if not found["watches"]:
            raise command.InputError(
                f"{self._logs} has no watches in the window {self._window()}; "
                "check --from and --until."
            )
        return [fragment for fragments in found.values() for fragment in fragments]

    def _window(self) -> str:
        bounds = (self._config.from_s, self._config.until_s)
        return " to ".join("open" if b is None else command.format_time(b) for b in bounds)

    def _resolve(self) -> ResolvedSpec:
        columns: dict[str, list[str]] = {
            name: list(logs.column_types(self._logs, name)) for name in self._tables
        }
        logged = set(columns.get("impressions", ())) | set(columns["watches"])
        columns["context"] = sorted(logged & {"device", "surface"})
        return spec.resolve(columns, spec.load_extra(self._logs / logs.FEATURES_FILE))

    # ---- first pipeline: logs -> raw examples -------------------------------------------------

    def _raw(self, model: str, split: str) -> pathlib.Path:
        return self._output / RAW_EXAMPLES[model] / split

    def _replay(self, fragments: Sequence[logs.Fragment], train_until_s: int) -> None:
        config = self._config
        events = sum(fragment.num_rows for fragment in fragments)
        buckets = max(2, -(-events // EVENTS_PER_BUCKET))
        logging.info("Replaying %d events in %d buckets of users.", events, buckets)
        users_dir = str(self._output / "users") if "users" in self._tables else None
        read = cleaning.ReadFragments(
            videos_dir=str(self._output / "videos"),
            users_dir=users_dir,
            num_buckets=buckets,
            now_s=self._now_s,
            window=(config.from_s, config.until_s),
        )
        make = example_generation.Replay(
            replay.ReplayConfig(
                train_until_s=train_until_s,
                examples_per_user=config.examples_per_user,
                completed_only=config.completed_only,
                seed=config.seed,
                label=config.label,
            ),
            spec_json=self._resolved.to_json(),
            videos_dir=str(self._output / "videos"),
            users_dir=users_dir,
        )
        schemas = {m: replay.example_schema(self._resolved, m) for m in spec.MODELS}
        with beam.Pipeline(options=self._options()) as pipeline:
            example_generation.add_example_generation(
                pipeline,
                fragments,
                read=read,
                replay=make,
                outputs={
                    f"{model}_{split}": (self._raw(model, split), schemas[model])
                    for model in spec.MODELS
                    for split in SPLITS
                },
                directory=self._output,
                has_impressions="impressions" in self._tables,
            )
        self._counts.update(cleaning.read_counts(self._output))

    def _options(self) -> PipelineOptions:
        return PipelineOptions(embedded_by_default(self._beam_args))

    # ---- second pipeline: raw examples -> transformed -----------------------------------------

    def _transform(self, *, has_ranking: bool) -> None:
        catalogue = Catalogue(pq.read_table(self._output / "videos").combine_chunks())
        models = [spec.CANDIDATE, spec.RANKER] if has_ranking else [spec.CANDIDATE]
        with tempfile.TemporaryDirectory(dir=self._output, prefix=".tft") as temporary:
            videos = pathlib.Path(temporary) / "videos"
            cleaning.write_part(
                videos,
                replay.catalogue_examples(self._resolved, catalogue),
                row_group_size=replay.ROWS_PER_BATCH,
            )
            with beam.Pipeline(options=self._options()) as pipeline:
                for model in models:
                    raw = {split: self._raw(model, split) for split in SPLITS}
                    if model == spec.CANDIDATE:
                        raw["videos"] = videos
                    # Analyzers write vocabularies by name: one directory for each model.
                    with tft_beam.Context(temp_dir=str(pathlib.Path(temporary) / model)):
                        transforming.add_transform(
                            pipeline,
                            model=model,
                            resolved=self._resolved,
                            raw_schema=replay.example_schema(self._resolved, model),
                            raw=raw,
                            output=self._output,
                        )
                logging.info("Fitting and applying the transforms of: %s.", ", ".join(models))

    # ---- what is said -------------------------------------------------------------------------

    def _reasons(self, table: str) -> dict[str, int]:
        return {
            reason: number
            for (name, reason), number in sorted(self._counts.items())
            if name == table and reason not in {"read", "accepted"}
        }

    def _refuse_many_rejected(self) -> None:
        for table in sorted(self._tables):
            read = self._counts[table, "read"]
            reasons = self._reasons(table)
            lost = sum(n for reason, n in reasons.items() if reason != schema.EXACT_DUPLICATE)
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
        examples = rows.select([*names[:5], "reason"]).slice(0, 3).to_pylist()
        return [{name: _shortened(value) for name, value in row.items()} for row in examples]

    def _refuse_no_examples(self, counts: Mapping[str, int], train_until_s: int) -> None:
        if not counts["candidate_train"]:
            raise command.InputError(
                f"no watch before {command.format_time(train_until_s)} can be a training label: "
                f"{self._counts['watches', 'accepted']} usable watches in the window "
                f"{self._window()}, holdout_days={self._config.holdout_days}. Give more logs or "
                "a shorter holdout."
            )
        if "impressions" in self._tables and not counts["ranker_train"]:
            logging.warning(
                "No impression before %s: no ranker. Give more logs or a shorter holdout.",
                command.format_time(train_until_s),
            )

    def _info(
        self, until_s: int, train_until_s: int, counts: Mapping[str, int]
    ) -> dict[str, object]:
        rows: dict[str, dict[str, int]] = {}
        for (table, reason), number in sorted(self._counts.items()):
            rows.setdefault(table, {})[reason] = number
        return {
            "config": dataclasses.asdict(self._config),
            "logs": str(self._logs),
            "from_s": self._config.from_s,
            "until_s": until_s,
            "train_until_s": train_until_s,
            "holdout_days": self._config.holdout_days,
            "tables": sorted(self._tables),
            "rows": rows,
            "counts": dict(counts),
            "has_ranking": counts["ranker_train"] > 0,
            "num_videos": self._counts["videos", "accepted"],
        }


def newest_time(fragments: Sequence[logs.Fragment], *, now_s: int) -> int:
    """Returns the newest time of an event that is not in the future, Unix seconds."""
    newest = 0
    for fragment in fragments:
        times = logs.read_fragment(fragment, columns=["time"])["time"]
        past = times.filter(pc.less_equal(times, now_s))
        newest = max(newest, pc.max(past).as_py() or 0)
    return newest


def _shortened(value: object) -> object:
    """Cuts what would flood a message: an id may have thousands of characters."""
    return f"{value[:60]}..." if isinstance(value, str) and len(value) > 60 else value


def embedded_by_default(beam_args: Sequence[str]) -> list[str]:
    """Names the embedded runner where none, or Beam's DirectRunner, is asked for.

    DirectRunner is a switch that first tries to download the Prism binary at run time; the
    embedded runner behind it needs nothing.
    """
    named = [a for a in beam_args if a.startswith("--runner")]
    if named and named[-1] not in {"--runner=DirectRunner", "--runner=direct"}:
        return list(beam_args)
    return [*(a for a in beam_args if a not in named), "--runner=FnApiRunner"]


def _num_rows(directory: pathlib.Path) -> int:
    return int(np.sum([pq.read_metadata(p).num_rows for p in directory.glob("*.parquet")]))
