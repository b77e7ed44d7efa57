"""The candidate model beside today's sequence models, and beside what is simpler than either."""

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from features import spec, tensors
from features.charts import Plot
from features.spec import ResolvedSpec, Side
from models.baselines import ease
from models.baselines import implicit as implicit_baselines
from models.baselines import retrieval as baselines
from models.config import ATTENTION, MAP, RECALL
from models.evaluation import retrieval as retrieval_evaluation
from models.evaluation.config import RetrievalConfig
from models.evaluation.retrieval import Ranked
from models.paper import experiments, sequence_peers
from models.paper.experiments import Experiment, Row, Setting
from models.paper.retrieval_lab import Lab, Trained, values_of, verdict
from models.paper.sequence_peers import PeerConfig

Array = npt.NDArray[Any]
_MODEL, _WITH_ATTENTION = "model", "model, attention"
_MODELS: Mapping[str, Mapping[str, Any]] = {
    _MODEL: {},
    _WITH_ATTENTION: {"query_encoder": ATTENTION},
}
_PEERS = {"SASRec": "sasrec", "HSTU": "hstu"}
_PEER_SETTINGS: Mapping[str, Mapping[str, Any]] = {
    experiments.SHORT: {"factors": 16, "epochs": 2, "batch_size": 32},
    experiments.FULL: {},
}
_BASELINES = {
    "item_cosine": "item cosine",
    "co_visitation": "co-visitation",
    "als": "ALS",
    "ease": "EASE",
    "popularity_last_day": "popularity of the last day",
}
_TEN = "recall_at_10"
_METRICS = (_TEN, RECALL, MAP)
_TRAINING, _SERVING = "training, s", "ms of a query"
_TIMED, _WARM_UP = 200, 20


@dataclasses.dataclass(frozen=True, kw_only=True)
class System:
    """Something that ranks the catalogue, and what it costs.

    Attributes:
        ranked: Its ranking of the holdout.
        seconds: Wall time of its training.
        query_ms: Median milliseconds from the features of a query to a score of each video, one
            query at a time and every product exact.
        seed: Seed of its training; None where nothing is random.
    """

    ranked: Ranked
    seconds: float
    query_ms: float
    seed: int | None = None


def sequence_models(setting: Setting) -> Experiment:
    """SASRec, HSTU, EASE, ALS and item-to-item lists under the model's own protocol."""
    lab = Lab(setting)
    systems: dict[str, System] = {}
    trained = {}
    for name, flags in _MODELS.items():
        trained[name] = lab.train(seed=setting.seeds[0], as_shipped=True, **flags)
        systems[name] = _of_model(lab, trained[name])
    systems |= _of_peers(lab)
    systems |= _of_baselines(lab)
    rows: list[Row] = []
    for name, system in systems.items():
        measured = lab.rows(name, system.ranked, trained=trained.get(name))
        rows += [
            dataclasses.replace(row, seed=system.seed, seconds=system.seconds) for row in measured
        ]
        costs = {_TRAINING: system.seconds, _SERVING: system.query_ms}
        rows += [
            Row(setting=name, metric=metric, value=value, seed=system.seed)
            for metric, value in costs.items()
        ]
    changes = [
        dataclasses.replace(
            lab.difference(f"{ours} minus {other}", mine.ranked, system.ranked, metric=metric),
            seed=mine.seed,
        )
        for ours, mine in systems.items()
        for other, system in systems.items()
        for metric in _METRICS
        if ours in _MODELS and other != ours and (ours, other) != (_MODEL, _WITH_ATTENTION)
    ]
    others = [name for name in systems if name not in _MODELS]
    return Experiment(
        name="sequence_models",
        title="Beside today's sequence models",
        question="Does a transformer over the ordered watches, trained on the same examples, find "
        "the next watch better than the candidate model, and at which cost?",
        paper="none of its time; the order of searches and watches is discarded (section 3.4).",
        settings=lab.settings(
            trained="as models.train_candidate does by default; all stop by recall@100 of the same "
            "days",
            peers={name: dataclasses.asdict(_peer(setting, kind)) for name, kind in _PEERS.items()},
            sessions="of each user the newest training example: its bag and its label",
            watched="of what is not ours the better of two: with and without what was watched",
            no_watches="of what is not ours: popularity",
            query_ms=f"median of {_TIMED} queries one at a time, a score of each video included",
        ),
        rows=[*rows, *changes],
        plots=[Plot.bars(rows, list(systems), {"recall@100": RECALL}, y_label="recall@100")],
        conclusion=_conclusion(changes, others),
    )


def _conclusion(changes: Sequence[Row], others: Sequence[str]) -> str:
    told = [
        f"{change.setting}, {change.metric}: {change}, {verdict(change)}"
        for change in changes
        if change.setting == f"{_WITH_ATTENTION} minus {_MODEL}"
    ]
    for ours in _MODELS:
        lost = [
            name
            for name in others
            if not all(c.low > 0 for c in changes if c.setting == f"{ours} minus {name}")
        ]
        told.append(
            f"{ours}: not above in all of {', '.join(_METRICS)}: {', '.join(lost)}"
            if lost
            else f"{ours}: above all others in {', '.join(_METRICS)}"
        )
    return "; ".join(told) + "."


