"""Figure 4 of the paper again: example age and how popularity depends on the time since upload."""

import dataclasses
import json
import pathlib

import numpy as np
import numpy.typing as npt

from features import dataset, spec, tensors
from features.charts import LINES, Plot, Series
from features.durations import DAY_S, HOUR_S
from features.spec import Kind, ResolvedSpec, Side
from models.baselines import retrieval as baselines
from models.config import MAP, RECALL
from models.paper import experiments
from models.paper.experiments import Experiment, NotApplicableError, Row, Setting
from models.paper.retrieval_lab import Lab, Trained, verdict

_AGE = "example_age_s"
_WITH, _POWERS, _WITHOUT = "with example age", "with its powers alone", "without"
# Days around the upload, at most; all of them must lie in the training window, so that each point
# of a curve is a mean over the same videos.
_BEFORE_DAYS, _AFTER_DAYS = 3, 10
_MAX_VIDEOS = 300
_USERS = {experiments.SHORT: 100, experiments.FULL: 400}
_FIRST_VIEWERS_S = 600  # As in pipeline/site/hours.py, whose formula true_shares() repeats.

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Curves:
    """Probability of videos by day since upload, mean over videos.

    Attributes:
        days: int64 [d], days since upload.
        by_name: float64 [d] each: what is measured.
        single: Curves by name of one video, the most watched one, float64 [d] each.
        correlations: Correlation by name, of each video's own curve with the reference, median over
            videos.
    """

    days: Ints
    by_name: dict[str, Floats]
    single: dict[str, Floats]
    correlations: dict[str, float]


def figure_4(setting: Setting) -> Experiment:
    """Example age."""
    lab = Lab(setting)
    names = ResolvedSpec.load(lab.examples).vector_names(
        spec.CANDIDATE, Side.QUERY, Kind.CONTINUOUS
    )
    if _AGE not in names:
        raise NotApplicableError(f"the examples have no feature {_AGE}.")
    rows: list[Row] = []
    curves: Curves | None = None
    verdicts = []
    for seed in setting.seeds:
        trained = {
            _WITH: lab.train(seed=seed, as_shipped=True),
            _POWERS: lab.train(seed=seed, as_shipped=True, age_pieces=0),
            _WITHOUT: lab.train(seed=seed, as_shipped=True, exclude=(_AGE,)),
        }
        made = _curves(lab, trained)
        curves = curves or made
        rows += _correlations(made, seed)
        fresh = {n: m for n, m in lab.masks.items() if n in {"fresh_videos_1d", "fresh_videos_7d"}}
        ranked = {name: lab.rank(one) for name, one in trained.items()}
        for name, one in trained.items():
            rows += lab.rows(name, ranked[name], trained=one, slices=fresh)
        for other in (_WITHOUT, _POWERS):
            for metric in (MAP, RECALL, "mean_age_days_at_100"):
                label = f"{_WITH} minus {other}"
                change = lab.difference(
                    label, ranked[_WITH], ranked[other], metric=metric, seed=seed
                )
                verdicts.append(f"{label}, {metric}: {change}, {verdict(change)}")
                rows.append(change)
    assert curves is not None
    by_setting = {r.setting: r.value for r in rows if r.metric == "correlation with the reference"}
    return Experiment(
        name="figure_4",
        title="Figure 4: example age",
        question="Does a model that reads the age of the training example know how popularity "
        "rises and fades after upload? The probability of videos by days since their upload, "
        "mean over queries and videos.",
        paper="with the feature the model follows the observed distribution; without it the "
        "model predicts about the average likelihood over the training window.",
        settings=lab.settings(
            trained="as models.train_candidate does by default",
            reference="simulated truth" if setting.is_simulated else "observed watches",
            swept="the same users, only the example age changes from day to day",
            own="training examples of each day with their own inputs, whose bags hold recently "
            "watched videos and so betray the day even without the feature",
        ),
        rows=rows,
        plots=[
            _plot(curves.days, curves.by_name, "probability, mean over videos"),
            _plot(curves.days, curves.single, "probability of the most watched video"),
        ],
        conclusion="Correlation with the reference over days since upload: "
        + ", ".join(f"{name} {value:.3f}" for name, value in by_setting.items())
        + f" (seed {setting.seeds[-1]}). "
        + "; ".join(verdicts)
        + ".",
    )


