"""The impression that a click or a watch came from.

Both readers of impressions go through here, so that they agree: the history store, whose
impressions feed the churn features of the next request, and the compaction of the event log,
whose impressions the next training reads.

The rule, for a click or watch at time s of user u on video v, and an impression of v to u at t:

* it names a page: the impression on that page, if ``t - AHEAD_S <= s <= t + WATCH_WINDOW_S``;
* it names none: the latest impression with ``t <= s <= t + CLICK_WINDOW_S``, or where there is none
  the one with ``s < t <= s + AHEAD_S``, provided that a watch which names its source names the
  surface of that impression.

Impressions may lie ``AHEAD_S`` after the clock, see there.

An impression is clicked at the first click or watch that came from it, if that is at most
``CLICK_WINDOW_S`` after it: what comes later would find its row written. Its watch time is then the
sum over its watches. What an impression already says of itself (logged elsewhere, with its outcome)
stays.
"""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from features import clicks
from features.catalogue import combined
from serving.events import event as events

# Columns of an impression whose outcome is looked for, and of a click or watch.
SHOWN = ("user_id", "video_id", "time", "page_id", "surface")
ENGAGEMENT = ("user_id", "video_id", "time", "page_id", "source", "watch_time_s")
_TIME_BITS = 34  # Unix seconds until the year 2514


def attribute(
    impressions: pa.Table, engagements: pa.Table, *, beside: pa.Table
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Finds the outcome of impressions.

    Args:
        impressions: ``user_id, video_id, time, page_id, surface, clicked, watch_time_s``, n rows.
        engagements: Clicks and watches: ``user_id, video_id, time, page_id, source,
            watch_time_s`` (0 for a click), any order.
        beside: Further impressions that these may have come from; at least :data:`SHOWN`.

    Returns:
        clicked bool [n], watch_time_s float64 [n], and the moment of the click, int64 [n] Unix
        seconds, ``clicks.NEVER`` where there is none or nothing tells it.
    """
    clicked = np.asarray(combined(impressions["clicked"]).cast(pa.int8()), bool)
    seconds = np.array(combined(impressions["watch_time_s"]), np.float64)
    both = pa.concat_tables([impressions.select(SHOWN), beside.select(SHOWN)])
    moment, added = (values[: len(clicked)] for values in outcomes(both, engagements))
    has_click = moment != clicks.NEVER
    moment[clicked] = clicks.NEVER
    return clicked | has_click, np.where(seconds > 0, seconds, added), moment


def outcomes(impressions: pa.Table, engagements: pa.Table) -> tuple[np.ndarray, np.ndarray]:
    """Finds what came of impressions, whatever they say of it themselves.

    Args:
        impressions: ``user_id, video_id, time, page_id, surface``, n rows.
        engagements: Clicks and watches, as in :func:`attribute`.

    Returns:
        Moments of the clicks, int64 [n] Unix seconds, ``clicks.NEVER`` for impressions without one,
        and seconds watched, float64 [n].
    """
    moment = np.full(impressions.num_rows, clicks.NEVER)
    added = np.zeros(impressions.num_rows)
    if not impressions.num_rows or not engagements.num_rows:
        return moment, added
    named = pc.not_equal(engagements["page_id"], "")
    by_page = engagements.filter(named)
    by_time = engagements.filter(pc.invert(named))
    for part, keys, window in (
        (by_page, ("user_id", "video_id", "page_id"), events.WATCH_WINDOW_S),
        (by_time, ("user_id", "video_id"), events.CLICK_WINDOW_S),
    ):
        if not part.num_rows:
            continue
        target = _latest_before(impressions, part, keys, window)
        ahead = _latest_before(impressions, part, keys, window, later_s=events.AHEAD_S)
        target = np.where(target < 0, ahead, target)
        if part is by_time:
            target = np.where(_source_fits(impressions, part, target), target, -1)
        hit = target >= 0
        np.minimum.at(moment, target[hit], np.asarray(combined(part["time"]), np.int64)[hit])
        watched = np.asarray(combined(part["watch_time_s"]), np.float64)
        np.add.at(added, target[hit], watched[hit])
    shown = np.asarray(combined(impressions["time"]), np.int64)
    moment = np.maximum(moment, shown)  # A page may lie ahead of the clock.
    is_late = (moment != clicks.NEVER) & (moment - shown > clicks.CLICK_WINDOW_S)
    moment[is_late], added[is_late] = clicks.NEVER, 0.0
    return moment, added


def _latest_before(
    impressions: pa.Table,
    engagements: pa.Table,
    keys: tuple[str, ...],
    window_s: int,
    *,
    later_s: int = 0,
) -> np.ndarray:
    """Returns for each engagement the row of its latest impression in the window, -1 for none.

    ``later_s`` is how much later than the engagement the impression may be.
    """
    group_shown, group_done = _groups(impressions, engagements, keys)
    shown = np.asarray(combined(impressions["time"]), np.int64)
    done = np.asarray(combined(engagements["time"]), np.int64) + later_s
    key = (group_shown << _TIME_BITS) | shown
    order = np.argsort(key, kind="stable")
    place = np.searchsorted(key[order], (group_done << _TIME_BITS) | done, side="right") - 1
    row = order[np.maximum(place, 0)]
    fits = (
        (place >= 0) & (group_shown[row] == group_done) & (done - shown[row] <= window_s + later_s)
    )
    return np.where(fits, row, -1)


def _groups(
    impressions: pa.Table, engagements: pa.Table, keys: tuple[str, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """Returns one number per distinct combination of the key columns, int64, for both tables."""
    count = impressions.num_rows
    group = np.zeros(count + engagements.num_rows, np.int64)
    for name in keys:
        values = pa.chunked_array([*impressions[name].chunks, *engagements[name].chunks])
        codes = combined(values.cast(pa.string())).dictionary_encode()
        mixed = group * len(codes.dictionary) + np.asarray(codes.indices, np.int64)
        _, group = np.unique(mixed, return_inverse=True)
        group = group.astype(np.int64)
    return group[:count], group[count:]


def _source_fits(impressions: pa.Table, engagements: pa.Table, target: np.ndarray) -> np.ndarray:
    source = engagements["source"]
    surface = impressions["surface"].take(pa.array(np.maximum(target, 0)))
    fits = pc.or_(pc.equal(source, ""), pc.equal(source, surface))
    return np.asarray(combined(fits).to_numpy(zero_copy_only=False), bool)
