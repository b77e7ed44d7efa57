"""Videos that are watched and stand in no videos table: they exist from their first watch.

A site may write no videos table at all, or write it once a day while its newest videos are watched
already. Such a video has an id and a time, and nothing else is known of it.
"""

import os
import time

import pyarrow as pa
import pyarrow.compute as pc
from absl import logging

from features import command
from features.catalogue import combined
from features.tables import logs, schema

# A column of these says to whom a video may be shown; what has no row may be shown to nobody then.
RULES = ("regions", "blocked_regions", "min_age")
TYPES = {"video_id": pa.string(), "upload_time": pa.int64()}  # All that is known of them.
_FIRST, _COUNT = "time_min", "time_count"


def first_watches(
    logs_dir: str | os.PathLike[str],
    listed: pa.Table | None,
    *,
    from_s: int | None = None,
    until_s: int | None = None,
) -> pa.Table:
    """Finds the videos of watches that a videos table does not have.

    Args:
        logs_dir: Directory of the raw logs.
        listed: Usable rows of the videos table; None where there is none.
        from_s: First second of watches to read, Unix; None for no bound.
        until_s: First second not to read, Unix; None for no bound.

    Returns:
        ``video_id``, ``upload_time`` (of the first watch, Unix seconds) and ``watches``, in the
        order of their first watches.
    """
    now_s = int(time.time())
    parts = []
    columns = list(schema.table_of("watches").required)
    for fragment in logs.fragments(logs_dir, "watches", from_s=from_s, until_s=until_s):
        rows = logs.read_fragment(fragment, columns=columns, from_s=from_s, until_s=until_s)
        if listed is not None:
            known = combined(listed["video_id"]).cast(pa.string())
            rows = rows.filter(pc.invert(pc.is_in(rows["video_id"], value_set=known)))
        if rows.num_rows:
            usable, _ = schema.validate(
                "watches", rows, known_video_ids=None, known_user_ids=None, now_s=now_s
            )
            parts.append(_by_video(usable.select(["video_id", "time"])))
    if not parts:
        return pa.table(
            {
                "video_id": pa.array([], pa.string()),
                "upload_time": pa.array([], pa.int64()),
                "watches": pa.array([], pa.int64()),
            }
        )
    together = pa.concat_tables(parts).group_by("video_id", use_threads=False)
    videos = together.aggregate([(_FIRST, "min"), (_COUNT, "sum")])
    return pa.table(
        {
            "video_id": videos["video_id"],
            "upload_time": videos[f"{_FIRST}_min"],
            "watches": videos[f"{_COUNT}_sum"],
        }
    ).sort_by([("upload_time", "ascending"), ("video_id", "ascending")])


def checked(
    logs_dir: str | os.PathLike[str],
    listed: pa.Table | None,
    *,
    from_s: int | None,
    until_s: int | None,
    most: float,
) -> pa.Table:
    """Returns what :func:`first_watches` finds, and refuses too much of it.

    Raises:
        command.InputError: More than ``most`` of the watches, in [0, 1], are of videos that a table
            of videos does not have: its ids seem to be written in another way.
    """
    videos = first_watches(logs_dir, listed, from_s=from_s, until_s=until_s)
    if listed is None or not videos.num_rows:
        return videos
    watches = int(pc.sum(videos["watches"]).as_py() or 0)
    pieces = logs.fragments(logs_dir, "watches", from_s=from_s, until_s=until_s)
    total = sum(piece.num_rows for piece in pieces)
    text = (
        f"{watches} of {total} watches are of {videos.num_rows} videos that table 'videos' does "
        f"not have, such as {videos['video_id'][0].as_py()!r}"
    )
    if watches > most * total:
        raise command.InputError(
            f"{text}: more than --max_rejected_fraction={most}. {schema.REMEDIES['unknown_video']} "
            "Or leave out the table: videos then exist from their first watch."
        )
    logging.warning("%s: they exist from their first watch.", text)
    return videos


def _by_video(watches: pa.Table) -> pa.Table:
    grouped = watches.group_by("video_id", use_threads=False)
    return grouped.aggregate([("time", "min"), ("time", "count")])


def joined(listed: pa.Table | None, unlisted: pa.Table) -> pa.Table:
    """Returns the videos table with a row for each video that is watched and has none.

    Args:
        listed: Usable rows of the videos table; None where there is none.
        unlisted: Videos as :func:`first_watches` returns them, or with fewer columns.
    """
    rows = unlisted.select(["video_id", "upload_time"])
    if listed is None:
        return rows
    return pa.concat_tables([listed, rows], promote_options="default")


def may_be_shown(listed: pa.Table | None) -> bool:
    """Returns whether a video without a row may be shown: no column restricts whom to."""
    if listed is None:
        return True
    columns = [listed[name] for name in RULES if name in listed.column_names]
    return all(column.null_count == listed.num_rows for column in columns)
