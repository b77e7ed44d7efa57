"""The events that the tables have already: digests of their keys, kept for a day.

A compaction writes ``keys-<time>-<id>.npy`` beside the segments: sorted digests, 16 bytes each, of
the keys (:attr:`serving.events.event.Event.key`) of what it moved. Later ones look there, without
reading more of a file than they need. A day of 100 events a second is 140 MB.
"""

import hashlib
import json
import pathlib
import uuid
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from absl import logging

from features.durations import DAY_S
from serving.events.event import identity

KEPT_S = DAY_S
_BYTES = 16
_NAME = "keys-"


def of(records: pa.Table) -> np.ndarray:
    """Returns a digest of each record's key, bytes [n]."""
    names = ("user_id", "kind", "event_id", "page_id", "video_id", "feedback")
    rows = zip(*(records[name].to_pylist() for name in names), strict=True)
    keys = (
        (user_id, kind, identity(kind, event_id, page_id=page, video_id=video, given=given))
        for user_id, kind, event_id, page, video, given in rows
    )
    digests = [
        hashlib.blake2b(json.dumps(key).encode(), digest_size=_BYTES).digest() for key in keys
    ]
    return np.array(digests, f"S{_BYTES}")


def distinct(records: pa.Table) -> pa.Table:
    """Keeps the first record of each key."""
    return not_moved(records, [])[0]


def not_moved(records: pa.Table, moved: Sequence[np.ndarray]) -> tuple[pa.Table, np.ndarray]:
    """Keeps the first record of each key that is not among the digests of :func:`moved`.

    Returns:
        The records, and their digests as :func:`of` gives them.
    """
    every = of(records)
    keys, first = np.unique(every, return_index=True)
    is_new = np.full(len(keys), True)
    for known in moved:
        if not len(known):
            continue
        place = np.minimum(np.searchsorted(known, keys), len(known) - 1)
        is_new &= known[place] != keys
    rows = np.sort(first[is_new])
    return records.take(pa.array(rows)), every[rows]


def moved(directory: pathlib.Path) -> list[np.ndarray]:
    """Returns the digests of what was moved, sorted, in parts."""
    arrays = []
    for path in _files(directory):
        try:
            arrays.append(np.load(path, mmap_mode="r", allow_pickle=False))
        except ValueError as error:
            logging.error("%s is damaged: what it knew may be taken for new. %s", path, error)
    return arrays


def save(directory: pathlib.Path, keys: np.ndarray, *, wall_s: float) -> None:
    """Writes what :func:`moved` reads; nothing where there are no keys."""
    if len(keys):
        path = directory / f"{_NAME}{int(wall_s):012d}-{uuid.uuid4().hex[:8]}.npy"
        np.save(path, np.sort(keys))


def drop_old(directory: pathlib.Path, *, wall_s: float) -> None:
    """Removes keys that nobody sends again."""
    for path in _files(directory):
        if int(path.name.split("-")[1]) < wall_s - KEPT_S:
            path.unlink()


def _files(directory: pathlib.Path) -> list[pathlib.Path]:
    return sorted(directory.glob(f"{_NAME}*.npy"))
