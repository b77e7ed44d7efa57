"""Gates on figures: against chance, the baselines and the release that serves."""

import json

import pytest

from features import command
from serving.building import metric_gates


def verdicts(gates):
    return [gate.verdict for gate in gates]


def figure(value, low=None, high=None):
    return {"value": value, "low": low, "high": high, "n": 10}


def test_where_a_list_holds_all_videos_recall_is_not_checked():
    found = metric_gates.judge({}, {}, num_videos=100, has_ranker=False)
    assert verdicts(found) == ["not checked"]
    assert "holds them all" in found[0].value


def judged_metrics(figures, previous=None, *, has_ranker=False):
    found = metric_gates.judge(figures, previous or {}, num_videos=1000, has_ranker=has_ranker)
    return {gate.rule: gate for gate in found}


def candidate_figures(recall, against):
    """Recall of the model, and its difference to each baseline with an interval."""
    figures = {"candidate.model.all.recall_at_100": figure(recall)}
    for name, (value, low, high) in against.items():
        key = f"candidate.model_minus_{name}.all.recall_at_100"
        figures[key] = figure(value, low, high)
    return figures


def test_nothing_is_called_passed_without_metrics():
    judged = judged_metrics({}, has_ranker=True)
    assert {gate.verdict for gate in judged.values()} == {"not checked"}


@pytest.mark.parametrize(
    ("recall", "verdict"),
    [
        (figure(0.2), "pass"),
        (figure(0.05), "FAIL"),
        (figure(0.09, 0.05, 0.12), "pass"),  # Too few users to tell.
        (figure(0.08, 0.07, 0.09), "FAIL"),
    ],
)
def test_a_model_that_is_surely_no_better_than_a_random_list_fails(recall, verdict):
    # 100 of 1,000 videos at random: 0.1.
    found = judged_metrics({"candidate.model.all.recall_at_100": recall})
    assert found["candidate.model.all.recall_at_100 against chance"].verdict == verdict


@pytest.mark.parametrize(
    ("against", "verdict"),
    [
        ({"popular": (0.1, 0.05, 0.15)}, "pass"),
        ({"popular": (-0.01, -0.04, 0.02)}, "pass"),  # Not surely worse.
        ({"popular": (0.1, 0.05, 0.15), "co_watch": (-0.05, -0.08, -0.02)}, "FAIL"),
        ({"popular": (-0.05, None, None)}, "FAIL"),
    ],
)
def test_a_model_that_is_surely_worse_than_the_best_baseline_fails(against, verdict):
    found = judged_metrics(candidate_figures(0.3, against))
    rule = f"candidate recall_at_100 against the best of {len(against)} baselines"
    assert found[rule].verdict == verdict


def test_of_a_loss_less_is_better():
    figures = {
        "ranker.model.all.weighted_per_user_loss": figure(0.4),
        "ranker.model_minus_trees.all.weighted_per_user_loss": figure(-0.02, -0.03, -0.01),
    }
    rule = "ranker weighted_per_user_loss against the best of 1 baselines"
    assert judged_metrics(figures, has_ranker=True)[rule].verdict == "pass"
    figures["ranker.model_minus_trees.all.weighted_per_user_loss"] = figure(0.02, 0.01, 0.03)
    assert judged_metrics(figures, has_ranker=True)[rule].verdict == "FAIL"


@pytest.mark.parametrize(("recall", "verdict"), [(0.17, "pass"), (0.15, "FAIL")])
def test_a_metric_that_falls_by_more_than_a_fifth_fails(recall, verdict):
    found = judged_metrics(candidate_figures(recall, {}), candidate_figures(0.2, {}))
    rule = "candidate.model.all.recall_at_100 against the release that serves now"
    assert found[rule].verdict == verdict