def _plot(days: Ints, curves: dict[str, Floats], label: str) -> Plot:
    return Plot(
        kind=LINES,
        x_label="days since upload",
        y_label=label,
        series=[
            Series(name=name, x=days.tolist(), y=np.where(np.isfinite(y), y, 0.0).tolist())
            for name, y in curves.items()
        ],
    )


def _correlations(curves: Curves, seed: int) -> list[Row]:
    reference = next(iter(curves.by_name))
    rows = []
    for name, curve in curves.by_name.items():
        if name == reference:
            continue
        values = {
            "correlation with the reference": correlation(curve, curves.by_name[reference]),
            "correlation, the most watched video": correlation(
                curves.single[name], curves.single[reference]
            ),
            "correlation, median over videos": curves.correlations[name],
        }
        rows += [
            Row(setting=name, metric=metric, value=value, seed=seed, n=len(curves.days))
            for metric, value in values.items()
        ]
    return rows


def correlation(first: Floats, second: Floats) -> float:
    """Returns Pearson's r over the places where both are known; 0 where one does not vary."""
    known = np.isfinite(first) & np.isfinite(second)
    a, b = first[known] - first[known].mean(), second[known] - second[known].mean()
    # A curve that is flat but for rounding follows nothing.
    if np.abs(a).max() < 1e-6 * np.abs(first[known]).max() or not np.abs(b).max():
        return 0.0
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))


