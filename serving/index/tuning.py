"""The search for the cheapest ScaNN settings that reach a recall target.

A rule of thumb for ScaNN's settings reaches a recall anywhere between .5 and 1.0, depending on
the corpus, so every corpus is tuned on its own: partitionings compete on a sample, then leaves
to search and reordering are tuned on the whole corpus with real user queries against exact
search, then the winner's recall is measured on other user queries.
"""

import dataclasses
import itertools
import pathlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from absl import logging

from models import environment
from serving.index import exact_search
from serving.index.exact_search import Floats, Rows

Searcher = Callable[[Floats, int], tuple[Rows, Floats]]

# Partitionings compete on at most so many videos: a build of a million takes minutes.
_SAMPLE_SIZE = 50_000
_SAMPLE_K = 20
_TRAINING_SAMPLE_SIZE = 100_000
# Two dimensions per codebook and this threshold are the settings ScaNN documents for dot products.
_DIMENSIONS_PER_BLOCK = 2
_ANISOTROPIC_THRESHOLD = 0.2
_SOAR_LAMBDA = 1.5
# Tuned on one half of the queries; the margin keeps the other half above the target too.
_RECALL_MARGIN = 0.005
_LEAVES_FACTORS = (2.0, 1.0, 4.0)
_REORDER_RATIOS = (1.0, 1.5, 2.5, 4.0, 8.0)
_LEAF_FRACTIONS = (0.005, 0.01, 0.02, 0.03, 0.045, 0.065, 0.1, 0.15, 0.22, 0.33, 0.5, 0.75, 1.0)
# Single queries timed per setting.
_TIMED_QUERIES = 64


@dataclasses.dataclass(frozen=True, kw_only=True)
class Partitioning:
    """How the tree divides the corpus; changing it means building anew.

    Attributes:
        num_leaves: Number of partitions, above 0.
        spherical: Whether centroids are compared by direction alone; often better for inner
            products over vectors of uneven norms.
        soar: Whether each video also goes to a second leaf, chosen for inner products: more
            memory, fewer leaves to search.
    """

    num_leaves: int
    spherical: bool
    soar: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class SearchConfig:
    """What may change between two searches of one built index.

    Attributes:
        leaves_to_search: Number of leaves visited for a query, in [1, num_leaves].
        reorder: Number of videos rescored exactly before the best k are returned, at least k.
        k: Number of results per query these settings were tuned for.
    """

    leaves_to_search: int
    reorder: int
    k: int

    def scaled_to(self, k: int, *, num_leaves: int) -> "SearchConfig":
        """Returns settings for another k: more results need more leaves and reordering."""
        ratio = max(1.0, k / self.k)
        leaves = min(num_leaves, int(np.ceil(self.leaves_to_search * ratio)))
        return SearchConfig(leaves_to_search=leaves, reorder=max(k, int(self.reorder * ratio)), k=k)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trial:
    """One measured way of searching.

    Attributes:
        partitioning: Division of the corpus; None for exact search.
        search: Settings of the search; None for exact search.
        recall: Mean share of the exact top k that was found, in [0, 1].
        mean_ms: Mean time of a single query on this machine, milliseconds.
    """

    partitioning: Partitioning | None
    search: SearchConfig | None
    recall: float
    mean_ms: float

    def __str__(self) -> str:
        if self.partitioning is None or self.search is None:
            return f"exact: {self.mean_ms:.2f} ms"
        shape = "spherical" if self.partitioning.spherical else "generic"
        soar = " + SOAR" if self.partitioning.soar else ""
        return (
            f"{shape}{soar}, {self.search.leaves_to_search}/{self.partitioning.num_leaves} leaves, "
            f"reorder {self.search.reorder}: recall@{self.search.k} {self.recall:.4f}, "
            f"{self.mean_ms:.2f} ms"
        )


def mean_query_ms(searcher: Searcher, queries: Floats, k: int) -> float:
    """Returns the mean time of one single query, milliseconds, warmed up."""
    return float(np.mean(query_times_ms(searcher, queries, k)))


def query_times_ms(searcher: Searcher, queries: Floats, k: int) -> npt.NDArray[np.float64]:
    """Returns the time of each single query, milliseconds, float64 [at most 64]."""
    timed = queries[:_TIMED_QUERIES]
    first = timed[:2]  # Not timed: they load and allocate.
    times = []
    for query in (*first, *timed):
        start = time.perf_counter()
        searcher(query[np.newaxis], k)
        times.append(1e3 * (time.perf_counter() - start))
    return np.asarray(times[len(first) :])