@pytest.mark.parametrize(
    ("loss", "verdict"),
    [
        # At most .12 by the rule; sqrt(.03^2 + (1.2 x .0333)^2) = .05 is chance.
        (figure(0.169, 0.139, 0.199), "pass"),
        (figure(0.171, 0.141, 0.201), "FAIL"),
    ],
)
def test_a_fall_that_may_be_chance_on_few_users_is_none(loss, verdict):
    key = "ranker.model.all.weighted_per_user_loss"
    before = {key: figure(0.1, 0.1 - 1 / 30, 0.1 + 1 / 30)}
    found = judged_metrics({key: loss}, before, has_ranker=True)
    assert found[f"{key} against the release that serves now"].verdict == verdict


def with_baselines(part, metric, model, **baselines):
    figures = {f"{part}.model.all.{metric}": figure(model)}
    for name, value in baselines.items():
        figures[f"{part}.{name}.all.{metric}"] = figure(value)
        figures[f"{part}.model_minus_{name}.all.{metric}"] = figure(model - value, -1.0, 1.0)
    return figures


@pytest.mark.parametrize(
    ("loss", "linear", "verdict"),
    [
        # A day of pages by popularity is easier: at most .15 x 1.2 x 1.5.
        (0.26, 0.3, "pass"),
        (0.28, 0.3, "FAIL"),
        # At most .15 x 1.2 where it is as hard, or easier.
        (0.17, 0.2, "pass"),
        (0.19, 0.2, "FAIL"),
        (0.17, 0.1, "pass"),
    ],
)
def test_a_holdout_that_is_harder_for_the_best_baseline_is_no_fall(loss, linear, verdict):
    of = ("ranker", "weighted_per_user_loss")
    before = with_baselines(*of, 0.15, linear=0.2, clicks=0.3)
    gates = judged_metrics(
        with_baselines(*of, loss, linear=linear, clicks=0.9), before, has_ranker=True
    )
    gate = gates["ranker.model.all.weighted_per_user_loss against the release that serves now"]
    assert gate.verdict == verdict
    assert ("1.50 times by the holdout, on which linear" in gate.threshold) == (linear == 0.3)


@pytest.mark.parametrize(("recall", "verdict"), [(0.25, "pass"), (0.23, "FAIL")])
def test_recall_may_fall_as_that_of_the_best_baseline(recall, verdict):
    of = ("candidate", "recall_at_100")
    before = with_baselines(*of, 0.6, popular=0.5, co_watch=0.2)
    gates = judged_metrics(with_baselines(*of, recall, popular=0.25, co_watch=0.2), before)
    rule = "candidate.model.all.recall_at_100 against the release that serves now"
    assert gates[rule].verdict == verdict


def test_metrics_are_read_from_a_file_or_its_directory(tmp_path):
    (tmp_path / "metrics.json").write_text(json.dumps({"figures": {"a": figure(1.0)}}))
    assert metric_gates.read(tmp_path) == metric_gates.read(tmp_path / "metrics.json")
    assert metric_gates.read(None) == {}


@pytest.mark.parametrize(("content", "message"), [(None, "not exist"), ("{}", "no figures")])
def test_unusable_metrics_are_refused(tmp_path, content, message):
    if content is not None:
        (tmp_path / "metrics.json").write_text(content)
    with pytest.raises(command.InputError, match=message):
        metric_gates.read(tmp_path / "metrics.json")


@pytest.mark.parametrize(("high", "verdict"), [(0.01, "pass"), (-0.01, "FAIL")])
def test_a_page_order_that_is_surely_worse_than_one_of_its_parts_fails(high, verdict):
    judged = {
        "chosen": "learned",
        "best_single": "log_live_watches_1h",
        "hits": {"learned": {"10": 0.2, "100": 0.5}},
        "difference": {
            "10": {"value": -0.02, "low": -0.05, "high": high},
            "100": {"value": 0.1, "low": 0.05, "high": 0.15},
        },
    }
    assert verdicts(metric_gates.page_order(judged)) == [verdict, "pass"]
    assert "minus log_live_watches_1h: -0.0200" in metric_gates.page_order(judged)[0].value


def test_without_watches_to_learn_an_order_from_it_is_said_that_none_was_judged():
    (gate,) = metric_gates.page_order({"lessons": 12, "needed": 200})
    assert (gate.verdict, gate.value) == ("not checked", "12 held-out watches of candidates")
