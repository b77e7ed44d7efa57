import importlib.util

import numpy as np
import pytest

from models import environment
from pipeline.benchmarks import index as bench_index
from pipeline.benchmarks import vectors as bench_vectors
from serving.index import exact_search


@pytest.mark.skipif(environment.scann is None, reason=environment.SCANN_ERROR)
def test_index_and_peers_are_measured_on_the_same_vectors(monkeypatch, tmp_path):
    for name, value in (("COUNT", 4000), ("DIMENSION", 16), ("K", 20)):
        monkeypatch.setattr(bench_index, name, value)
    monkeypatch.setattr(bench_index, "_QUERIES", 60)
    figures = bench_index.measure(tmp_path)
    peers = [name for name in ("faiss", "hnswlib") if importlib.util.find_spec(name)]
    assert set(figures) - {f"index.{name}_over_ours_ms_ratio" for name in peers} == {
        "index.recall_at_200",
        "index.mean_ms",
        "index.p99_ms",
        "index.build_s",
        "index.exact_over_ours_ms_ratio",
    }
    assert figures["index.recall_at_200"] >= 0.9
    assert all(value > 0 for value in figures.values())


def test_peer_that_finds_less_gives_no_figure():
    videos = bench_vectors.videos(300, 8)
    queries = bench_vectors.queries(12, 8)
    truth, _ = exact_search.search(videos, queries, 5)

    def nothing(query):
        return np.full((1, 5), -1)

    def everything(query):
        return exact_search.search(videos, query, 5)[0]

    def cheapest(*settings):
        return bench_index._cheapest("peer", iter(settings), queries, truth=truth, recall=0.95)

    assert cheapest(("blind", nothing)) is None
    assert cheapest(("blind", nothing), ("right", everything)) > 0


def test_vectors_are_uneven_and_the_last_column_is_a_bias():
    videos = bench_vectors.videos(5000, 32)
    queries = bench_vectors.queries(100, 32)
    assert (videos.shape, queries.shape) == ((5000, 33), (100, 33))
    assert (queries[:, -1] == 1).all()
    norms = np.linalg.norm(videos[:, :-1], axis=1)
    assert np.percentile(norms, 95) > 2 * np.percentile(norms, 5)
    np.testing.assert_array_equal(videos, bench_vectors.videos(5000, 32))
