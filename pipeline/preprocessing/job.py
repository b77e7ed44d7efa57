"""The preprocessing job: raw logs -> examples/, in Beam pipelines.

The first reads, cleans and replays the logs into raw examples; the second fits the transforms on
the training examples and transforms all. Raw examples lie on disk in between, so that memory
does not grow with their number, and they are kept: the skew proof, tree baselines and people read
them. The directory appears under its name only when all of it is whole.
"""

import contextlib
import dataclasses
import json
import pathlib
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence

import apache_beam as beam
import pyarrow.parquet as pq
from absl import logging
from apache_beam.options.pipeline_options import PipelineOptions

from features import command, files, spec
from features.as_of import example_tables, replay
from features.catalogue import Catalogue
from features.screen import progress
from features.spec import ResolvedSpec
from features.stores import door
from features.tables import log_files, logs
from pipeline.preprocessing import (
    beam_options,
    cleaning,
    leakage_audit,
    log_days,
    raw_examples,
    statistics_report,
    table_files,
    transforming,
    written_files,
)
from pipeline.preprocessing.config import (
    NEEDED_TABLES,
    OPTIONAL_TABLES,
    PreprocessConfig,
    rejected_dir,
)
from pipeline.steps import work_lock


def run(
    logs_dir: str, examples_dir: str, config: PreprocessConfig, beam_args: Sequence[str]
) -> dict[str, object]:
    """Runs the job and returns what COMPLETE holds.

    Raises:
        command.InputError: The logs or Beam's options cannot be used; nothing is written.
    """
    if set("*?[]") & set(str(examples_dir)):
        raise command.InputError(
            f"--examples={examples_dir} has one of * ? [ ], which Beam takes for a pattern of "
            "names: give a directory without them."
        )
    options = beam_options.parse(beam_args)
    tables = logs.tables_in(logs_dir)
    for needed, why in NEEDED_TABLES.items():
        if needed not in tables:
            raise command.InputError(
                f"{logs_dir} has no table {needed!r}; it has {sorted(tables)}. {why}, so it is "
                "needed."
            )
    for absent, loss in OPTIONAL_TABLES.items():
        if absent not in tables:
            logging.warning("The logs have no table %r: %s.", absent, loss)
    if config.label == replay.HELD_OUT:
        logging.warning("label=held_out LEAKS THE FUTURE into training: for experiments only.")
    started = time.monotonic()
    with (
        progress.shown("preprocess"),
        files.atomic_directory(examples_dir) as output,
        _rejected_kept(output, examples_dir),
    ):
        progress.at("looking through the logs")
        with _cache_to_itself(config, pathlib.Path(examples_dir)):
            made = raw_examples.RawExamples(
                logs_dir=pathlib.Path(logs_dir),
                output=output,
                config=config,
                options=options,
                tables=tables,
            ).make()
        logging.info("Raw examples after %.0f s: %s", time.monotonic() - started, made.counts)
        models = [spec.CANDIDATE] if made.no_ranking else [spec.CANDIDATE, spec.RANKER]
        fit_and_transform(output, made.resolved, models, options)
        made.audit["transforms"] = {
            model: leakage_audit.check_transform(
                output,
                made.resolved,
                model,
                train=raw_examples.directory_of(output, model, replay.TRAIN),
                train_until_s=made.train_until_s,
            )
            for model in models
        }
        progress.at("describing the examples")
        info = describe(made, config, logs_dir=pathlib.Path(logs_dir), output=output)
        info["beam_args"] = list(beam_args)
        statistics_report.write(output, made.resolved, info)
        files.mark_complete(output, info)
        logging.info("Preprocessing took %.0f s.", time.monotonic() - started)
    return info


@contextlib.contextmanager
def _rejected_kept(output: pathlib.Path, examples_dir: str) -> Iterator[None]:
    """Leaves the rows that were set aside where people find them, also when the job fails."""
    kept = rejected_dir(examples_dir)
    shutil.rmtree(kept, ignore_errors=True)
    try:
        yield
    except BaseException:
        if (output / "rejected").is_dir():
            (output / "rejected").rename(kept)
            logging.error("The rows that were set aside are in %s.", kept)
        raise