# ---- ours


def _of_model(lab: Lab, trained: Trained) -> System:
    model = lab.open(trained)
    resolved = ResolvedSpec.load(lab.examples)
    queries = tensors.side_features(resolved, spec.CANDIDATE, Side.QUERY, lab.features)
    videos = np.ascontiguousarray(lab.embed(trained).videos.T)
    embed = tf.function(model.query_embeddings, reduce_retracing=True)

    def ask(one: slice) -> None:
        embed({name: tf.constant(values[one]) for name, values in queries.items()}).numpy() @ videos

    return System(
        ranked=lab.rank(trained),
        seconds=trained.seconds,
        query_ms=_timed(ask, len(lab.queries)),
        seed=trained.seed,
    )


def _timed(ask: Callable[[slice], Any], queries: int) -> float:
    """Returns the median milliseconds of asking for one query."""
    took = []
    for number in range(_WARM_UP + _TIMED):
        one = slice(number % queries, number % queries + 1)
        started = time.perf_counter()
        ask(one)
        took.append(time.perf_counter() - started)
    return 1000 * float(np.median(took[_WARM_UP:]))


# ---- RecTools


def _peer(setting: Setting, kind: str) -> PeerConfig:
    given = {"epochs": setting.epochs, **_PEER_SETTINGS[setting.mode]}
    return PeerConfig(model=kind, seed=setting.seeds[0], **given)


def _of_peers(lab: Lab) -> dict[str, System]:
    """Trains SASRec and HSTU, where RecTools can be had."""
    python = sequence_peers.python(lab.setting)
    if python is None:
        return {}
    popular = baselines.popularity_order(lab.train_queries, lab.catalogue)
    systems = {}
    for name, kind in _PEERS.items():
        config = _peer(lab.setting, kind)
        epochs, encoding_ms = sequence_peers.run(
            python,
            lab.setting.directory(name, lab.examples.name, config),
            config,
            train=lab.train_queries,
            holdout=lab.queries,
            num_videos=len(lab.catalogue),
        )
        ranked = [_best_of_two(lab, _scores_of(lab, epoch, popular)) for epoch in epochs]
        best = max(ranked, key=_recall)
        score = _scores_of(lab, epochs[-1], popular)
        product_ms = _timed(score, len(lab.queries))
        systems[name] = System(
            ranked=best,
            seconds=epochs[-1].seconds,
            query_ms=encoding_ms + product_ms,
            seed=config.seed,
        )
    return systems


def _scores_of(
    lab: Lab, epoch: sequence_peers.Epoch, popular: baselines.Floats
) -> Callable[[slice], Array]:
    """Returns the scores of a slice of the queries; of one without watches, popularity."""
    videos = np.ascontiguousarray(epoch.videos.T)

    def score(part: slice) -> Array:
        scores: Array = epoch.queries[part] @ videos
        scores[:, ~epoch.known] = -np.inf
        cold = lab.queries.history_lengths[part] == 0
        scores[cold] = popular
        return scores

    return score


def _best_of_two(lab: Lab, score: Callable[[slice], Array]) -> Ranked:
    """Ranks with and without what was watched before, and returns the better by recall."""
    both = [
        retrieval_evaluation.rank_with_scores(
            score,
            lab.queries,
            catalogue=lab.catalogue,
            settings=RetrievalConfig(exclude_watched=exclude),
        )
        for exclude in (False, True)
    ]
    return max(both, key=_recall)


def _recall(ranked: Ranked) -> float:
    return float(values_of(ranked)[RECALL].mean())


# ---- what is simpler


def _of_baselines(lab: Lab) -> dict[str, System]:
    """Fits EASE, ALS, item-to-item lists and popularity."""
    train, catalogue, seed = lab.train_queries, lab.catalogue, lab.setting.seeds[0]
    order = baselines.popularity_order(train, catalogue)
    until = lab.train_until_s
    fits: Sequence[Callable[[], Sequence[baselines.Baseline | None]]] = (
        lambda: [ease.fit(train, order)],
        lambda: implicit_baselines.fit_all(train, order, seed=seed),
        lambda: baselines.fit_all(train, catalogue, train_until_s=until),
    )
    systems = {}
    for fit in fits:
        started = time.monotonic()
        fitted = [one for one in fit() if one is not None and one.name in _BASELINES]
        seconds = (time.monotonic() - started) / max(1, len(fitted))
        for one in fitted:

            def score(part: slice, one: baselines.Baseline = one) -> Array:
                return one.score(lab.queries.take(part))

            systems[_BASELINES[one.name]] = System(
                ranked=_best_of_two(lab, score),
                seconds=seconds,
                query_ms=_timed(score, len(lab.queries)),
            )
    return systems


EXPERIMENTS: Mapping[str, experiments.Make] = {"sequence_models": sequence_models}
