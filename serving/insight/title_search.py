"""Videos found by the words of their titles, channels and topics.

Words are those of SQLite's full-text search (letters and digits, without case and accents); the
last one may be the beginning of a word. Videos that have all of them come first, ordered by BM25
with a title's words worth most, of equals the newest; then those that have some.

The words of a catalogue are taken in when somebody first searches, and those of new videos when
somebody searches again: about 7 s and 90 MB for a million videos with titles of five words,
nothing where nobody searches.
"""

import re
import sqlite3
import threading
import unicodedata
import weakref
from collections.abc import Callable, Iterator

import numpy as np

from features.catalogue import Catalogue, combined

MAX_WORDS = 16
_WORDS = re.compile(r"[^\W_]+")
_COLUMNS = ("title", "channel_id", "topics")
_WEIGHTS = "10.0, 4.0, 2.0"
_BATCH = 10_000
# Among the best by BM25, which cannot tell episodes of a series apart, the newest come first.
_SCORED = 1000


class TitleSearch:
    """The words of one release's videos; safe for threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._count = 0
        self._words = sqlite3.connect(":memory:", check_same_thread=False)
        # Whoever lets go of this need not know that there is something to close.
        weakref.finalize(self, self._words.close)
        self._words.execute(
            "CREATE VIRTUAL TABLE words USING fts5(title, channel_id, topics, content='', "
            'tokenize="unicode61 remove_diacritics 2")'
        )

    def find(
        self,
        catalogue: Catalogue,
        query: str,
        *,
        limit: int,
        permits: Callable[[np.ndarray], np.ndarray] | None = None,
    ) -> np.ndarray:
        """Returns rows of the videos that have the words of a query, best first, int32.

        Args:
            catalogue: Catalogue of the release; each time the same or a longer one.
            query: What somebody typed.
            limit: Greatest number of rows.
            permits: Function of rows that returns bool [n], which ones may be shown; None for all.
        """
        words = _WORDS.findall(unicodedata.normalize("NFC", query))[:MAX_WORDS]
        if not words or limit < 1:
            return np.zeros(0, np.int32)
        quoted = [f'"{word}"' for word in words[:-1]] + [f'"{words[-1]}"*']
        with self._lock:
            self._take_in(catalogue)
            rows = self._rows(" AND ".join(quoted), catalogue)
            if len(rows) < limit and len(words) > 1:
                some = self._rows(" OR ".join(quoted), catalogue)
                rows = np.concatenate([rows, some[~np.isin(some, rows)]])
        if permits is not None:
            rows = rows[permits(rows)]
        return rows[:limit]

    def _rows(self, expression: str, catalogue: Catalogue) -> np.ndarray:
        """Returns rows of the videos that match, int32, best first."""
        matched = self._words.execute(
            f"SELECT rowid - 1, bm25(words, {_WEIGHTS}) AS score FROM words "
            "WHERE words MATCH ? ORDER BY score LIMIT ?",
            (expression, _SCORED),
        ).fetchall()
        rows = np.array([row for row, _ in matched], np.int32)
        scores = np.round([score for _, score in matched], 1)
        return rows[np.lexsort((-catalogue.upload_times[rows], scores))]

    def _take_in(self, catalogue: Catalogue) -> None:
        """Takes in the videos that came since the last search."""
        if self._count >= len(catalogue):
            return
        with self._words:
            self._words.executemany(
                "INSERT INTO words(rowid, title, channel_id, topics) VALUES (?, ?, ?, ?)",
                _texts(catalogue, self._count),
            )
        self._count = len(catalogue)


def _texts(catalogue: Catalogue, start: int) -> Iterator[tuple[int, str, str, str]]:
    """Yields row number from 1, title, channel, topics of the videos from row ``start`` on."""
    have = [name for name in _COLUMNS if name in catalogue.table.column_names]
    for first in range(start, len(catalogue), _BATCH):
        block = catalogue.table.select(have).slice(first, _BATCH)
        columns = {name: combined(block[name]).to_pylist() for name in have}
        nothing = [None] * block.num_rows
        titles, channels, topics = (columns.get(name, nothing) for name in _COLUMNS)
        for place in range(block.num_rows):
            listed = topics[place] or ()
            text = listed if isinstance(listed, str) else " ".join(filter(None, listed))
            yield (first + place + 1, titles[place] or "", channels[place] or "", text)