def _cache_to_itself(
    config: PreprocessConfig, examples_dir: pathlib.Path
) -> contextlib.AbstractContextManager[object]:
    """Holds the cache: another run would remove the days that this one is about to take."""
    if config.cache is None:
        return contextlib.nullcontext()
    cache = pathlib.Path(config.cache)
    if cache.resolve().is_relative_to(examples_dir.resolve()):
        raise command.InputError(
            f"--cache={cache} lies in --examples, which a run replaces as a whole. Give another."
        )
    return work_lock.held(cache, flag="--cache")


def fit_and_transform(
    output: pathlib.Path,
    resolved: ResolvedSpec,
    models: Sequence[str],
    options: PipelineOptions,
    *,
    splits: Sequence[str] = raw_examples.SPLITS,
) -> None:
    """Raw examples -> transform graphs and transformed examples of some models."""
    catalogue = Catalogue(pq.read_table(output / "videos").combine_chunks())
    raw = {
        model: {split: raw_examples.directory_of(output, model, split) for split in splits}
        for model in models
    }
    with tempfile.TemporaryDirectory(dir=output, prefix=".transforms") as name:
        temporary = pathlib.Path(name)
        if spec.CANDIDATE in raw:
            raw[spec.CANDIDATE]["videos"] = temporary / "videos"
            cleaning.write_part(
                temporary / "videos",
                example_tables.catalogue_examples(resolved, catalogue),
                row_group_size=replay.ROWS_PER_BATCH,
            )
        trained_on = [splits_of[replay.TRAIN] for splits_of in raw.values()]
        every = [directory for splits_of in raw.values() for directory in splits_of.values()]
        _counted("fitting and applying the transforms", options, [*trained_on, *every])
        with beam.Pipeline(options=options) as pipeline:
            transforming.add_fit_and_transform(
                pipeline, resolved=resolved, raw=raw, output=output, temporary=temporary
            )
    written_files.settle(output)


def _counted(phase: str, options: PipelineOptions, directories: Sequence[pathlib.Path]) -> None:
    """Names a phase; counts the raw examples that it reads where this process reads them."""
    if beam_options.runs_here(options):
        total = sum(map(table_files.num_rows, directories))
        progress.at(phase, total=total, unit="examples")
    else:
        progress.at(phase)


def describe(
    made: raw_examples.Made,
    config: PreprocessConfig,
    *,
    logs_dir: pathlib.Path,
    output: pathlib.Path,
) -> dict[str, object]:
    """Writes what the last days of the logs look like; returns what was read, and what was made.

    Args:
        made: Raw examples of the logs.
        config: Settings that they were made by.
        logs_dir: Directory of the raw logs.
        output: Examples directory, which gets ``days.json``.
    """
    tables, from_s, until_s = logs.tables_in(logs_dir), config.from_s, made.until_s
    days = log_days.of_logs(logs_dir, tables, from_s=from_s, until_s=until_s)
    files.atomic_write(output / log_days.FILE, json.dumps(days))
    rows: dict[str, dict[str, int]] = {}
    for (table, reason), number in sorted(made.rows.items()):
        if table in tables and reason != "unlisted":
            rows.setdefault(table, {})[reason] = number
    return {
        "config": dataclasses.asdict(config),
        "logs": door.shown(logs_dir),
        "partitions": log_days.partitions(logs_dir, tables, from_s=from_s, until_s=until_s),
        "from_s": from_s,
        "until_s": until_s,
        "train_until_s": made.train_until_s,
        "holdout_days": config.holdout_days,
        "tables": sorted(tables),
        "log_files": {table: log_files.inventory(logs_dir, table) for table in sorted(tables)},
        "rows": rows,
        "counts": dict(made.counts),
        "has_ranking": not made.no_ranking,
        "no_ranking": made.no_ranking,
        "unlisted_videos": made.rows["videos", "unlisted"],
        "num_videos": made.rows["videos", "accepted"] + made.rows["videos", "unlisted"],
        "audit": made.audit,
        "site": dataclasses.asdict(made.site),
        "cache": dict(made.cache),
    }
