"""Benchmark of the index: ours against exact search, hnswlib and faiss, side by side.

The same million vectors of 256 dimensions and a bias, the same queries, one thread, one query at a
time. Each of the peers is built once and then made only as thorough as it takes to find as much as
ours does; a peer that is not installed leaves its figure out. See
:mod:`pipeline.benchmarks.vectors`.
"""

import importlib
import os
import pathlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from absl import logging

from pipeline.benchmarks import vectors as bench_vectors
from serving.index import exact_search
from serving.index import tuning as index_tuning
from serving.index.exact_search import Floats, Rows

COUNT = 1_000_000
DIMENSION = 256
K = 200
RECALL_TARGET = 0.95
_TUNING_QUERIES = 300
_QUERIES = 500
_EXACT_QUERIES = 30

# One query, float32 [1, D + 1], to its rows, int [1, K].
Search = Callable[[Floats], npt.NDArray[Any]]


def measure(work: pathlib.Path) -> dict[str, float]:
    """Returns recall and latency of our index, and the peers' latencies over ours."""
    del work
    videos = bench_vectors.videos(COUNT, DIMENSION)
    queries = bench_vectors.queries(_TUNING_QUERIES + _QUERIES, DIMENSION)
    tuning, judged = queries[:_TUNING_QUERIES], queries[_TUNING_QUERIES:]
    truth, _ = exact_search.search(videos, judged, K)
    started = time.monotonic()
    searcher, trials = index_tuning.choose(videos, tuning, k=K, recall_target=RECALL_TARGET)
    chosen = trials[-1]
    logging.info("Ours after %.0f s: %s", time.monotonic() - started, chosen)
    settings = chosen.search

    def exact(query: Floats) -> Rows:
        return exact_search.search(videos, query, K)[0]

    def ours(query: Floats) -> Rows:
        if searcher is None or settings is None:
            return exact(query)
        return searcher.search(query, K, settings=settings)[0]

    recall, times = _judge(ours, judged, truth)
    mean_ms = float(times.mean())
    figures = {
        "index.recall_at_200": recall,
        "index.mean_ms": mean_ms,
        "index.p99_ms": float(np.percentile(times, 99)),
        "index.build_s": time.monotonic() - started,
    }
    _, exact_times = _judge(exact, judged[:_EXACT_QUERIES], truth[:_EXACT_QUERIES])
    figures["index.exact_over_ours_ms_ratio"] = float(exact_times.mean()) / mean_ms
    for name, peer in (("faiss", _faiss), ("hnswlib", _hnswlib)):
        cheapest = _cheapest(name, peer(videos), judged, truth=truth, recall=recall)
        if cheapest is not None:
            figures[f"index.{name}_over_ours_ms_ratio"] = cheapest / mean_ms
    return figures


def _judge(search: Search, queries: Floats, truth: Rows) -> tuple[float, npt.NDArray[np.float64]]:
    """Returns mean recall, and milliseconds of each single query, float64 [Q]."""
    for query in queries[:10]:
        search(query[np.newaxis])
    rows, times = [], []
    for query in queries:
        start = time.perf_counter()
        retrieved = search(query[np.newaxis])
        times.append(1e3 * (time.perf_counter() - start))
        rows.append(retrieved[0])
    recall = exact_search.recall_per_query(np.stack(rows).astype(np.int32), truth).mean()
    return float(recall), np.array(times)


def _cheapest(
    name: str,
    settings: Iterator[tuple[str, Search]],
    queries: Floats,
    *,
    truth: Rows,
    recall: float,
) -> float | None:
    """Returns the lowest mean time of a setting that finds as much as ours; None without one."""
    best: float | None = None
    for label, search in settings:
        retrieved, times = _judge(search, queries, truth)
        logging.info("  %s %s: recall %.4f, %.3f ms", name, label, retrieved, times.mean())
        if retrieved >= recall and (best is None or times.mean() < best):
            best = float(times.mean())
    if best is None:
        logging.warning("%s: absent, or nothing tried finds %.4f: no figure.", name, recall)
    return best


def _imported(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        logging.warning("%s is not installed: `pip install '.[bench]'` has it.", name)
        return None


def _faiss(videos: Floats) -> Iterator[tuple[str, Search]]:
    """Inverted lists of 4-bit product quantisation with exact refinement, its fastest kind."""
    faiss = _imported("faiss")
    if faiss is None:
        return
    started = time.monotonic()
    faiss.omp_set_num_threads(os.cpu_count() or 1)
    dimension = videos.shape[1]
    # The product quantiser wants a whole number of parts: zeros do not change inner products.
    width = -(-dimension // 2) * 2
    padded = np.zeros((len(videos), width), np.float32)
    padded[:, :dimension] = videos
    lists = int(np.sqrt(len(videos)))
    base = faiss.index_factory(width, f"IVF{lists},PQ{width // 2}x4fs", faiss.METRIC_INNER_PRODUCT)
    base.train(padded[:: max(1, len(padded) // 100_000)])
    base.add(padded)
    refined = faiss.IndexRefineFlat(base, faiss.swig_ptr(padded))
    faiss.omp_set_num_threads(1)
    logging.info("faiss built in %.0f s.", time.monotonic() - started)
    row = np.zeros((1, width), np.float32)
    for factor in (4, 8, 16, 32):
        for probes in (8, 16, 32, 64, 128, 256):

            def search(query: Floats, factor: int = factor) -> npt.NDArray[Any]:
                refined.k_factor = factor
                row[:, :dimension] = query
                return refined.search(row, K)[1]

            base.nprobe = probes
            yield f"IVF{lists} probes {probes}, refine {factor}x", search


def _hnswlib(videos: Floats) -> Iterator[tuple[str, Search]]:
    """A navigable small-world graph."""
    hnswlib = _imported("hnswlib")
    if hnswlib is None:
        return
    started = time.monotonic()
    graph = hnswlib.Index(space="ip", dim=videos.shape[1])
    graph.init_index(max_elements=len(videos), ef_construction=80, M=16, random_seed=1)
    graph.add_items(videos, num_threads=os.cpu_count() or 1)
    graph.set_num_threads(1)
    logging.info("hnswlib built in %.0f s.", time.monotonic() - started)
    for ef in (200, 300, 500, 800, 1200, 2000, 4000):

        def search(query: Floats) -> npt.NDArray[Any]:
            return graph.knn_query(query, k=K)[0].astype(np.int64)

        graph.set_ef(ef)
        yield f"ef {ef}", search
