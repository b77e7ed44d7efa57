"""A log in memory, clean and in the order of its time, to be replayed."""

import dataclasses
import pathlib
import time
from collections.abc import Mapping

import pyarrow as pa

from features import command, logs, schema
from features.catalogue import combined

_EVENTS = ("watches", "searches", "impressions")


@dataclasses.dataclass(frozen=True)
class PastLog:
    """Clean tables, as preprocessing would have them.

    Attributes:
        videos: Table.
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
            InputError: There are no videos or no watches, or a table cannot be read.
        """
        present = logs.tables_in(directory)
        for needed in ("videos", "watches"):
            if needed not in present:
                raise command.InputError(f"{directory} has no table {needed!r} to replay.")
        now_s = int(time.time())

        def clean(name: str, ids: Mapping[str, pa.Array | None]) -> pa.Table:
            rows = logs.read_table(directory, name, until_s=until_s if name in _EVENTS else None)
            accepted, _ = schema.validate(
                name,
                rows,
                known_video_ids=ids.get("videos"),
                known_user_ids=ids.get("users"),
                now_s=now_s,
            )
            return accepted.combine_chunks()

        videos = clean("videos", {})
        users = pa.table({"user_id": pa.array([], pa.string())})
        known: dict[str, pa.Array | None] = {"videos": combined(videos["video_id"])}
        if "users" in present:
            users = clean("users", {})
            known["users"] = combined(users["user_id"])
        tables = {}
        for name in _EVENTS:
            if name in present:
                unique = schema.split_duplicates(clean(name, known))[0]
                order = [("time", "ascending"), ("user_id", "ascending")]
                tables[name] = unique.sort_by(order).combine_chunks()
        return cls(videos, users, tables)
