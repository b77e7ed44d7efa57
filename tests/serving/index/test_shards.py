"""An index in shards: merged it is the whole, and a part never passes for it."""

import functools
import shutil
import weakref

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features import command
from models import environment
from serving import errors
from serving.funnel.fresh_shelf import ShelvedIndex
from serving.index import building, exact_search, index, sharded_building, shards
from serving.index import tuning as index_tuning

needs_scann = pytest.mark.skipif(environment.scann is None, reason=environment.SCANN_ERROR)
COUNT, WIDTH = 301, 9


def vectors(count=COUNT, seed=0):
    """Small whole numbers: many products are equal, and all exact in any order of summing."""
    return np.random.default_rng(seed).integers(-2, 3, (count, WIDTH)).astype(np.float32)


def queries_of(count, seed=1):
    queries = vectors(count, seed)
    queries[:, -1] = 1
    return queries


def ids(count=COUNT):
    return pa.array([f"video{n}" for n in range(count)])


def build(directory, number, embeddings=None, video_ids=None, **more):
    embeddings = vectors() if embeddings is None else embeddings
    more = {"recall_target": 0.95, "exact_below": 20_000, "tuning_queries": queries_of(40), **more}
    return sharded_building.build(
        directory,
        ids(len(embeddings)) if video_ids is None else video_ids,
        (embeddings[shard::number] for shard in range(number)),
        shards=number,
        **more,
    )


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """Four shards, not all of one size; do not change it, copy it."""
    path = tmp_path_factory.mktemp("sharded") / "index"
    build(path, 4, k=10)
    return path


class Lossy(index.ShardsInTurn):
    """Shards of which some are lost."""

    def __init__(self, directories, sizes, *, lost):
        super().__init__(directories, sizes)
        self.lost = lost

    def ask(self, queries, k):
        self.up = [shard not in self.lost for shard in range(len(self.up))]
        answers = super().ask(queries, k)
        return ["it burnt" if n in self.lost else answer for n, answer in enumerate(answers)]


@settings(max_examples=60)
@given(
    count=st.integers(1, 40),
    number=st.integers(1, 9),
    k=st.integers(1, 50),
    seed=st.integers(0, 10_000),
)
def test_shards_merged_are_the_whole_to_the_last_tie(count, number, k, seed):
    """Some shards are smaller than k, and some are empty."""
    whole, queries = vectors(count, seed), queries_of(3, seed + 1)
    parts = [exact_search.search(whole[shard::number], queries, k) for shard in range(number)]
    assert [len(rows[0]) for rows, _ in parts] == [
        min(k, size) for size in shards.sizes_of(count, number)
    ]
    rows, scores = shards.merged(parts, queries, k)
    products = queries @ whole.T
    truth = np.argsort(-products, axis=1, kind="stable")[:, :k]
    np.testing.assert_array_equal(rows, truth)
    np.testing.assert_array_equal(scores, np.take_along_axis(products, truth, axis=1))
    assert (rows.dtype, scores.dtype) == (np.int32, np.float32)


@given(
    count=st.integers(0, 30), number=st.integers(1, 7), shape=st.sampled_from([(0,), (8,), (3, 5)])
)
def test_rows_and_ids_of_shards_are_those_of_the_whole(count, number, shape):
    count = max(count, number)
    whole = vectors(count)
    interleaved = shards.InterleavedRows([whole[shard::number] for shard in range(number)])
    rows = np.random.default_rng(count).integers(0, count, shape)
    np.testing.assert_array_equal(interleaved[rows], whole[rows])
    assert interleaved.shape == whole.shape
    names = [ids(count).take(pa.array(range(shard, count, number))) for shard in range(number)]
    assert shards.interleaved_ids(names).equals(ids(count))


