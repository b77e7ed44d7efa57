"""The candidate model beside every baseline and, on a simulated site, beside the oracle."""

import dataclasses
import functools
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from features.charts import Plot
from models.baselines import implicit as implicit_baselines
from models.baselines import live_popularity, rank_factorisation
from models.baselines import retrieval as baselines
from models.config import MAP, RECALL
from models.evaluation import metrics
from models.evaluation import retrieval as retrieval_evaluation
from models.evaluation.config import RetrievalConfig
from models.evaluation.intervals import Interval
from models.evaluation.retrieval import Ranked
from models.paper import experiments
from models.paper.experiments import Experiment, NotApplicableError, Row, Setting
from models.paper.retrieval_lab import PAPER, Lab, Trained, values_of, verdict

_MODEL = "model"
_ORACLE_WATCHES = {experiments.SHORT: 200, experiments.FULL: 2000}
_WARP = {
    experiments.SHORT: rank_factorisation.WarpConfig(dim=16, steps=200),
    experiments.FULL: rank_factorisation.WarpConfig(),
}
_MODELS: Mapping[str, Mapping[str, Any]] = {
    _MODEL: {},
    "model, depth 0": {"depth": 0},
    "the paper's model": PAPER,
}


def baselines_table(setting: Setting) -> Experiment:
    """The wall of baselines."""
    lab = Lab(setting)
    rows: list[Row] = []
    ranked, trained = _ranked_models(lab)
    for name, one in trained.items():
        rows += lab.rows(name, ranked[name], trained=one, slices=lab.masks)
    for name, result, seconds in _ranked_baselines(lab):
        ranked[name] = result
        measured = lab.rows(name, result, slices=lab.masks)
        rows += [dataclasses.replace(row, seconds=seconds) for row in measured]
    others = [name for name in ranked if name not in trained]
    changes = []
    for other in [*others, *(name for name in trained if name != _MODEL)]:
        for metric in (MAP, RECALL):
            change = lab.difference(
                f"model minus {other}", ranked[_MODEL], ranked[other], metric=metric
            )
            changes.append(dataclasses.replace(change, seed=setting.seeds[0]))
    static = [name for name in others if not name.startswith("live_")]
    best = {m: max(static, key=functools.partial(_mean_of, ranked, m)) for m in (MAP, RECALL)}
    against = [
        c
        for c in changes
        for m, name in best.items()
        if (c.metric, c.setting) == (m, f"model minus {name}")
    ]
    lost = sorted({c.setting for c in changes if not c.low > 0})
    order = sorted(ranked, key=lambda name: -values_of(ranked[name])[RECALL].mean())
    return Experiment(
        name="baselines",
        title="Every baseline under the model's own protocol",
        question="Is the model above every baseline, with an interval that excludes 0?",
        paper="the predecessor was a matrix factorisation under rank loss; depth 0 performs very "
        "similarly to it.",
        settings=lab.settings(
            trained="as models.train_candidate does by default",
            warp=dataclasses.asdict(_WARP[setting.mode]),
            live="live_* see the holdout watches of all users before the query; nothing else does",
        ),
        rows=[*rows, *changes],
        plots=[
            Plot.bars(rows, order[:8], {"recall@100": RECALL}, y_label="recall@100"),
        ],
        conclusion="; ".join(f"{c.setting}, {c.metric}: {c}, {verdict(c)}" for c in against)
        + (f". Not above: {', '.join(lost)}." if lost else ". Above all of them in both metrics."),
    )


def _mean_of(ranked: Mapping[str, Ranked], metric: str, name: str) -> float:
    return float(values_of(ranked[name])[metric].mean())


def _ranked_models(lab: Lab) -> tuple[dict[str, Ranked], dict[str, Trained]]:
    seed = lab.setting.seeds[0]
    trained = {
        name: lab.train(seed=seed, as_shipped=True, **flags) for name, flags in _MODELS.items()
    }
    return {name: lab.rank(one) for name, one in trained.items()}, trained


def _ranked_baselines(lab: Lab) -> list[tuple[str, Ranked, float]]:
    """Returns name, ranking and seconds of fitting of every baseline."""
    train, catalogue, seed = lab.train_queries, lab.catalogue, lab.setting.seeds[0]
    order = baselines.popularity_order(train, catalogue)
    warp = dataclasses.replace(_WARP[lab.setting.mode], seed=seed)
    makers: list[Callable[[], Sequence[baselines.Baseline]]] = [
        lambda: baselines.fit_all(train, catalogue, train_until_s=lab.train_until_s),
        lambda: [rank_factorisation.fit(train, order, warp)],
        lambda: implicit_baselines.fit_all(train, order, seed=seed),
        lambda: live_popularity.fit_all(train, lab.queries, order),
    ]
    ranked = []
    for make in makers:
        started = time.monotonic()
        fitted = make()
        seconds = (time.monotonic() - started) / max(1, len(fitted))
        for one in fitted:
            result = retrieval_evaluation.rank_with_baseline(
                one, lab.queries, catalogue=catalogue, settings=RetrievalConfig()
            )
            ranked.append((one.name, result, seconds))
    return ranked


