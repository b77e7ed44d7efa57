"""News: most of tomorrow's watches fall on videos that do not exist yet. Ours, not the paper's."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from features import command
from models import experiments, live_blend, live_popularity, retrieval_evaluation
from models.evaluation_config import RetrievalSettings
from models.experiments import BARS, Experiment, NotApplicableError, Plot, Row, Series, Setting
from models.live_blend import Inputs
from models.live_popularity import HOUR_S, Live
from models.retrieval_evaluation import Ranked
from models.retrieval_lab import MAP, RECALL, Lab, values_of, verdict

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


def news(setting: Setting) -> Experiment:
    """The model against recent popularity where videos live for hours."""
    if not setting.is_simulated:
        raise NotApplicableError("it simulates a site of its own; run it without --logs.")
    setting = _news_setting(setting)
    lab = Lab(setting)
    seed = setting.seeds[0]
    rows: list[Row] = []
    ranked: dict[str, Ranked] = {}
    trained = {name: lab.train(seed=seed, **flags) for name, flags in _MODELS.items()}
    for name, one in trained.items():
        ranked[name] = lab.rank(one)
        rows += lab.rows(name, ranked[name], trained=one, slices=_slices(lab))
    live = Live.of(lab.train_queries, lab.queries, num_videos=len(lab.catalogue))
    order = np.zeros(len(lab.catalogue)) + lab.catalogue.upload_times / 1e12
    for baseline in live_popularity.fit_all(lab.train_queries, lab.queries, order):
        ranked[baseline.name] = retrieval_evaluation.rank_with_baseline(
            baseline, lab.queries, catalogue=lab.catalogue, settings=RetrievalSettings()
        )
        rows += lab.rows(baseline.name, ranked[baseline.name], slices=_slices(lab))
    blends = _fitted_on_the_day_before(setting, lab, seed)
    # Which model to blend with is decided on the day before, too.
    chosen = min((_MODEL, _CONTENT), key=lambda name: blends[name].loss)
    for name, model in ((_LIVE_ONLY, None), (_BLEND, chosen)):
        inputs = Inputs(
            embeddings=lab.embed(trained[model]) if model else None,
            queries=lab.queries,
            live=live,
            catalogue=lab.catalogue,
        )
        ranked[name] = blends[model or _LIVE_ONLY].rank(inputs, RetrievalSettings())
        rows += lab.rows(name, ranked[name], slices=_slices(lab))
    weights = {
        name: dict(zip(live_blend.NAMES, one.weights.round(4).tolist(), strict=True))
        | {"loss on the day before": round(one.loss, 4)}
        for name, one in blends.items()
    }
    recent = [name for name in ranked if name.startswith("live_popularity")]
    changes = [
        lab.difference(f"{first} minus {second}", ranked[first], ranked[second], metric=metric)
        for first, second in (
            *((_BLEND, name) for name in recent),
            (_BLEND, _LIVE_ONLY),
            (_MODEL, "live_popularity_1h"),
        )
        for metric in (MAP, RECALL, "recall_at_10")
    ]
    best = max(recent, key=lambda name: values_of(ranked[name])[RECALL].mean())
    told = [
        c
        for c in changes
        if c.setting in {f"{_BLEND} minus {best}", f"{_BLEND} minus {_LIVE_ONLY}"}
    ]
    told += [c for c in changes if c.setting.endswith("minus live_popularity_1h")]
    young = {
        f"{hours} h": live_blend.label_share_younger_than(
            lab.queries, lab.catalogue, hours * HOUR_S
        )
        for hours in (1, 3, 6, 8, 12, 24)
    }
    return Experiment(
        name="news",
        title="News: videos that live for hours",
        question="Where most of tomorrow's watches fall on videos uploaded within hours, what "
        "beats the popularity of the last hour?",
        paper="recommending fresh content is extremely important; it names the problem, no number.",
        settings=lab.settings(
            simulated_with=" ".join(("--preset=news", *_SITES[setting.mode])),
            labels_younger_than=young,
            uploaded_after_training=float(lab.masks["videos_new_since_training"].mean())
            if "videos_new_since_training" in lab.masks
            else 0.0,
            blend="weights fitted on the last day of training with a model that ended before it",
            weights=weights,
            blended_with=chosen,
            live="live_* and the blends see watches of all users before the query, as a funnel "
            "with live statistics does; the model alone knows only the user's own",
        ),
        rows=[*rows, *changes],
        plots=[
            Plot(
                kind=BARS,
                x_label="",
                y_label="recall@100",
                series=[
                    Series.of_rows(
                        metric,
                        list(ranked),
                        [
                            next(r for r in rows if (r.setting, r.metric) == (n, metric))
                            for n in ranked
                        ],
                    )
                    for metric in ("recall_at_10", RECALL)
                ],
            )
        ],
        conclusion="; ".join(f"{c.setting}, {c.metric}: {c}, {verdict(c)}" for c in _unique(told))
        + ".",
    )


def _unique(rows: Sequence[Row]) -> list[Row]:
    return list({(row.setting, row.metric): row for row in rows}.values())


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
