"""Raw logs, read a bucket of whole users at a time, so that memory does not grow with them."""

import dataclasses
import pathlib
import time
import zlib
from collections.abc import Iterator, Mapping

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from features import command
from features.as_of import pages
from features.as_of.history import History
from features.catalogue import Catalogue, combined
from features.tables import logs
from features.tables.clean_logs import Cleaner
from serving.batch import query_files

_EVENTS = ("watches", "searches", "impressions", "feedback")
# Users are replayed in buckets of about so many events, which bounds memory.
EVENTS_PER_BUCKET = 2_000_000


@dataclasses.dataclass(frozen=True, kw_only=True)
class BucketedLog:
    """Raw logs, read by buckets of whole users.

    Attributes:
        directory: Directory of the raw logs.
        tables: Event tables that are there.
        until_s: End of what is read, exclusive, Unix seconds; None for no bound.
        now_s: Moment after which events are in the future, Unix seconds.
        videos: Accepted rows of the videos table.
        users: Accepted rows of the users table; None without such a table.
    """

    directory: pathlib.Path
    tables: tuple[str, ...]
    until_s: int | None
    now_s: int
    videos: pa.Table
    users: pa.Table | None

    @classmethod
    def open(
        cls,
        directory: pathlib.Path,
        until_s: int | None = None,
        *,
        known_videos: pathlib.Path | None = None,
    ) -> "BucketedLog":
        """Reads all but the events.

        Args:
            directory: Directory of the raw logs.
            until_s: End of what is read, exclusive, Unix seconds; None for no bound.
            known_videos: Parquet file of videos, for logs without that table.

        Raises:
            command.InputError: The logs have no impressions, or no videos.
        """
        present = logs.tables_in(directory)
        if "impressions" not in present:
            raise command.InputError(f"{directory} has no impressions to score.")
        now_s = int(time.time())
        if "videos" in present or known_videos is None:
            videos = _accepted(directory, "videos", now_s)
        else:
            videos = pq.read_table(known_videos)
        users = _accepted(directory, "users", now_s) if "users" in present else None
        return cls(
            directory=directory,
            tables=tuple(name for name in _EVENTS if name in present),
            until_s=until_s,
            now_s=now_s,
            videos=videos.combine_chunks(),
            users=users,
        )

    def buckets(self) -> "Buckets":
        """Returns the raw event tables, each bucket as name to rows."""
        fragments = [
            fragment
            for name in self.tables
            for fragment in logs.fragments(self.directory, name, until_s=self.until_s)
        ]
        events = sum(fragment.num_rows for fragment in fragments)
        return Buckets(fragments, self.until_s, max(1, -(-events // EVENTS_PER_BUCKET)))

    def clean(self, tables: Mapping[str, pa.Table]) -> dict[str, pa.Table]:
        """Returns the rows that training would use."""
        cleaner = Cleaner(
            videos=combined(self.videos["video_id"]),
            users=None if self.users is None else combined(self.users["user_id"]),
            now_s=self.now_s,
        )
        return cleaner.tables(tables)


class Buckets:
    """All buckets, one after the other, as often as asked; a single one is read once."""

    def __init__(self, fragments: list[logs.Fragment], until_s: int | None, count: int) -> None:
        self._fragments = fragments
        self._until_s = until_s
        self._count = count
        self._only: dict[str, pa.Table] | None = None

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[dict[str, pa.Table]]:
        if self._count > 1:
            yield from (self._read(number) for number in range(self._count))
            return
        self._only = self._only or self._read(0)
        yield self._only

    def _read(self, number: int) -> dict[str, pa.Table]:
        parts: dict[str, list[pa.Table]] = {}
        for fragment in self._fragments:
            rows = logs.read_fragment(fragment, until_s=self._until_s)
            if self._count > 1:
                rows = rows.filter(pa.array(_bucket(rows["user_id"], self._count) == number))
            parts.setdefault(fragment.table, []).append(rows)
        return {
            name: pa.concat_tables(tables, promote_options="permissive")
            for name, tables in parts.items()
        }


def _accepted(directory: pathlib.Path, name: str, now_s: int) -> pa.Table:
    accepted, _ = Cleaner(None, None, now_s).split(name, logs.read_table(directory, name))
    return accepted.combine_chunks()


def _bucket(user_ids: pa.ChunkedArray, count: int) -> npt.NDArray[np.int64]:
    encoded = combined(user_ids.cast(pa.string()).fill_null("")).dictionary_encode()
    codes = [zlib.crc32(user.encode()) % count for user in encoded.dictionary.to_pylist()]
    return np.asarray(codes, np.int64)[np.asarray(encoded.indices)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shown:
    """The impressions of a bucket of users, and the history to ask as of each of their pages.

    Attributes:
        paged: Impressions with all that a score needs, by user and time, see
            :func:`features.as_of.pages.with_pages`.
        broken: Impressions without user, video or possible time.
        codes: User id to code in ``history``.
        history: As-of history of these users, from the rows that training would use.
    """

    paged: pa.Table
    broken: pa.Table
    codes: Mapping[str, int]
    history: History

    @classmethod
    def of(
        cls,
        log: BucketedLog,
        tables: Mapping[str, pa.Table],
        catalogue: Catalogue,
        *,
        from_s: int,
    ) -> "Shown":
        """Takes the raw event tables of a bucket, impressions among them.

        Args:
            log: The log that the tables are from.
            tables: Raw event tables of the bucket, by name.
            catalogue: Catalogue of the log.
            from_s: Start of what is in a history, Unix seconds: those who are asked have not learnt
                of the time before.
        """
        clean = log.clean(tables)
        order = [("user_id", "ascending"), ("time", "ascending")]
        impressions = tables["impressions"].sort_by(order)
        codes = {u: code for code, u in enumerate(pc.unique(impressions["user_id"]).to_pylist())}
        history = History.of(
            catalogue,
            codes,
            watches=clean.get("watches"),
            searches=clean.get("searches"),
            impressions=clean.get("impressions"),
            feedback=clean.get("feedback"),
            from_s=from_s,
        )
        whole = _whole(impressions)
        return cls(
            paged=pages.with_pages(impressions.filter(whole)),
            broken=impressions.filter(pc.invert(whole)),
            codes=codes,
            history=history,
        )


def _whole(impressions: pa.Table) -> pa.ChunkedArray:
    """Says which rows have what a score needs, bool [n]."""
    time_s = impressions["time"]
    whole = pc.and_(pc.greater_equal(time_s, 0), pc.less(time_s, query_files.MAX_TIME_S))
    for name in ("user_id", "video_id"):
        whole = pc.and_(whole, pc.is_valid(impressions[name]))
    return pc.fill_null(whole, False)
