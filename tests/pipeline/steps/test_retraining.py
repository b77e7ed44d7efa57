"""Which steps a retraining runs, and what it says of them."""

import dataclasses
import json
import os
import sys
import time

import pytest

from features import command
from pipeline.steps import report_page, retraining
from pipeline.steps.retraining import StepResult
from tests.pipeline.steps.chains import CHAIN, Outcome


def test_all_steps_run_in_order_and_are_reported(site):
    assert site.outcomes() == [Outcome.DONE] * 3
    assert site.ran() == ["prepare", "rank", "judge"]
    report = json.loads((site.work / "retrain.json").read_text())
    assert report["outcome"] == "done"
    assert [step["name"] for step in report["steps"]] == ["prepare", "rank", "judge"]
    assert all(step["seconds"] > 0 for step in report["steps"])


def test_a_second_run_runs_nothing(site):
    site.outcomes()
    site.ran()
    assert site.outcomes() == [Outcome.UP_TO_DATE] * 3
    assert site.ran() == []


def test_new_logs_redo_everything(site):
    site.outcomes()
    site.ran()
    (site.logs / "impressions" / "part2.parquet").write_text("more")
    site.outcomes()
    assert site.ran() == ["prepare", "rank", "judge"]


def test_new_logs_behind_a_link_redo_everything_and_loops_end(site):
    elsewhere = site.root / "other disk"
    elsewhere.mkdir()
    (site.logs / "impressions" / "date=2026-11-20").symlink_to(elsewhere)
    (site.logs / "impressions" / "loop").symlink_to(site.logs)
    (site.logs / "impressions" / "nothing").symlink_to("/nonexistent")
    site.outcomes()
    site.ran()
    (elsewhere / "part2.parquet").write_text("more")
    site.outcomes()
    assert site.ran() == ["prepare", "rank", "judge"]


def test_a_hidden_file_among_the_logs_is_no_change(site):
    site.outcomes()
    (site.logs / ".part.tmp").write_text("being written")
    assert site.outcomes() == [Outcome.UP_TO_DATE] * 3


def test_other_flags_of_a_step_redo_it_and_what_reads_it(site):
    site.outcomes()
    site.ran()
    site.outcomes(flags={"rank": ["--epochs=2"]})
    assert site.ran() == ["rank", "judge"]


def test_a_flag_that_changes_nothing_made_does_not_redo_a_step(site):
    site.outcomes()
    site.ran()
    site.outcomes(unrecorded_flags={"judge": ["--force_publish=why"]})
    assert site.ran() == []


def test_what_stands_in_for_a_ranker_runs_without_one_or_when_it_is_asked_for(site, monkeypatch):
    stand_in = dataclasses.replace(CHAIN[1], is_instead=True, needs_ranking=False)
    chain = (CHAIN[0], stand_in, CHAIN[2])
    assert site.outcomes(chain=chain)[1] is Outcome.SKIPPED
    assert site.ran() == ["prepare", "judge"]
    assert site.outcomes(chain=chain, besides=("rank",))[1] is Outcome.DONE
    assert site.ran() == ["rank", "judge"]  # What reads it is made anew.
    assert site.outcomes(chain=chain)[1] is Outcome.SKIPPED
    assert site.ran() == ["judge"]
    monkeypatch.setenv("RANKING", "0")
    (site.logs / "impressions" / "part2.parquet").write_text("more")
    assert site.outcomes(chain=chain) == [Outcome.DONE] * 3


def test_an_artefact_made_anew_by_hand_is_made_again_and_so_is_what_read_it(site):
    site.outcomes()
    site.ran()
    (site.work / "ranker" / "COMPLETE").write_text("{}")
    site.outcomes()
    assert site.ran() == ["rank", "judge"]


def test_an_artefact_that_was_removed_is_made_again(site):
    site.outcomes()
    site.ran()
    (site.work / "verdict" / "COMPLETE").unlink()
    site.outcomes()
    assert site.ran() == ["judge"]


def test_a_failed_step_stops_the_run_and_is_the_first_of_the_next(site, monkeypatch):
    monkeypatch.setenv("FAIL_RANK", "4")
    steps = site.job().run()
    assert [step.outcome for step in steps] == [Outcome.DONE, Outcome.FAILED]
    assert steps[-1].exit_code == 4
    assert json.loads((site.work / "retrain.json").read_text())["outcome"] == "failed"
    monkeypatch.delenv("FAIL_RANK")
    site.ran()
    site.outcomes()
    assert site.ran() == ["rank", "judge"]


def test_a_run_that_a_gate_refused_says_so(site, monkeypatch):
    monkeypatch.setenv("FAIL_JUDGE", str(command.RefusedError.exit_code))
    job = site.job()
    event, news = job.news(job.run())
    assert event == "refused"
    assert (news["step"], news["reason"]) == ("judge", "exit code 3")
    assert [step["name"] for step in news["steps"]] == ["prepare", "rank", "judge"]
    assert json.loads((site.work / "retrain.json").read_text())["outcome"] == "refused"


