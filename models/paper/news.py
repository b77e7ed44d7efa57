"""News: most of tomorrow's watches fall on videos that do not exist yet. Ours, not the paper's."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from features import command
from features.charts import Plot
from features.durations import HOUR_S
from models.baselines import live_popularity
from models.baselines.live_popularity import Live
from models.config import MAP, RECALL
from models.evaluation import retrieval as retrieval_evaluation
from models.evaluation.config import RetrievalConfig
from models.evaluation.retrieval import Ranked
from models.paper import experiments, live_blend
from models.paper.experiments import Experiment, NotApplicableError, Row, Setting
from models.paper.live_blend import Inputs
from models.paper.retrieval_lab import Lab, Trained, values_of, verdict

_SITES: Mapping[str, Sequence[str]] = {
    experiments.SHORT: ("--users=300", "--videos=800", "--days=5", "--seed=1"),
    experiments.FULL: ("--users=4000", "--days=10", "--seed=1"),
}
_BLEND, _LIVE_ONLY, _MODEL = "model and live rates", "live rates, age, seen", "model alone"
_CONTENT = "model alone, id dropout .5"
_MODELS: Mapping[str, Mapping[str, Any]] = {
    _MODEL: {},
    _CONTENT: {"id_dropout": 0.5},
    "model alone, without example age": {"exclude": ("example_age_s",)},
    "model alone, ids only": {"video_content": False},
}
_DRAWN = {metric: metric for metric in ("recall_at_10", RECALL)}


@dataclasses.dataclass(frozen=True)
class _Figures:
    """What was ranked, and how well.

    Attributes:
        lab: Whose queries these are.
        ranked: By name.
        rows: Figures of all of them.
    """

    lab: Lab
    ranked: dict[str, Ranked] = dataclasses.field(default_factory=dict)
    rows: list[Row] = dataclasses.field(default_factory=list)

    def add(self, name: str, ranked: Ranked, trained: Trained | None = None) -> None:
        """Takes one more."""
        self.ranked[name] = ranked
        self.rows.extend(self.lab.rows(name, ranked, trained=trained, slices=_slices(self.lab)))

    @property
    def recent(self) -> list[str]:
        """Names of the baselines of recent popularity."""
        return [name for name in self.ranked if name.startswith("live_popularity")]


def news(setting: Setting) -> Experiment:
    """The model against recent popularity where videos live for hours."""
    if not setting.is_simulated:
        raise NotApplicableError("it simulates a site of its own; run it without --logs.")
    setting = _news_setting(setting)
    lab = Lab(setting)
    seed = setting.seeds[0]
    figures = _Figures(lab)
    trained = {name: lab.train(seed=seed, **flags) for name, flags in _MODELS.items()}
    for name, one in trained.items():
        figures.add(name, lab.rank(one), one)
    _add_recent_popularity(figures)
    blends = _fitted_on_the_day_before(setting, lab, seed)
    # Which model to blend with is decided on the day before, too.
    chosen = min((_MODEL, _CONTENT), key=lambda name: blends[name].loss)
    live = Live.of(lab.train_queries, lab.queries, num_videos=len(lab.catalogue))
    for name, model in ((_LIVE_ONLY, None), (_BLEND, chosen)):
        inputs = Inputs(
            embeddings=lab.embed(trained[model]) if model else None,
            queries=lab.queries,
            live=live,
            catalogue=lab.catalogue,
        )
        figures.add(name, blends[model or _LIVE_ONLY].rank(inputs, RetrievalConfig()))
    changes = _changes(figures)
    return Experiment(
        name="news",
        title="News: videos that live for hours",
        question="Where most of tomorrow's watches fall on videos uploaded within hours, what "
        "beats the popularity of the last hour?",
        paper="recommending fresh content is extremely important; it names the problem, no number.",
        settings=lab.settings(
            simulated_with=" ".join(("--preset=news", *_SITES[setting.mode])),
            labels_younger_than=_shares_of_young_labels(lab),
            uploaded_after_training=float(lab.masks["videos_new_since_training"].mean())
            if "videos_new_since_training" in lab.masks
            else 0.0,
            blend="weights fitted on the last day of training with a model that ended before it",
            weights=_weights(blends),
            blended_with=chosen,
            live="live_* and the blends see watches of all users before the query, as a funnel "
            "with live statistics does; the model alone knows only the user's own",
        ),
        rows=[*figures.rows, *changes],
        plots=[Plot.bars(figures.rows, list(figures.ranked), _DRAWN, y_label="recall@100")],
        conclusion="; ".join(
            f"{c.setting}, {c.metric}: {c}, {verdict(c)}" for c in _told(figures, changes)
        )
        + ".",
    )


def _add_recent_popularity(figures: _Figures) -> None:
    lab = figures.lab
    order = np.zeros(len(lab.catalogue)) + lab.catalogue.upload_times / 1e12
    for baseline in live_popularity.fit_all(lab.train_queries, lab.queries, order):
        ranked = retrieval_evaluation.rank_with_baseline(
            baseline, lab.queries, catalogue=lab.catalogue, settings=RetrievalConfig()
        )
        figures.add(baseline.name, ranked)


def _changes(figures: _Figures) -> list[Row]:
    """Returns the differences that answer the question."""
    pairs = (
        *((_BLEND, name) for name in figures.recent),
        (_BLEND, _LIVE_ONLY),
        (_MODEL, "live_popularity_1h"),
    )
    return [
        figures.lab.difference(
            f"{first} minus {second}", figures.ranked[first], figures.ranked[second], metric=metric
        )
        for first, second in pairs
        for metric in (MAP, RECALL, "recall_at_10")
    ]


def _told(figures: _Figures, changes: Sequence[Row]) -> list[Row]:
    """Returns the differences that the conclusion names, each once."""
    best = max(figures.recent, key=lambda name: values_of(figures.ranked[name])[RECALL].mean())
    of_blend = {f"{_BLEND} minus {best}", f"{_BLEND} minus {_LIVE_ONLY}"}
    told = [c for c in changes if c.setting in of_blend]
    told += [c for c in changes if c.setting.endswith("minus live_popularity_1h")]
    return list({(row.setting, row.metric): row for row in told}.values())


def _shares_of_young_labels(lab: Lab) -> dict[str, float]:
    return {
        f"{hours} h": live_blend.label_share_younger_than(
            lab.queries, lab.catalogue, hours * HOUR_S
        )
        for hours in (1, 3, 6, 8, 12, 24)
    }


def _weights(blends: Mapping[str, live_blend.LiveBlend]) -> dict[str, dict[str, float]]:
    return {
        name: dict(zip(live_blend.NAMES, one.weights.round(4).tolist(), strict=True))
        | {"loss on the day before": round(one.loss, 4)}
        for name, one in blends.items()
    }


def _slices(lab: Lab) -> dict[str, np.ndarray]:
    wanted = ("videos_new_since_training", "fresh_videos_1d")
    return {name: lab.masks[name] for name in wanted if name in lab.masks}


def _news_setting(setting: Setting) -> Setting:
    logs = setting.work / f"logs-news-{setting.mode}"
    # The truth is what a simulation writes last.
    if not (logs / "truth").is_dir():
        experiments.run_command(
            "pipeline.simulate",
            f"--logs={logs}",
            "--overwrite",
            "--preset=news",
            *_SITES[setting.mode],
        )
    return dataclasses.replace(setting, logs=logs)


def _fitted_on_the_day_before(
    setting: Setting, lab: Lab, seed: int
) -> dict[str, live_blend.LiveBlend]:
    """Fits blends on the last day of training, with models whose training ended before it."""
    until = command.format_time(lab.train_until_s)
    earlier = Lab(setting, setting.variant("before", f"--until={until}", candidate_only=True))
    live = Live.of(earlier.train_queries, earlier.queries, num_videos=len(earlier.catalogue))
    models = {_LIVE_ONLY: None} | {
        name: earlier.embed(earlier.train(seed=seed, **_MODELS[name]))
        for name in (_MODEL, _CONTENT)
    }
    return {
        name: live_blend.fit(
            Inputs(
                embeddings=embeddings,
                queries=earlier.queries,
                live=live,
                catalogue=earlier.catalogue,
            )
        )
        for name, embeddings in models.items()
    }
