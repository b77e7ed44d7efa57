import json
import pathlib
import shutil

import numpy as np
import pyarrow as pa
import pytest

from features import command
from models import environment
from serving.index import building, exact_search, index
from serving.index import files as index_files
from serving.index import tuning as index_tuning

needs_scann = pytest.mark.skipif(environment.scann is None, reason=environment.SCANN_ERROR)


def clustered(count: int, dimension: int = 17, *, seed: int = 0) -> np.ndarray:
    """float32 [count, dimension] around 40 centres with uneven norms, a bias last."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(40, dimension))
    vectors = centres[rng.integers(40, size=count)] + 0.5 * rng.normal(size=(count, dimension))
    vectors *= rng.gamma(4, 0.25, size=(count, 1))
    vectors[:, -1] = rng.normal(size=count) - 2
    return vectors.astype(np.float32)


def queries_like(count: int, dimension: int = 17) -> np.ndarray:
    queries = clustered(count, dimension, seed=5)
    queries[:, -1] = 1
    return queries


def ids(count: int) -> pa.Array:
    return pa.array([f"video{i}" for i in range(count)])


def build(*arguments, exact_below=20_000, **more):
    return building.build(*arguments, recall_target=0.95, exact_below=exact_below, **more)


@pytest.fixture
def exact_directory(tmp_path):
    build(tmp_path / "exact", ids(300), clustered(300), tuning_queries=queries_like(20), k=10)
    return tmp_path / "exact"


def test_exact_search_finds_the_largest_inner_products_in_order():
    embeddings = np.array([[1, 0, 0], [0, 1, 0], [1, 1, -5], [0, 0, 9]], np.float32)
    # Products with [2, 1, 1]: 2, 1, 3 - 5 = -2, 9.
    rows, scores = exact_search.search(embeddings, np.array([[2, 1, 1]], np.float32), 3)
    assert rows.tolist() == [[3, 0, 1]]
    assert scores.tolist() == [[9, 2, 1]]


def test_equal_scores_come_in_the_order_of_their_rows():
    rows, _ = exact_search.top_k(np.array([[1, 2, 2, 0, 2]], np.float32), 3)
    assert rows.tolist() == [[1, 2, 4]]


def test_exact_search_in_blocks_equals_one_block(monkeypatch):
    embeddings, queries = clustered(300), queries_like(7)
    whole = exact_search.search(embeddings, queries, 5)
    monkeypatch.setattr(exact_search, "_MAX_SCORES", 600)
    blocks = exact_search.search(embeddings, queries, 5)
    np.testing.assert_array_equal(whole[0], blocks[0])
    np.testing.assert_allclose(whole[1], blocks[1], rtol=1e-5)


def test_small_corpus_is_searched_exactly_and_survives_the_round_trip(exact_directory):
    loaded = index.Index.load(exact_directory)
    assert loaded.kind == "exact"
    assert loaded.video_ids.to_pylist() == ids(300).to_pylist()
    np.testing.assert_array_equal(loaded.embeddings, clustered(300))
    rows, scores = loaded.search(queries_like(4), 300)
    expected = queries_like(4) @ clustered(300).T
    np.testing.assert_array_equal(rows, np.argsort(-expected, axis=1, kind="stable"))
    assert rows.dtype == np.int32
    assert scores.dtype == np.float32


def test_more_results_than_videos_gives_every_video_once(exact_directory):
    rows, _ = index.Index.load(exact_directory).search(queries_like(2), 5000)
    assert rows.shape == (2, 300)
    assert [len(set(row)) for row in rows.tolist()] == [300, 300]


def test_search_among_returns_only_the_videos_given(exact_directory):
    chosen = np.array([7, 3, 250], np.int32)
    loaded = index.Index.load(exact_directory)
    rows, scores = loaded.search_among(queries_like(3), 10, rows=chosen)
    assert rows.shape == (3, 3)
    assert {tuple(sorted(row)) for row in rows.tolist()} == {(3, 7, 250)}
    products = np.einsum("qkd,qd->qk", clustered(300)[rows], queries_like(3))
    np.testing.assert_allclose(scores, products, rtol=1e-4, atol=1e-4)


@needs_scann
@pytest.mark.parametrize("spherical", [True, False])
def test_tuned_scann_keeps_its_recall_on_new_queries_with_exact_scores(spherical):
    tree = index_tuning.Partitioning(num_leaves=150, spherical=spherical, soar=spherical)
    searcher = index_tuning.build_searcher(clustered(6000), tree, k=50)
    truth, _ = exact_search.search(clustered(6000), queries_like(200), 50)
    trials = index_tuning.tune_search(searcher, queries_like(200), truth, recall_target=0.95)
    reached = [trial for trial in trials if trial.recall >= 0.95]
    cheapest = min(reached, key=lambda trial: trial.search.leaves_to_search)
    assert cheapest.search.leaves_to_search < 150
    fresh = clustered(100, seed=17)
    fresh[:, -1] = 1
    rows, scores = searcher.search(fresh, 50, settings=cheapest.search)
    truth, _ = exact_search.search(clustered(6000), fresh, 50)
    assert exact_search.recall_per_query(rows, truth).mean() >= 0.93
    products = np.einsum("qkd,qd->qk", clustered(6000)[rows], fresh)
    np.testing.assert_allclose(scores, products, rtol=1e-4, atol=1e-4)
    assert (np.diff(scores, axis=1) <= 0).all()


@needs_scann
def test_scann_gives_every_query_its_k_even_from_few_leaves():
    embeddings = clustered(3000)
    tree = index_tuning.Partitioning(num_leaves=50, spherical=True, soar=True)
    searcher = index_tuning.build_searcher(embeddings, tree, k=10)
    few = index_tuning.SearchConfig(leaves_to_search=1, reorder=2000, k=2000)
    for count in (1, 5):
        rows, scores = searcher.search(queries_like(count), 2000, settings=few)
        assert [len(set(row)) for row in rows.tolist()] == [2000] * count
        assert np.isfinite(scores).all()


@needs_scann
def test_tuning_prefers_whatever_is_cheapest_at_the_target():
    searcher, trials = index_tuning.choose(
        clustered(6000), queries_like(50), k=50, recall_target=0.9
    )
    chosen = trials[-1]
    reaching = [trial for trial in trials if trial.recall >= 0.905]
    assert chosen.mean_ms == min(trial.mean_ms for trial in reaching)
    assert (searcher is None) == (chosen.partitioning is None)


@needs_scann
def test_a_moved_scann_index_loads_and_answers_the_same(tmp_path, monkeypatch):
    searcher = index_tuning.build_searcher(
        clustered(2000),
        index_tuning.Partitioning(num_leaves=20, spherical=True, soar=False),
        k=10,
    )
    settings = index_tuning.SearchConfig(leaves_to_search=20, reorder=100, k=10)
    best = index_tuning.Trial(
        partitioning=searcher.partitioning, search=settings, recall=1.0, mean_ms=0.0
    )
    exact = index_tuning.exact_trial(clustered(2000), queries_like(4), 10)
    monkeypatch.setattr(index_tuning, "choose", lambda *_, **__: (searcher, [exact, best]))
    built = tmp_path / "built"
    report = build(
        built, ids(2000), clustered(2000), tuning_queries=queries_like(40), k=10, exact_below=1
    )
    assert report.kind == "scann"
    assert not (built / "embeddings.npy").exists()  # ScaNN's own copy serves.
    assert not list(built.rglob("*.pkl"))
    before = index.Index.load(built).search(queries_like(4), 10)
    (tmp_path / "elsewhere").mkdir()
    moved = tmp_path / "elsewhere" / "index"
    shutil.move(built, moved)
    after = index.Index.load(moved)
    assert after.kind == "scann"
    np.testing.assert_array_equal(after.search(queries_like(4), 10)[0], before[0])

    monkeypatch.setattr(environment, "scann", None)
    monkeypatch.setattr(environment, "SCANN_ERROR", "taken away by the test")
    fallback = index.Index.load(moved)
    assert fallback.kind == "exact_fallback"
    truth, _ = exact_search.search(clustered(2000), queries_like(4), 10)
    np.testing.assert_array_equal(fallback.search(queries_like(4), 10)[0], truth)


def test_every_corrupted_byte_is_refused(exact_directory, tmp_path):
    rng = np.random.default_rng(3)
    for file in sorted(p for p in exact_directory.iterdir()):
        original = file.read_bytes()
        for position in rng.integers(len(original), size=5):
            changed = bytearray(original)
            changed[position] ^= 1 << int(rng.integers(8))
            file.write_bytes(changed)
            if file.name == index_files.INDEX_JSON and is_same_json(original, bytes(changed)):
                continue
            with pytest.raises(index.IndexRefusedError):
                index.Index.load(exact_directory)
        file.write_bytes(original)
    index.Index.load(exact_directory)


def is_same_json(a: bytes, b: bytes) -> bool:
    try:
        return json.loads(a) == json.loads(b)
    except ValueError:
        return False


@pytest.mark.parametrize("name", ["video_ids.parquet", "embeddings.npy", "index.json"])
def test_a_missing_file_is_refused_by_name(exact_directory, name):
    (exact_directory / name).unlink()
    with pytest.raises(index.IndexRefusedError, match=f"{name} is missing"):
        index.Index.load(exact_directory)


def test_a_truncated_file_is_refused_without_hashing(exact_directory):
    file = exact_directory / "embeddings.npy"
    file.write_bytes(file.read_bytes()[:-4])
    with pytest.raises(index.IndexRefusedError, match="bytes instead of"):
        index.Index.load(exact_directory, hash_contents=False)


def test_a_pickle_that_was_slipped_in_is_refused_unopened(exact_directory):
    (exact_directory / "scann_docids.pkl").write_bytes(b"cos\nsystem\n(S'exit 1'\ntR.")
    with pytest.raises(index.IndexRefusedError, match=r"scann_docids\.pkl was added"):
        index.Index.load(exact_directory)


def test_an_index_that_answers_wrongly_fails_its_self_test(exact_directory):
    loaded = index.Index.load(exact_directory)
    content = index_files.read(exact_directory)
    with pytest.raises(index.IndexRefusedError, match="fails its self-test"):
        loaded.self_test(-content.self_test_queries, content.self_test_rows)


@pytest.mark.parametrize(
    ("video_ids", "change", "message"),
    [
        (["a", "a", "b"], 0.0, "1 video ids are repeated"),
        (["a", "b", None], 0.0, "1 video ids are null"),
        (["a", "b"], 0.0, "2 video ids for 3 embeddings"),
        (["a", "b", "c"], np.nan, "1 embeddings hold NaN"),
    ],
)
def test_ids_and_vectors_that_cannot_be_indexed_are_refused(tmp_path, video_ids, change, message):
    embeddings = clustered(3)
    embeddings[1, 2] += change
    with pytest.raises(command.InputError, match=message):
        build(tmp_path / "i", pa.array(video_ids), embeddings, tuning_queries=queries_like(2))


@pytest.mark.parametrize(
    ("queries", "k"),
    [
        (np.zeros((1, 16), np.float32), 5),
        (np.zeros((1, 17), np.float64), 5),
        (np.full((1, 17), np.nan, np.float32), 5),
        (np.zeros((1, 17), np.float32), 0),
    ],
)
def test_unusable_queries_are_refused(exact_directory, queries, k):
    with pytest.raises(ValueError, match="must be"):
        index.Index.load(exact_directory).search(queries, k)


def test_recall_is_reported_by_slice_and_on_queries_not_tuned_on(tmp_path):
    light = np.arange(20) < 4
    report = build(
        tmp_path / "i",
        ids(300),
        clustered(300),
        tuning_queries=queries_like(20),
        query_slices={"light": light, "nobody": np.zeros(20, bool)},
        k=10,
    )
    assert report.num_queries == 10
    assert report.recall == 1.0
    assert report.slices == {"light": 1.0}
    assert pathlib.Path(tmp_path / "i" / "index.json").is_file()
