from pipeline.living import nights

SAID = """\
10:45:26 [8/8] build_release: python -m serving.build_release --examples=x
pass         candidate.model.all.recall_at_100 against chance: 0.5 [0.4, 0.6] (asked: at least 0.1)
FAIL         the ranker's transform equals the examples: 3 examples: 1 ids differ (asked: ids equal)
not checked  order of pages against its best part alone: 4 held-out watches (asked: at least 50)
not checked  watches: rows of the last day beside the days before: 0 days before (asked: 3 to tell)
error: build_release failed (exit code 2); what it said stands above.
"""


def test_gates_are_read_from_what_was_said_whether_they_passed_or_not():
    found = nights.gates_in(SAID)
    assert [gate["verdict"] for gate in found] == ["pass", "FAIL", *["not checked"] * 2]
    assert found[0] == {
        "verdict": "pass",
        "rule": "candidate.model.all.recall_at_100 against chance",
        "value": "0.5 [0.4, 0.6]",
        "asked": "at least 0.1",
    }
    assert found[1]["value"] == "3 examples: 1 ids differ"
    assert found[3]["rule"] == "watches: rows of the last day beside the days before"
    assert found[3]["value"] == "0 days before"


def test_a_gate_refuses_and_all_else_is_a_failure():
    assert nights.outcome_of(3, is_new=False) == "refused"
    outcomes = {nights.outcome_of(code, is_new=False) for code in (1, 2, 75, -9)}
    assert outcomes == {"failed"}


def test_what_ends_well_has_published_now_or_before_it_was_killed():
    assert nights.outcome_of(0, is_new=False) == nights.outcome_of(0, is_new=True) == "published"
    assert nights.outcome_of(1, is_new=True) == "published"  # The report alone failed.


def test_logs_that_cannot_be_learned_from_are_a_failure_that_is_told(tmp_path):
    (tmp_path / "logs" / "videos").mkdir(parents=True)
    night = nights.retrain(
        [],
        logs_dir=tmp_path / "logs",
        serving_root=tmp_path / "root",
        work=tmp_path / "work",
        said=tmp_path / "said.log",
    )
    assert (night.outcome, night.exit_code, night.release) == ("failed", 2, "")
    assert "watches: there is no such table" in night.said
    assert night.wall_s > 0 and night.cpu_s > 0 and night.peak_mib > 10
    assert [step["name"] for step in night.steps] == ["preprocess"]