class ScannSearcher:
    """ScaNN's searcher with the answers in our form: int32 rows, and every query gets its k."""

    def __init__(self, native: Any, partitioning: Partitioning, embeddings: Floats) -> None:
        self._native: Any = native
        self.partitioning = partitioning
        self._embeddings = embeddings

    def search(self, queries: Floats, k: int, *, settings: SearchConfig) -> tuple[Rows, Floats]:
        """Returns rows int32 [Q, min(k, N)] and exact scores float32, best first."""
        k = min(k, len(self._embeddings))
        used = settings.scaled_to(k, num_leaves=self.partitioning.num_leaves)
        reorder = min(used.reorder, len(self._embeddings))
        limits = (k, reorder, used.leaves_to_search)
        search = (
            self._native.search_batched_parallel
            if len(queries) > 1
            else self._native.search_batched
        )
        retrieved, scores = search(np.ascontiguousarray(queries), *limits)
        rows = retrieved.astype(np.int32)
        # Too few videos in the leaves visited: ScaNN pads with row 0 and a score of NaN.
        short = np.isnan(scores).any(axis=1)
        if short.any():
            rows[short], scores[short] = exact_search.search(self._embeddings, queries[short], k)
        return rows, scores

    def serialize(self, directory: str) -> None:
        """Writes the index so that its directory may be moved; no docids, so no pickle."""
        self._native.serialize(directory, relative_path=True)


