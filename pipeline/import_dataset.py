"""Turns a public data set, or anybody's files and databases, into raw logs.

    python -m pipeline.import_dataset --format=kuairand --source=KuaiRand-Pure --logs=logs
    python -m pipeline.import_dataset --format=movielens --source=ml-1m --logs=logs
    python -m pipeline.import_dataset --propose=mapping.toml --source=plays.csv,films.csv
    python -m pipeline.import_dataset --mapping=mapping.toml --logs=logs

What maps to what in a data set, and what it lacks, is written at the top of its module in
``pipeline/importers``. What a mapping file says is written in
``pipeline/mapping/mapping_file.py``; ``--propose`` writes a first one by looking at names, types
and values of the sources, and says what it guessed and why. The logs appear whole, when everything
is read, or not at all.
"""

import pathlib
import time
from collections.abc import Sequence
from typing import Any

from absl import flags

from features import command, files
from features.screen import progress
from features.tables import logs
from pipeline.importers import kuairand, movielens, recflow, vk_lsvd
from pipeline.mapping import importing, mapping_file, proposal
from pipeline.preprocessing import config as preprocessing_config
from pipeline.preprocessing.log_tallies import RejectedRows

_FORMAT = flags.DEFINE_enum(
    "format", None, ["kuairand", "movielens", "recflow", "vk_lsvd"], "Which data set it is."
)
_MAPPING = flags.DEFINE_string("mapping", None, "TOML file that says what becomes what.")
_PROPOSE = flags.DEFINE_string(
    "propose", None, "TOML file to write a first mapping of the sources to."
)
_SOURCE = flags.DEFINE_string(
    "source",
    None,
    "Directory of the unpacked data set. With --propose, files, directories and addresses of "
    "databases, commas between them.",
)
_LOGS = flags.DEFINE_string("logs", None, "Directory to create.")
_FROM = flags.DEFINE_string("from", None, "Keep events at or after this ISO 8601 time, UTC.")
_UNTIL = flags.DEFINE_string("until", None, "Keep events before this ISO 8601 time, UTC.")
_OVERWRITE = flags.DEFINE_boolean("overwrite", False, "Replace what --logs or --propose holds.")
_PAGE_GAP_MINUTES = flags.DEFINE_float(
    "page_gap_minutes",
    kuairand.DEFAULT_PAGE_GAP_MINUTES,
    "KuaiRand has no pages: a longer pause of a user starts a new one.",
)
_WITH_FEEDBACK = flags.DEFINE_boolean(
    "with_feedback",
    False,
    "KuaiRand: likes, dislikes, shares, follows and comments become the feedback table.",
)
_COMPLETED_RATING = flags.DEFINE_float(
    "completed_rating",
    movielens.DEFAULT_COMPLETED_RATING,
    "MovieLens: a rating of at least this counts as a completed watch.",
)
_LEAVE_ONE_OUT = flags.DEFINE_boolean(
    "leave_one_out", False, "MovieLens: the last rating of each user lies on a day of its own."
)
_STAGES = flags.DEFINE_boolean(
    "stages", False, "RecFlow: reads all_stage too, what was nominated and not shown."
)
_PLAYING_TIME_UNIT = flags.DEFINE_enum(
    "playing_time_unit", None, sorted(recflow.UNITS), "RecFlow: found where it is not given."
)
_MAX_REJECTED = flags.DEFINE_float(
    "max_rejected_fraction",
    preprocessing_config.PreprocessConfig().max_rejected_fraction,
    "--mapping fails when a table loses more of its rows than this.",
)
_REJECTED = flags.DEFINE_string(
    "rejected", None, "Directory to write the rows to that --mapping sets aside, with reasons."
)


