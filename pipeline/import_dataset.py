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

import dataclasses
import pathlib
import time
from collections.abc import Callable, Mapping

from absl import flags

from features import command, config_flags, files
from features.screen import progress
from features.tables import logs
from features.tables.time_windows import Window
from pipeline.importers import kuairand, movielens, recflow, vk_lsvd
from pipeline.mapping import importing, mapping_file, proposal
from pipeline.preprocessing.log_tallies import RejectedRows

# Data set, what reads it, and the choices that there are.
_IMPORTERS: Mapping[str, tuple[str, Callable[..., list[str]], type[Window]]] = {
    "kuairand": ("KuaiRand", kuairand.import_logs, kuairand.KuaiRandConfig),
    "movielens": ("MovieLens", movielens.import_logs, movielens.MovieLensConfig),
    "recflow": ("RecFlow", recflow.import_logs, recflow.RecFlowConfig),
    "vk_lsvd": ("VK-LSVD", vk_lsvd.import_logs, Window),
}
# Flags of all formats, and fields that are no flags.
_SHARED = {*dataclasses.asdict(Window()), "now_s"}

_FORMAT = flags.DEFINE_enum("format", None, list(_IMPORTERS), "Data set that it is.")
_MAPPING = flags.DEFINE_string("mapping", None, "TOML file that says what becomes what.")
_PROPOSE = flags.DEFINE_string(
    "propose", None, "TOML file to write a first mapping of the sources to."
)
_SOURCE = config_flags.path(
    "source",
    "reads",
    "Directory of the unpacked data set. With --propose, files, directories and addresses of "
    "databases, commas between them.",
)
_LOGS = config_flags.path("logs", "creates", "Directory to create.")
_OVERWRITE = flags.DEFINE_boolean("overwrite", False, "Replace what --logs or --propose holds.")
_REJECTED = config_flags.path(
    "rejected", "writes", "Directory to write the rows to that --mapping sets aside, with reasons."
)
_WINDOW = config_flags.define(Window)
_CHOICES = {
    name: config_flags.define(config, without=_SHARED, of=title)
    for name, (title, _, config) in _IMPORTERS.items()
}
_MAPPING_CHOICES = config_flags.define(importing.MappingConfig, without=_SHARED, of="--mapping")


def main() -> None:
    """Imports what the flags name, or proposes how."""
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
    window = dataclasses.asdict(_WINDOW.build())
    config = _MAPPING_CHOICES.build(now_s=int(time.time()), **window)
    mapping = mapping_file.load(pathlib.Path(_MAPPING.value))
    rejected = RejectedRows(pathlib.Path(_REJECTED.value) if _REJECTED.value else None)
    return importing.import_mapping(mapping, writer, config, rejected=rejected)


def _import_format(writer: logs.LogWriter) -> list[str]:
    if not _SOURCE.value:
        raise command.InputError("give --source, the directory of the unpacked data set.")
    source = pathlib.Path(_SOURCE.value)
    window = _WINDOW.build()
    config = _CHOICES[_FORMAT.value].build(**dataclasses.asdict(window))
    _, import_logs, _ = _IMPORTERS[_FORMAT.value]
    notes = import_logs(source, writer, config)
    if not writer.rows.get("watches"):
        raise command.InputError(
            f"no watch of {source} lies in the window: --from={_said(window.from_s)} and "
            f"--until={_said(window.until_s)}. Widen it."
        )
    return notes


def _said(time_s: int | None) -> str:
    return "none" if time_s is None else command.format_time(time_s)


if __name__ == "__main__":
    command.run(main)
