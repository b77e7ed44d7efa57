import json

import numpy as np
import pyarrow as pa
import pytest

from features import command
from serving.building import gates
from serving.building.skew import Skew
from serving.index import building, index


def report(recall=1.0, slices=None):
    return building.IndexReport(
        kind="scann",
        count=1000,
        dimension=9,
        k=200,
        num_queries=50,
        recall=recall,
        worst_slice_recall=min([recall, *(slices or {}).values()]),
        slices=slices or {},
        mean_ms=1.0,
        p99_ms=2.0,
        exact_ms=3.0,
        build_s=1.0,
        trials=(),
    )


def verdicts(found):
    return [gate.verdict for gate in found]


def figure(value, low=None, high=None):
    return {"value": value, "low": low, "high": high, "n": 10}


def test_a_gate_prints_verdict_rule_value_and_threshold():
    gate = gates.Gate(rule="recall@200", value="0.93", threshold="at least 0.95", verdict="FAIL")
    assert str(gate) == "FAIL         recall@200: 0.93 (asked: at least 0.95)"


def test_recall_below_the_target_fails():
    assert verdicts(gates.index_recall(report(0.949), 0.95)) == ["FAIL", "pass"]


def test_a_kind_of_user_that_is_searched_far_worse_fails():
    found = gates.index_recall(report(0.97, {"light users": 0.8, "heavy users": 0.99}), 0.95)
    assert verdicts(found) == ["pass", "FAIL"]
    assert "light users" in found[1].rule


def test_embeddings_that_are_not_finite_or_all_the_same_fail():
    good = np.eye(4, dtype=np.float32)
    bad = good.copy()
    bad[2, 1] = np.nan
    assert gates.finite_embeddings(good, good).verdict == "pass"
    assert gates.finite_embeddings(bad, good).verdict == "FAIL"
    assert gates.finite_embeddings(good, bad).verdict == "FAIL"
    assert gates.finite_embeddings(np.ones((4, 4), np.float32), good).verdict == "FAIL"


def build_index(directory, embeddings):
    ids = pa.array([str(i) for i in range(len(embeddings))])
    building.build(
        directory,
        ids,
        embeddings,
        tuning_queries=embeddings[:10],
        recall_target=0.95,
        exact_below=20_000,
        k=10,
    )
    return index.Index.load(directory)


def site(kind, users=200, seed=0):
    """Embeddings of videos and users, and watches that follow their softmax.

    On the news site a fiftieth of the videos is watched at all; in the archive everything is.
    """
    rng = np.random.default_rng(seed)
    count = {"news": 5000, "archive": 5000, "twenty": 20, "two": 2}[kind]
    videos = rng.normal(size=(count, 9)).astype(np.float32)
    videos[:, -1] = rng.normal(size=count)
    if kind == "news":
        videos[100:, -1] -= 15  # Dead.
    queries = rng.normal(size=(users, 9)).astype(np.float32)
    queries[:, -1] = 1
    logits = queries.astype(np.float64) @ videos.T.astype(np.float64)
    chances = np.exp(logits - logits.max(axis=1, keepdims=True))
    chances /= chances.sum(axis=1, keepdims=True)
    watched = sum(rng.multinomial(50, p) for p in chances)
    return videos, queries, watched


SITES = ["news", "archive", "twenty", "two"]


@pytest.mark.parametrize("kind", SITES)
def test_a_healthy_model_passes_the_collapse_gates_on_any_site(tmp_path, kind):
    videos, queries, watched = site(kind)
    built = build_index(tmp_path / "i", videos)
    assert verdicts(gates.collapse(built, queries, watched=watched)) == ["pass", "pass"]


@pytest.mark.parametrize("kind", SITES)
@pytest.mark.parametrize("collapsed", ["queries", "videos", "halves"])
def test_a_collapsed_model_fails_on_any_site(tmp_path, kind, collapsed):
    """One list for all, since queries are alike or since the bias decides; or two lists."""
    videos, queries, watched = site(kind)
    if collapsed == "videos":
        videos[:, :-1] *= 1e-4
    queries[:, :-1] = queries[0, :-1] + 1e-4 * queries[:, :-1]
    if collapsed == "halves" and kind == "archive":
        queries[::2, :-1] *= -1
    built = build_index(tmp_path / "i", videos)
    assert "FAIL" in verdicts(gates.collapse(built, queries, watched=watched))


def test_few_videos_of_many_are_no_collapse_where_people_watch_few(tmp_path):
    """The same lists are right where watches fall on 100 videos, and wrong elsewhere."""
    videos, queries, watched = site("news")
    built = build_index(tmp_path / "i", videos)
    _, _, elsewhere = site("archive")
    assert verdicts(gates.collapse(built, queries, watched=watched)) == ["pass", "pass"]
    assert "FAIL" in verdicts(gates.collapse(built, queries, watched=elsewhere))


@pytest.mark.parametrize(
    ("videos", "users", "cause"),
    [(1, 200, "1 videos"), (50, 1, "1 held-out users"), (50, 15, "15 held-out users")],
)
def test_what_cannot_be_told_is_said_to_be_so_and_forbids_nothing(tmp_path, videos, users, cause):
    rng = np.random.default_rng(0)
    built = build_index(tmp_path / "i", rng.normal(size=(videos, 9)).astype(np.float32))
    queries = rng.normal(size=(users, 9)).astype(np.float32)
    found = gates.collapse(built, queries, watched=np.ones(videos, np.int64))
    assert verdicts(found) == ["not checked"] * 2
    assert all(cause in gate.value for gate in found)
    assert not gates.failed(found)


