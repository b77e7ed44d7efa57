"""Event tables in the layout of the raw logs -> sorted columns, each event once.

What counts, and what is a copy, is told in :mod:`features.history`.
"""

from collections.abc import Mapping

import numpy as np
import pyarrow as pa

from features import clicks, text
from features.catalogue import Catalogue, combined, filled
from features.event_columns import Events, user_time_key, watch_time_ms

_MOST_MS = (1 << 31) - 1
_NO_EVENTS = Events.of_sorted(*(np.zeros(0, np.int64),) * 3)


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
    # All that tells two watches apart, in one number beside user and time.
    detail = (video.astype(np.int64) << 32) | (np.minimum(milliseconds, _MOST_MS) << 1) | completed
    order = _once(key, detail, (user >= 0) & (video >= 0))
    return Events.of_sorted(key[order], video[order], milliseconds[order]), completed[order]


def impression_events(
    catalogue: Catalogue,
    users: Mapping[str, int] | None,
    table: pa.Table | None,
    watches: pa.Table | None,
    *,
    from_s: int,
) -> tuple[Events, Events, np.ndarray]:
    """Returns what was shown, the clicks by their moments, and when what they clicked was shown."""
    if table is None or not table.num_rows:
        return _NO_EVENTS, _NO_EVENTS, np.zeros(0, np.int64)
    user = _user_codes(users, table)
    video = catalogue.rows(table["video_id"])
    key = user_time_key(user, np.asarray(combined(table["time"]), np.int64))
    clicked_at = np.asarray(
        filled(
            combined(clicks.with_moments(table, watches)[clicks.CLICKED_AT]),
            pa.int64(),
            clicks.NEVER,
        )
    )
    # Of copies the one that was clicked first.
    order = np.lexsort((clicked_at, video, key))
    order = order[((user >= 0) & (video >= 0))[order]]
    order = order[_differs(key[order], video[order])]
    nothing = np.zeros(len(order), np.int64)
    shown = Events.of_sorted(key[order], video[order], nothing)
    clicked_at = clicked_at[order]
    row = np.flatnonzero((clicked_at != clicks.NEVER) & (shown.time >= from_s))
    clicked_key = user_time_key(shown.user[row], clicked_at[row])
    by_moment = np.argsort(clicked_key, kind="stable")
    row = row[by_moment]
    clicked = Events.of_sorted(clicked_key[by_moment], shown.video[row], nothing[row])
    return shown, clicked, shown.time[row]


def _once(key: np.ndarray, detail: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Returns the rows that count, sorted by key and detail, each pair of the two once."""
    order = np.lexsort((detail, key))
    order = order[counts[order]]
    return order[_differs(key[order], detail[order])]


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
    order = _once(key, rank[np.asarray(encoded.indices)], user >= 0)
    return key[order], text.tokenise(queries.take(pa.array(order)))
