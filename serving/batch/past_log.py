"""A log in memory, clean and in the order of its time, for backtests."""

import dataclasses
import pathlib
import time
from collections.abc import Mapping

import pyarrow as pa

from features import command
from features.catalogue import combined
from features.tables import logs, unlisted
from features.tables.clean_logs import Cleaner

_EVENTS = ("watches", "searches", "impressions", "feedback")


@dataclasses.dataclass(frozen=True)
class PastLog:
    """Clean tables, as preprocessing would have them.

    Attributes:
        videos: Clean videos table, with a row for each video that is watched and has none.
        users: Table; empty where the log has none.
        tables: ``watches`` and, where there are any, ``searches`` and ``impressions``; sorted by
            time.
    """

    videos: pa.Table
    users: pa.Table
    tables: Mapping[str, pa.Table]

    @classmethod
    def read(cls, directory: pathlib.Path, until_s: int | None) -> "PastLog":
        """Reads the tables; nothing from ``until_s`` on.

        Raises:
            InputError: There are no watches, or a table cannot be read.
        """
        present = logs.tables_in(directory)
        if "watches" not in present:
            raise command.InputError(f"{directory} has no table 'watches' to test on.")
        cleaner = Cleaner(None, None, int(time.time()))
        listed = None
        if "videos" in present:
            listed = cleaner.split("videos", logs.read_table(directory, "videos"))[0]
        only_watched = unlisted.first_watches(directory, listed, until_s=until_s)
        videos = unlisted.joined(listed, only_watched)
        cleaner = dataclasses.replace(cleaner, videos=combined(videos["video_id"]))
        users = pa.table({"user_id": pa.array([], pa.string())})
        if "users" in present:
            users = cleaner.split("users", logs.read_table(directory, "users"))[0]
            cleaner = dataclasses.replace(cleaner, users=combined(users["user_id"]))
        tables = cleaner.tables(
            {
                name: logs.read_table(directory, name, until_s=until_s)
                for name in _EVENTS
                if name in present
            }
        )
        order = [("time", "ascending"), ("user_id", "ascending")]
        return cls(
            videos.combine_chunks(),
            users.combine_chunks(),
            {name: rows.sort_by(order).combine_chunks() for name, rows in tables.items()},
        )