@pytest.mark.parametrize("kept", [True, False])
def test_an_index_in_shards_is_the_index_without(directory, tmp_path, kept):
    build(tmp_path / "whole", 1, k=10)
    whole = index.Index.load(tmp_path / "whole")
    opener = functools.partial(index.ShardsInTurn, kept=kept)
    sharded = index.Index.load(directory, open_shards=opener)
    assert (whole.kind, sharded.kind, sharded.answering) == ("exact", "sharded", 1.0)
    assert sharded.video_ids.equals(whole.video_ids)
    for queries, k in ((queries_of(5), 300), (queries_of(1, 7), 12), (queries_of(2, 8), 5000)):
        for one, other in zip(sharded.search(queries, k), whole.search(queries, k), strict=True):
            np.testing.assert_array_equal(one, other)
    among = np.array([7, 3, 250, 8], np.int32)
    np.testing.assert_array_equal(
        sharded.search_among(queries_of(5), 3, rows=among)[0],
        whole.search_among(queries_of(5), 3, rows=among)[0],
    )
    every = np.arange(COUNT)
    np.testing.assert_array_equal(sharded.embeddings[every], whole.embeddings[every])


def test_the_report_is_of_the_whole(tmp_path):
    light = np.arange(40) < 8
    report = build(tmp_path, 4, k=200, query_slices={"light": light}, repeat_bias=0.5)
    assert (report.kind, report.count, report.k) == ("4 shards (4 exact)", COUNT, 200)
    assert (report.recall, report.slices, report.num_queries) == (1.0, {"light": 1.0}, 20)
    assert [trial.split(":")[0] for trial in report.trials] == [f"shard {n}" for n in range(4)]
    loaded = index.Index.load(tmp_path)
    assert loaded.repeat_bias == 0.5
    assert loaded.details["report"]["recall"] == 1.0


@needs_scann
def test_recall_is_that_of_the_merged_search(tmp_path, monkeypatch):
    """Two leaves of twenty are too few, and the report must say by how much."""
    tree = index_tuning.Partitioning(num_leaves=20, spherical=True, soar=False)
    few = index_tuning.SearchConfig(leaves_to_search=2, reorder=40, k=40)

    def choose(embeddings, queries, *, k, recall_target):
        searcher = index_tuning.build_searcher(embeddings, tree, k=k)
        chosen = index_tuning.Trial(partitioning=tree, search=few, recall=0.5, mean_ms=0.1)
        return searcher, [index_tuning.exact_trial(embeddings, queries, k), chosen]

    monkeypatch.setattr(index_tuning, "choose", choose)
    rng = np.random.default_rng(2)
    embeddings = rng.normal(size=(2000, WIDTH)).astype(np.float32)
    queries = rng.normal(size=(60, WIDTH)).astype(np.float32)
    queries[:, -1] = 1
    report = build(tmp_path, 3, embeddings, tuning_queries=queries, exact_below=1, k=40)
    assert report.kind == "3 shards (3 scann)"
    loaded = index.Index.load(tmp_path)
    truth, _ = exact_search.search(embeddings, queries[1::2], 40)
    rows, scores = loaded.search(queries[1::2], 40)
    assert report.recall == exact_search.recall_per_query(rows, truth).mean() < 0.95
    products = np.einsum("qkd,qd->qk", embeddings[rows], queries[1::2])
    np.testing.assert_allclose(scores, products, rtol=1e-4, atol=1e-4)


def test_a_part_says_that_it_is_one(directory):
    opener = functools.partial(Lossy, lost={1})
    loaded = index.Index.load(directory, open_shards=opener)
    assert loaded.answering == pytest.approx(1 - 75 / COUNT)
    queries = queries_of(2)
    with pytest.raises(
        errors.IndexPartialError, match=r"3 of 4 shards, 75\.1% of the videos.*shard 1: it burnt"
    ) as raised:
        loaded.search(queries, 12)
    rest = np.array([row for row in range(COUNT) if row % 4 != 1], np.int32)
    expected = loaded.search_among(queries, 12, rows=rest)
    np.testing.assert_array_equal(raised.value.rows, expected[0])
    np.testing.assert_array_equal(raised.value.scores, expected[1])
    rows, scores, lacking = index.search_what_answers(loaded, queries[1], 12)
    np.testing.assert_array_equal(rows, expected[0][1])
    np.testing.assert_array_equal(scores, expected[1][1])
    assert "3 of 4" in lacking


