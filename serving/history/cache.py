"""Histories that were read, kept to be gone on from: the next read adds what arrived since.

A page of a user records its impressions, so that the user's next page always finds something new:
20 rows beside thousands that are known. A store therefore reads the rows that it does not have
here, and only outcomes that those can change are attributed anew.

Rows are kept as a store has them, up to ``PRUNE_SLACK`` more than are looked at, so that what is
remembered and what is read anew come out the same. Rows never change; those that a store removes
are the oldest, and it then reads all of a user's again.
"""

import dataclasses
import threading
from collections.abc import Mapping
from typing import Any

import cachetools
import numpy as np
import pyarrow as pa

from features import clicks
from features.catalogue import combined
from serving.events import attribution
from serving.events.event import AHEAD_S, WATCH_WINDOW_S, Kind
from serving.history import user_history
from serving.history.user_history import UserHistory

_CACHE_BYTES = 256 << 20
_MADE_BYTES = 64  # Of a row, see features.as_of.event_tables.KeptColumns.
_ENGAGED = (Kind.WATCH, Kind.CLICK)

Rows = Mapping[Kind, pa.Table]
NO_ROWS = user_history.NO_ROWS


@dataclasses.dataclass(frozen=True, kw_only=True)
class Remembered:
    """What was read of a user.

    Attributes:
        version: Version of the user when it was read; differs after every write.
        marks: Marks by which the store knows which rows are here.
        rows: All rows of each kind, by time and then arrival; impressions with their outcomes.
        history: History that was made of them.
    """

    version: Any
    marks: Mapping[Kind, Any]
    rows: Rows
    history: UserHistory

    @property
    def nbytes(self) -> int:
        """Memory, about; the history shares that of the rows, beside columns made of them."""
        made = _MADE_BYTES * sum(table.num_rows for table in self.rows.values())
        return 4000 + made + sum(table.get_total_buffer_size() for table in self.rows.values())


class HistoryCache:
    """What was read last of each user; the store says whether it is current. Safe for threads.

    Bounded by memory: where there is too much, those that were not read for longest go.
    """

    def __init__(self, max_bytes: int = _CACHE_BYTES) -> None:
        self._kept = cachetools.LRUCache(max_bytes, getsizeof=lambda kept: kept.nbytes)
        self._lock = threading.Lock()

    def get(self, user_id: str) -> Remembered | None:
        """Returns what was remembered last."""
        with self._lock:
            return self._kept.get(user_id)

    def remember(
        self,
        user_id: str,
        rows: Rows,
        *,
        version: Any,
        marks: Mapping[Kind, Any],
        most: int,
        **told: Any,
    ) -> UserHistory:
        """Returns the history that rows make, and keeps both; forgets others where they are many.

        Args:
            user_id: The user.
            rows: As :attr:`Remembered.rows`.
            version: As :attr:`Remembered.version`.
            marks: As :attr:`Remembered.marks`.
            most: Number of the newest rows of each kind that the history looks at.
            told: Profile, blocked and newest, as for :func:`user_history.history_of`.
        """
        known = self.get(user_id)
        before = None if known is None else (known.rows, known.history)
        history = user_history.history_of(user_id, rows, most=most, before=before, **told)
        remembered = Remembered(version=version, marks=marks, rows=rows, history=history)
        with self._lock:
            self._kept[user_id] = remembered
        return history


def grown(before: Rows, new: Rows) -> dict[Kind, pa.Table]:
    """Returns rows together with some that arrived after all of them, both sorted by time."""
    shown = new[Kind.IMPRESSION]
    nothing = pa.nulls(shown.num_rows, pa.int64())
    new = {**new, Kind.IMPRESSION: shown.append_column(clicks.CLICKED_AT, nothing)}
    rows = {kind: _merged(before[kind], new[kind]) for kind in Kind}
    changed = [
        int(new[kind]["time"][0].as_py())
        for kind in (*_ENGAGED, Kind.IMPRESSION)
        if new[kind].num_rows
    ]
    if changed:
        rows[Kind.IMPRESSION] = _with_outcomes(rows, since=min(changed))
    return rows


def _merged(before: pa.Table, new: pa.Table) -> pa.Table:
    if not new.num_rows:
        return before
    both = pa.concat_tables([before, new]).combine_chunks()
    if before.num_rows and _times(new)[0] < _times(before)[-1]:
        # Stable: ties in time are broken by arrival.
        both = both.take(pa.array(np.argsort(_times(both), kind="stable")))
    return both


def _with_outcomes(rows: Rows, *, since: int) -> pa.Table:
    """Returns impressions with the outcomes that clicks, watches or impressions can have changed.

    Args:
        rows: Rows of each kind, by time and then arrival.
        since: Time of the earliest change, Unix seconds.
    """
    shown = rows[Kind.IMPRESSION]
    since -= AHEAD_S
    first = int(np.searchsorted(_times(shown), since - WATCH_WINDOW_S))
    recent = shown.slice(first)
    is_open = _values(recent["is_open"])
    if not is_open.all():
        shown = _with_moments(rows, first + np.flatnonzero(~is_open & _values(recent["clicked"])))
    if not any(t.num_rows and _times(t)[-1] >= since for t in (rows[kind] for kind in _ENGAGED)):
        return shown  # What is shown now was not there for anything to come from it.
    places = first + np.flatnonzero(is_open)
    if not len(places):
        return shown
    since = int(_times(shown)[places[0]]) - AHEAD_S
    engagements = pa.concat_tables(
        [_from(rows[kind], since).select(attribution.ENGAGEMENT) for kind in _ENGAGED]
    )
    moment, seconds = attribution.outcomes(
        shown.select(attribution.SHOWN).take(pa.array(places)), engagements
    )
    clicked = moment != clicks.NEVER
    return _replaced(
        shown, places, clicked=clicked, watch_time_s=seconds, clicked_at=_known(moment)
    )


def _with_moments(rows: Rows, places: np.ndarray) -> pa.Table:
    """Returns impressions, those at ``places`` with the moments of clicks that they tell of."""
    shown = rows[Kind.IMPRESSION]
    if not len(places):
        return shown
    told = shown.take(pa.array(places))
    moment = clicks.moments(told, _from(rows[Kind.WATCH], int(_times(told)[0])))
    return _replaced(shown, places, clicked_at=_known(moment))


def _known(moment: np.ndarray) -> np.ndarray:
    """Returns moments as floats, NaN where there is none."""
    return np.where(moment == clicks.NEVER, np.nan, moment.astype(np.float64))


def _replaced(table: pa.Table, places: np.ndarray, **columns: np.ndarray) -> pa.Table:
    """Returns the table with other values at some places."""
    for name, values in columns.items():
        column = _values(table[name]).copy()
        column[places] = values
        index = table.column_names.index(name)
        made = pa.array(column, table.schema.field(name).type, from_pandas=True)
        table = table.set_column(index, name, made)
    return table


def _from(table: pa.Table, since: int) -> pa.Table:
    return table.slice(int(np.searchsorted(_times(table), since)))


def _times(table: pa.Table) -> np.ndarray:
    return _values(table["time"])


def _values(column: pa.ChunkedArray) -> np.ndarray:
    return combined(column).to_numpy(zero_copy_only=False)
