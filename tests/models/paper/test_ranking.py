import numpy as np
import pytest

from features import spec
from models.evaluation import metrics
from models.paper import ranking
from models.paper.experiments import NotApplicableError, Setting
from models.paper.ranking_lab import LOSS, Lab


@pytest.fixture(scope="module")
def setting(small_examples, tmp_path_factory):
    work = tmp_path_factory.mktemp("reproduce")
    return Setting(logs=work, examples=small_examples, work=work, mode="short", seeds=(1,))


@pytest.fixture(scope="module")
def lab(setting):
    return Lab(setting)


def test_training_stops_by_days_that_are_no_part_of_the_holdout(lab):
    train, validation = lab.train_rows["time"], lab._validation["time"]
    assert (len(train), len(validation), len(lab.holdout["time"])) == (1800, 200, 500)
    assert train.max() <= validation.min()


def test_a_model_is_trained_once(lab, monkeypatch):
    first = lab.train("once", seed=1, hidden=(4,))
    monkeypatch.setattr(Lab, "_train", None)
    again = lab.train("once", seed=1, hidden=(4,))
    np.testing.assert_array_equal(first.logits, again.logits)
    np.testing.assert_allclose(again.seconds, np.exp(again.logits), rtol=1e-5)


def test_rows_are_the_mean_over_seeds_of_the_papers_loss(lab):
    models = [lab.train("seeds", seed=seed, hidden=()) for seed in (1, 2)]
    rows = lab.rows("none", models)
    singles = [row.value for row in rows if row.metric == LOSS and row.seed]
    (together,) = (row for row in rows if row.metric == LOSS and row.seed is None)
    wanted = [
        metrics.weighted_per_user_loss(
            one.logits,
            *(lab.holdout[name] for name in ("clicked", "watch_time_s", "user_id", "page_id")),
        )
        for one in models
    ]
    assert singles == pytest.approx(wanted)
    assert together.value == pytest.approx(np.mean(wanted))
    assert together.low < together.value < together.high


def test_a_model_minus_itself_is_nothing(lab):
    models = [lab.train("itself", seed=1, hidden=())]
    row = lab.difference("itself minus itself", models, models)
    assert (row.value, row.low, row.high) == (0, 0, 0)


def test_thinning_raises_the_click_rate_and_keeps_every_click(lab):
    thin = lab.thinned(0.2)
    assert thin.train_rows["clicked"].sum() == lab.train_rows["clicked"].sum()
    assert thin.holdout["clicked"].sum() == lab.holdout["clicked"].sum()
    # P = .3 of the rows: .3 / (.3 + .7 / 5).
    assert thin.impressions.clicked.mean() == pytest.approx(0.3 / 0.44, abs=0.08)


def test_table_1_has_all_seven_rows_with_seeds_and_intervals(setting):
    found = ranking.table_1(setting)
    names = ["none", "256", "512", "1024", "512-256", "1024-512", "1024-512-256"]
    for name in names:
        seeds = {r.seed for r in found.rows if r.setting == name and r.metric == LOSS}
        assert seeds == {1, None}
        assert found.row(name, LOSS, None).n == 500
    assert [series.x for series in found.plots[0].series] == [tuple(names)] * 2
    # Table 1 as printed.
    printed = (0.416, 0.369, 0.367, 0.358, 0.352, 0.347, 0.346)
    assert found.plots[0].series[1].y == pytest.approx(printed)
    assert "1024-512-256 minus none" in found.conclusion
    assert "1024-512-256 minus 256" in found.conclusion
    assert found.settings["inputs_left_out"] == 0


def test_table_1_without_counts_leaves_out_what_people_did_and_nothing_else(setting, lab):
    found = ranking.table_1_without_counts(setting)
    counted = [f.name for f in lab.resolved.of(spec.RANKER) if f.source.startswith("history.")]
    counted = {name for name in counted if not name.startswith(("watched_", "recent_", "last_"))}
    assert found.settings["inputs_left_out"] == len(counted) > 0
    whole = ranking.table_1(setting)
    first, second = (one.row("512", LOSS, None).value for one in (found, whole))
    assert first != second


def test_inputs_that_these_logs_lack_are_said_to_be_absent(setting):
    found = ranking.ranking_inputs(setting)
    assert found.settings["not_in_these_logs"] == [
        "without sources and scores",
        "without the user-channel and user-topic history",
    ]
    assert {r.setting for r in found.rows if r.setting.endswith(" minus all")} == {
        "without powers minus all",
        "equal weights minus all",
        "paper's weights minus all",
        "with pairs of a user's impressions minus all",
        "without churn features minus all",
        "without the user-video history minus all",
    }


def test_bias_of_the_papers_weights_grows_as_its_formula_says(setting):
    found = ranking.ranking_bias(setting)
    paper, exact, formula = found.plots[0].series
    assert paper.x == exact.x == formula.x
    # P = .3 gives 1.43, P = .68 about 3. What the few holdout rows happen to hold is in both
    # models' ratios, so it leaves the ratio of the two.
    assert paper.y[1] > paper.y[0] > 1.2
    for place in (0, 1):
        bias = paper.y[place] / exact.y[place]
        assert bias == pytest.approx(formula.y[place], rel=0.35)


def test_calibration_counts_deciles(setting):
    found = ranking.ranking_calibration(setting)
    every = [r for r in found.rows if r.metric == ranking.RATIO]
    before, after = every[:10], every[10:]
    for name, ratios in (("Before the curve: ", before), ("", after)):
        assert sum(row.n for row in ratios) == 500
        within = sum(0.9 <= row.value <= 1.1 for row in ratios)
        assert f"{name}{within} of 10 deciles are within 10%" in found.conclusion


def test_the_curve_moves_watch_times_and_no_order(lab):
    trained = lab.train("curve", seed=1, hidden=(4,))
    order = np.argsort(trained.uncalibrated)
    assert not np.allclose(trained.uncalibrated, trained.seconds)
    assert np.all(np.diff(trained.logits[order]) >= 0)


def test_logs_without_impressions_do_not_apply(make_examples, world, tmp_path):
    examples = make_examples(ranker={"train": world.ranker_rows(50, seed=1)})
    empty = Setting(logs=tmp_path, examples=examples, work=tmp_path, mode="short", seeds=(1,))
    with pytest.raises(NotApplicableError, match="holdout days have no clicked"):
        Lab(empty)
