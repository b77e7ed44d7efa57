"""Event tables in the layout of the raw logs -> sorted columns, each event once.

What counts, and what is a copy, is told in :mod:`features.as_of.history`.
"""

import weakref
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa

from features import clicks, text
from features.as_of import feedback_events
from features.as_of.feedback_events import FeedbackEvents
from features.catalogue import Catalogue, combined, filled
from features.event_columns import Events, user_time_key, watch_time_ms

_NO_EVENTS = Events.of_sorted(*(np.zeros(0, np.int64),) * 3)
Made = TypeVar("Made")


class KeptColumns:
    """What was made of the tables of one user, given again for as long as they are the same ones.

    From one page of a user to the next mostly impressions are added. Safe for threads: each entry
    is replaced as a whole. Catalogues are not kept alive.
    """

    def __init__(self) -> None:
        self._made: dict[Callable[..., Any], tuple[tuple[Any, ...], Any]] = {}
        self._rows: tuple[Callable[[], object], pa.Array, np.ndarray] | None = None

    def of(self, make: Callable[..., Made], *parts: Any) -> Made:
        """Returns ``make(*parts)``, or what it returned for the very same parts."""
        known = self._made.get(make)
        if known is not None and all(map(_is_the_same, known[0], parts)):
            last: Made = known[1]
            return last
        made = make(*parts)
        held = tuple(weakref.ref(p) if isinstance(p, Catalogue) else p for p in parts)
        self._made[make] = (held, made)
        return made

    def video_rows(self, catalogue: Catalogue, column: pa.ChunkedArray) -> np.ndarray:
        """Returns what :meth:`Catalogue.rows` does of a column; of what it begins with, as before.

        For the column that grows: only ids behind those of the last call are looked for.
        """
        ids = combined(column)
        known = 0
        if self._rows is not None:
            of, before, rows = self._rows
            is_longer = of() is catalogue and len(before) <= len(ids)
            known = len(before) if is_longer and ids.slice(0, len(before)).equals(before) else 0
        if known:
            rows = np.concatenate([rows, catalogue.rows(ids.slice(known))])
        else:
            rows = catalogue.rows(ids)
        self._rows = (weakref.ref(catalogue), ids, rows)
        return rows


def _is_the_same(held: Any, part: object) -> bool:
    return (held() if isinstance(held, weakref.ref) else held) is part


def _user_codes(users: Mapping[str, int] | None, table: pa.Table) -> np.ndarray:
    if users is None:
        return np.zeros(table.num_rows, np.int64)
    encoded = combined(table["user_id"]).dictionary_encode()
    codes = np.array([users.get(u, -1) for u in encoded.dictionary.to_pylist()], np.int64)
    indices = np.asarray(encoded.indices.fill_null(-1), np.int64)
    return np.append(codes, -1)[indices]  # -1 is the last.


def watch_events(
    catalogue: Catalogue, users: Mapping[str, int] | None, table: pa.Table | None
) -> tuple[Events, np.ndarray]:
    """Returns the watches and, in their order, which were completed (missing counts as true)."""
    if table is None or not table.num_rows:
        return _NO_EVENTS, np.zeros(0, bool)
    user = _user_codes(users, table)
    video = catalogue.rows(table["video_id"])
    key = user_time_key(user, np.asarray(combined(table["time"]), np.int64))
    seconds = np.asarray(filled(combined(table["watch_time_s"]), pa.float64(), 0.0))
    completed = np.full(table.num_rows, True)
    if "completed" in table.column_names:
        completed = np.asarray(filled(combined(table["completed"]), pa.bool_(), True))
    milliseconds = watch_time_ms(seconds)
    order = _in_order(key, video, (user >= 0) & (video >= 0))
    if not _differs(key[order], video[order]).all():
        columns = [column[order] for column in (completed, milliseconds, video, key)]
        order = order[np.lexsort(columns)]
        order = order[_differs(*(c[order] for c in (key, video, milliseconds, completed)))]
    return Events.of_sorted(key[order], video[order], milliseconds[order]), completed[order]


