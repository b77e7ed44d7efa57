"""Leakage audit of raw examples: how new is the newest thing that an example's inputs came from?

Measured with dye, not by asking the code that makes features what it means to do: the same code
answers the same questions once more over tables whose VALUES are times, so that what comes out is
the time of what came through. Beside it stand counts that are made here, in another way than
there: no input may count more events than happened before the example's moment. When a click
happened is found here in another way too.

The moment of a candidate example is the time of its label, that of a ranking example the start of
its page. Inputs must be older: an offset (newest input minus moment) is negative, or it leaks.

======================  ============================================================================
source                  what its offset says
======================  ============================================================================
asked                   the moment at which features were asked for, minus one second: an answer
                        uses what is before it
watches, searches       the newest event of the bags (dyed)
history                 the newest event of the history grid, from the "seconds since" that came out
counts                  none: whether an input counts more events than there were
statistics              the last second of the newest day in the video's own statistics (dyed)
live                    the last second of the newest minute in its live statistics (dyed)
======================  ============================================================================
"""

import collections
import dataclasses
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from features import feedback, spec
from features.as_of import live_statistics
from features.as_of.earlier_events import EarlierEvents, clicks_of
from features.as_of.entity_lookup import NEVER_S
from features.as_of.history import History
from features.as_of.live_statistics import LiveStatistics
from features.as_of.statistics import VideoStatistics
from features.catalogue import Catalogue, combined
from features.durations import DAY_S, MINUTE_S
from features.event_columns import Queries, times_of
from features.spec import Kind, ResolvedSpec, Side

SOURCES = ("asked", "watches", "searches", "history", "counts", "statistics", "live")
_NONE = np.iinfo(np.int64).min  # newest input of an example that has none


@dataclasses.dataclass(frozen=True)
class Finding:
    """What the audit saw of one source of inputs.

    Attributes:
        examples: Number of examples that were looked at.
        with_input: Number of these examples that have an input from this source.
        leaking: Number of these examples with an input that is not older than their moment.
        newest_s: The largest offset of any example, seconds; None without inputs.
    """

    examples: int = 0
    with_input: int = 0
    leaking: int = 0
    newest_s: int | None = None

    def plus(self, other: "Finding") -> "Finding":
        """Returns the finding over the examples of both."""
        known = [n for n in (self.newest_s, other.newest_s) if n is not None]
        return Finding(
            self.examples + other.examples,
            self.with_input + other.with_input,
            self.leaking + other.leaking,
            max(known, default=None),
        )


@dataclasses.dataclass(frozen=True)
class Seen:
    """What an audit saw.

    Attributes:
        findings: Findings by (model, split, source).
        events: Number of events by (measure of the video statistics, UTC day since 1970).
    """

    findings: dict[tuple[str, str, str], Finding] = dataclasses.field(default_factory=dict)
    events: collections.Counter[tuple[str, int]] = dataclasses.field(
        default_factory=collections.Counter
    )

    def add(self, key: tuple[str, str, str], finding: Finding) -> None:
        """Adds one finding to those of the same kind."""
        self.findings[key] = self.findings.get(key, Finding()).plus(finding)


def merged(parts: Iterable[Seen]) -> Seen:
    """Adds up what several audits saw."""
    total = Seen()
    for part in parts:
        total.events.update(part.events)
        for key, finding in part.findings.items():
            total.add(key, finding)
    return total


