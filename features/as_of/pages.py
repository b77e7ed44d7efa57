"""Pages: which impressions were shown together, and when.

A log may name its pages (``page_id``). Where it does not, a page ends with a pause of 30 minutes.
"""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from features.catalogue import combined
from features.durations import MINUTE_S

PAGE_TIME = "page_time"
PAGE_GAP_S = 30 * MINUTE_S  # a page where the log names none: impressions without a longer pause


def with_pages(impressions: pa.Table) -> pa.Table:
    """Adds when each impression's page began, and which page it is where the log does not say.

    Args:
        impressions: All impressions of some users, sorted by user and time.

    Returns:
        The same impressions with ``page_id`` (a new page after a pause of 30 minutes, where the log
        has none) and :data:`PAGE_TIME`, int64 Unix seconds of the page's first impression.
    """
    users = combined(impressions["user_id"])
    time = np.asarray(combined(impressions["time"]), np.int64)
    if "page_id" not in impressions.column_names:
        nulls = pa.nulls(len(users), pa.string())
        impressions = impressions.append_column("page_id", nulls)
    pages = pc.coalesce(combined(impressions["page_id"]), _pages_by_gap(users, time))
    index = impressions.column_names.index("page_id")
    keys = [np.asarray(c.dictionary_encode().indices, np.int64) for c in (users, pages)]
    _, number = np.unique(np.stack(keys, axis=1), axis=0, return_inverse=True)
    number = number.reshape(-1)
    start = np.full(len(time), np.iinfo(np.int64).max)
    np.minimum.at(start, number, time)
    with_ids = impressions.set_column(index, "page_id", pages)
    return with_ids.append_column(PAGE_TIME, pa.array(start[number]))


def begins(users: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Returns whether each impression begins a page, bool [n], by users and pauses alone.

    Args:
        users: Code of the user of each impression, int [n]; those of a user stand together.
        times: Unix seconds, int64 [n], ascending within a user.
    """
    is_new = np.ones(len(users), bool)
    is_new[1:] = (users[1:] != users[:-1]) | (np.diff(times) > PAGE_GAP_S)
    return is_new


def _pages_by_gap(users: pa.Array, time: np.ndarray) -> pa.Array:
    names = users.dictionary_encode()
    code = np.asarray(names.indices)
    first = np.maximum.accumulate(np.where(begins(code, time), np.arange(len(code)), 0))
    started = pa.array(time[first]).cast(pa.string())
    return pc.binary_join_element_wise(users.take(pa.array(first)), started, " ")
