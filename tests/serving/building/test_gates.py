import numpy as np
import pyarrow as pa
import pytest

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