class Audit:
    """Looks at the examples of one bucket of users after the other.

    Args:
        resolved: The data set's features.
        catalogue: Catalogue of all videos.
        train_until_s: Unix seconds of the end of training; earlier examples train.
    """

    def __init__(self, resolved: ResolvedSpec, catalogue: Catalogue, *, train_until_s: int) -> None:
        self._spec = resolved
        self._catalogue = catalogue
        self._train_until_s = train_until_s
        self._dye: _Dye | None = None
        self._seen = Seen()
        self._columns = {side: resolved.vector_names(spec.RANKER, side, _CONT) for side in Side}

    def begin(self, tables: Mapping[str, pa.Table], daily: pa.Table, minutes: pa.Table) -> None:
        """Starts a bucket.

        Args:
            tables: Clean event tables of the bucket by name, with all events of its users.
            daily: Video statistics of ALL users, see
                :func:`features.as_of.statistics.daily_counts`.
            minutes: Counts per video and minute of ALL users, see
                :func:`features.as_of.live_statistics.minute_counts`.
        """
        if self._dye is None or not self._dye.is_of(daily, minutes):
            self._dye = _Dye(daily, minutes, self._catalogue)
        names = pa.chunked_array(
            [chunk for t in tables.values() for chunk in t["user_id"].chunks], pa.string()
        )
        self._names = combined(names.unique())
        self._earlier = {name: EarlierEvents.of(self._names, t) for name, t in tables.items()}
        for kind in feedback.KINDS if "feedback" in tables else ():
            said = tables["feedback"].filter(pc.equal(tables["feedback"]["kind"], kind))
            self._earlier[f"{kind}s"] = EarlierEvents.of(self._names, said)
        self._pages: pl.DataFrame | None = None
        happened = {name: tables[name] for name in ("watches", "impressions") if name in tables}
        if "impressions" in tables:
            shown = tables["impressions"]
            happened["clicks"] = clicks_of(shown, tables.get("watches"))
            self._earlier["clicks"] = EarlierEvents.of(self._names, happened["clicks"])
            if "page_id" in shown.column_names:
                self._pages = _page_starts(shown)

        for name, events in happened.items():
            days, numbers = np.unique(
                np.asarray(combined(events["time"]), np.int64) // DAY_S, return_counts=True
            )
            for day, number in zip(days.tolist(), numbers.tolist(), strict=True):
                self._seen.events[name, day] += number

    def drain(self) -> Seen:
        """Returns what was seen since the last call."""
        seen, self._seen = self._seen, Seen()
        return seen

    def candidate(self, batch: pa.RecordBatch, history: History, queries: Queries) -> None:
        """Looks at candidate examples.

        Args:
            batch: The raw examples.
            history: Histories of the users that the bags were taken from.
            queries: Users and moments of the examples, one for each.
        """
        moment = np.asarray(batch["time"], np.int64)
        newest = {
            "asked": queries.now - 1,
            "watches": _newest_watch(history, queries, spec.WATCH_BAG),
            "searches": _newest_search(history, queries, spec.SEARCH_BAG),
        }
        for source, times in newest.items():
            self._note(spec.CANDIDATE, source, moment, moment, newest=times)
        bag = pc.list_value_length(batch["watched_video_ids"])
        most = self._earlier["watches"].count(self._users(batch), moment)
        self._note_counts(spec.CANDIDATE, moment, [(np.asarray(bag), most)])

    def ranking(
        self, batch: pa.RecordBatch, history: History, queries: Queries, video_rows: np.ndarray
    ) -> None:
        """Looks at ranking examples.

        Args:
            batch: The raw examples.
            history: Histories of the users that the features were taken from.
            queries: Users and moments of the examples, one for each.
            video_rows: int [n], catalogue row of each example's video.
        """
        if self._dye is None:
            raise ValueError("begin() comes first.")
        time = np.asarray(batch["time"], np.int64)
        moment = np.minimum(time, self._page_starts_of(batch, time))
        _, page, page_of = np.unique(
            np.stack([queries.user, queries.now]), axis=1, return_index=True, return_inverse=True
        )
        pages, page_of = queries.take(page), page_of.reshape(-1)
        newest = {
            "asked": queries.now - 1,
            "watches": _newest_watch(history, pages, spec.WATCH_BAG)[page_of],
            "searches": _newest_search(history, pages, spec.SEARCH_BAG)[page_of],
            "history": self._newest_of_grid(batch, queries.now),
            "statistics": self._dye.newest_day(video_rows, queries.now),
            "live": self._dye.newest_minute(video_rows, queries.now),
        }
        for source, times in newest.items():
            self._note(spec.RANKER, source, time, moment, newest=times)
        users = self._users(batch)
        counted = []
        for name, column in self._floats(batch, Side.QUERY).items():
            kind = name.removeprefix("user_any_").removesuffix("_all")
            if name == f"user_any_{kind}_all" and kind in self._earlier:
                counted.append((column, self._earlier[kind].count(users, moment)))
        self._note_counts(spec.RANKER, time, counted)

    # ---- what an example's moment is ---------------------------------------------------------

    def _users(self, batch: pa.RecordBatch) -> np.ndarray:
        return np.asarray(pc.index_in(batch["user_id"], value_set=self._names), np.int64)

    def _page_starts_of(self, batch: pa.RecordBatch, time: np.ndarray) -> np.ndarray:
        """Returns when each page began that the log names; the own time of other rows."""
        if self._pages is None:
            return time
        keys = pl.DataFrame(pl.from_arrow(pa.table([batch["user_id"], batch["page_id"]], _PAGE)))
        starts = keys.join(self._pages, on=list(_PAGE), how="left", maintain_order="left")["start"]
        return np.where(starts.is_null().to_numpy(), time, starts.fill_null(0).to_numpy())

    # ---- what came out ------------------------------------------------------------------------

    def _floats(self, batch: pa.RecordBatch, side: Side) -> dict[str, np.ndarray]:
        names = self._columns[side]
        if not names:
            return {}
        flat = batch[spec.vector_column(side, _CONT)].flatten().to_numpy(zero_copy_only=False)
        return dict(zip(names, flat.reshape(-1, len(names)).T, strict=True))

    def _newest_of_grid(self, batch: pa.RecordBatch, now: np.ndarray) -> np.ndarray:
        shortest = np.full(len(now), NEVER_S)
        for side in Side:
            for name, column in self._floats(batch, side).items():
                if "_seconds_since_" in name:
                    shortest = np.fmin(shortest, column)
        return np.where(shortest < NEVER_S / 2, now - shortest.astype(np.int64), _NONE)

    def _note(
        self,
        model: str,
        source: str,
        time: np.ndarray,
        moment: np.ndarray,
        *,
        newest: np.ndarray,
    ) -> None:
        for split, rows in self._splits(time):
            has = newest[rows] != _NONE
            offset = (newest[rows] - moment[rows])[has]
            largest = int(offset.max()) if len(offset) else None
            leaking = int((offset >= 0).sum())
            finding = Finding(int(rows.sum()), int(has.sum()), leaking, largest)
            self._seen.add((model, split, source), finding)

    def _note_counts(
        self, model: str, time: np.ndarray, counted: Sequence[tuple[np.ndarray, np.ndarray]]
    ) -> None:
        """Compares counts that came out with the most that can be true, float [n] each."""
        some, more = np.full(len(time), False), np.full(len(time), False)
        for count, most in counted:
            some |= count > 0
            more |= count > most
        for split, rows in self._splits(time):
            finding = Finding(int(rows.sum()), int(some[rows].sum()), int(more[rows].sum()))
            self._seen.add((model, split, "counts"), finding)

    def _splits(self, time: np.ndarray) -> list[tuple[str, np.ndarray]]:
        is_train = time < self._train_until_s
        splits = (("train", is_train), ("holdout", ~is_train))
        return [(split, rows) for split, rows in splits if rows.any()]


