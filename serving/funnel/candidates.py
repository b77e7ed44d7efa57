"""The nominations of all sources as one set of candidates, with who nominated what."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa

from serving.funnel.nominations import Nominations
from serving.index.exact_search import RowsByNumber
from serving.live.state import Rates
from serving.servables import signatures

_FUSION = 60  # Of reciprocal rank fusion, as in its paper.


@dataclasses.dataclass(frozen=True)
class Candidates:
    """Videos that may be shown, each once.

    Attributes:
        rows: int32 [n], rows of the catalogue.
        source_names: Names of the sources, in the order of the bits.
        source_bits: int64 [n], bit s is set where source s nominated the video.
        source_scores: float32 [S, n], the score that each source gave; NaN where it gave none.
        retrieval_scores: float32 [n], inner product with the query embedding; NaN without one.
    """

    rows: np.ndarray
    source_names: tuple[str, ...]
    source_bits: np.ndarray
    source_scores: np.ndarray
    retrieval_scores: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, chosen: np.ndarray) -> "Candidates":
        """Returns the candidates at ``chosen``, in that order."""
        return Candidates(
            rows=self.rows[chosen],
            source_names=self.source_names,
            source_bits=self.source_bits[chosen],
            source_scores=self.source_scores[:, chosen],
            retrieval_scores=self.retrieval_scores[chosen],
        )

    @functools.cached_property
    def source_lists(self) -> pa.ListArray:
        """list<string> [n]: the names of the sources of each."""
        names, which = self.source_combinations
        return pa.array(names, pa.list_(pa.string())).take(pa.array(which))

    @functools.cached_property
    def source_combinations(self) -> tuple[list[tuple[str, ...]], np.ndarray]:
        """The sets of sources that occur, and which one each candidate has, int64 [n]."""
        combinations, which = np.unique(self.source_bits, return_inverse=True)
        return [self.names_of(int(bits)) for bits in combinations], which.reshape(-1)

    def names_of(self, bits: int) -> tuple[str, ...]:
        """Returns the names of a set of bits."""
        return tuple(name for s, name in enumerate(self.source_names) if bits >> s & 1)

    def counts(self) -> dict[str, int]:
        """Returns how many videos each source nominated."""
        return {
            name: int((self.source_bits >> s & 1).sum()) for s, name in enumerate(self.source_names)
        }


def merge(
    nominations: Mapping[str, Nominations], *, embeddings: RowsByNumber, query: np.ndarray | None
) -> Candidates:
    """Puts the nominations together.

    Args:
        nominations: Source to what it nominates; within a source each video once.
        embeddings: float32 [N, D + 1], of the index.
        query: float32 [D + 1], None where there is no query embedding.

    Returns:
        Candidates in the order of the sources, first mention first.
    """
    parts = [n.rows for n in nominations.values()]
    everything = np.concatenate([np.zeros(0, np.int32), *parts]).astype(np.int32)
    rows, first, place = np.unique(everything, return_index=True, return_inverse=True)
    order = np.argsort(first, kind="stable")
    position = np.empty(len(order), np.int64)
    position[order] = np.arange(len(order))
    place = position[place.reshape(-1)]
    bits = np.zeros(len(rows), np.int64)
    scores = np.full((len(nominations), len(rows)), np.nan, np.float32)
    start = 0
    for number, proposed in enumerate(nominations.values()):
        mine = place[start : start + len(proposed.rows)]
        bits[mine] |= 1 << number
        scores[number, mine] = proposed.scores
        start += len(proposed.rows)
    rows = rows[order]
    retrieval = np.full(len(rows), np.nan, np.float32)
    if query is not None and len(rows):
        # Also for what other sources found: the ranker then has the same score for all.
        retrieval = (embeddings[rows] @ query).astype(np.float32)
        # A video without an embedding has no score, rather than an absurd one.
        retrieval[retrieval < signatures.UNREACHABLE_BIAS / 2] = np.nan
    return Candidates(
        rows=rows,
        source_names=tuple(nominations),
        source_bits=bits,
        source_scores=scores,
        retrieval_scores=retrieval,
    )


def related_order(candidates: Candidates, seconds: np.ndarray | None) -> np.ndarray:
    """Returns candidates by how related they are, and by what they are worth to the viewer.

        score = sum over rankings of 1 / (60 + place)

    The rankings are those of the sources of related videos, and the one by expected watch time.

    Args:
        candidates: Candidates, n of them.
        seconds: Expected watch times, float32 [n]; None where nothing ranked them.

    Returns:
        int [n], best first.

    Source: Cormack, Clarke & Buettcher, SIGIR 2009, "Reciprocal Rank Fusion".
    """
    fused = np.zeros(len(candidates))
    rankings = list(candidates.source_scores)
    if seconds is not None:
        rankings.append(seconds)
    for scores in rankings:
        given = np.isfinite(scores)
        # Equal scores share the best of their places.
        places = np.searchsorted(np.sort(-scores[given]), -scores[given])
        fused[given] += 1 / (_FUSION + 1 + places)
    return np.argsort(-fused, kind="stable")


def by_watches(gathered: Candidates, rates: Rates | None, upload_times: np.ndarray) -> np.ndarray:
    """Returns candidates by how much they are watched within a day, where the viewer is.

    Args:
        gathered: Candidates, n of them.
        rates: Rates of the candidates just now; None without live state.
        upload_times: int64 [n], Unix seconds: of those watched alike the newest comes first.

    Returns:
        int [n], best first.
    """
    watched = np.zeros(len(gathered))
    if rates is not None:
        watched = rates.of_day_here
    return np.lexsort((-upload_times, -watched))


def by_turns(gathered: Candidates, names: Sequence[str]) -> np.ndarray:
    """Returns the best of each of some sources, the second best of each, and so on.

    What none of them nominated comes last, in its order.
    """
    place = np.full(len(gathered), np.inf)
    for turn, name in enumerate(names):
        if name in gathered.source_names:
            scores = gathered.source_scores[gathered.source_names.index(name)]
            mine = np.flatnonzero(np.isfinite(scores))
            best = mine[np.argsort(-scores[mine], kind="stable")]
            place[best] = np.minimum(place[best], np.arange(len(best)) + turn / len(names))
    return np.argsort(place, kind="stable")


def capped_per_channel(order: np.ndarray, channels: np.ndarray, *, k: int, cap: int) -> np.ndarray:
    """Chooses a page: best first, at most ``cap`` per channel while there are others.

    Args:
        order: int [n], candidates, best first.
        channels: int [n], channel code of each candidate (by its number); -1 is no channel.
        k: Length of the page.
        cap: Number of videos of one channel, 1 or more.

    Returns:
        int [min(k, n)]: candidates. Those over the cap come last, where the page is not full.
    """
    shown: dict[int, int] = {}
    page: list[int] = []
    spare: list[int] = []
    for candidate in order.tolist():
        channel = int(channels[candidate])
        if channel >= 0 and shown.get(channel, 0) >= cap:
            spare.append(candidate)
            continue
        shown[channel] = shown.get(channel, 0) + 1
        page.append(candidate)
        if len(page) == k:
            break
    return np.array(_filled(page, spare, k), np.int64)


def _filled(page: Sequence[int], spare: Sequence[int], k: int) -> list[int]:
    return [*page, *spare[: max(k - len(page), 0)]]
