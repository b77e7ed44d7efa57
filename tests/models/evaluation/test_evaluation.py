"""What an evaluation measures on examples whose figures can be told by hand."""

import dataclasses
import importlib.util
import json
import math
import subprocess
import sys
import types

import pyarrow.parquet as pq
import pytest

from features import command
from models.evaluation import evaluation, report
from tests.models.evaluation.small_examples import (
    CONFIG,
    RankerThatPrefersAge,
    TowersThatFollow,
    value,
    write_examples,
)


class TowersWithoutTheFirstVideos(TowersThatFollow):
    """Has no embedding for video rows 0 and 1."""

    repeat_bias = 0.0

    def can_embed(self, video_features):
        return video_features["video_id"] > 2


def test_model_is_ranked_over_the_whole_corpus(measured):
    # The next video is right for the seven users with a history. The new user's bag is empty
    # (id 0), which the fake takes for row 0 of its table: video row 0, and that is the label.
    assert value(measured, "candidate.model.all.recall_at_1") == 1
    assert value(measured, "candidate.model.all.map") == 1
    assert measured.figures["candidate.model.all.map"].n == 8


def test_videos_without_an_embedding_are_never_recommended(examples_dir):
    result = evaluation.evaluate(
        examples_dir, candidate_model=TowersWithoutTheFirstVideos(), ranker=None, config=CONFIG
    )
    # Row 0 is the label of u4 and the new user, row 1 that of u5: 5 hits of 8 are left.
    assert value(result, "candidate.model.all.recall_at_2") == 5 / 8
    assert any("no embedding for 2 of 8 videos" in note for note in result.notes)


def test_a_ranker_of_clicks_claims_no_seconds(examples_dir):
    ranker = RankerThatPrefersAge()
    ranker.config = types.SimpleNamespace(loss="logistic")
    result = evaluation.evaluate(examples_dir, candidate_model=None, ranker=ranker, config=CONFIG)
    assert "ranker.model.all.auc" in result.figures
    assert not result.calibration
    assert not any(key.endswith(".mae_s") and ".model" in key for key in result.figures)


def test_baselines_stand_beside_the_model(measured):
    # Each video was watched 3 times in training: freshness orders them, v0 first, v1 second.
    # Labels are 4 to 7, 0, 1, 2 and 0 for the new user.
    assert value(measured, "candidate.popularity_all.all.recall_at_1") == 2 / 8
    assert value(measured, "candidate.popularity_all.all.recall_at_2") == 3 / 8
    assert value(measured, "candidate.last_watch.all.recall_at_1") == 1
    change = measured.figures["candidate.model_minus_popularity_all.all.recall_at_2"]
    assert change.value == 5 / 8
    assert change.low <= change.value <= change.high


def test_slices_count_their_own_queries(measured):
    assert measured.figures["candidate.model.new_users.recall_at_2"].n == 1
    assert measured.figures["candidate.model.light_users.recall_at_2"].n == 7
    assert measured.figures["candidate.model.region_SE.recall_at_2"].n == 8
    # v0 was uploaded at training's end; it is the label of u4 and of the new user.
    assert measured.figures["candidate.model.fresh_videos_1d.recall_at_2"].n == 2


def test_coverage_and_age_look_at_the_list(measured):
    # A list of 100 is the whole corpus: all videos, and ages 0 to 7 days (plus seconds).
    assert value(measured, "candidate.model.all.coverage_at_100") == 1
    assert value(measured, "candidate.model.all.mean_video_age_days_at_100") == pytest.approx(
        3.5, abs=0.01
    )


def test_ranker_is_measured_on_pages(measured):
    # Clicked are the oldest videos, and the fake prefers age: no pair is wrong.
    assert value(measured, "ranker.model.all.weighted_per_user_loss") == 0
    assert value(measured, "ranker.chance.all.weighted_per_user_loss") == 0.5
    assert value(measured, "ranker.model_minus_chance.all.weighted_per_user_loss") == -0.5
    assert value(measured, "ranker.model.all.auc") == 1
    assert measured.figures["ranker.model.region_SE.weighted_per_user_loss"].n == 64


def test_calibration_compares_expectation_with_what_was_watched(measured):
    lowest, *_, highest = measured.calibration["decile"]
    # Age quantile 0 is clipped to .001; the highest is 7/8 of 60 s and was watched 60 s.
    key = "ranker.model.{}.{}_watch_time_s"
    assert value(measured, key.format(lowest, "expected")) == pytest.approx(0.06)
    assert value(measured, key.format(lowest, "actual")) == 0
    assert value(measured, key.format(highest, "expected")) == pytest.approx(52.5)
    assert value(measured, key.format(highest, "actual")) == 60


def test_inferred_pages_are_noted(measured):
    assert any("page_id" in note for note in measured.notes)
    assert measured.data["ranker_pages"] == 8


def test_systems_are_the_model_and_then_the_best_baselines(measured):
    # Both item-to-item forms and the last watch are right 7 times of 8 or more.
    systems = measured.systems("candidate")
    assert systems[0] == "model"
    assert systems[-1].startswith("popularity")
    assert measured.systems("ranker") == [
        "model", "video_click_rate", "video_mean_watch_time", "chance"
    ]  # fmt: skip


