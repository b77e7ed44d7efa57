"""Examples -> the examples that the model that serves is made from: the holdout has joined them.

What was measured knows nothing of the holdout: not its watches, and neither a video, a channel nor
a word that only came up in it. What serves shall know all of it. So the raw candidate examples of
training and holdout are put together, their ages count from the end of the logs, and vocabularies
and quantiles are fitted anew, on all of them. Nothing is replayed: each example is as of its own
moment whatever it is used for. The ranker is not trained again, so all that is its stays as it is.

The split ``holdout`` of what is written holds the same watches as before, as their users asked (of
age 0). It is there to ask the model like users of the newest days, NOT to measure it. The split
``newest`` holds them as they train, of their age, so that they can be given more weight.
"""

import pathlib
import time
from collections.abc import Sequence
from typing import Any

import pyarrow.parquet as pq
from absl import logging

from features import dataset, files, spec
from features.as_of import example_tables, replay
from features.screen import progress
from features.spec import ResolvedSpec
from pipeline.preprocessing import beam_options, leakage_audit, raw_examples
from pipeline.preprocessing import job as preprocessing_job

_MADE_ANEW = {files.COMPLETE, "candidate_examples", "transform_fn", "transformed"}
_OF_MEASURED = {"statistics.json", "statistics.html"}


def run(examples_dir: str, output_dir: str, beam_args: Sequence[str]) -> dict[str, Any]:
    """Writes the examples and returns what COMPLETE holds.

    Args:
        examples_dir: Examples directory that pipeline.preprocess wrote.
        output_dir: Directory to create or replace.
        beam_args: Options of Beam; none for those that preprocessing was given.

    Raises:
        command.InputError: There are no examples, or Beam's options cannot be used.
    """
    options = beam_options.parse(beam_args)  # A mistyped flag is told first.
    info = dataset.info(examples_dir)
    given = info.get("beam_args", [])
    if not beam_args and isinstance(given, list):
        options = beam_options.parse(given)
    source = pathlib.Path(examples_dir)
    resolved = ResolvedSpec.load(source)
    until_s = int(str(info["until_s"]))
    started = time.monotonic()
    with progress.shown("join_holdout"), files.atomic_directory(output_dir) as output:
        progress.at("joining the examples")
        for path in sorted(source.iterdir()):
            left_out = path.name in _MADE_ANEW | _OF_MEASURED or path.name.startswith(".")
            if not left_out:
                files.link_tree(path, output / path.name)
        for part in ("transform_fn", "transformed"):
            (output / part).mkdir()
            if (source / part / spec.RANKER).is_dir():
                files.link_tree(source / part / spec.RANKER, output / part / spec.RANKER)
        counts = _join(source, output, resolved, until_s)
        splits = (*raw_examples.SPLITS, replay.NEWEST)
        preprocessing_job.fit_and_transform(
            output, resolved, [spec.CANDIDATE], options, splits=splits
        )
        leakage_audit.check_transform(
            output,
            resolved,
            spec.CANDIDATE,
            train=raw_examples.directory_of(output, spec.CANDIDATE, replay.TRAIN),
            train_until_s=until_s,
        )
        before = dict(info["counts"])  # type: ignore[call-overload]
        newest = before["candidate_holdout"]
        joined = {
            **info,
            "counts": {**before, "candidate_train": counts, "candidate_newest": newest},
            "train_until_s": until_s,
            "measured_until_s": info["train_until_s"],
        }
        files.mark_complete(output, joined)
    logging.info("The holdout joined %d examples in %.0f s.", counts, time.monotonic() - started)
    return joined


def _join(source: pathlib.Path, output: pathlib.Path, resolved: ResolvedSpec, until_s: int) -> int:
    """Writes the raw candidate examples of both splits; returns how many train."""
    counts = 0
    for split, target, age_until_s in (
        (replay.TRAIN, replay.TRAIN, until_s),
        (replay.HOLDOUT, replay.TRAIN, until_s),
        (replay.HOLDOUT, replay.NEWEST, until_s),
        (replay.HOLDOUT, replay.HOLDOUT, None),
    ):
        directory = raw_examples.directory_of(output, spec.CANDIDATE, target)
        directory.mkdir(parents=True, exist_ok=True)
        for path in sorted(
            raw_examples.directory_of(source, spec.CANDIDATE, split).glob("*.parquet")
        ):
            with (
                pq.ParquetFile(path) as rows,
                pq.ParquetWriter(
                    directory / f"{split}-{path.name}", rows.schema_arrow, compression="zstd"
                ) as writer,
            ):
                for group in range(rows.num_row_groups):
                    aged = example_tables.with_example_age(
                        rows.read_row_group(group), resolved, until_s=age_until_s
                    )
                    writer.write_table(aged.cast(rows.schema_arrow))
                counts += rows.metadata.num_rows if target == replay.TRAIN else 0
    return counts
