"""A raw column becomes a feature of the models by one declaration, and nothing else."""

import json
import re
import shutil
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest

from features import command, dataset, spec
from features.spec import Kind, ResolvedSpec, Side
from features.tables import logs
from models.embeddings import SideInputs, make_tables
from pipeline.preprocessing import job as preprocessing_job
from pipeline.preprocessing.config import PreprocessConfig

T0 = 1_650_000_000
QUALITY = [0.5, 2.0, None, 8.0]
EMBEDDINGS = [[1.0, 0.0, 5.0], [3.0, 0.0, 5.0], None, [5.0, 0.5, 5.0]]
PLANS = ["free", "gold", None]
DECLARED = [
    {"name": "quality", "kind": "continuous", "side": "candidate", "models": ["candidate"],
     "source": "videos.quality"},
    {"name": "plan", "kind": "univalent", "side": "query", "models": ["candidate"],
     "source": "users.plan"},
    {"name": "content", "kind": "vector", "width": 3, "side": "candidate",
     "models": ["candidate"], "source": "videos.embedding"},
    {"name": "watched", "kind": "vector", "width": 3, "side": "query",
     "models": ["candidate"], "source": "history.watched.embedding"},
]  # fmt: skip


@pytest.fixture(scope="module")
def examples(tmp_path_factory):
    directory = tmp_path_factory.mktemp("extra")
    rng = np.random.default_rng(0)
    count = 60
    with logs.LogWriter(directory / "logs") as writer:
        names = [f"v{i}" for i in range(4)]
        columns = {"video_id": names, "upload_time": [T0] * 4}
        writer.write("videos", pa.table({**columns, "quality": QUALITY, "embedding": EMBEDDINGS}))
        writer.write("users", pa.table({"user_id": ["a", "b", "c"], "plan": PLANS}))
        writer.write(
            "watches",
            pa.table(
                {
                    "user_id": [f"{u}" for u in rng.choice(["a", "b", "c"], count)],
                    "video_id": [f"v{i}" for i in rng.integers(0, 4, count)],
                    "time": T0 + 7200 * np.arange(count),
                    "watch_time_s": [1.0] * count,
                }
            ),
        )
        writer.write_features(DECLARED)
    output = directory / "examples"
    preprocessing_job.run(str(directory / "logs"), str(output), PreprocessConfig(), [])
    return output


def test_it_is_transformed_by_kind_with_missing_values_apart(examples):
    resolved = ResolvedSpec.load(examples)
    column = spec.vector_column(Side.CANDIDATE, Kind.CONTINUOUS)
    place = resolved.vector_names(spec.CANDIDATE, Side.CANDIDATE, Kind.CONTINUOUS).index("quality")
    found = dataset.load(examples, spec.CANDIDATE, "train", [column, "video_id", "plan", "user_id"])
    videos = dataset.vocabulary(examples, spec.CANDIDATE, "video")
    ids = [int(name[1:]) for name in videos]
    quantile = {}
    for video, vector in zip(found["video_id"], found[column], strict=True):
        quantile.setdefault(ids[video - 1], set()).add(float(vector[place]))
    # One value for each video, in the order of the raw ones; missing is the declared 0.
    order = sorted(quantile, key=lambda video: QUALITY[video] or 0.0)
    values = [min(quantile[video]) for video in order]
    assert all(len(found) == 1 for found in quantile.values())
    assert values == sorted(set(values))
    assert values[0] >= 0
    assert values[-1] < 1
    plans = dataset.vocabulary(examples, spec.CANDIDATE, "category")
    for user, plan in set(zip(found["user_id"].tolist(), found["plan"].tolist(), strict=True)):
        name = user.decode() if isinstance(user, bytes) else user
        expected = PLANS["abc".index(name)]
        assert (plan == 0) == (expected is None)
        assert expected is None or plans[plan - 1] == f"plan={expected}"