def impression_events(
    catalogue: Catalogue,
    users: Mapping[str, int] | None,
    table: pa.Table | None,
    watches: pa.Table | None,
    *,
    from_s: int,
    kept: KeptColumns,
) -> tuple[Events, Events, np.ndarray]:
    """Returns what was shown, the clicks by their moments, and when what they clicked was shown."""
    if table is None or not table.num_rows:
        return _NO_EVENTS, _NO_EVENTS, np.zeros(0, np.int64)
    user = _user_codes(users, table)
    video = kept.video_rows(catalogue, table["video_id"])
    key = user_time_key(user, np.asarray(combined(table["time"]), np.int64))
    moment = combined(clicks.with_moments(table, watches)[clicks.CLICKED_AT])
    clicked_at = np.array(filled(moment, pa.int64(), clicks.NEVER))
    order = _in_order(key, video, (user >= 0) & (video >= 0))
    first = np.flatnonzero(_differs(key[order], video[order]))
    if len(first) < len(order):  # Of copies the one that was clicked first.
        clicked_at[order[first]] = np.minimum.reduceat(clicked_at[order], first)
        order = order[first]
    nothing = np.zeros(len(order), np.int64)
    shown = Events.of_sorted(key[order], video[order], nothing)
    clicked_at = clicked_at[order]
    row = np.flatnonzero((clicked_at != clicks.NEVER) & (shown.time >= from_s))
    clicked_key = user_time_key(shown.user[row], clicked_at[row])
    by_moment = np.argsort(clicked_key, kind="stable")
    row = row[by_moment]
    clicked = Events.of_sorted(clicked_key[by_moment], shown.video[row], nothing[row])
    return shown, clicked, shown.time[row]


def feedback(
    catalogue: Catalogue, users: Mapping[str, int] | None, table: pa.Table | None
) -> FeedbackEvents:
    """Returns what users said of videos and channels."""
    if table is None or not table.num_rows:
        return feedback_events.NOTHING
    return FeedbackEvents.of(catalogue, _user_codes(users, table), table)


def _in_order(key: np.ndarray, detail: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Returns the rows that count, sorted by key and then by a number from 0 to 2^31.

    Rows mostly come in the order of their keys: then this takes a tenth of a sort by two columns.
    """
    rows = np.flatnonzero(counts)
    rows = rows[np.argsort(key[rows], kind="stable")]
    place = np.cumsum(_differs(key[rows]))
    return rows[np.argsort((place << 32) | detail[rows])]


def _differs(*sorted_columns: np.ndarray) -> np.ndarray:
    """Returns which rows differ from the one before them in any column, bool [n]."""
    differs = np.full(len(sorted_columns[0]), True)
    differs[1:] = np.logical_or.reduce([c[1:] != c[:-1] for c in sorted_columns])
    return differs


def search_events(
    users: Mapping[str, int] | None, table: pa.Table | None
) -> tuple[np.ndarray, pa.ListArray]:
    """Returns keys of users and times, int64 [s] sorted, and the tokens of each search."""
    if table is None or not table.num_rows:
        return np.zeros(0, np.int64), pa.array([], pa.list_(pa.string()))
    user = _user_codes(users, table)
    queries = combined(table["query"])
    key = user_time_key(user, np.asarray(combined(table["time"]), np.int64))
    # The query itself breaks ties, so that the order does not depend on how rows arrived.
    encoded = filled(queries, pa.string(), "").dictionary_encode()
    rank = np.argsort(np.argsort(np.asarray(encoded.dictionary.to_pylist(), dtype=object)))
    words = rank[np.asarray(encoded.indices)]
    order = _in_order(key, words, user >= 0)
    order = order[_differs(key[order], words[order])]
    return key[order], text.tokenise(queries.take(pa.array(order)))
