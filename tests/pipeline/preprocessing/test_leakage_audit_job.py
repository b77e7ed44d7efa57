"""A preprocessing that leaks fails, and leaves nothing."""

import json
import pathlib

import pyarrow as pa
import pytest

from features import event_columns, files, spec
from features.as_of import held_out, history, replay, statistics
from features.tables import logs
from pipeline.preprocessing import job as preprocessing_job
from pipeline.preprocessing import leakage_audit, transforming
from pipeline.preprocessing.config import PreprocessConfig
from tests.pipeline.preprocessing.leaks import USERS, VIDEOS, not_strictly, tables


@pytest.fixture(scope="module")
def logs_dir(tmp_path_factory):
    directory = tmp_path_factory.mktemp("audit") / "logs"
    with logs.LogWriter(directory) as writer:
        for name, table in ({"videos": VIDEOS, "users": USERS} | tables()).items():
            writer.write(name, table)
    return directory


@pytest.fixture(scope="module")
def small_logs_dir(tmp_path_factory):
    """Without impressions, so without a ranker: its transform takes most of the time."""
    directory = tmp_path_factory.mktemp("audit") / "logs"
    with logs.LogWriter(directory) as writer:
        writer.write("videos", VIDEOS)
        writer.write("watches", tables()["watches"])
    return directory


def run(logs_dir, output, **settings):
    return preprocessing_job.run(str(logs_dir), str(output), PreprocessConfig(**settings), [])


def refused(logs_dir, tmp_path, match, **settings):
    output = tmp_path / "examples"
    with pytest.raises(leakage_audit.LeakageError, match=match):
        run(logs_dir, output, **settings)
    assert not list(tmp_path.iterdir())


def test_the_job_writes_down_what_it_looked_at(logs_dir, tmp_path):
    info = run(logs_dir, tmp_path / "examples")
    audit = info["audit"]
    assert files.read_complete(tmp_path / "examples")["audit"] == json.loads(json.dumps(audit))
    assert set(audit["inputs"]) == {
        f"{model}_{split}" for model in spec.MODELS for split in ("train", "holdout")
    }
    assert audit["newest_training_label"] < info["train_until_s"]
    assert audit["transforms"]["candidate"]["newest"] == audit["newest_training_label"]
    assert audit["excused"] == []
    # Nothing that carried it stays behind.
    assert not [p for p in (tmp_path / "examples").iterdir() if p.name.startswith(".")]


def test_the_job_fails_on_a_leak_and_leaves_nothing(logs_dir, tmp_path, monkeypatch):
    monkeypatch.setattr(event_columns, "visible", not_strictly)
    refused(logs_dir, tmp_path, "of the candidate model have inputs from 'watches'")


def test_a_held_out_run_without_its_flag_fails(logs_dir, tmp_path, monkeypatch):
    # As if somebody had made training examples of held-out watches the default.
    over = held_out.HeldOutHistory.over
    make = replay.Replayer._candidate_batch

    def leaky(self, labels, codes, past, *, is_train):
        rows = self._catalogue.rows(labels["video_id"])
        if is_train:
            past = over(past, until_s=self._config.train_until_s, labels=rows)
        return make(self, labels, codes, past, is_train=is_train)

    monkeypatch.setattr(replay.Replayer, "_candidate_batch", leaky)
    refused(logs_dir, tmp_path, "train examples of the candidate model.*'watches'")


def test_a_held_out_run_with_its_flag_says_so_and_passes(small_logs_dir, tmp_path, caplog):
    info = run(small_logs_dir, tmp_path / "examples", label=replay.HELD_OUT)
    assert "candidate train watches" in info["audit"]["excused"]
    assert info["audit"]["inputs"]["candidate_train"]["watches"]["leaking"] > 0
    assert "LEAK" in caplog.text


def test_the_flag_excuses_nothing_but_training_examples(logs_dir, tmp_path, monkeypatch):
    monkeypatch.setattr(history, "visible", not_strictly)
    monkeypatch.setattr(event_columns, "visible", not_strictly)
    refused(logs_dir, tmp_path, "holdout examples", label=replay.HELD_OUT)


def test_statistics_that_count_events_a_day_too_early_fail_the_job(logs_dir, tmp_path, monkeypatch):
    count = statistics.daily_counts

    def early(watches, impressions):
        daily = count(watches, impressions)
        return daily.set_column(1, "day", pa.compute.subtract(daily["day"], 1))

    monkeypatch.setattr(statistics, "daily_counts", early)
    refused(logs_dir, tmp_path, "of which the video statistics have 0 there")


def test_a_vocabulary_fitted_on_the_holdout_too_fails(small_logs_dir, tmp_path, monkeypatch):
    row_groups = transforming.row_groups

    def all_splits(directory: pathlib.Path):
        both = row_groups(directory)
        if directory.name == "train" and directory.parent.name == "candidate_examples":
            both += row_groups(directory.parent / "holdout")
        return both

    monkeypatch.setattr(transforming, "row_groups", all_splits)
    refused(small_logs_dir, tmp_path, "quantiles of the candidate model were fitted on")


def test_a_token_that_no_training_example_has_fails(small_logs_dir, tmp_path, monkeypatch):
    # A vocabulary that was brought from elsewhere: from the logs of another week, say.
    vocabulary = leakage_audit.dataset.vocabulary

    def with_another(directory, model, space):
        return [*vocabulary(directory, model, space), *(["z"] if space == "video" else [])]

    monkeypatch.setattr(leakage_audit.dataset, "vocabulary", with_another)
    refused(small_logs_dir, tmp_path, "1 of 5 tokens.*'video'.*'z'")


def test_an_example_on_the_wrong_side_of_the_split_fails_the_job(logs_dir, tmp_path, monkeypatch):
    labels = replay.Replayer._labels

    def mixed(self, watches, said, periods):
        split = labels(self, watches, said, periods)
        together = pa.concat_tables(split.values())
        return {replay.TRAIN: together, replay.HOLDOUT: together.slice(0, 0)}

    monkeypatch.setattr(replay.Replayer, "_labels", mixed)
    refused(logs_dir, tmp_path, "a training example of 2023")