def test_what_is_new_is_searched_beside_a_part(directory):
    loaded = index.Index.load(directory, open_shards=functools.partial(Lossy, lost={0, 1, 2}))
    best = np.full((1, WIDTH), 9, np.float32)
    shelved = ShelvedIndex(loaded, best)
    rows, _, lacking = index.search_what_answers(shelved, np.ones(WIDTH, np.float32), 5)
    assert rows[0] == COUNT
    assert {row % 4 for row in rows[1:].tolist()} == {3}
    assert "1 of 4" in lacking
    assert shelved.answering == loaded.answering < 0.3


def test_no_shard_at_all_is_a_failure(directory):
    loaded = index.Index.load(directory, open_shards=functools.partial(Lossy, lost=set(range(4))))
    assert loaded.answering == 0
    with pytest.raises(errors.IndexPartialError, match="0 of 4 shards, 0.0% of the videos"):
        index.search_what_answers(loaded, queries_of(1)[0], 5)


def test_shards_that_were_changed_taken_or_exchanged_are_refused(directory, tmp_path):
    places = [f"shards/{n:04d}" for n in range(4)]
    for name, change in {
        "changed": lambda path: (path / places[2] / "embeddings.npy").write_bytes(b"x"),
        "taken": lambda path: shutil.rmtree(path / places[3]),
        "exchanged": lambda path: _exchange(path / places[1], path / places[2]),
        "added": lambda path: shutil.copytree(path / places[0], path / "shards/0004"),
    }.items():
        copy = shutil.copytree(directory, tmp_path / name)
        change(copy)
        with pytest.raises(index.IndexRefusedError):
            index.Index.load(copy)
    whole = shutil.copytree(directory, tmp_path / "moved")
    assert len(index.Index.load(whole)) == COUNT


def _exchange(one, other):
    aside = one.with_name("aside")
    one.rename(aside)
    other.rename(one)
    aside.rename(other)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"video_ids": pa.array(["a"] * COUNT)}, "video ids are repeated"),
        ({"video_ids": pa.concat_arrays([ids(COUNT - 1), ids(1)])}, "1 video ids are repeated"),
        ({"embeddings": np.full((COUNT, WIDTH), np.nan, np.float32)}, "hold NaN"),
    ],
)
def test_what_cannot_be_indexed_is_refused_also_where_only_the_whole_shows_it(
    tmp_path, change, message
):
    with pytest.raises(command.InputError, match=message):
        build(tmp_path, 4, **change)


def test_no_more_than_one_shard_is_in_memory(tmp_path):
    """The next vectors are made when nothing holds those before."""
    made, alive = [], []

    def part(shard):
        alive.append(sum(one() is not None for one in made))
        vectors_of_shard = vectors()[shard::4].copy()
        made.append(weakref.ref(vectors_of_shard))
        return vectors_of_shard

    sharded_building.build(
        tmp_path,
        ids(),
        map(part, range(4)),
        shards=4,
        tuning_queries=queries_of(40),
        recall_target=0.95,
        exact_below=20_000,
    )
    assert alive == [0, 0, 0, 0]


def test_building_one_by_one_is_building_itself(tmp_path):
    build(tmp_path / "a", 1, k=10)
    building.build(
        tmp_path / "b",
        ids(),
        vectors(),
        tuning_queries=queries_of(40),
        recall_target=0.95,
        exact_below=20_000,
        k=10,
    )
    names = ["embeddings.npy", "video_ids.parquet", "self_test_rows.npy"]
    assert [(tmp_path / "a" / name).read_bytes() for name in names] == [
        (tmp_path / "b" / name).read_bytes() for name in names
    ]