_CONT = Kind.CONTINUOUS
_PAGE = ("user_id", "page_id")


def _page_starts(impressions: pa.Table) -> pl.DataFrame:
    shown = pl.DataFrame(pl.from_arrow(impressions.select([*_PAGE, "time"]))).drop_nulls()
    return shown.group_by(_PAGE).agg(pl.col("time").min().alias("start"))


def _newest_watch(history: History, queries: Queries, limit: int) -> np.ndarray:
    """Asks the history for bags of event numbers in place of videos; int64 [q], _NONE if empty."""
    events = history.completed
    numbered = dataclasses.replace(events, video=np.arange(len(events.time), dtype=np.int32))
    dyed = dataclasses.replace(history, completed=numbered)
    lengths, event = dyed.watched_rows(queries, limit)
    return _newest(lengths, events.time[event])


def _newest_search(history: History, queries: Queries, limit: int) -> np.ndarray:
    lengths, rows = history.last_search_rows(queries, limit)
    return _newest(lengths, times_of(history.search_key[rows]))


def _newest(lengths: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Returns the largest time of each run, _NONE for an empty one."""
    newest = np.full(len(lengths), _NONE)
    some = lengths > 0
    if len(times):
        newest[some] = np.maximum.reduceat(times, (np.cumsum(lengths) - lengths)[some])
    return newest


class _Dye:
    """Video statistics and live statistics whose counts are times.

    Where the count of a video's n-th day is that day minus the one before it, the sum over its
    first n days is the n-th day itself: the newest one that was added up.
    """

    def __init__(self, daily: pa.Table, minutes: pa.Table, catalogue: Catalogue) -> None:
        self._source = (daily, minutes)
        days = np.asarray(combined(daily["day"]), np.int64)
        videos = np.asarray(combined(daily["video_id"]).dictionary_encode().indices, np.int64)
        index = daily.column_names.index("impressions")
        steps = pa.array(_steps(videos, days))
        self._days = VideoStatistics.of(daily.set_column(index, "impressions", steps), catalogue)
        # Minutes from the first one on, so that float32 holds them.
        self._keys = np.asarray(combined(minutes["key"]), np.int64)
        minute = live_statistics.minutes_of(self._keys)
        self._first = int(minute.min()) - 1 if len(minute) else 0
        index = minutes.column_names.index("watches")
        steps = pa.array(_steps(live_statistics.rows_of(self._keys), minute - self._first))
        self._live = LiveStatistics.of(minutes.set_column(index, "watches", steps))

    def is_of(self, daily: pa.Table, minutes: pa.Table) -> bool:
        """Whether these are the tables that were dyed."""
        return self._source[0] is daily and self._source[1] is minutes

    def newest_day(self, video_rows: np.ndarray, now: np.ndarray) -> np.ndarray:
        """Returns the last second of the newest day that counts, int64 [n], _NONE for none."""
        day = self._days.columns(video_rows, now)["video_impressions_all"].astype(np.int64)
        return np.where(day > 0, (day + 1) * DAY_S - 1, _NONE)

    def newest_minute(self, video_rows: np.ndarray, now: np.ndarray) -> np.ndarray:
        """Returns the last second of the newest minute that counts, int64 [n], _NONE for none."""
        if not len(self._keys):
            return np.full(len(now), _NONE)
        window, seconds = max(spec.LIVE_WINDOWS_S.items(), key=lambda entry: entry[1])
        summed = self._live.columns(video_rows, now)[f"video_live_watches_{window}"]
        # The window's sum is its newest minute less the newest one before it.
        since = np.maximum(now // MINUTE_S * MINUTE_S - seconds, 0)
        before = np.searchsorted(self._keys, live_statistics.keys_of(video_rows, since)) - 1
        key = self._keys[before]
        same = (before >= 0) & (live_statistics.rows_of(key) == video_rows)
        earlier = live_statistics.minutes_of(key) - self._first
        minute = summed.astype(np.int64) + np.where(same, earlier, 0)
        last_second = (minute + self._first + 1) * MINUTE_S - 1
        return np.where(summed > 0, last_second, _NONE)


def _steps(group: np.ndarray, value: np.ndarray) -> np.ndarray:
    """Returns each value minus the one before it in its group; rows are sorted by both."""
    before = np.zeros_like(value)
    before[1:] = np.where(group[1:] == group[:-1], value[:-1], 0)
    return value - before
