r"""Compares formulas of a page's value by the true satisfaction of a simulated site.

    python -m pipeline.simulate --logs=logs --feedback=1
    python -m pipeline.preprocess --logs=logs --examples=examples --holdout_days=2
    python -m models.train_ranker --examples=examples --model=ranker
    python -m pipeline.measure_satisfaction --logs=logs --examples=examples --ranker_model=ranker \
        "--page_values=watch_time_s;watch_time_s + 30*like - 120*hide"

Each holdout page is put in the order of each formula, and what its first places are worth is asked
of the truth: the sum over places of P(click there) x satisfaction of a watch, and x watch time.
Beside it stands how often an impression gets each kind of feedback, and how long it is watched, by
decile of what the ranker expects: as it was, and by the truth, P(click there) x P(said of a watch).
Both are of what follows from the impression; the truth knows it also where hardly anything is said.
Intervals are over users; differences are paired.
"""

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from absl import flags

from features import command, config_flags, feedback, files, reports

if TYPE_CHECKING:
    from models.evaluation.intervals import Bootstrap
    from models.evaluation.ranking import Impressions
    from models.paper.experiments import Row

_LOGS = config_flags.path("logs", "reads", "Simulated logs, with feedback.", required=True)
_EXAMPLES = config_flags.path("examples", "reads", "Preprocessed from them.", required=True)
_RANKER = config_flags.path("ranker_model", "reads", "Ranker trained on them.", required=True)
_VALUES = flags.DEFINE_string(
    "page_values",
    "watch_time_s;watch_time_s + 30*like - 120*hide",
    "Formulas, with ; between them; the first is what the others are compared with.",
)
_PLACES = flags.DEFINE_integer("places", 3, "First places of a page that count.", lower_bound=1)
_OUTPUT = config_flags.path("output", "writes", "JSON file of the figures to write, too.")
_BINS = 10
_TOLERATED = 0.1
_BY_TRUTH, _BY_LABELS = "calibration_by_truth", "calibration_by_labels"
_WITHIN = "deciles within 10 %"
_ANYWHERE = ", wherever it stands"


def main() -> None:
    """Scores the holdout, asks the truth, and prints both tables."""
    from serving.ordering import page_value

    formulas = [page_value.parse(text.strip()) for text in _VALUES.value.split(";")]
    from models.evaluation import heads, ranking
    from models.evaluation.intervals import Bootstrap
    from models.ranking import model as rankers

    model = rankers.load(_RANKER.value, _EXAMPLES.value)
    for formula in formulas:
        formula.require(model.resolved.feedback, where=_RANKER.value)
    from features import dataset, spec

    arrays = dataset.load(_EXAMPLES.value, spec.RANKER, "holdout")
    impressions = ranking.Impressions.of(arrays)
    seconds = ranking.score_with_ranker(model, model.resolved, impressions).expected_watch_time_s
    if seconds is None:
        raise command.InputError(f"the ranker {_RANKER.value} expects no watch time.")
    said = {page_value.WATCH_TIME: seconds, **heads.predict(model, model.resolved, impressions)}
    truth = _truth(arrays, pathlib.Path(_LOGS.value))
    bootstrap = Bootstrap(num_users=int(impressions.user_codes.max()) + 1)
    pages = _of_pages(
        {formula.text: formula.of(said) for formula in formulas}, impressions, truth, bootstrap
    )
    parts = {"page_value": pages, **_of_heads(said, impressions, truth, bootstrap)}
    for name, rows in parts.items():
        for row in rows:
            print(f"  {name:<22} {row.setting:<52} {row.metric:<24} {row}")
    if _OUTPUT.value:
        _write(parts)


def _write(parts: "Mapping[str, Sequence[Row]]") -> None:
    from models.paper.experiments import Experiment

    questions = {
        "page_value": "each holdout page in the order of the formula; P(click there) x "
        "satisfaction, or watch time, of a watch, by the truth, summed over its first places",
        _BY_TRUTH: "expected over true rate, P(click there) x P(said of a watch), and expected "
        "over true watch time, by decile of what the ranker expects",
        _BY_LABELS: "expected rate and watch time over what was said and watched, by decile of "
        "what the ranker expects",
    }
    experiments = [
        Experiment(name=n, title=n, question=questions[n], paper="", settings={}, rows=rows)
        for n, rows in parts.items()
    ]
    document = {
        "measured": reports.stamp(),
        "settings": {},
        "experiments": [json.loads(experiment.to_json()) for experiment in experiments],
    }
    files.atomic_write(_OUTPUT.value, json.dumps(document, indent=1) + "\n")
    print(f"Wrote {_OUTPUT.value}.")