def main(argv: Sequence[str]) -> None:
    """Imports what the flags name, or proposes how."""
    del argv
    ways = {"format": _FORMAT.value, "mapping": _MAPPING.value, "propose": _PROPOSE.value}
    if sum(value is not None for value in ways.values()) != 1:
        raise command.InputError("give one of --format, --mapping and --propose.")
    if _PROPOSE.value is not None:
        _propose(pathlib.Path(_PROPOSE.value))
        return
    if _LOGS.value is None:
        raise command.InputError("give --logs, the directory to create.")
    start_s = time.monotonic()
    with (
        progress.shown("import_dataset"),
        logs.LogWriter(_LOGS.value, overwrite=_OVERWRITE.value) as writer,
    ):
        notes = _import_mapping(writer) if _FORMAT.value is None else _import_format(writer)
    print(f"Wrote {_LOGS.value} in {time.monotonic() - start_s:.1f} s:")
    for table, rows in sorted(writer.rows.items()):
        print(f"  {table:<12} {rows:>12,} rows")
    for note in notes:
        print(f"Note: {note}.")
    if _FORMAT.value is None:
        following = command.shell_line("pipeline.check_logs", logs=_LOGS.value)
    else:
        following = command.shell_line("pipeline.preprocess", logs=_LOGS.value, examples="examples")
    print(f"Next: {following}")


def _propose(path: pathlib.Path) -> None:
    if path.exists() and not _OVERWRITE.value:
        raise command.InputError(f"{path} exists. Give another name, or --overwrite.")
    proposed = proposal.propose(
        [part for part in (_SOURCE.value or "").split(",") if part], directory=path.parent
    )
    files.atomic_write(path, proposed.text)
    print(f"Wrote {path}. What was guessed, and why, stands in it. In short:")
    for line in proposed.summary:
        print(f"  {line}")
    following = command.shell_line("pipeline.import_dataset", mapping=path, logs="logs")
    print(f"Look through it, then: {following}")


def _import_mapping(writer: logs.LogWriter) -> list[str]:
    if _SOURCE.value:
        raise command.InputError("--source is for --format and --propose: --mapping names sources.")
    options = importing.MappingConfig(
        from_s=command.parse_time(_FROM.value, name="--from"),
        until_s=command.parse_time(_UNTIL.value, name="--until"),
        max_rejected_fraction=_MAX_REJECTED.value,
        now_s=int(time.time()),
    )
    mapping = mapping_file.load(pathlib.Path(_MAPPING.value))
    rejected = RejectedRows(pathlib.Path(_REJECTED.value) if _REJECTED.value else None)
    return importing.import_mapping(mapping, writer, options, rejected=rejected)


def _import_format(writer: logs.LogWriter) -> list[str]:
    if not _SOURCE.value:
        raise command.InputError("give --source, the directory of the unpacked data set.")
    source = pathlib.Path(_SOURCE.value)
    notes = _FORMATS[_FORMAT.value](
        source,
        writer,
        {
            "from_s": command.parse_time(_FROM.value, name="--from"),
            "until_s": command.parse_time(_UNTIL.value, name="--until"),
        },
    )
    if not writer.rows.get("watches"):
        raise command.InputError(
            f"no watch of {source} lies between --from={_FROM.value} and "
            f"--until={_UNTIL.value}. Widen the window."
        )
    return notes


def _import_kuairand(
    source: pathlib.Path, writer: logs.LogWriter, window: dict[str, Any]
) -> list[str]:
    config = kuairand.KuaiRandConfig(
        page_gap_minutes=_PAGE_GAP_MINUTES.value, with_feedback=_WITH_FEEDBACK.value, **window
    )
    return kuairand.import_logs(source, writer, config)


def _import_movielens(
    source: pathlib.Path, writer: logs.LogWriter, window: dict[str, Any]
) -> list[str]:
    config = movielens.MovieLensConfig(
        completed_rating=_COMPLETED_RATING.value, leave_one_out=_LEAVE_ONE_OUT.value, **window
    )
    return movielens.import_logs(source, writer, config)


def _import_recflow(
    source: pathlib.Path, writer: logs.LogWriter, window: dict[str, Any]
) -> list[str]:
    config = recflow.RecFlowConfig(
        stages=_STAGES.value, playing_time_unit=_PLAYING_TIME_UNIT.value, **window
    )
    return recflow.import_logs(source, writer, config)


def _import_vk_lsvd(
    source: pathlib.Path, writer: logs.LogWriter, window: dict[str, Any]
) -> list[str]:
    return vk_lsvd.import_logs(source, writer, vk_lsvd.VkLsvdConfig(**window))


_FORMATS = {
    "kuairand": _import_kuairand,
    "movielens": _import_movielens,
    "recflow": _import_recflow,
    "vk_lsvd": _import_vk_lsvd,
}


if __name__ == "__main__":
    command.run(main, reads=("source",), creates=("logs",), writes=("rejected",))