def test_it_is_an_input_of_the_model_with_its_powers(examples):
    resolved = ResolvedSpec.load(examples)
    sizes = dataset.vocabulary_sizes(examples, spec.CANDIDATE)
    without = ResolvedSpec(
        features=tuple(
            f for f in resolved.features if f.name not in {entry["name"] for entry in DECLARED}
        ),
        spaces=resolved.spaces,
    )

    def width(side, features):
        inputs = SideInputs(features, spec.CANDIDATE, side)
        return inputs.width(make_tables(inputs.features, sizes, widths={"category": 4}, seed=1))

    assert width(Side.CANDIDATE, resolved) == width(Side.CANDIDATE, without) + 3 + 3
    assert width(Side.QUERY, resolved) == width(Side.QUERY, without) + 4 + 3


def test_a_vector_is_around_zero_and_zero_where_it_is_missing(examples):
    column = spec.vector_column(Side.CANDIDATE, Kind.VECTOR)
    found = dataset.load(examples, spec.CANDIDATE, "train", [column, "video_id"])
    videos = dataset.vocabulary(examples, spec.CANDIDATE, "video")
    vectors = {
        int(videos[video - 1][1:]): vector
        for video, vector in zip(found["video_id"], found[column], strict=True)
    }
    np.testing.assert_array_equal(vectors[2], [0, 0, 0])
    known = np.array([vectors[video] for video in (0, 1, 3)])
    assert (np.diff(known[:, 0]) > 0).all()
    assert known[0, 1] == known[1, 1] < 0 < known[2, 1]
    np.testing.assert_allclose(known[:, 2], 0, atol=1e-3)  # A constant says nothing.
    assert np.abs(known).max() <= 1
    # By hand: the first entry's distance from its mean, in a third of standard deviations.
    rows = np.array([EMBEDDINGS[int(videos[v - 1][1:])] is not None for v in found["video_id"]])
    firsts = np.array([EMBEDDINGS[int(videos[v - 1][1:])][0] for v in found["video_id"][rows]])
    expected = (firsts - firsts.mean()) / firsts.std() / 3
    np.testing.assert_allclose(found[column][rows, 0], expected, atol=1e-4)


def test_vectors_of_another_width_or_not_finite_are_one_message(examples, tmp_path):
    for bad, says in (
        ([1.0, 2.0], "have another width than the declared 3"),
        ([1.0, float("nan"), 2.0], "null, NaN or infinite"),
        ([1.0, float("inf"), 2.0], "null, NaN or infinite"),
    ):
        logs_dir = tmp_path / f"logs-{says[:4]}-{bad[1]}"
        shutil.copytree(examples.parent / "logs", logs_dir)
        rows = logs.read_table(logs_dir, "videos")
        shutil.rmtree(logs_dir / "videos")
        embeddings = pa.array([bad, *EMBEDDINGS[1:]])
        place = rows.column_names.index("embedding")
        logs.append(logs_dir, "videos", rows.set_column(place, "embedding", embeddings))
        with pytest.raises(command.InputError, match=says) as raised:
            preprocessing_job.run(str(logs_dir), str(tmp_path / "out"), PreprocessConfig(), [])
        assert "feature 'content': 1 of 4 rows" in str(raised.value)
        assert "v0" in str(raised.value)
        assert not (tmp_path / "out").exists()


def test_the_statistics_know_it(examples):
    report = json.loads((examples / "statistics.json").read_text())
    assert {"quality", "plan"} <= report["features"]["candidate_train"].keys()


def test_a_declaration_that_nothing_answers_is_refused_before_beam_is_loaded(examples, tmp_path):
    logs_dir = shutil.copytree(examples.parent / "logs", tmp_path / "logs")
    entry = {**DECLARED[0], "name": "typo", "source": "videos.qualtiy"}
    (logs_dir / logs.FEATURES_FILE).write_text(json.dumps([*DECLARED, entry]))
    line = [sys.executable, "-X", "importtime", "-m", "pipeline.preprocess"]
    done = subprocess.run(
        [*line, f"--logs={logs_dir}", f"--examples={tmp_path / 'examples'}"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "feature 'typo' reads videos.qualtiy" in done.stderr
    assert "Did you mean quality?" in done.stderr
    assert "| apache_beam" not in re.sub(" +", " ", done.stderr)
    assert not (tmp_path / "examples").exists()