def test_what_each_step_costs_is_reported_and_told(site):
    job = site.job()
    event, news = job.news(job.run())
    assert (event, news["step"]) == ("done", "")
    for told in (json.loads((site.work / "retrain.json").read_text())["steps"], news["steps"]):
        cost = told[0].get("cost", told[0])
        assert cost["cpu_s"] > 0
        # What a process was forked from counts, and that is these tests.
        assert 1 << 20 < cost["peak_memory_bytes"] < 1 << 36
        made = site.work / "examples" / "COMPLETE"
        assert cost["output_bytes"] == made.stat().st_size


def test_the_reports_of_the_last_runs_are_kept(site, monkeypatch):
    stamps = iter(f"2026-01-0{day}T00:00:00Z" for day in range(1, 6) for _ in range(4))
    monkeypatch.setattr(retraining.step_records, "utc_now", lambda: next(stamps))
    for _ in range(4):
        site.job(keep_runs=2).run()
    runs = sorted((site.work / "runs").iterdir())
    assert len(runs) == 2
    assert json.loads(runs[-1].read_text()) == json.loads((site.work / "retrain.json").read_text())


def test_a_step_that_failed_after_it_had_once_succeeded_is_not_taken_for_complete(
    site, monkeypatch
):
    site.outcomes()
    monkeypatch.setenv("FAIL_RANK", "3")
    site.outcomes(flags={"rank": ["--epochs=2"]})
    monkeypatch.delenv("FAIL_RANK")
    site.ran()
    # With the first flags again: the failed step overwrote the artefact of then, and the verdict
    # of then is about that one.
    site.outcomes()
    assert site.ran() == ["rank", "judge"]


def test_a_step_that_ends_well_without_its_artefact_has_failed(site, monkeypatch):
    monkeypatch.setenv("FORGETS", "rank")
    steps = site.job().run()
    assert steps[-1].outcome is Outcome.FAILED
    assert "left nothing complete" in steps[-1].reason


def test_without_impressions_the_ranker_is_skipped_and_nobody_is_given_one(site, monkeypatch):
    monkeypatch.setenv("RANKING", "0")
    steps = site.job().run()
    assert [step.outcome for step in steps] == [Outcome.DONE, Outcome.SKIPPED, Outcome.DONE]
    assert "no impressions" in steps[1].reason
    assert "--ranker=" not in steps[2].command
    assert site.ran() == ["prepare", "judge"]


def test_why_there_is_no_ranker_is_what_preprocessing_says(site, monkeypatch):
    monkeypatch.setenv("RANKING", "0")
    monkeypatch.setenv("NO_RANKING", "nobody clicked")
    steps = site.job().run()
    assert steps[1].reason == "nobody clicked: there will be no ranker"


def test_the_plan_says_what_a_run_would_do_and_runs_nothing(site):
    assert [step.outcome for step in site.job().plan()] == [Outcome.DONE] * 3
    assert not site.work.exists()
    site.outcomes()
    site.ran()
    plan = site.job(flags={"rank": ["--epochs=2"]}).plan()
    assert [step.outcome for step in plan] == [Outcome.UP_TO_DATE, Outcome.DONE, Outcome.DONE]
    assert plan[1].command == (
        f"{sys.executable} -m rank --examples={site.work}/examples --out={site.work}/ranker "
        "--epochs=2"
    )
    assert site.ran() == []


def test_logs_that_are_not_there_are_refused_before_anything_is_made(site):
    with pytest.raises(command.InputError, match=r"holds no logs.*pipeline\.simulate"):
        site.job(logs=site.root / "nowhere").run()
    assert not site.work.exists()


def test_run_that_fails_leaves_a_page_and_one_that_built_a_release_keeps_its_own(site, monkeypatch):
    page = site.work / report_page.PAGE
    job = site.job()
    assert not report_page.complete(job, job.run()).exists()  # Nothing failed, nothing was built.
    monkeypatch.setenv("FAIL_JUDGE", "7")
    job = site.job(flags={"judge": ["--x=1"]})
    report_page.complete(job, job.run())
    assert "<b>Failed</b> at the step judge: exit code 7." in page.read_text()
    # A build that refused has written a page that says more.
    built = [StepResult(name=report_page.BUILD, outcome=Outcome.FAILED, seconds=5, exit_code=2)]
    page.write_text("why")
    assert report_page.complete(job, built).read_text() == "why"
    os.utime(page, (time.time() - 60, time.time() - 60))  # That of another day.
    assert "<b>Failed</b>" in report_page.complete(job, built).read_text()
