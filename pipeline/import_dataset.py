"""Turns a public data set into raw logs.

    python -m pipeline.import_dataset --format=kuairand --source=KuaiRand-Pure --logs=logs
    python -m pipeline.import_dataset --format=movielens --source=ml-1m --logs=logs

What maps to what, and what each data set lacks, is written in ``pipeline/importers/kuairand.py``
and ``pipeline/importers/movielens.py``. The logs appear whole, when everything is read, or not at
all.
"""

import pathlib
import time
from collections.abc import Sequence

from absl import flags

from features import command
from features.tables import logs
from pipeline.importers import kuairand, movielens

_FORMAT = flags.DEFINE_enum(
    "format", None, ["kuairand", "movielens"], "Which data set it is.", required=True
)
_SOURCE = flags.DEFINE_string("source", None, "Directory of the unpacked data set.", required=True)
_LOGS = flags.DEFINE_string("logs", None, "Directory to create.", required=True)
_FROM = flags.DEFINE_string("from", None, "Keep events at or after this ISO 8601 time, UTC.")
_UNTIL = flags.DEFINE_string("until", None, "Keep events before this ISO 8601 time, UTC.")
_OVERWRITE = flags.DEFINE_boolean("overwrite", False, "Replace what --logs holds.")
_PAGE_GAP_MINUTES = flags.DEFINE_float(
    "page_gap_minutes",
    kuairand.DEFAULT_PAGE_GAP_MINUTES,
    "KuaiRand has no pages: a longer pause of a user starts a new one.",
)
_COMPLETED_RATING = flags.DEFINE_float(
    "completed_rating",
    movielens.DEFAULT_COMPLETED_RATING,
    "MovieLens: a rating of at least this counts as a completed watch.",
)


def main(argv: Sequence[str]) -> None:
    """Imports the data set that the flags name."""
    del argv
    start_s = time.monotonic()
    source = pathlib.Path(_SOURCE.value)
    from_s = command.parse_time(_FROM.value, name="--from")
    until_s = command.parse_time(_UNTIL.value, name="--until")
    with logs.LogWriter(_LOGS.value, overwrite=_OVERWRITE.value) as writer:
        if _FORMAT.value == "kuairand":
            gap = _PAGE_GAP_MINUTES.value
            options = kuairand.KuaiRandConfig(page_gap_minutes=gap, from_s=from_s, until_s=until_s)
            notes = kuairand.import_logs(source, writer, options)
        else:
            notes = movielens.import_logs(
                source,
                writer,
                movielens.MovieLensConfig(
                    completed_rating=_COMPLETED_RATING.value, from_s=from_s, until_s=until_s
                ),
            )
        _require_events(writer)
    print(f"Wrote {_LOGS.value} in {time.monotonic() - start_s:.1f} s:")
    for table, rows in sorted(writer.rows.items()):
        print(f"  {table:<12} {rows:>12,} rows")
    for note in notes:
        print(f"Note: {note}.")
    following = command.shell_line("pipeline.preprocess", logs=_LOGS.value, examples="examples")
    print(f"Next: {following}")


def _require_events(writer: logs.LogWriter) -> None:
    if not writer.rows.get("watches"):
        raise command.InputError(
            f"no watch of {_SOURCE.value} lies between --from={_FROM.value} and "
            f"--until={_UNTIL.value}. Widen the window."
        )


if __name__ == "__main__":
    command.run(main)