def _curves(lab: Lab, trained: dict[str, Trained]) -> Curves:
    """Measures all curves over the days of the training window."""
    last = lab.train_until_s
    times = lab.train_queries.times
    num_days = min(int((last - times.min()) // DAY_S), 60)
    starts = last - DAY_S * np.arange(num_days, 0, -1)
    uploads = lab.catalogue.upload_times
    watched = baselines.watch_counts(lab.train_queries, len(uploads), since_s=int(starts[0]))
    upload_day = (uploads - starts[0]) // DAY_S
    days = np.arange(-min(_BEFORE_DAYS, num_days // 6), min(_AFTER_DAYS, num_days // 2) + 1)
    fits = (upload_day + days[0] >= 0) & (upload_day + days[-1] < num_days)
    chosen = np.flatnonzero(fits & (watched > 0))
    if len(chosen) < 2:
        raise NotApplicableError("hardly any watched video was uploaded inside the window.")
    chosen = chosen[np.argsort(-watched[chosen], kind="stable")][:_MAX_VIDEOS]
    by_day: dict[str, Floats] = {}
    observed = _observed_shares(lab.train_queries, starts, chosen)
    if lab.setting.is_simulated:
        by_day["truth"] = _daily_truth(lab, starts, chosen)
    by_day["observed watches"] = observed
    for name, one in trained.items():
        by_day[f"{name}, swept"] = _predicted(lab, one, starts, chosen, swept=True)
        by_day[f"{name}, own inputs"] = _predicted(lab, one, starts, chosen, swept=False)
    return _since_upload(by_day, upload_day[chosen], days)


def _since_upload(by_day: dict[str, Floats], upload_day: Ints, days: Ints) -> Curves:
    """Moves curves [days of the window, videos] so that day 0 is each video's day of upload."""
    place = upload_day[np.newaxis, :] + days[:, np.newaxis]
    videos = np.arange(len(upload_day))
    moved = {name: shares[place, videos] for name, shares in by_day.items()}
    reference = moved[next(iter(moved))]
    return Curves(
        days=days,
        by_name={name: _mean(values) for name, values in moved.items()},
        single={name: values[:, 0] for name, values in moved.items()},
        correlations={
            name: float(
                np.median(
                    [correlation(values[:, v], reference[:, v]) for v in range(values.shape[1])]
                )
            )
            for name, values in moved.items()
        },
    )


def _mean(values: Floats) -> Floats:
    known = np.isfinite(values)
    counts = known.sum(axis=1)
    sums = np.where(known, values, 0.0).sum(axis=1)
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)


def _observed_shares(train: baselines.Queries, starts: Ints, chosen: Ints) -> Floats:
    """Returns float64 [days, chosen], each video's share of the labels of a day."""
    shares = np.zeros((len(starts), len(chosen)))
    for day, start in enumerate(starts):
        rows = train.label_rows[(train.times >= start) & (train.times < start + DAY_S)]
        counts = np.bincount(rows[rows >= 0], minlength=int(chosen.max()) + 1)
        shares[day] = counts[chosen] / max(1, len(rows))
    return shares


def _daily_truth(lab: Lab, starts: Ints, chosen: Ints) -> Floats:
    """Returns float64 [days, chosen], the truth's popularity shares, mean over the hours."""
    ids = lab.catalogue.video_ids.to_pylist()
    rows = np.array([int(ids[row][1:]) for row in chosen], np.int64)
    hours = starts[:, np.newaxis] + HOUR_S * np.arange(24)[np.newaxis]
    shares = true_shares(lab.setting.logs / "truth" / "site.npz", hours.ravel(), rows)
    return shares.reshape(len(starts), 24, len(rows)).mean(axis=1)


def true_shares(path: pathlib.Path, hours: Ints, rows: Ints) -> Floats:
    """Returns the popularity of simulated videos as shares of all there is in an hour.

    Args:
        path: File ``truth/site.npz`` of simulated logs.
        hours: int64 [h], first seconds of hours.
        rows: int64 [n], numbers of videos in the truth.

    Returns:
        Share of each video in each hour, float64 [h, n].
    """
    with np.load(path, allow_pickle=False) as site:
        upload, pull = site["videos.upload_time"], site["videos.pull"]
        rise, life = site["videos.rise_s"], site["videos.life_s"]
    evergreen = json.loads(path.with_name("site.json").read_text())["config"]["evergreen"]
    shares = np.zeros((len(hours), len(rows)))
    for place, start in enumerate(hours):
        age = start + HOUR_S // 2 - upload
        weight = pull * (1 - np.exp(-(np.maximum(age, 0) + _FIRST_VIEWERS_S) / rise))
        weight *= np.exp(-np.maximum(age, 0) / life) + evergreen
        weight[upload > start] = 0.0
        shares[place] = weight[rows] / weight.sum()
    return shares


def _predicted(lab: Lab, trained: Trained, starts: Ints, chosen: Ints, *, swept: bool) -> Floats:
    """Returns float64 [days, chosen], the mean probability that queries of a day get."""
    model = lab.open(trained)
    resolved = ResolvedSpec.load(lab.examples)
    query = tensors.side_columns(resolved, spec.CANDIDATE, Side.QUERY)
    train = dataset.load(lab.examples, spec.CANDIDATE, "train", [*query, "time"])
    column = resolved.vector_names(spec.CANDIDATE, Side.QUERY, Kind.CONTINUOUS).index(_AGE)
    vector = spec.vector_column(Side.QUERY, Kind.CONTINUOUS)
    videos = tensors.side_features(resolved, spec.CANDIDATE, Side.CANDIDATE, lab.videos)
    embedded = np.asarray(model.video_embeddings(videos))
    known = model.can_embed(videos)
    rng = np.random.default_rng(0)
    number = _USERS[lab.setting.mode]
    # The quantile that an age became, by what the transform made of the training examples.
    by_time = np.argsort(train["time"], kind="stable")
    times, ages = train["time"][by_time], train[vector][by_time, column]
    some = rng.choice(len(lab.queries), min(number, len(lab.queries)), replace=False)
    fixed = {name: values[some] for name, values in lab.features.items() if name in train}
    shares = np.zeros((len(starts), len(chosen)))
    for day, start in enumerate(starts):
        if swept:
            queries = {name: values.copy() for name, values in fixed.items()}
            queries[vector][:, column] = np.interp(start + DAY_S // 2, times, ages)
        else:
            first, end = np.searchsorted(times, [start, start + DAY_S])
            if first == end:
                shares[day] = np.nan
                continue
            picked = by_time[rng.integers(first, end, number)]
            queries = {name: values[picked] for name, values in train.items()}
        shares[day] = _probabilities(model.query_embeddings(queries), embedded, known)[chosen]
    return shares


def _probabilities(
    queries: npt.ArrayLike, videos: npt.NDArray[np.float32], known: npt.NDArray[np.bool_]
) -> Floats:
    """Returns float64 [N], the softmax probability of each video, mean over queries."""
    logits = np.asarray(queries, np.float64) @ videos.T.astype(np.float64)
    logits[:, ~known] = -np.inf
    logits -= logits.max(axis=1, keepdims=True)
    weights = np.exp(logits)
    return np.asarray((weights / weights.sum(axis=1, keepdims=True)).mean(axis=0))
