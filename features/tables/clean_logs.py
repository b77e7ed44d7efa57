"""Raw rows -> the rows that count: the one piece that preprocessing, seeds, replay and batch call.

A row that training sets aside counts nowhere else, and none counts twice. The reasons, and what an
exact copy is, stand in :mod:`features.tables.schema`; when a click counts, in
:mod:`features.clicks`.
"""

import dataclasses
import os
import time
from collections.abc import Mapping

import pyarrow as pa

from features import clicks
from features.catalogue import combined
from features.tables import logs, schema


@dataclasses.dataclass(frozen=True)
class Cleaner:
    """Knows what a log's events may speak of.

    Attributes:
        videos: string; ids of the videos that there are. None where any may be.
        users: string; ids of the user table. None where the log has none.
        now_s: The clock, Unix seconds: what lies after it cannot have happened.
    """

    videos: pa.Array | None
    users: pa.Array | None
    now_s: int

    @classmethod
    def of_logs(cls, logs_dir: str | os.PathLike[str], *, now_s: int) -> "Cleaner":
        """Reads the ids of a log's users; of videos any may be, since those watched exist.

        Raises:
            InputError: A table cannot be read.
        """
        if "users" not in logs.tables_in(logs_dir):
            return cls(videos=None, users=None, now_s=now_s)
        rows = logs.read_table(logs_dir, "users", columns=schema.table_of("users").required)
        # By the clock of the machine, as in training, also where a server's stands earlier.
        usable, _ = Cleaner(None, None, int(time.time())).split("users", rows)
        return cls(videos=None, users=combined(usable["user_id"]), now_s=now_s)

    def split(self, name: str, rows: pa.Table) -> tuple[pa.Table, pa.Table]:
        """Returns the rows of any part of a table that can be used, and the others with reasons."""
        return schema.validate(
            name,
            rows,
            known_video_ids=self.videos,
            known_user_ids=self.users,
            now_s=self.now_s,
        )

    def rows(self, name: str, rows: pa.Table) -> pa.Table:
        """Returns the rows of a table that count, each once."""
        return schema.split_duplicates(self.split(name, rows)[0])[0]

    def tables(self, tables: Mapping[str, pa.Table]) -> dict[str, pa.Table]:
        """Returns the clean event tables of whole users; clicks with their moments."""
        return with_clicks({name: self.rows(name, rows) for name, rows in tables.items()})


def with_clicks(tables: Mapping[str, pa.Table]) -> dict[str, pa.Table]:
    """Returns the clean event tables of whole users; clicks with their moments."""
    clean = dict(tables)
    if "impressions" in clean:
        clean["impressions"] = clicks.with_moments(clean["impressions"], clean.get("watches"))
    return clean