# ---- the oracle


def ceiling(setting: Setting) -> Experiment:
    """What the truth itself reaches, and which share of it the model has."""
    if not setting.is_simulated:
        raise NotApplicableError("only of simulated logs is the truth known.")
    lab = Lab(setting)
    places, oracle = _oracle_ranks(lab)
    ranked, trained = _ranked_models(lab)
    subset = _Subset.of(lab, places)
    rows = []
    ranks = {"oracle": oracle, **{name: one.ranks[places] for name, one in ranked.items()}}
    for name, result, _ in _ranked_baselines(lab):
        ranks[name] = result.ranks[places]
    kept = ["oracle", *trained]
    kept.append(max((n for n in ranks if n not in kept), key=lambda n: _recall(ranks[n]).mean()))
    for name in kept:
        for metric, column in ((MAP, _precision(ranks[name])), (RECALL, _recall(ranks[name]))):
            share, plain = subset.share(column, _of(metric, oracle)), subset.mean(column)
            seed = trained[name].seed if name in trained else None
            rows.append(Row.of(name, metric, plain, seed=seed, n=len(places)))
            rows.append(Row.of(name, _share_of(metric), share, seed=seed))
    by_metric = {r.metric: r for r in rows if r.setting == _MODEL}
    return Experiment(
        name="ceiling",
        title="The oracle: how much is there to get?",
        question="The simulator knows each user's true next-watch distribution. Which share of "
        "what that reaches has the model, on the same watches?",
        paper="",
        settings=lab.settings(
            trained="as models.train_candidate does by default",
            oracle_watches=len(places),
            oracle="pipeline.measure_oracle: completed watches, history as of the watch",
        ),
        rows=rows,
        plots=[
            Plot.bars(rows, kept, {MAP: MAP, RECALL: RECALL}, y_label=""),
        ],
        conclusion=f"The model has {by_metric[_share_of(MAP)]} of the oracle's MAP@100 and "
        f"{by_metric[_share_of(RECALL)]} of its recall@100.",
    )


def _share_of(metric: str) -> str:
    return f"share of the oracle's {metric}"


def _precision(ranks: metrics.Ints) -> metrics.Floats:
    return metrics.reciprocal_ranks(ranks, 100)


def _recall(ranks: metrics.Ints) -> metrics.Floats:
    return (ranks <= 100).astype(np.float64)


def _of(metric: str, ranks: metrics.Ints) -> metrics.Floats:
    return _precision(ranks) if metric == MAP else _recall(ranks)


def _oracle_ranks(lab: Lab) -> tuple[metrics.Ints, metrics.Ints]:
    """Returns which queries the oracle was asked, and the rank of the label in its answer."""
    path = lab.setting.directory("oracle", lab.setting.mode).with_suffix(".parquet")
    if not path.is_file():
        experiments.run_command(
            "pipeline.measure_oracle",
            f"--logs={lab.setting.logs}",
            f"--from={lab.train_until_s}",
            f"--watches={_ORACLE_WATCHES[lab.setting.mode]}",
            f"--output={path}",
        )
    table = pq.read_table(path)
    queries = lab.queries
    keys = zip(queries.user_ids, queries.times.tolist(), queries.label_ids, strict=True)
    place_of = {key: place for place, key in enumerate(keys)}
    watch_keys = zip(*(table[n].to_pylist() for n in ("user_id", "time", "video_id")), strict=True)
    places = np.array([place_of.get(key, -1) for key in watch_keys], np.int64)
    # Ties have their mean rank; a half counts as the worse one.
    ranks = np.ceil(np.asarray(table["rank"])).astype(np.int64)
    if not (places >= 0).any():
        raise NotApplicableError("no watch that the oracle was asked is a holdout example.")
    return places[places >= 0], ranks[places >= 0]


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Subset:
    """Some queries of a lab, and the resamples of their users."""

    lab: Lab
    codes: metrics.Ints
    num_users: int

    @classmethod
    def of(cls, lab: Lab, places: metrics.Ints) -> "_Subset":
        codes = metrics.codes_of(lab.queries.user_ids[places])
        return cls(lab=lab, codes=codes, num_users=int(codes.max()) + 1)

    def _sums(self, column: metrics.Floats) -> metrics.UserSums:
        return metrics.sums_by_user(column, self.codes, self.num_users)

    def mean(self, column: metrics.Floats) -> Interval:
        bootstrap = dataclasses.replace(self.lab.bootstrap(), num_users=self.num_users)
        return bootstrap.intervals([self._sums(column)])[0]

    def share(self, column: metrics.Floats, whole: metrics.Floats) -> Interval:
        """Returns the ratio of two means, on paired resamples."""
        bootstrap = dataclasses.replace(self.lab.bootstrap(), num_users=self.num_users)
        both = [self._sums(column), self._sums(whole)]
        draws = bootstrap.replicates_of(both)
        ratio = draws[:, 0] / np.where(draws[:, 1] > 0, draws[:, 1], np.nan)
        return bootstrap.summary(both[0].value / max(both[1].value, 1e-12), ratio)
