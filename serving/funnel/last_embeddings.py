"""The last query embedding that each user got, for when the query tower fails."""

import collections
import threading

import numpy as np

_MAX_BYTES = 64 << 20
# What an entry takes beside its numbers and its id: key, array, place in the order.
ENTRY_BYTES = 500


class LastEmbeddings:
    """Bounded by memory, the users of long ago go first; safe for threads."""

    def __init__(self, max_bytes: int = _MAX_BYTES) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        # Embeddings of different releases do not fit together, so the release is in the key.
        self._found: collections.OrderedDict[tuple[str, str], np.ndarray] = (
            collections.OrderedDict()
        )
        self._lock = threading.Lock()

    def put(self, version: str, user_id: str, embedding: np.ndarray) -> None:
        """Remembers the embedding of a user, float32 [D + 1]."""
        key = (version, user_id)
        with self._lock:
            before = self._found.pop(key, None)
            self._bytes += _size(key, embedding) - (0 if before is None else _size(key, before))
            self._found[key] = embedding
            while self._bytes > self._max_bytes:
                self._bytes -= _size(*self._found.popitem(last=False))

    def get(self, version: str, user_id: str) -> np.ndarray | None:
        """Returns the last embedding that a release gave a user, None where it gave none."""
        with self._lock:
            return self._found.get((version, user_id))


def _size(key: tuple[str, str], embedding: np.ndarray) -> int:
    return ENTRY_BYTES + len(key[1]) + embedding.nbytes
