"""Section 4 of the paper again: Table 1, what the ranker's inputs are worth, what exp(x) means."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats

from features import spec
from features.charts import BARS, LINES, Plot, Series
from models import config
from models.config import RankerConfig
from models.evaluation import metrics
from models.evaluation.intervals import Interval
from models.paper import experiments, ranking_lab
from models.paper.experiments import Experiment, Make, Row, Setting
from models.paper.ranking_lab import LOSS, Floats, Lab, Trained

# Table 1: hidden layers, and the paper's weighted, per-user loss in percent.
TABLE_1: Mapping[tuple[int, ...], float] = {
    (): 41.6,
    (256,): 36.9,
    (512,): 36.7,
    (1024,): 35.8,
    (512, 256): 35.2,
    (1024, 512): 34.7,
    (1024, 512, 256): 34.6,
}
_NARROWEST, _WIDEST = (256,), (1024, 512, 256)
# Origins of features that count what people did.
_COUNTED = {"history", "statistics", "live", "nomination"}
# The paper's model, whatever the product's defaults are: one tower and nothing beside it.
_PAPER: Mapping[str, Any] = {"pairwise": 0.0, "dropout": 0.0}
_PAPER_POWERS, _PAPER_EQUAL = 0.2, 4.1  # Percent that the loss rises by.
RATIO = "expected_over_actual"
_BINS = 10
# Shares of the unclicked impressions that are kept, to raise the click rate.
_KEPT = {"short": (1.0, 0.2), "full": (1.0, 0.5, 0.2, 0.1, 0.05)}


def table_1(setting: Setting) -> Experiment:
    """Hidden layers, all inputs."""
    return _table_1(
        ranking_lab.opened(setting), name="table_1", title="Table 1: wider and deeper hidden layers"
    )


def table_1_without_counts(setting: Setting) -> Experiment:
    """Hidden layers, where no input is a cross of others that was counted beforehand.

    How often a user clicked on the topic of a video, or what is clicked this hour, says much of
    what a hidden layer would have to find out from the user, the hour and the video.
    """
    lab = ranking_lab.opened(setting)
    counts = tuple(
        feature.name
        for feature in lab.resolved.of(spec.RANKER)
        if feature.origin in _COUNTED and not feature.categorical
    )
    if not counts:
        raise experiments.NotApplicableError("no input of these logs is a count.")
    return _table_1(
        lab,
        name="table_1_without_counts",
        title="Table 1 where no input counts what people did",
        exclude=counts,
    )


def _table_1(lab: Lab, *, name: str, title: str, exclude: tuple[str, ...] = ()) -> Experiment:
    rows: list[Row] = []
    trained: dict[tuple[int, ...], list[Trained]] = {}
    for hidden in TABLE_1:
        label = f"tower-{_name(hidden)}"
        trained[hidden] = _seeds(lab, label, hidden=hidden, exclude=exclude)
        rows += lab.rows(_name(hidden), trained[hidden])
    changes = {
        hidden: lab.difference(f"{_name(hidden)} minus none", trained[hidden], trained[()])
        for hidden in TABLE_1
        if hidden
    }
    # What one hidden layer of the least width leaves to wider and deeper ones.
    changes_beyond = [
        lab.difference(
            f"{_name(hidden)} minus {_name(_NARROWEST)}", trained[hidden], trained[_NARROWEST]
        )
        for hidden in TABLE_1
        if hidden and hidden != _NARROWEST
    ]
    rows += [*changes.values(), *changes_beyond]
    ours = [_row(rows, _name(hidden)) for hidden in TABLE_1]
    names = [_name(hidden) for hidden in TABLE_1]
    order = stats.spearmanr([row.value for row in ours], list(TABLE_1.values())).statistic
    best = min(ours, key=lambda row: row.value)
    return Experiment(
        name=name,
        title=title,
        question="Does the weighted, per-user loss of the next days fall with wider and with "
        "deeper hidden layers?",
        paper="; ".join(f"{_name(h)}: {loss:.1f}%" for h, loss in TABLE_1.items()),
        settings=lab.settings(
            seeds=lab.setting.seeds,
            loss=config.EXACT,
            model=dict(_PAPER),
            inputs_left_out=len(exclude),
        ),
        rows=tuple(rows),
        plots=(
            Plot(
                kind=BARS,
                x_label="hidden layers",
                y_label="weighted, per-user loss",
                series=(
                    Series.of_rows("ours", names, ours),
                    Series(
                        name="paper",
                        x=tuple(names),
                        y=tuple(v / 100 for v in TABLE_1.values()),
                    ),
                ),
            ),
        ),
        conclusion=f"Best: {best.setting}, {best}. Rank correlation with the paper's order over "
        f"the seven rows: {order:.2f}. "
        + "; ".join(
            f"{row.setting}: {row}, {verdict(row)}" for row in (*changes.values(), *changes_beyond)
        )
        + ".",
    )


def ranking_inputs(setting: Setting) -> Experiment:
    """One thing changed at a time, at the widest tower."""
    lab = ranking_lab.opened(setting)
    without: dict[str, dict[str, Any]] = {
        "without powers": {"powers": False},
        "equal weights": {"loss": config.LOGISTIC},
        "paper's weights": {"loss": config.WEIGHTED},
        "with pairs of a user's impressions": {"pairwise": RankerConfig().pairwise},
    }
    groups = {
        "without churn features": lab.names(
            "user_video_impressions", "user_video_seconds_since_impression"
        ),
        "without sources and scores": lab.names("candidate_sources", "retrieval_score"),
        "without the user-video history": lab.names("user_video_"),
        "without the user-channel and user-topic history": lab.names(
            "user_channel_", "user_topic_"
        ),
    }
    without |= {name: {"exclude": names} for name, names in groups.items() if names}
    whole = _seeds(lab, f"tower-{_name(_WIDEST)}", hidden=_WIDEST)
    rows = lab.rows("all", whole)
    changes = []
    for name, settings in without.items():
        trained = _seeds(lab, f"inputs-{name.replace(' ', '-')}", hidden=_WIDEST, **settings)
        rows += lab.rows(name, trained)
        changes.append(lab.difference(f"{name} minus all", trained, whole))
    rows += changes
    absent = [name for name, names in groups.items() if not names]
    return Experiment(
        name="ranking_inputs",
        title="Section 4: what powers, weights and inputs are worth",
        question="How much does the loss rise where one of them is left out? Does a loss of pairs, "
        "which the paper does not have, lower it?",
        paper=f"without powers +{_PAPER_POWERS}%, equal weights +{_PAPER_EQUAL}%; the user's past "
        "with the video and similar ones are the most important signals, sources and scores are "
        "crucial, and impressions without a watch demote a video (no numbers).",
        settings=lab.settings(seeds=setting.seeds, hidden=_WIDEST, not_in_these_logs=absent),
        rows=tuple(rows),
        plots=(
            Plot(
                kind=BARS,
                x_label="",
                y_label="rise of the weighted, per-user loss",
                series=(Series.of_rows("minus all", [row.setting for row in changes], changes),),
            ),
        ),
        conclusion="; ".join(f"{row.setting}: {row}, {verdict(row)}" for row in changes)
        + "."
        + (f" These logs have nothing to test: {', '.join(absent)}." if absent else ""),
    )


def ranking_bias(setting: Setting) -> Experiment:
    """What the paper's approximation does as clicks become frequent."""
    whole = ranking_lab.opened(setting)
    rates, rows = [], []
    measured: dict[str, list[Row]] = {config.WEIGHTED: [], config.EXACT: []}
    formula = []
    seed = setting.seeds[0]
    for share in _KEPT[setting.mode]:
        lab = whole.thinned(share) if share < 1 else whole
        rate = float(lab.impressions.clicked.mean())
        rates.append(rate)
        formula.append(1 / (1 - rate))
        for loss, ratios in measured.items():
            trained = lab.train(f"bias-{loss}", seed=seed, hidden=(256,), loss=loss, **_PAPER)
            everything = np.ones(len(lab.impressions), bool)
            ratio = _ratio(lab, trained.seconds, everything)
            name = f"{loss}, P {rate:.2f}"
            ratios.append(
                Row.of(name, RATIO, ratio, seed=seed, seconds=trained.took_s, n=len(lab.holdout))
            )
        rows += [ratios[-1] for ratios in measured.values()]
        rows.append(Row(setting=f"1 / (1 - P), P {rate:.2f}", metric=RATIO, value=formula[-1]))
    paper, exact = (measured[loss] for loss in (config.WEIGHTED, config.EXACT))
    return Experiment(
        name="ranking_bias",
        title="Section 4.2: odds and expected watch time as clicks become frequent",
        question="Learned odds are E[T] / (1 - P): E[T] only where few impressions are clicked. "
        "How far off is exp(x) as the click rate P grows, with the paper's weights and with the "
        "exact ones (a unit-weight negative for each click besides)?",
        paper="assumes that P is small, so that E[T] (1 + P) is close to E[T].",
        settings=whole.settings(
            click_rates=rates,
            how="unclicked impressions were left out at random, in training and in the holdout",
            ratio="sum of exp(x) over sum of what was watched, all holdout impressions",
            formula="of the mean P; what is watched long is clicked more often than the mean, so "
            "the sums are farther off than that",
            calibration="a curve through x, fitted to the last days of training by each loss's own "
            "weights: it takes out what early stopping leaves, not what the weights say",
        ),
        rows=tuple(rows),
        plots=(
            Plot(
                kind=LINES,
                x_label="click rate P",
                y_label="expected over actual watch time",
                series=(
                    Series.of_rows("paper's weights", rates, paper),
                    Series.of_rows("exact", rates, exact),
                    Series(name="1 / (1 - P)", x=tuple(rates), y=tuple(formula)),
                ),
            ),
        ),
        conclusion=f"At P = {rates[-1]:.2f} the paper's exp(x) is {paper[-1]} times what was "
        f"watched (formula: {formula[-1]:.2f}), the exact one {exact[-1]}. At P = {rates[0]:.2f}: "
        f"{paper[0]} (formula: {formula[0]:.2f}) and {exact[0]}.",
    )