def _truth(arrays: Mapping[str, np.ndarray], logs: pathlib.Path) -> dict[str, np.ndarray]:
    """Returns what the truth knows of each impression, float64 [n] by name."""
    from pipeline.site import impressions as site_impressions
    from pipeline.site import satisfaction as site_satisfaction
    from pipeline.site import truth as site_truth

    site = site_truth.Truth.load(logs)
    ids = {n: [one.decode() for one in arrays[n]] for n in ("user_id", "page_id", "label_video_id")}
    known = site_impressions.expected_watch_times(site, logs)
    rows = pa.table({"page_id": ids["page_id"], "video_id": ids["label_video_id"]})
    rows = rows.append_column("row", pa.array(np.arange(rows.num_rows)))
    joined = rows.join(known, ["page_id", "video_id"], join_type="inner").sort_by("row")
    if joined.num_rows != rows.num_rows:
        raise command.InputError(
            f"{joined.num_rows:,} of {rows.num_rows:,} holdout impressions of --examples are "
            f"pages of {logs}; all should be."
        )
    decay = site.world.behaviour.position_decay
    place = np.asarray(arrays["position"], np.float64)
    shown = joined["click_probability"].to_numpy()
    # Whatever the page beside a watch decays by: what matters is to compare all places alike.
    anywhere = (place + 1) ** decay
    users, videos = ids["user_id"], ids["label_video_id"]
    seconds = shown * site.expected_watch_time_s(users, videos)
    return {
        f"satisfaction{_ANYWHERE}": shown * anywhere * site.satisfaction(users, videos),
        f"watch_time_s{_ANYWHERE}": seconds * anywhere,
        "attention": np.full(len(shown), decay),
        "watch_time_s": seconds,
        **{
            kind: shown * site.feedback_probability(kind, users, videos) * part
            for kind in site_satisfaction.KINDS
            # What is said of a whole channel is of no impression.
            for part in (1 - site_satisfaction.OF_CHANNEL if kind == feedback.HIDE else 1.0,)
        },
    }


def _of_pages(
    values: Mapping[str, np.ndarray],
    impressions: "Impressions",
    truth: Mapping[str, np.ndarray],
    bootstrap: "Bootstrap",
) -> "list[Row]":
    """Returns what the first places are worth in the order of each formula, by its text."""
    from models.evaluation import metrics
    from models.paper.experiments import Row

    codes, pages = impressions.user_codes, impressions.pages
    rows: list[Row] = []
    first: dict[str, metrics.UserSums] = {}
    for text, value in values.items():
        order = np.lexsort((-value, pages))
        starts = np.searchsorted(pages[order], pages[order])
        place = np.empty(len(order), np.int64)
        place[order] = np.arange(len(order)) - starts
        weight = (place + 1.0) ** -truth["attention"] * (place < _PLACES.value)
        num_pages = np.bincount(codes, weights=place == 0, minlength=bootstrap.num_users)
        for name in ("satisfaction", "watch_time_s"):
            total = np.bincount(
                codes, weights=weight * truth[f"{name}{_ANYWHERE}"], minlength=bootstrap.num_users
            )
            one = metrics.UserSums(
                numerator=total.astype(np.float64), denominator=num_pages.astype(np.float64)
            )
            before = first.setdefault(name, one)
            change = metrics.UserSums(
                numerator=one.numerator - before.numerator, denominator=one.denominator
            )
            figure, difference = bootstrap.intervals([one, change])
            rows.append(Row.of(text, name, figure, n=int(num_pages.sum())))
            if one is not before:
                rows.append(Row.of(text, f"{name}, change", difference, n=int(num_pages.sum())))
    return rows


def _of_heads(
    said: Mapping[str, np.ndarray],
    impressions: "Impressions",
    truth: Mapping[str, np.ndarray],
    bootstrap: "Bootstrap",
) -> "dict[str, list[Row]]":
    """Returns expected over actual by decile of each kind, by the truth and as it was.

    In both, ``all`` is over all impressions, and :data:`_WITHIN` the number of deciles that are
    right to a tenth.
    """
    rows: dict[str, list[Row]] = {_BY_TRUTH: [], _BY_LABELS: []}
    codes = impressions.user_codes
    for kind in [kind for kind in said if kind in truth]:
        label = kind if kind == "watch_time_s" else feedback.label(kind)
        labels = np.asarray(impressions.arrays[label], np.float64)
        for part, actual in ((_BY_TRUTH, truth[kind]), (_BY_LABELS, labels)):
            rows[part] += _by_decile(kind, said[kind], actual, codes=codes, bootstrap=bootstrap)
    return rows


def _by_decile(
    kind: str,
    expected: np.ndarray,
    actual: np.ndarray,
    *,
    codes: np.ndarray,
    bootstrap: "Bootstrap",
) -> "list[Row]":
    from models.evaluation import metrics
    from models.paper.experiments import Row

    bins = metrics.calibration_bins(expected, _BINS)
    parts = {f"decile {one + 1}": bins == one for one in np.unique(bins)}
    parts["all"] = np.ones(len(bins), bool)
    rows, within = [], 0
    for name, mask in parts.items():
        sums = [
            metrics.sums_by_user(values * mask, codes, bootstrap.num_users).numerator
            for values in (expected, actual)
        ]
        (ratio,) = bootstrap.intervals([metrics.UserSums(numerator=sums[0], denominator=sums[1])])
        within += name != "all" and abs(ratio.value - 1) <= _TOLERATED
        rows.append(Row.of(name, kind, ratio, n=int(mask.sum())))
    return [*rows, Row(setting=_WITHIN, metric=kind, value=float(within))]


if __name__ == "__main__":
    command.run(main)
