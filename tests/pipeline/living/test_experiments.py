"""Arms of the live experiments: each is the control but for what it claims."""

import dataclasses
import json
import shlex

import pytest

from features import command
from models.config import CANDIDATE_MODEL, RankerConfig
from pipeline.living import days, experiments, nights, presets
from pipeline.preprocessing.config import PreprocessConfig
from serving.funnel import experiment as ab_experiment
from serving.funnel.page import FunnelConfig

UNTIL_S = presets.PRESETS["tiny"].site.start_s + 86_400
CONFIGS = {
    "ranker_flags": RankerConfig(),
    "candidate_flags": CANDIDATE_MODEL,
    "preprocess_flags": PreprocessConfig(),
}


@pytest.fixture
def living(tmp_path):
    preset = presets.PRESETS["tiny"].of(days=2, seed=1, workers=1)
    return days.LivingSite(tmp_path, days.Run(preset=preset, days=2))


def test_an_unknown_claim_is_refused_with_those_that_there_are():
    with pytest.raises(command.InputError, match="must be among all, clicks, no_churn"):
        experiments.chosen(["clicks", "more"])
    names = [claim.name for claim in experiments.chosen(["all"])]
    assert names == ["control", *experiments.CLAIMS]


def test_an_arm_is_trained_with_the_flags_of_the_site_and_its_own(living):
    control, clicks = experiments.chosen(["clicks"])
    plain = experiments._flags(living, control, UNTIL_S)
    of_site = {flag for flag in living.run.preset.retrain if "preprocess" not in flag}
    assert of_site <= set(plain)
    assert {
        "--until=2022-05-02T00:00:00Z",
        "--release_flags=--keep=32",
        "--preprocess_flags=--holdout_days=0.25 --examples_per_user=12",
    } <= set(plain)
    changed = set(experiments._flags(living, clicks, UNTIL_S)) - set(plain)
    assert changed == {
        "--ranker_flags=--hidden=32 --epochs=2 --loss=logistic",
        "--force_publish=arm clicks of an experiment",
    }


def test_the_control_learns_an_order_of_pages_where_an_arm_has_it(living, monkeypatch):
    trained = {}

    def retrain(flags, **_):
        arm = next(f for f in flags if f.startswith("--force_publish")).split()[1]
        trained[arm] = flags
        return nights.Night(
            outcome=nights.PUBLISHED, release=f"of {arm}", exit_code=0, wall_s=0.0, cpu_s=0.0,
            peak_mib=0.0, steps=[], gates=[], said="",
        )  # fmt: skip

    monkeypatch.setattr(nights, "retrain", retrain)
    monkeypatch.setattr(experiments.living_course, "until_of", lambda _: UNTIL_S + 86_400)
    monkeypatch.setattr(living.snapshots, "path", lambda _: living.output)
    for names, learns in ((["learned", "clicks"], True), (["clicks"], False)):
        releases = experiments._trained(living, experiments.chosen(names))["releases"]
        assert releases.get("learned", "of control") == "of control"
        assert ("--learn_order" in trained["control"]) == learns
        assert "--learn_order" not in trained["clicks"]


def test_what_is_said_of_candidates_is_tried_on_pages_in_their_order():
    names = [claim.name for claim in experiments.chosen(["no_age"])]
    assert names == ["control", "retrieval", "no_age"]
    by_candidates = [c for c in experiments.CLAIMS.values() if c.against == "retrieval"]
    assert {c.name for c in by_candidates} == {"no_age", "held_out", "all_examples"}
    for claim in by_candidates:
        assert claim.settings == experiments.RETRIEVAL.settings


@pytest.mark.parametrize("claim", experiments.CLAIMS.values(), ids=lambda claim: claim.name)
def test_each_claim_changes_something_that_there_is(claim):
    for name, text in claim.flags.items():
        values = dict(flag.removeprefix("--").split("=") for flag in shlex.split(text))
        known = dataclasses.asdict(CONFIGS[name])
        assert set(values) <= set(known)
        for field, value in values.items():
            assert str(known[field]) != value
    against = {"control": experiments.CONTROL, **experiments.CLAIMS}[claim.against]
    assert claim.flags or claim.settings != against.settings
    FunnelConfig(**claim.settings)


def test_the_file_that_the_server_gets_splits_users_evenly(living, tmp_path):
    claims = experiments.chosen(["clicks", "retrieval"])
    releases = {"control": "20260101000000", "clicks": "20260101000001"}
    releases["retrieval"] = releases["control"]
    made = experiments._experiment(living, claims, releases)
    (tmp_path / "claims.json").write_text(json.dumps(made))
    loaded = ab_experiment.load(tmp_path / "claims.json")
    assert loaded.releases == set(releases.values())
    assert [arm.settings["order"] for arm in loaded.arms] == [
        "watch_time",
        "watch_time",
        "retrieval",
    ]
    arms = [loaded.arm_of(f"u{n}").name for n in range(3000)]
    assert all(800 < arms.count(claim.name) < 1200 for claim in claims)
