"""A raw column becomes a feature of the models by one declaration, and nothing else."""

import json
import re
import shutil
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest

from features import dataset, logs, spec
from features.spec import Kind, ResolvedSpec, Side
from models.embeddings import SideInputs, make_tables
from pipeline import preprocessing_job
from pipeline.preprocessing_config import PreprocessConfig

T0 = 1_650_000_000
QUALITY = [0.5, 2.0, None, 8.0]
PLANS = ["free", "gold", None]
DECLARED = [
    {"name": "quality", "kind": "continuous", "side": "candidate", "models": ["candidate"],
     "source": "videos.quality"},
    {"name": "plan", "kind": "univalent", "side": "query", "models": ["candidate"],
     "source": "users.plan"},
]  # fmt: skip


@pytest.fixture(scope="module")
def examples(tmp_path_factory):
    directory = tmp_path_factory.mktemp("extra")
    rng = np.random.default_rng(0)
    count = 60
    with logs.LogWriter(directory / "logs") as writer:
        names = [f"v{i}" for i in range(4)]
        writer.write(
            "videos", pa.table({"video_id": names, "upload_time": [T0] * 4, "quality": QUALITY})
        )
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
        features=tuple(f for f in resolved.features if f.name not in {"quality", "plan"}),
        spaces=resolved.spaces,
    )

    def width(side, features):
        inputs = SideInputs(features, spec.CANDIDATE, side)
        return inputs.width(make_tables(inputs.features, sizes, widths={"category": 4}, seed=1))

    assert width(Side.CANDIDATE, resolved) == width(Side.CANDIDATE, without) + 3
    assert width(Side.QUERY, resolved) == width(Side.QUERY, without) + 4


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
