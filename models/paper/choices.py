"""Settings of the candidate model compared on the same examples: content of videos, losses."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from features.charts import Plot
from models import config
from models.config import MAP
from models.paper.experiments import Experiment, Row, Setting
from models.paper.retrieval_lab import PAPER, Lab, find, sentences


def video_content(setting: Setting) -> Experiment:
    """Softmax rows by id alone, against id and content."""
    slices = ("all", "videos_new_since_training", "fresh_videos_1d", "tail_videos")
    return _variants(
        setting,
        name="video_content",
        title="Videos by id, or by id and content",
        question="What do content features of videos (channel, topics, language, duration) beside "
        "the id row bring, above all for videos that training has never seen?",
        paper="uses id rows; fresh videos come in by retraining often.",
        models={"id": {"video_content": False}, "id and content": {"video_content": True}},
        slices=slices,
    )


def losses(setting: Setting) -> Experiment:
    """Sampled and full softmax."""
    models = {f"{loss} softmax": {"loss": loss, **PAPER} for loss in (config.SAMPLED, config.FULL)}
    return _variants(
        setting,
        name="losses",
        title="Sampled and full softmax",
        question="How do the losses compare in quality and time, at this corpus size? (At a "
        "million videos see candidate.* of pipeline.bench.)",
        paper="sampled softmax: more than 100 times faster than the full one.",
        models=models,
        slices=("all",),
    )


def _variants(
    setting: Setting,
    *,
    name: str,
    title: str,
    question: str,
    paper: str,
    models: Mapping[str, Mapping[str, Any]],
    slices: Sequence[str],
) -> Experiment:
    """Compares settings of the model on the same examples, each with the first."""
    lab = Lab(setting)
    masks = {s: lab.masks[s] for s in slices if s in lab.masks}
    rows: list[Row] = []
    changes: list[Row] = []
    base, *others = models
    for seed in setting.seeds:
        ranked = {}
        for label, flags in models.items():
            trained = lab.train(seed=seed, **flags)
            ranked[label] = lab.rank(trained)
            rows += lab.rows(label, ranked[label], trained=trained, slices=masks)
            speed = {"seconds an epoch": trained.seconds / max(trained.epochs, 1e-9)}
            speed["training examples/s"] = trained.examples_per_s
            rows += [
                Row(setting=label, metric=metric, value=value, seed=seed, seconds=trained.seconds)
                for metric, value in speed.items()
            ]
        for other in others:
            changes += lab.differences((other, base), ranked, masks, seed=seed)
    shown = {s: f"{MAP}:{s}" for s in masks}
    return Experiment(
        name=name,
        title=title,
        question=question,
        paper=paper,
        settings=lab.settings(models={n: dict(flags) for n, flags in models.items()}),
        rows=[*rows, *changes],
        plots=[Plot.bars(rows, list(models), shown, y_label="MAP@100 on the next day")],
        conclusion=sentences(changes) + _times(rows, list(models), setting.seeds[0]),
    )


def _times(rows: Sequence[Row], names: Sequence[str], seed: int) -> str:
    times = [find(rows, name, seed, "seconds an epoch") for name in names]
    told = ", ".join(f"{row.setting} {row.value:.1f}" for row in times if math.isfinite(row.value))
    return f" Seconds an epoch: {told}."
