"""What a transform is fitted to: vocabularies and quantiles, through Beam as in the job."""

import collections
import dataclasses
import itertools

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorflow as tf

from features import command, dataset, id_spaces, preprocessing, spec
from features.id_spaces import IdSpace
from features.spec import Feature, Kind, ResolvedSpec, Side
from models import embeddings
from pipeline.preprocessing import transforming

CANDIDATE = (spec.CANDIDATE,)
NUMBERS = ("ordinary", "constant", "missing", "two_values", "huge")
RESOLVED = ResolvedSpec(
    features=(
        Feature(
            name="video_id",
            kind=Kind.UNIVALENT,
            side=Side.CANDIDATE,
            models=CANDIDATE,
            source="videos.video_id",
            space="video",
        ),
        *(
            Feature(
                name=name,
                kind=Kind.CONTINUOUS,
                side=Side.CANDIDATE,
                models=CANDIDATE,
                source=f"videos.{name}",
            )
            for name in NUMBERS
        ),
    )
)


def skewed(number=20_000, distinct=3_000, seed=3):
    """Zipf's law, shuffled: the n-th id is about as frequent as 1 / n."""
    weights = 1 / np.arange(1, distinct + 1)
    generator = np.random.default_rng(seed)
    return [f"v{n}" for n in generator.choice(distinct, number, p=weights / weights.sum())]


def fitted(directory, ids, *, numbers=None, **space):
    """Fits the transform on examples of these ids and returns the examples directory."""
    count = len(ids)
    vectors = np.zeros((count, len(NUMBERS)), np.float32) if numbers is None else numbers
    columns = {
        "user_id": ["u"] * count,
        "time": pa.array(np.arange(count)),
        "label_video_id": ids,
        "video_id": ids,
        "candidate_continuous": pa.FixedSizeListArray.from_arrays(
            pa.array(vectors.reshape(-1)), len(NUMBERS)
        ).cast(pa.list_(pa.float32())),
    }
    table = pa.table(columns)
    raw = directory / "raw" / "train"
    raw.mkdir(parents=True)
    pq.write_table(table, raw / "part.parquet", row_group_size=1000)
    resolved = dataclasses.replace(RESOLVED, spaces=(IdSpace(name="video", **space),))
    resolved.save(directory)
    (directory / "COMPLETE").write_text("{}")
    options = beam.options.pipeline_options.PipelineOptions(["--runner=FnApiRunner"])
    with beam.Pipeline(options=options) as pipeline:
        transforming.add_fit_and_transform(
            pipeline,
            resolved=resolved,
            raw={spec.CANDIDATE: {"train": raw}},
            output=directory,
            temporary=directory / "tmp",
        )
    return directory


def vocabulary(examples):
    return dataset.vocabulary(examples, spec.CANDIDATE, "video")


def by_frequency(ids):
    """Most frequent first; of equally frequent ones the last by name first."""
    counts = collections.Counter(ids)
    return sorted(sorted(counts, reverse=True), key=lambda name: -counts[name])


@pytest.fixture(scope="module")
def exact(tmp_path_factory):
    return fitted(tmp_path_factory.mktemp("exact"), skewed(), max_size=500, min_count=3)


def test_a_vocabulary_is_cut_by_size_and_by_frequency(exact):
    expected = by_frequency(skewed())[:500]
    counts = collections.Counter(skewed())
    assert vocabulary(exact) == [name for name in expected if counts[name] >= 3]


def test_widths_follow_the_size_that_was_asked_for(exact):
    size = dataset.vocabulary_sizes(exact, spec.CANDIDATE)["video"]
    assert size == len(vocabulary(exact)) <= 500
    assert id_spaces.embedding_width(size) < id_spaces.embedding_width(3_000)
    read = ResolvedSpec.load(exact).of(spec.CANDIDATE)
    table = embeddings.make_tables(read, {"video": size}, widths={}, seed=0)["video"]
    assert (table.size, table.width) == (size, id_spaces.embedding_width(size))


@pytest.mark.parametrize("size", [60, 500])
def test_an_approximate_vocabulary_has_the_same_head_and_a_bounded_size(tmp_path, exact, size):
    estimated = vocabulary(fitted(tmp_path, skewed(), max_size=size, approximate=True))
    assert len(set(estimated)) == len(estimated) <= size
    # A sketch of k counters is wrong by at most n / (k + 1): what is twice that more frequent
    # than the next one is in its place.
    counts = [count for _, count in collections.Counter(skewed()).most_common()]
    error = len(skewed()) / (size + 1)
    sure = [a - b > 2 * error for a, b in itertools.pairwise(counts)]
    head = sure.index(False)
    assert head >= 1
    assert estimated[:head] == vocabulary(exact)[:head]
    frequent = {name for name, count in collections.Counter(skewed()).items() if count > error}
    assert frequent <= set(estimated)


