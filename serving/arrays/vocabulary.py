"""Vocabularies that are searched where they lie: sorted bytes, and the id of each token."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa

from features.as_of.ragged import Coded
from features.spec import Feature

CATEGORY = "category"  # The space that small categoricals share, see features.id_spaces.
# Tokens are padded to the longest: beyond this a vocabulary would be mostly padding.
MAX_TOKEN_BYTES = 256


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """Tokens of one ID space.

    Attributes:
        tokens: Tokens in UTF-8, sorted, bytes [V] of fixed width.
        ids: Id of each token, int32 [V], in [1, V].
    """

    tokens: np.ndarray
    ids: np.ndarray

    @classmethod
    def of(cls, tokens: Sequence[str]) -> "Vocabulary":
        """Returns the vocabulary in which the token of id i is element i - 1.

        Raises:
            ValueError: A token cannot be held: it ends in a zero byte, or is too long.
        """
        encoded = [token.encode() for token in tokens]
        longest = max(map(len, encoded), default=1)
        if longest > MAX_TOKEN_BYTES:
            raise ValueError(f"a token has {longest} bytes, at most {MAX_TOKEN_BYTES} are held")
        if any(token.endswith(b"\0") for token in encoded):
            raise ValueError("a token ends in a zero byte")
        values = np.array(encoded, dtype=f"S{max(longest, 1)}")
        order = np.argsort(values, kind="stable")
        return cls(values[order], (order + 1).astype(np.int32))

    def lookup(self, strings: Sequence[str]) -> np.ndarray:
        """Returns the id of each string, int32 [n]; 0 for what is not in the vocabulary."""
        ids = np.zeros(len(strings), np.int32)
        if not len(self.tokens) or not len(strings):
            return ids
        encoded = [string.encode() for string in strings]
        values = np.array(encoded, dtype=self.tokens.dtype)  # Cuts what is too long.
        places = np.minimum(self.tokens.searchsorted(values), len(self.tokens) - 1)
        width = self.tokens.dtype.itemsize
        is_whole = np.fromiter((len(e) <= width for e in encoded), bool, len(encoded))
        # A zero byte at an end is lost in an array of bytes.
        is_whole &= np.fromiter((not e.endswith(b"\0") for e in encoded), bool, len(encoded))
        hit = is_whole & (self.tokens[places] == values)
        ids[hit] = self.ids[places[hit]]
        return ids

    def arrays(self, name: str) -> dict[str, np.ndarray]:
        """Returns the arrays by name, for :mod:`serving.arrays.constants`."""
        return {f"tokens.{name}": self.tokens, f"ids.{name}": self.ids}

    @classmethod
    def from_arrays(cls, name: str, arrays: Mapping[str, np.ndarray]) -> "Vocabulary":
        """Inverse of :meth:`arrays`."""
        return cls(arrays[f"tokens.{name}"], arrays[f"ids.{name}"])


def token(feature: Feature, value: str) -> str:
    """Returns what stands for a value in the vocabulary of a feature's space; "" is none."""
    return f"{feature.name}={value}" if value and feature.space == CATEGORY else value


class Ids:
    """Ids of the values of categorical features; safe for threads.

    What is known by codes of a catalogue is looked for once, when it is first met.
    """

    def __init__(self, vocabularies: Mapping[str, Vocabulary]) -> None:
        """Takes vocabularies by ID space."""
        self._vocabularies = vocabularies
        self._by_token: dict[tuple[str, str], int] = {}
        self._by_code: dict[str, tuple[pa.Array, np.ndarray]] = {}

    def __call__(self, feature: Feature, values: pa.Array | Coded) -> np.ndarray:
        """Returns the id of each value, int32 [n], 0 for none."""
        if not isinstance(values, Coded):
            return self._looked_up(feature, values)
        key = feature.name if feature.space == CATEGORY else feature.space
        names, known = self._by_code.get(key, (None, _NO_IDS))
        if names is not values.names:  # The catalogue was extended.
            known = np.full(len(values.names), -1, np.int32)
            self._by_code[key] = values.names, known
        ids = known[values.codes]
        unmet = ids < 0
        if unmet.any():
            ids[unmet] = self._looked_up(feature, Coded(values.codes[unmet], values.names).plain())
            known[values.codes] = ids
        return ids

    def _looked_up(self, feature: Feature, values: pa.Array) -> np.ndarray:
        known, space = self._by_token, feature.space
        tokens = [(space, token(feature, value or "")) for value in values.to_pylist()]
        unmet = [pair for pair in tokens if pair not in known]
        if unmet:
            ids = self._vocabularies[space].lookup([text for _, text in unmet])
            if len(known) + len(unmet) > _MOST_KNOWN:
                self._by_token = known = {pair: known[pair] for pair in tokens if pair in known}
            known.update(zip(unmet, ids.tolist(), strict=True))
        return np.fromiter((known[pair] for pair in tokens), np.int32, len(tokens))


_MOST_KNOWN = 100_000  # Callers choose some of the strings.
_NO_IDS = np.zeros(0, np.int32)
