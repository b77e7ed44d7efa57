"""When a click happened: one rule for training, seeds, replay, batch and a running funnel.

An impression's row says that it was clicked, and seldom when. To a page that begins between the
impression and its click, the click has not happened. So a click counts from its own moment on:

* the moment that the row tells (``click_time``), as our own servers write it;
* where it tells none, that of the first watch of the same user and video at or after the impression
  and at most :data:`CLICK_WINDOW_S` later;
* where no watch tells either, the end of that window: by then it was certainly known.

No moment depends on anything later than itself, so what is known at a time is the same whether the
log ends there or goes on. A click that is told to be later than the window is not the impression's,
one that is told to be before it counts from the impression.
"""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from features.catalogue import combined, filled
from features.durations import MINUTE_S

# A click leads from an impression to its watch within this time of the impression.
CLICK_WINDOW_S = 30 * MINUTE_S
CLICKED_AT = "clicked_at"
NEVER = np.iinfo(np.int64).max
_TOLD = "click_time"
_TIME_BITS = 34  # Unix seconds until the year 2514


def with_moments(impressions: pa.Table, watches: pa.Table | None) -> pa.Table:
    """Adds :data:`CLICKED_AT`, int64 Unix seconds, null where nothing was clicked.

    Args:
        impressions: ``user_id, video_id, time, clicked``, and ``click_time`` where it is told.
            Those of one user need no ``user_id``.
        watches: ``user_id, video_id, time`` of the same users; None for none.

    Returns:
        The same rows with the column; impressions that have it already come back as they are.
    """
    if CLICKED_AT in impressions.column_names:
        return impressions
    moment = moments(impressions, watches)
    return impressions.append_column(CLICKED_AT, pa.array(moment, mask=moment == NEVER))


def moments(impressions: pa.Table, watches: pa.Table | None) -> np.ndarray:
    """Returns when each impression was clicked, int64 [n], NEVER for those that were not.

    Args:
        impressions: Impressions, n rows, with the columns that :func:`with_moments` reads.
        watches: Watches of the same users, with the columns that :func:`with_moments` reads; None
            for none.
    """
    shown = np.asarray(combined(impressions["time"]), np.int64)
    clicked = np.asarray(filled(combined(impressions["clicked"]), pa.bool_(), False))
    moment = np.where(clicked, shown + CLICK_WINDOW_S, NEVER)
    told = np.zeros(len(shown), bool)
    if _TOLD in impressions.column_names:
        column = combined(impressions[_TOLD])
        told = clicked & np.asarray(pc.is_valid(column))
        at = np.maximum(np.asarray(filled(column, pa.int64(), 0)), shown)
        in_window = at <= shown + CLICK_WINDOW_S
        moment[told] = np.where(in_window, at, NEVER)[told]
    untold = np.flatnonzero(clicked & ~told)
    if len(untold) and watches is not None and watches.num_rows:
        watched = _first_watch(impressions.take(pa.array(untold)), watches)
        moment[untold] = np.minimum(moment[untold], watched)
    return moment


def _first_watch(impressions: pa.Table, watches: pa.Table) -> np.ndarray:
    """Returns the time of each impression's first watch at or after it, int64, NEVER for none."""
    count = impressions.num_rows
    pair = np.zeros(count + watches.num_rows, np.int64)
    for name in ("user_id", "video_id"):
        if name not in impressions.column_names:
            continue
        both = pa.chunked_array([*impressions[name].chunks, *watches[name].chunks], pa.string())
        codes = combined(both).dictionary_encode()
        pair = pair * len(codes.dictionary) + np.asarray(codes.indices, np.int64)
    _, pair = np.unique(pair, return_inverse=True)
    key = pair.reshape(-1).astype(np.int64) << _TIME_BITS
    shown = key[:count] | np.asarray(combined(impressions["time"]), np.int64)
    watched = np.sort(key[count:] | np.asarray(combined(watches["time"]), np.int64))
    place = np.searchsorted(watched, shown)
    nearest = watched[np.minimum(place, len(watched) - 1)]
    same = (place < len(watched)) & (nearest >> _TIME_BITS == shown >> _TIME_BITS)
    return np.where(same, nearest & ((1 << _TIME_BITS) - 1), NEVER)