def build_searcher(embeddings: Floats, partitioning: Partitioning, *, k: int) -> ScannSearcher:
    """Builds tree + asymmetric hashing + exact reordering for inner products.

    Args:
        embeddings: float32 [N, D + 1], contiguous. The softmax bias is the last dimension and
            stays exact, since reordering uses these very vectors.
        partitioning: Division of the corpus.
        k: Number of results per query searched by default.
    """
    if environment.scann is None:
        raise RuntimeError(f"ScaNN cannot load: {environment.SCANN_ERROR}")
    builder = (
        environment.scann.scann_ops_pybind.builder(embeddings, k, "dot_product")
        .tree(
            num_leaves=partitioning.num_leaves,
            num_leaves_to_search=max(1, partitioning.num_leaves // 10),
            training_sample_size=min(len(embeddings), _TRAINING_SAMPLE_SIZE),
            spherical=partitioning.spherical,
            random_init=False,
            soar_lambda=_SOAR_LAMBDA if partitioning.soar else None,
        )
        .score_ah(_DIMENSIONS_PER_BLOCK, anisotropic_quantization_threshold=_ANISOTROPIC_THRESHOLD)
        .reorder(4 * k)
    )
    return ScannSearcher(builder.build(), partitioning, embeddings)


def load_searcher(
    directory: pathlib.Path, partitioning: Partitioning, embeddings: Floats
) -> ScannSearcher:
    """Loads what :meth:`ScannSearcher.serialize` wrote.

    Raises:
        RuntimeError, ValueError, OSError: ScaNN or its files cannot be loaded here.
    """
    if environment.scann is None:
        raise RuntimeError(environment.SCANN_ERROR)
    if list(directory.glob("*.pkl")):
        raise ValueError(f"{directory} has a pickle, which is never opened")
    native = environment.scann.scann_ops_pybind.load_searcher(
        str(directory), assets_backcompat_shim=False
    )
    return ScannSearcher(native, partitioning, embeddings)


def exact_trial(embeddings: Floats, queries: Floats, k: int) -> Trial:
    """Measures exact search, which everything else must beat."""
    mean_ms = mean_query_ms(lambda q, n: exact_search.search(embeddings, q, n), queries, k)
    return Trial(partitioning=None, search=None, recall=1.0, mean_ms=mean_ms)


def choose(
    embeddings: Floats, queries: Floats, *, k: int, recall_target: float, seed: int = 0
) -> tuple[ScannSearcher | None, list[Trial]]:
    """Finds the cheapest way to search that reaches the recall target.

    Args:
        embeddings: float32 [N, D + 1], video embeddings.
        queries: float32 [Q, D + 1], user queries for tuning alone.
        k: Number of results per query.
        recall_target: Mean recall@k to reach, in (0, 1].
        seed: Seed of the sample on which partitionings compete.

    Returns:
        The built searcher, or None where exact search is as cheap or nothing else reaches the
        target; and the trials, the chosen one last.
    """
    truth, _ = exact_search.search(embeddings, queries, k)
    exact = exact_trial(embeddings, queries, k)
    trials = [exact]
    partitioning = _best_partitioning(
        embeddings, queries, k=k, recall_target=recall_target, seed=seed
    )
    searcher = build_searcher(embeddings, partitioning, k=k)
    trials += tune_search(searcher, queries, truth, recall_target=recall_target)
    best = min(trials, key=lambda trial: _cost(trial, recall_target))
    if best is exact:
        logging.info("Exact search is the cheapest that reaches recall@%d %.3f.", k, recall_target)
    trials.remove(best)
    return (searcher if best is not exact else None), [*trials, best]


def _cost(trial: Trial, recall_target: float) -> tuple[bool, float]:
    """Orders trials: those that reach the target by time, then the others by recall."""
    short = trial.recall < min(1.0, recall_target + _RECALL_MARGIN)
    return short, -trial.recall if short else trial.mean_ms


def _best_partitioning(
    embeddings: Floats, queries: Floats, *, k: int, recall_target: float, seed: int
) -> Partitioning:
    """Lets partitionings compete on a sample; the winner gets its leaves for the whole corpus.

    The kinds of tree first, then more and fewer leaves for the best kind.
    """
    count = len(embeddings)
    chosen = np.random.default_rng(seed).permutation(count)[:_SAMPLE_SIZE]
    sample = np.ascontiguousarray(embeddings[np.sort(chosen)])
    # Among fewer videos fewer results reach as far: the sample is then like the whole.
    k = min(k, len(sample), max(_SAMPLE_K, k * len(sample) // count))
    truth, _ = exact_search.search(sample, queries, k)
    contest: list[tuple[Trial, float]] = []

    def compete(leaves_factor: float, *, spherical: bool, soar: bool) -> None:
        leaves = _leaves(len(sample), leaves_factor)
        tree = Partitioning(num_leaves=leaves, spherical=spherical, soar=soar)
        searcher = build_searcher(sample, tree, k=k)
        for trial in tune_search(searcher, queries, truth, recall_target=recall_target):
            contest.append((trial, leaves_factor))

    def leader() -> tuple[Partitioning, float]:
        trial, factor = min(contest, key=lambda entry: _cost(entry[0], recall_target))
        assert trial.partitioning is not None
        return trial.partitioning, factor

    for spherical, soar in itertools.product((True, False), (False, True)):
        compete(_LEAVES_FACTORS[0], spherical=spherical, soar=soar)
    kind, _ = leader()
    for factor in _LEAVES_FACTORS[1:]:
        compete(factor, spherical=kind.spherical, soar=kind.soar)
    best, factor = leader()
    return dataclasses.replace(best, num_leaves=_leaves(count, factor))


def _leaves(count: int, factor: float) -> int:
    """So many leaves per square root of the corpus; ScaNN's documentation advises about two."""
    return max(1, min(count // 20, int(factor * np.sqrt(count))))


def tune_search(
    searcher: ScannSearcher, queries: Floats, truth: Rows, *, recall_target: float
) -> list[Trial]:
    """Returns, for each amount of reordering, the fewest leaves that reach the target."""
    k = truth.shape[1]
    trials: list[Trial] = []
    for settings in _ladder(searcher.partitioning.num_leaves, k):
        trial = _fewest_leaves(searcher, queries, truth, ladder=settings, target=recall_target)
        logging.info("  %s", trial)
        trials.append(trial)
    return trials


def _ladder(num_leaves: int, k: int) -> Iterator[list[SearchConfig]]:
    leaves = sorted({max(1, round(num_leaves * fraction)) for fraction in _LEAF_FRACTIONS})
    for ratio in _REORDER_RATIOS:
        yield [
            SearchConfig(leaves_to_search=count, reorder=int(k * ratio), k=k) for count in leaves
        ]


def _fewest_leaves(
    searcher: ScannSearcher,
    queries: Floats,
    truth: Rows,
    *,
    ladder: list[SearchConfig],
    target: float,
) -> Trial:
    """Bisects the ladder, since recall grows with the leaves; its top where none reaches."""
    low, high = 0, len(ladder) - 1
    recalls: dict[int, float] = {}
    while low < high:
        middle = (low + high) // 2
        recalls[middle] = _recall(searcher, queries, truth, ladder[middle])
        if recalls[middle] >= min(1.0, target + _RECALL_MARGIN):
            high = middle
        else:
            low = middle + 1
    settings = ladder[low]
    return Trial(
        partitioning=searcher.partitioning,
        search=settings,
        recall=recalls.get(low) or _recall(searcher, queries, truth, settings),
        mean_ms=mean_query_ms(
            lambda q, n: searcher.search(q, n, settings=settings), queries, settings.k
        ),
    )


def _recall(searcher: ScannSearcher, queries: Floats, truth: Rows, settings: SearchConfig) -> float:
    retrieved, _ = searcher.search(queries, settings.k, settings=settings)
    return float(exact_search.recall_per_query(retrieved, truth).mean())
