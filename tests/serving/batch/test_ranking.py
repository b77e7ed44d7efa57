import dataclasses
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from features import command, dataset, files, spec
from features.tables import logs
from models.ranking import model as ranker
from serving.batch import bucketed_log
from serving.batch import ranking as batch_ranking
from serving.release import manifest as release

REPOSITORY = pathlib.Path(__file__).parents[3]
COLUMNS = [
    "user_id",
    "video_id",
    "time",
    "page_id",
    "clicked",
    "watch_time_s",
    "expected_watch_time_s",
]


@pytest.fixture(scope="module")
def found(small_release):
    return release.load(small_release)


def rank(found, logs_dir, tmp_path, **window):
    output = tmp_path / "ranked.parquet"
    rows = batch_ranking.rank(found, logs_dir=logs_dir, output=output, **window)
    table = pq.read_table(output)
    assert table.num_rows == rows
    assert table.schema.names == COLUMNS
    return table


def by_impression(users, videos, times, scores):
    return {key[:-1]: key[-1] for key in zip(users, videos, times, scores, strict=True)}


def scores_of(table):
    return by_impression(*(table[n].to_pylist() for n in (*COLUMNS[:3], COLUMNS[-1])))


def test_the_holdout_gets_the_scores_that_the_trained_ranker_gives_its_examples(
    found, small_site, tmp_path
):
    info = files.read_complete(small_site.examples)
    table = rank(found, small_site.logs, tmp_path, from_s=info["train_until_s"])
    arrays = dataset.load(small_site.examples, spec.RANKER, "holdout")
    model = ranker.load(small_site.ranker_model)
    expected = by_impression(
        [user.decode() for user in arrays["user_id"]],
        [video.decode() for video in arrays["label_video_id"]],
        arrays["time"].tolist(),
        model.expected_watch_time_s(arrays, arrays).numpy().tolist(),
    )
    found_scores = scores_of(table)
    assert found_scores.keys() == expected.keys()
    np.testing.assert_allclose(
        [found_scores[key] for key in expected], list(expected.values()), rtol=1e-4
    )


def test_every_impression_of_the_window_has_one_row(found, small_site, tmp_path):
    impressions = logs.read_table(small_site.logs, "impressions")
    day = 1_700_092_800
    everything = rank(found, small_site.logs, tmp_path)
    part = rank(found, small_site.logs, tmp_path, from_s=day, until_s=day + 86_400)
    inside = pc.and_(
        pc.greater_equal(impressions["time"], day), pc.less(impressions["time"], day + 86_400)
    )
    assert everything.num_rows == impressions.num_rows
    assert part.num_rows == pc.sum(inside).as_py() > 0
    # Nothing after the window may change a score within it.
    whole = scores_of(everything)
    for key, score in scores_of(part).items():
        assert score == pytest.approx(whole[key], rel=1e-5)


def test_users_in_many_buckets_get_the_same_scores(found, small_site, tmp_path, monkeypatch):
    one = rank(found, small_site.logs, tmp_path)
    monkeypatch.setattr(bucketed_log, "EVENTS_PER_BUCKET", 200)
    many = scores_of(rank(found, small_site.logs, tmp_path))
    for key, score in scores_of(one).items():
        assert many[key] == pytest.approx(score, rel=1e-5)


def test_rows_that_training_would_reject_are_in_the_output_all_the_same(
    found, small_site, tmp_path
):
    directory = tmp_path / "logs"
    shutil.copytree(small_site.logs, directory)
    logs.append(
        directory,
        "impressions",
        pa.table(
            {
                "user_id": ["u1", "nobody", "u1", "u1", None],
                "video_id": ["v1", "v1", "unknown", "v1", "v1"],
                "time": [1_700_200_000] * 5,
                "clicked": [True, False, True, True, False],
                "watch_time_s": [5.0, 0.0, 9.0, -3.0, 0.0],
            }
        ),
    )
    before = rank(found, small_site.logs, tmp_path, until_s=1_700_200_001).num_rows
    table = rank(found, directory, tmp_path, until_s=1_700_200_001)
    assert table.num_rows == before + 5
    added = table.filter(pc.equal(table["time"], 1_700_200_000))
    assert added.num_rows == 5
    # Only the impression of no user cannot be scored.
    assert added["expected_watch_time_s"].null_count == 1
    assert added.filter(pc.is_null(added["user_id"]))["expected_watch_time_s"].null_count == 1


@pytest.mark.parametrize(("offset_s", "warned"), [(-1, True), (0, False)])
def test_impressions_that_the_ranker_has_learnt_are_warned_of(
    found, small_site, tmp_path, caplog, offset_s, warned
):
    end = found.ranker_learnt_until_s
    assert end == found.manifest.lineage["examples"]["info"]["train_until_s"]
    rank(found, small_site.logs, tmp_path, from_s=end + offset_s)
    assert ("has learnt the impressions before" in caplog.text) == warned


def test_a_release_without_ranker_cannot_rank(found, small_site, tmp_path):
    without = dataclasses.replace(found, ranker=None)
    with pytest.raises(command.InputError, match="has no ranker"):
        rank(without, small_site.logs, tmp_path)


def test_logs_without_impressions_are_refused(found, small_site, tmp_path):
    directory = tmp_path / "logs"
    shutil.copytree(small_site.logs, directory)
    shutil.rmtree(directory / "impressions")
    with pytest.raises(command.InputError, match="no impressions to score"):
        rank(found, directory, tmp_path)


def test_a_stage_without_its_input_is_one_message_and_exit_code_2(small_release, tmp_path):
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "serving.recommend_batch",
            f"--serving_root={small_release}",
            "--stage=rank",
            f"--output={tmp_path / 'out.parquet'}",
        ],
        cwd=REPOSITORY,
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert "error: --stage=rank needs --logs." in done.stderr
    assert "Traceback" not in done.stderr


def test_a_release_says_until_when_it_has_learnt(found, small_site):
    assert found.learnt_until_s == files.read_complete(small_site.examples)["until_s"]
    manifest = dataclasses.replace(found.manifest, lineage={})
    assert dataclasses.replace(found, manifest=manifest).learnt_until_s is None