def test_where_a_list_holds_all_videos_recall_is_not_checked():
    found = gates.metrics({}, {}, num_videos=100, has_ranker=False)
    assert verdicts(found) == ["not checked"]
    assert "holds them all" in found[0].value


@pytest.mark.parametrize(
    ("skew", "verdict"),
    [
        ({}, "pass"),
        ({"largest_difference": 9e-7}, "pass"),
        ({"largest_difference": 2e-6}, "FAIL"),
        ({"different_ids": 1}, "FAIL"),
        ({"missing": 1}, "FAIL"),
        ({"rows": 0}, "FAIL"),
    ],
)
def test_the_skew_proof_asks_for_equal_ids_and_nearly_equal_floats(skew, verdict):
    none = {"rows": 5, "missing": 0, "different_ids": 0, "largest_difference": 0.0, "feature": ""}
    assert gates.skew_proof("ranker", Skew(**{**none, **skew})).verdict == verdict


def metric_gates(figures, previous=None, *, has_ranker=False):
    found = gates.metrics(figures, previous or {}, num_videos=1000, has_ranker=has_ranker)
    return {gate.rule: gate for gate in found}


def candidate_figures(recall, against):
    """Recall of the model, and its difference to each baseline with an interval."""
    figures = {"candidate.model.all.recall_at_100": figure(recall)}
    for name, (value, low, high) in against.items():
        key = f"candidate.model_minus_{name}.all.recall_at_100"
        figures[key] = figure(value, low, high)
    return figures


def test_nothing_is_called_passed_without_metrics():
    assert {gate.verdict for gate in metric_gates({}, has_ranker=True).values()} == {"not checked"}


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
    found = metric_gates({"candidate.model.all.recall_at_100": recall})
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
    found = metric_gates(candidate_figures(0.3, against))
    rule = f"candidate recall_at_100 against the best of {len(against)} baselines"
    assert found[rule].verdict == verdict


def test_of_a_loss_less_is_better():
    figures = {
        "ranker.model.all.weighted_per_user_loss": figure(0.4),
        "ranker.model_minus_trees.all.weighted_per_user_loss": figure(-0.02, -0.03, -0.01),
    }
    rule = "ranker weighted_per_user_loss against the best of 1 baselines"
    assert metric_gates(figures, has_ranker=True)[rule].verdict == "pass"
    figures["ranker.model_minus_trees.all.weighted_per_user_loss"] = figure(0.02, 0.01, 0.03)
    assert metric_gates(figures, has_ranker=True)[rule].verdict == "FAIL"


@pytest.mark.parametrize(("recall", "verdict"), [(0.17, "pass"), (0.15, "FAIL")])
def test_a_metric_that_falls_by_more_than_a_fifth_fails(recall, verdict):
    found = metric_gates(candidate_figures(recall, {}), candidate_figures(0.2, {}))
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
    found = metric_gates({key: loss}, before, has_ranker=True)
    assert found[f"{key} against the release that serves now"].verdict == verdict


def test_metrics_are_read_from_a_file_or_its_directory(tmp_path):
    (tmp_path / "metrics.json").write_text(json.dumps({"figures": {"a": figure(1.0)}}))
    assert gates.read_metrics(tmp_path) == gates.read_metrics(tmp_path / "metrics.json")
    assert gates.read_metrics(None) == {}


@pytest.mark.parametrize(("content", "message"), [(None, "not exist"), ("{}", "no figures")])
def test_unusable_metrics_are_refused(tmp_path, content, message):
    if content is not None:
        (tmp_path / "metrics.json").write_text(content)
    with pytest.raises(command.InputError, match=message):
        gates.read_metrics(tmp_path / "metrics.json")


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
    assert verdicts(gates.page_order(judged)) == [verdict, "pass"]
    assert "minus log_live_watches_1h: -0.0200" in gates.page_order(judged)[0].value


def test_without_watches_to_learn_an_order_from_it_is_said_that_none_was_judged():
    (gate,) = gates.page_order({"lessons": 12, "needed": 200})
    assert (gate.verdict, gate.value) == ("not checked", "12 held-out watches of candidates")


def refit_step(overlap=0.6, listed=900, watches=300, recall=0.4):
    new = {"watches": watches, "measured": 0.0, "final": recall}
    checks = {"overlap_at_100": overlap, "listed": listed, "new": new, "videos": 1000}
    return {"checks": checks}


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (refit_step(), ["pass", "pass"]),
        # Of 900 videos a list of 100 has a ninth at random: .2 is a tenth of the way to 1.
        (refit_step(overlap=0.21), ["pass", "pass"]),
        (refit_step(overlap=0.19), ["FAIL", "pass"]),
        # A list of 100 of 1,000 videos at random has .1 of the labels.
        (refit_step(recall=0.09), ["pass", "FAIL"]),
        (refit_step(listed=150), ["not checked", "pass"]),
        (refit_step(watches=3), ["pass", "not checked"]),
        ({}, ["not checked", "not checked"]),
    ],
)
def test_a_served_model_that_came_apart_from_the_measured_one_fails(step, expected):
    assert verdicts(gates.refit(step)) == expected
