"""The night's examples and those of what was watched since: what a model learns from by minutes.

Only watches since the night are replayed. Vocabularies and quantiles of the candidate model are
fitted anew, on old and new together, and all that is the ranker's stays the night's, as when the
holdout joins (:mod:`pipeline.preprocessing.holdout_joining`). The split ``holdout`` holds the
watches of the last hour as their users asked, of age 0; they are in ``train`` too, and whoever
measures leaves them out there (``held_out_from_s``).
"""

import pathlib
import shutil
from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from features import command, dataset, files, spec
from features.as_of import example_tables, replay
from features.id_spaces import VocabularyConfig
from features.spec import ResolvedSpec
from features.tables import logs
from pipeline.preprocessing import beam_options, job, leakage_audit, raw_examples
from pipeline.preprocessing.config import PreprocessConfig

_OF_RANKER = ("ranking_examples", f"transform_fn/{spec.RANKER}", f"transformed/{spec.RANKER}")


def make(
    logs_dir: pathlib.Path,
    night: pathlib.Path,
    output_dir: pathlib.Path,
    *,
    until_s: int,
    held_out_from_s: int,
) -> dict[str, Any]:
    """Writes the examples and returns what COMPLETE holds.

    Args:
        logs_dir: Directory of the raw logs.
        night: Examples that pipeline.join_holdout wrote.
        output_dir: Directory to create or replace.
        until_s: End of what is read, exclusive, Unix seconds.
        held_out_from_s: Start of the holdout, Unix seconds, not before the end of the night's.

    Raises:
        command.InputError: The logs cannot be used, or have other features than at night.
    """
    info, resolved = dataset.info(night), ResolvedSpec.load(night)
    given: Any = info["config"]
    changes = {"vocabularies": VocabularyConfig(**given["vocabularies"]), "cache": None}
    config = PreprocessConfig(**{**given, **changes, "until_s": until_s, "holdout_days": 0.0})
    options = beam_options.parse(info.get("beam_args", []))  # type: ignore[arg-type]
    with files.atomic_directory(output_dir) as output:
        made = raw_examples.RawExamples(
            logs_dir=logs_dir,
            output=output,
            config=config,
            options=options,
            tables=logs.tables_in(logs_dir),
            since_s=int(str(info["until_s"])),
        ).make()
        _require_same(resolved, made.resolved)
        shutil.rmtree(output / _OF_RANKER[0], ignore_errors=True)
        for name in _OF_RANKER:
            if (night / name).is_dir():
                (output / name).parent.mkdir(exist_ok=True)
                files.link_tree(night / name, output / name)
        counts = _join(night, output, resolved, until_s=until_s, held_out_from_s=held_out_from_s)
        splits = raw_examples.SPLITS
        job.fit_and_transform(output, resolved, [spec.CANDIDATE], options, splits=splits)
        train = raw_examples.directory_of(output, spec.CANDIDATE, replay.TRAIN)
        leakage_audit.check_transform(
            output, resolved, spec.CANDIDATE, train=train, train_until_s=until_s
        )
        before: Any = info["counts"]
        told = {
            **job.describe(made, config, logs_dir=logs_dir, output=output),
            **{name: info[name] for name in ("has_ranking", "no_ranking", "measured_until_s")},
            "beam_args": info.get("beam_args", []),
            "counts": {**before, **counts, "candidate_newest": 0},
            "night_until_s": info["until_s"],
            "held_out_from_s": held_out_from_s,
        }
        files.mark_complete(output, told)
    return told


def _require_same(night: ResolvedSpec, now: ResolvedSpec) -> None:
    if now != night:
        names = {f.name for f in night.features} ^ {f.name for f in now.features}
        raise command.InputError(
            "the logs have other features than at night: "
            f"{', '.join(sorted(names)) or 'declared in another way'}. The next pipeline.retrain "
            "takes them up."
        )


def _join(
    night: pathlib.Path,
    output: pathlib.Path,
    resolved: ResolvedSpec,
    *,
    until_s: int,
    held_out_from_s: int,
) -> Mapping[str, int]:
    """Puts the night's raw examples beside the new ones; returns how many there are of each split.

    What is new is at most a day of watches, the night's is written by row groups.
    """
    train, holdout = (
        raw_examples.directory_of(output, spec.CANDIDATE, split) for split in raw_examples.SPLITS
    )
    held_out = pq.read_table(train).filter(pc.field("time") >= held_out_from_s)
    for path in holdout.glob("*.parquet"):  # Without a row: nothing lies past the end.
        path.unlink()
    held_out = example_tables.with_example_age(held_out, resolved, until_s=None)
    _write(holdout / "hour.parquet", held_out.schema, [held_out])
    number = sum(pq.read_metadata(path).num_rows for path in train.glob("*.parquet"))
    source = raw_examples.directory_of(night, spec.CANDIDATE, replay.TRAIN)
    for path in sorted(source.glob("*.parquet")):
        with pq.ParquetFile(path) as rows:
            aged = (
                example_tables.with_example_age(
                    pa.Table.from_batches([batch]), resolved, until_s=until_s
                ).cast(rows.schema_arrow)
                for batch in rows.iter_batches(replay.ROWS_PER_BATCH)
            )
            number += _write(train / f"night-{path.name}", rows.schema_arrow, aged)
    return {"candidate_train": number, "candidate_holdout": held_out.num_rows}


def _write(path: pathlib.Path, schema: pa.Schema, tables: Any) -> int:
    """Writes a file, table by table; returns its number of rows."""
    number = 0
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for table in tables:
            writer.write_table(table)
            number += table.num_rows
    return number
