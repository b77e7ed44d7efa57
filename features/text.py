"""Search queries as tokens: unigrams and bigrams (paper section 3.3)."""

import itertools
import re
import unicodedata

import numpy as np
import pyarrow as pa

from features.catalogue import filled

_WORD = re.compile(r"\w+")
MAX_QUERY_CHARACTERS = 200  # a query beyond this is pasted text; its tail says little


def tokens(query: str) -> list[str]:
    """Returns the lower-case words of a query, then its bigrams ``first second``.

    ``tokens("Taylor Swift live")`` is ``["taylor", "swift", "live", "taylor swift",
    "swift live"]``. Unicode is normalised (NFKC), punctuation and control characters separate.
    """
    text = unicodedata.normalize("NFKC", query[:MAX_QUERY_CHARACTERS]).casefold()
    words = _WORD.findall(text)
    return words + [f"{a} {b}" for a, b in itertools.pairwise(words)]


def tokenise(queries: pa.Array) -> pa.ListArray:
    """Tokenises many queries, each distinct one once.

    Args:
        queries: string [n]; null counts as empty.

    Returns:
        Tokens of each query, list<string> [n].
    """
    encoded = filled(queries, pa.string(), "").dictionary_encode()
    distinct = pa.array([tokens(q) for q in encoded.dictionary.to_pylist()], pa.list_(pa.string()))
    return distinct.take(encoded.indices)


def flat_tokens(lists: pa.ListArray) -> tuple[np.ndarray, pa.StringArray]:
    """Splits a list array into offsets int64 [n + 1] and flat values."""
    lengths = np.asarray(lists.value_lengths().fill_null(0), np.int64)
    return np.concatenate([[0], np.cumsum(lengths)]), lists.flatten()