def ranking_calibration(setting: Setting) -> Experiment:
    """Expected against actual watch time by decile."""
    lab = ranking_lab.opened(setting)
    seed = setting.seeds[0]
    trained = lab.train(f"tower-{_name(_WIDEST)}", seed=seed, hidden=_WIDEST, **_PAPER)
    before, after = (_deciles(lab, one) for one in (trained.uncalibrated, trained.seconds))
    rows = [
        dataclasses.replace(row, setting=f"{row.setting}{name}", seed=seed)
        for name, deciles in ((" before the curve", before), ("", after))
        for row in deciles.ratios
    ]
    rows += [*after.expected, *after.actual]
    places = [row.value for row in after.expected]
    return Experiment(
        name="ranking_calibration",
        title="Section 4.2: does exp(x) mean seconds?",
        question="With the exact loss, is the expected watch time what people then watched, in "
        "each decile of the expectation? Before and after a rising curve through x, which is "
        "fitted to the last days of training and changes no order.",
        paper="odds closely estimate expected watch time (no number).",
        settings=lab.settings(hidden=_WIDEST, loss=config.EXACT, seed=seed),
        rows=tuple(rows),
        plots=(
            Plot(
                kind=LINES,
                x_label="expected watch time, seconds per impression (decile mean)",
                y_label="seconds per impression",
                series=(
                    Series.of_rows("watched", places, after.actual),
                    Series(name="as expected", x=tuple(places), y=tuple(places)),
                ),
            ),
        ),
        conclusion=f"{after.summary()} Before the curve: {before.summary()}",
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Deciles:
    """Tenths of the impressions, those of the shortest expectation first.

    Attributes:
        ratios: Expected over actual watch time.
        expected: Means of the expectation, seconds.
        actual: Means of the watch time, seconds.
    """

    ratios: list[Row]
    expected: list[Row]
    actual: list[Row]

    def summary(self) -> str:
        off = [row for row in self.ratios if not 0.9 <= row.value <= 1.1]
        surely = [row for row in off if row.low > 1.1 or row.high < 0.9]
        outside = f"; outside: {', '.join(f'{r.setting} {r}' for r in off)}" if off else ""
        return (
            f"{len(self.ratios) - len(off)} of {len(self.ratios)} deciles are within 10%{outside}. "
            f"Certainly outside (the whole interval): {len(surely)}."
        )


def _deciles(lab: Lab, seconds: Floats) -> _Deciles:
    bins = metrics.calibration_bins(seconds, _BINS)
    ratios, expected, actual = [], [], []
    for one in np.unique(bins):
        mask = bins == one
        name, n = f"decile {one + 1}", int(mask.sum())
        ratios.append(Row.of(name, RATIO, _ratio(lab, seconds, mask), n=n))
        sums = [
            metrics.sums_by_user(values, lab.impressions.user_codes, lab.num_users, where=mask)
            for values in (seconds, lab.impressions.watch_time_s)
        ]
        means = lab.bootstrap().intervals(sums)
        expected.append(Row.of(name, "expected_watch_time_s", means[0], n=n))
        actual.append(Row.of(name, "actual_watch_time_s", means[1], n=n))
    return _Deciles(ratios=ratios, expected=expected, actual=actual)


def _seeds(lab: Lab, label: str, **model: Any) -> list[Trained]:
    return [lab.train(label, seed=seed, **{**_PAPER, **model}) for seed in lab.setting.seeds]


def _ratio(lab: Lab, seconds: Floats, mask: np.ndarray) -> Interval:
    """Returns expected over actual watch time of some impressions."""
    expected, actual = (
        metrics.sums_by_user(values * mask, lab.impressions.user_codes, lab.num_users).numerator
        for values in (seconds, lab.impressions.watch_time_s)
    )
    sums = metrics.UserSums(numerator=expected, denominator=actual)
    (interval,) = lab.bootstrap().intervals([sums])
    return interval


def _name(hidden: Sequence[int]) -> str:
    return "-".join(str(width) for width in hidden) or "none"


def _row(rows: Sequence[Row], name: str) -> Row:
    """Returns the row over all seeds."""
    return next(r for r in rows if (r.setting, r.metric, r.seed) == (name, LOSS, None))


def verdict(row: Row) -> str:
    """Returns what an interval of a difference of losses says."""
    if not row.excludes_zero:
        return "not told apart (the interval holds 0)"
    return "worse" if row.value > 0 else "better"


EXPERIMENTS: Mapping[str, Make] = {
    "table_1": table_1,
    "table_1_without_counts": table_1_without_counts,
    "ranking_inputs": ranking_inputs,
    "ranking_bias": ranking_bias,
    "ranking_calibration": ranking_calibration,
}
