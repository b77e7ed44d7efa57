"""What a log does not have costs nothing: no feature, no column, no weight, the same examples."""

import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from features import dataset, feedback, spec
from features.spec import Kind, ResolvedSpec
from features.tables import logs
from models import config
from models.candidate.model import CandidateModel
from models.ranking.model import Ranker
from pipeline.preprocessing import job as preprocessing_job
from pipeline.preprocessing import raw_examples
from pipeline.preprocessing.config import PreprocessConfig
from pipeline.preprocessing.raw_examples import directory_of

T0 = 1_650_000_000


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """Examples of a log, and of the same with places for vectors and declarations, all empty."""
    root = tmp_path_factory.mktemp("unused")
    rng = np.random.default_rng(0)
    events = {
        "user_id": [f"u{n}" for n in rng.integers(0, 3, 60)],
        "video_id": [f"v{n}" for n in rng.integers(0, 4, 60)],
        "time": T0 + 7200 * np.arange(60),
        "watch_time_s": [1.0] * 60,
    }
    with logs.LogWriter(root / "plain") as writer:
        writer.write(
            "videos", pa.table({"video_id": [f"v{n}" for n in range(4)], "upload_time": [T0] * 4})
        )
        writer.write("watches", pa.table(events))
        writer.write("impressions", pa.table({**events, "clicked": rng.random(60) < 0.5}))
    shutil.copytree(root / "plain", root / "empty")
    for name in ("video_vectors", "user_vectors"):
        (root / "empty" / name).mkdir()
    (root / "empty" / logs.FEATURES_FILE).write_text("[]")
    made = []
    for name in ("plain", "empty"):
        made.append(root / f"{name}-examples")
        preprocessing_job.run(str(root / name), str(made[-1]), PreprocessConfig(), [])
    return made


def test_examples_are_the_same(pair):
    plain, empty = pair
    assert (plain / "spec.json").read_text() == (empty / "spec.json").read_text()
    for model in spec.MODELS:
        for split in raw_examples.SPLITS:
            tables = [pq.read_table(directory_of(root, model, split)) for root in pair]
            # As text: what is missing is NaN, and equal to nothing.
            rows = [sorted(repr(row) for row in table.to_pylist()) for table in tables]
            assert rows[0] == rows[1]


def test_there_is_no_feature_no_column_and_no_weight_of_them(pair):
    resolved = ResolvedSpec.load(pair[0])
    assert resolved.feedback == ()
    assert not [f for f in resolved.features if f.kind is Kind.VECTOR]
    assert not [f for f in resolved.features if feedback.kind_of(f.column)]
    columns = pq.read_table(directory_of(pair[0], spec.RANKER, "train")).column_names
    assert not [name for name in columns if "vector" in name or "feedback" in name]
    candidate = CandidateModel(
        resolved, dataset.vocabulary_sizes(pair[0], spec.CANDIDATE), config.CANDIDATE_MODEL
    )
    assert candidate.id_dropout == config.CANDIDATE_MODEL.id_dropout
    ranker = Ranker(
        resolved, dataset.vocabulary_sizes(pair[0], spec.RANKER), config.RankerConfig(hidden=(4,))
    )
    assert ranker.heads is None