def test_watched_videos_may_be_excluded(examples_dir):
    config = evaluation.EvaluationConfig(ks=(1,), replicates=5, exclude_watched=True, linear=False)
    result = evaluation.evaluate(examples_dir, candidate_model=None, ranker=None, config=config)
    # v0 is most popular, then v1. Labelled v0: u4 (watched v7, v4) and the new user. Labelled v1:
    # u5, who watched v0 and v5, so that v1 comes first. u0 and u5 alone watched v0.
    assert value(result, "candidate.popularity_all.all.recall_at_1") == 3 / 8


def test_factorisations_and_live_popularity_are_measured_where_asked_for(examples_dir, measured):
    config = evaluation.EvaluationConfig(
        ks=(1,), replicates=5, factorisation=True, live=True, linear=False
    )
    result = evaluation.evaluate(examples_dir, candidate_model=None, ranker=None, config=config)
    further = set(result.systems("candidate")) - set(measured.systems("candidate"))
    live = {"live_popularity_1h", "live_popularity_6h", "live_popularity_1d"}
    known = {"als", "bpr"} if importlib.util.find_spec("implicit") else set()
    assert further == {"warp_factorisation", *live, *known}


def test_empty_holdout_leaves_a_note_and_the_other_part(tmp_path):
    directory = write_examples(tmp_path, holdout=False)
    result = evaluation.evaluate(
        directory, candidate_model=TowersThatFollow(), ranker=None, config=CONFIG
    )
    assert not result.figures
    assert any("--holdout_days" in note for note in result.notes)
    report.html_page(result)
    assert "holdout" in report.text(result)


def test_no_impressions_leave_retrieval_alone(tmp_path):
    directory = write_examples(tmp_path, ranking=False)
    result = evaluation.evaluate(
        directory, candidate_model=TowersThatFollow(), ranker=None, config=CONFIG
    )
    assert result.systems("candidate")
    assert not result.systems("ranker")
    assert any("no impressions" in note for note in result.notes)


def test_many_queries_are_drawn_from(examples_dir):
    config = dataclasses.replace(CONFIG, max_queries=5)
    result = evaluation.evaluate(
        examples_dir, candidate_model=TowersThatFollow(), ranker=None, config=config
    )
    assert result.figures["candidate.last_watch.all.recall_at_1"].n == 5
    # Embeddings and raw queries were cut to the same rows: the model is still always right.
    assert value(result, "candidate.model.all.recall_at_1") == 1
    assert "5 holdout watches (drawn from 8)" in report.text(result)


def test_raw_and_transformed_examples_must_be_the_same(tmp_path):
    directory = write_examples(tmp_path, ranking=False)
    path = directory / "candidate_examples/holdout/part-0.parquet"
    pq.write_table(pq.read_table(path).slice(1), path)
    with pytest.raises(command.InputError, match="not the same"):
        evaluation.evaluate(
            directory, candidate_model=TowersThatFollow(), ranker=None, config=CONFIG
        )


def test_learned_baselines_train_on_a_sample_of_a_large_split(examples_dir, monkeypatch):
    monkeypatch.setattr(evaluation, "MAX_BASELINE_EXAMPLES", 32)
    config = evaluation.EvaluationConfig(ks=(1,), replicates=5, linear=True)
    result = evaluation.evaluate(examples_dir, candidate_model=None, ranker=None, config=config)
    assert value(result, "ranker.linear.all.weighted_per_user_loss") < 0.1


def test_trees_that_cannot_be_grown_are_left_out_loudly(examples_dir, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "lightgbm", None)
    config = dataclasses.replace(CONFIG, gbdt=True)
    result = evaluation.evaluate(examples_dir, candidate_model=None, ranker=None, config=config)
    assert "trees" not in result.systems("ranker")
    assert any("lightgbm is not installed" in note for note in result.notes)
    assert "NOT measured" in caplog.text
    assert "NOT measured" in report.html_page(result)


@pytest.mark.parametrize(
    "wrong", [{"ks": ()}, {"ks": (0,)}, {"replicates": 0}, {"max_queries": -1}]
)
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(ValueError, match="must (each )?be"):
        evaluation.EvaluationConfig(**wrong)


def run_binary(*flags):
    return subprocess.run(
        [sys.executable, "-m", "models.evaluate", *flags],
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_binary_writes_metrics_report_and_prints_the_table(examples_dir, tmp_path):
    output = tmp_path / "evaluation"
    done = run_binary(
        f"--examples={examples_dir}", f"--output={output}", "--k=1,2", "--bootstrap=20",
        "--nolinear",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "popularity all" in done.stdout
    assert (
        f"Next: python -m serving.build_release --examples={examples_dir} "
        f"--candidate_model=CANDIDATE_MODEL --metrics={output} --serving_root=SERVING_ROOT\n"
    ) in done.stdout
    assert sorted(path.name for path in output.iterdir()) == [
        "COMPLETE", "metrics.json", "report.html"
    ]  # fmt: skip
    figures = json.loads((output / "metrics.json").read_text())["figures"]
    assert not math.isnan(figures["candidate.popularity_all.all.map"]["value"])


def test_examples_that_are_not_complete_are_refused(tmp_path):
    with pytest.raises(command.InputError, match=r"python -m pipeline\.preprocess"):
        evaluation.evaluate(tmp_path, candidate_model=None, ranker=None, config=CONFIG)


def test_binary_refuses_a_cut_off_that_is_no_number(tmp_path):
    done = run_binary(f"--examples={tmp_path}", f"--output={tmp_path / 'out'}", "--k=1,x")
    assert done.returncode == 2
    assert "error: --k must be whole numbers" in done.stderr
    assert not (tmp_path / "out").exists()
