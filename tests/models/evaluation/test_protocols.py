"""Protocols of public data sets."""

import numpy as np
import pytest

from features import command
from features.durations import DAY_S
from models.evaluation import evaluation, metrics, protocols
from tests.models.evaluation.small_examples import TRAIN_END, write_candidates, write_examples


def info(until_s, days):
    return {"until_s": until_s, "train_until_s": until_s - int(days * DAY_S)}


@pytest.mark.parametrize("name", protocols.PROTOCOLS)
def test_examples_that_keep_other_days_out_are_refused_with_the_way_to_make_them(name):
    protocol = protocols.PROTOCOLS[name]
    until_s = protocol.until_s or 1_700_000_000
    assert protocols.require_fit(name, info(until_s, protocol.holdout_days)) is protocol
    with pytest.raises(command.InputError, match=f"--protocol={name} keeps the last"):
        protocols.require_fit(name, info(until_s, protocol.holdout_days + 1))


def test_the_right_number_of_days_at_another_time_is_refused():
    with pytest.raises(command.InputError, match="up to 2024-02-18T16:00:00Z; these examples"):
        protocols.require_fit("recflow", info(1_700_000_000, 1))


def test_the_gain_of_one_label_falls_with_its_rank_up_to_the_cut_off():
    gains = metrics.discounted_gains([1, 3, 7, 8], k=7)
    np.testing.assert_allclose(gains, [1, 1 / 2, 1 / 3, 0])


def test_the_last_watch_of_each_user_is_asked_for_and_ndcg_stands_beside_recall(tmp_path):
    directory = write_examples(tmp_path, ranking=False, until_s=TRAIN_END + DAY_S)
    later = [("u0", TRAIN_END + 500, 6, [4, 3])]  # u0 watched 4 and, last, 6.
    write_candidates(tmp_path / "more", "holdout", later)
    for part in ("candidate_examples/holdout", "transformed/candidate/holdout"):
        for path in (tmp_path / "more" / part).iterdir():
            path.rename(directory / part / f"more-{path.name}")
    config = evaluation.EvaluationConfig(
        protocol="movielens_leave_one_out", replicates=5, linear=False
    )
    result = evaluation.evaluate(directory, candidate_model=None, ranker=None, config=config)
    assert result.data["candidate_queries"] == result.data["candidate_users"] == 8
    assert result.settings["k"] == [10, 50, 200]
    assert result.settings["exclude_watched"] is True
    recall = result.figures["candidate.last_watch.all.recall_at_10"].value
    assert 0 < result.figures["candidate.last_watch.all.ndcg_at_10"].value <= recall
    assert any("leave one out" in note for note in result.notes)