def test_below_its_size_a_sketch_is_exact_and_ties_are_ordered_the_same(tmp_path):
    ids = ["a", "b", "c", "c", "d", "d", "", "e"]
    both = [
        vocabulary(fitted(tmp_path / str(approximate), ids, max_size=9, approximate=approximate))
        for approximate in (False, True)
    ]
    assert both == [["d", "c", "e", "b", "a"]] * 2


def test_line_breaks_and_empty_ids_are_in_no_vocabulary_and_others_keep_their_place(tmp_path):
    # A vocabulary file has a token in each line. NUL and blanks are part of a token.
    ids = ["plain"] * 5 + ["two\nlines"] * 4 + ["re\rturn"] * 4 + ["n\0ul"] * 3 + [" b "] * 2 + [""]
    examples = fitted(tmp_path, ids, max_size=9)
    assert vocabulary(examples) == ["plain", "n\0ul", " b "]
    loaded = dataset.load(examples, spec.CANDIDATE, "train")
    id_of = dict(zip(loaded["label_video_id"].tolist(), loaded["video_id"].tolist(), strict=True))
    assert id_of == {
        b"plain": 1, b"n\0ul": 2, b" b ": 3, b"": 0, b"two\nlines": 0, b"re\rturn": 0,
    }  # fmt: skip


def test_odd_columns_survive_the_quantiles(tmp_path):
    count = 500
    generator = np.random.default_rng(0)
    numbers = np.stack(
        [
            generator.normal(size=count),
            np.full(count, 7.0),
            np.full(count, np.nan),
            np.where(np.arange(count) < 100, 1.0, 0.0),
            np.where(np.arange(count) % 2, np.inf, -3e38),
        ],
        axis=1,
    ).astype(np.float32)
    examples = fitted(tmp_path, ["v"] * count, numbers=numbers)
    loaded = dataset.load(examples, spec.CANDIDATE, "train")
    order = np.argsort(loaded["time"])
    got = dict(zip(NUMBERS, loaded["candidate_continuous"][order].T, strict=True))
    for column in got.values():
        assert np.isfinite(column).all()
        assert (column >= 0).all()
        assert (column < 1).all()
    assert (np.diff(got["ordinary"][np.argsort(numbers[:, 0])]) >= 0).all()
    # One value has the middle of all quantiles, missing or not; two values share them by weight.
    np.testing.assert_allclose(got["constant"], 0.5, atol=0.01)
    np.testing.assert_allclose(got["missing"], 0.5, atol=0.01)
    np.testing.assert_allclose(got["two_values"][100:], 0.4, atol=0.01)
    np.testing.assert_allclose(got["two_values"][:100], 0.9, atol=0.01)
    assert got["huge"][0] < got["huge"][1]
    # The graph gives its boundaries by name, and they are the ones that it goes by.
    boundaries = dataset.boundaries(examples, spec.CANDIDATE, Side.CANDIDATE)
    declared = RESOLVED.of(spec.CANDIDATE, Side.CANDIDATE, Kind.CONTINUOUS)
    filled = preprocessing.fill_missing(tf.constant(numbers), declared)
    again = preprocessing.interpolated_quantile(filled, tf.constant(boundaries)).numpy()
    np.testing.assert_array_equal(again, loaded["candidate_continuous"][order])
    with pytest.raises(command.InputError, match="query_continuous_boundaries"):
        dataset.boundaries(examples, spec.CANDIDATE, Side.QUERY)


def test_the_graph_reads_a_vocabulary_as_python_does(exact):
    table = vocabulary(exact)
    loaded = dataset.load(exact, spec.CANDIDATE, "train")
    known = loaded["video_id"] > 0
    names = [name.decode() for name in loaded["label_video_id"][known]]
    assert names == [table[i - 1] for i in loaded["video_id"][known]]
    assert preprocessing.vocabulary_name("video") in tf.io.gfile.listdir(
        str(exact / "transform_fn" / spec.CANDIDATE / "transform_fn" / "assets")
    )
