"""Feedback of a simulated site: as often as the truth says, and of nothing else."""

import dataclasses

import numpy as np
import pytest

from features import feedback
from features.tables import logs, schema
from pipeline.site import config as site_config
from pipeline.site import impressions as site_impressions
from pipeline.site import satisfaction as site_satisfaction
from pipeline.site import simulator
from pipeline.site import truth as site_truth

MINI = dataclasses.replace(site_config.PRESETS["tiny"], days=4, users=150)


@pytest.fixture(scope="module")
def silent(tmp_path_factory):
    directory = tmp_path_factory.mktemp("silent") / "logs"
    simulator.write_logs(MINI, directory)
    return directory


@pytest.fixture(scope="module")
def outspoken(tmp_path_factory):
    directory = tmp_path_factory.mktemp("outspoken") / "logs"
    simulator.write_logs(dataclasses.replace(MINI, feedback=1.0), directory)
    return directory


def test_what_is_said_changes_nothing_of_what_is_done(silent, outspoken):
    assert "feedback" not in logs.tables_in(silent)
    for name in ("watches", "impressions", "searches", "videos", "users"):
        assert logs.read_table(silent, name).equals(logs.read_table(outspoken, name))


def test_each_kind_is_said_as_often_as_the_truth_expects(outspoken):
    truth = site_truth.Truth.load(outspoken)
    watches = logs.read_table(outspoken, "watches")
    said = logs.read_table(outspoken, "feedback")
    kinds = np.array(said["kind"].to_pylist())
    for kind in site_satisfaction.KINDS:
        chance = truth.feedback_probability(kind, watches["user_id"], watches["video_id"])
        spread = np.sqrt((chance * (1 - chance)).sum())
        assert abs((kinds == kind).sum() - chance.sum()) < 4 * spread


def test_impressions_get_what_the_truth_expects_of_them(outspoken):
    truth = site_truth.Truth.load(outspoken)
    tables = {n: logs.read_table(outspoken, n) for n in ("impressions", "watches", "feedback")}
    shown, clicked = tables["impressions"], np.asarray(tables["impressions"]["clicked"])
    known = site_impressions.expected_watch_times(truth, outspoken)
    click = known["click_probability"].to_numpy()
    labels = feedback.outcomes(
        shown, tables["feedback"], site_satisfaction.KINDS, watches=tables["watches"]
    )
    told = np.zeros(shown.num_rows)
    for kind in site_satisfaction.KINDS:
        label = labels[feedback.label(kind)].to_numpy()
        of_channel = site_satisfaction.OF_CHANNEL if kind == feedback.HIDE else 0.0
        said = truth.feedback_probability(kind, shown["user_id"], shown["video_id"])
        chance = click * said * (1 - of_channel)
        assert abs(label.sum() - chance.sum()) < 4 * np.sqrt((chance * (1 - chance)).sum())
        told += label
    # Nothing is said here of what was not watched.
    assert told[~clicked].sum() < 0.01 * told.sum()


def test_who_likes_is_satisfied_and_who_hides_is_not(outspoken):
    truth = site_truth.Truth.load(outspoken)
    said = logs.read_table(outspoken, "feedback")
    said = said.filter(said["video_id"].is_valid())
    worth = truth.satisfaction(said["user_id"], said["video_id"])
    kinds = np.array(said["kind"].to_pylist())
    assert worth[kinds == "like"].mean() > 0.2 > -0.1 > worth[kinds == "hide"].mean()
    assert np.abs(worth).max() < 1


def test_no_row_of_feedback_is_rejected(outspoken):
    said = logs.read_table(outspoken, "feedback")
    _, rejected = schema.validate(
        "feedback",
        schema.conform("feedback", said),
        known_video_ids=logs.read_table(outspoken, "videos")["video_id"].combine_chunks(),
        known_user_ids=logs.read_table(outspoken, "users")["user_id"].combine_chunks(),
        now_s=site_truth.Truth.load(outspoken).world.config.end_s,
    )
    assert rejected.num_rows == 0
    assert said["channel_id"].null_count < said.num_rows
