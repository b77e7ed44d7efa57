"""Makes the candidate model that serves: what was measured, and all up to the end of the logs.

A model is judged on days that it has not seen, and what it then lacks is the newest: what people
watch this week, and every video, channel and word that only came up since. So the examples are
joined by the holdout, with vocabularies and quantiles of their own
(:mod:`pipeline.preprocessing.holdout_joining`); a new model starts from the measured one, row by
row of the ids that both know (:mod:`models.training.warm_start`). What is new starts where today's
counts of what follows what place it among what is known (:mod:`models.candidate.spectral_start`),
which a few steps would not find out. Then it is trained on all of them for a while. No figure is
taken from the result: those of the model before stand for it.

Nothing is kept aside that could judge the result, so it is compared with the measured model on the
watches of the holdout (:mod:`models.candidate.refit_checks`); a release is refused where they have
come apart.

Rankers are not taught so: on KuaiRand log loss and AUC get better, but not the order within users,
which is what they are for (weighted, per-user loss of two days pooled, in two trainings: +.024
[.006, .044], and no change).

Source: ours; the paper retrains continuously (section 3.3).
"""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from absl import logging

from features import command, dataset, spec
from models import config
from models.candidate import model as candidate_model
from models.candidate import recent_biases, refit_checks
from models.candidate import training as candidate_training
from models.candidate.model import CandidateModel
from models.candidate.video_features import VideoFeatures
from models.config import CandidateConfig, RefitConfig, TrainingConfig
from models.training import batches, checkpoints, loop, saved, warm_start

Path = str | os.PathLike[str]
Array = npt.NDArray[Any]
_SPLIT, _NEWEST = "train", "newest"
# It may cost so much of the first training.
_MOST_OF_FIRST = 0.5


def refit(
    examples_dir: Path,
    model_dir: Path,
    output: Path,
    settings: RefitConfig,
    *,
    measured_examples: Path,
) -> dict[str, Any]:
    """Writes the model that knows everything up to the end of the logs.

    Args:
        examples_dir: Directory that pipeline.join_holdout wrote.
        model_dir: Directory that models.train_candidate wrote.
        output: Directory of the new model, created or replaced.
        settings: Settings of the step.
        measured_examples: Directory of the examples that the model was trained and measured on.

    Returns:
        Facts of the step by name: ``examples``, ``new_videos``, ``steps``, and the figures of
        :mod:`models.candidate.refit_checks`.

    Raises:
        command.InputError: No candidate model, or one of other examples.
    """
    opened = _opened(model_dir, measured_examples)
    model_config = opened.config_as(CandidateConfig)
    _require_joined(examples_dir, measured_examples)
    measured = candidate_model.load(model_dir, measured_examples)
    vocabularies = {
        space: dataset.vocabulary(examples_dir, spec.CANDIDATE, space)
        for space in measured.vocabulary_sizes
    }
    sizes = {space: len(tokens) for space, tokens in vocabularies.items()}
    model = CandidateModel(opened.resolved, sizes, model_config, seed=settings.seed)
    videos = VideoFeatures.of_catalogue(
        dataset.videos(examples_dir), columns=model.content_columns, num_videos=model.num_videos
    )
    label_counts = candidate_training.label_counts_of(examples_dir, model)
    new_videos = _start(
        *(model, vocabularies, examples_dir),
        model_dir=model_dir,
        measured_examples=measured_examples,
        seed=settings.seed,
    )
    step = dataclasses.asdict(settings) | {"at": saved.now(), "steps": 0}
    newest = batches.count(examples_dir, spec.CANDIDATE, "holdout")
    if newest:
        step["steps"] = _train(
            model,
            videos,
            label_counts,
            examples_dir=examples_dir,
            splits=(_SPLIT, *[_NEWEST] * (settings.newest_weight - 1)),
            settings=_training_settings(
                opened, settings, int(label_counts.sum()) + (settings.newest_weight - 1) * newest
            ),
            run=_run_directory(output, opened, settings),
        )
    else:
        logging.warning("%s has no holdout: the model stays as it is.", examples_dir)
        model.repeat_bias.assign(measured.repeat_bias)
    weights = opened.info["lineage"].get("recent")
    if weights:
        recent_biases.carry_over(model, examples_dir, weights)
    step |= {"examples": newest, "new_videos": new_videos}
    if newest:
        step["checks"] = refit_checks.compare(
            refit_checks.Side.of(measured, measured_examples),
            refit_checks.Side.of(model, examples_dir),
        )
    transform = saved.transform_fingerprint(examples_dir, spec.CANDIDATE)
    contents = _contents(
        opened, vocabularies, settings=settings, news={"transform": transform, "refit": step}
    )
    candidate_model.save(model, output, contents=contents)
    return step


def _start(
    model: CandidateModel,
    vocabularies: Mapping[str, Sequence[str]],
    examples_dir: Path,
    *,
    model_dir: Path,
    measured_examples: Path,
    seed: int,
) -> int:
    """Gives a new model what the measured one has learnt; returns how many videos are new to it.

    These start where counts place them among the others.
    """
    if model.config.popularity_bias:
        model.set_popularity_bias(candidate_training.label_counts_of(examples_dir, model))
    old_model = recent_biases.unmoved(candidate_model.load(model_dir, measured_examples))
    old = {space: saved.vocabulary(model_dir, space) for space in vocabularies}
    warm_start.apply(model, vocabularies, old_model=old_model, old_vocabularies=old)
    tokens = vocabularies[candidate_model.VIDEO_SPACE]
    known = np.isin(tokens, old[candidate_model.VIDEO_SPACE])
    ids = np.arange(1, len(known) + 1)
    candidate_training.place_new_videos(
        examples_dir, model, known=ids[known], new=ids[~known], seed=seed
    )
    return int((~known).sum())


def _contents(
    opened: saved.Opened,
    vocabularies: Mapping[str, Sequence[str]],
    *,
    settings: RefitConfig,
    news: Mapping[str, Any],
) -> saved.Contents:
    """Returns what belongs to the new model: all that is known of the measured one, and more."""
    return saved.Contents(
        configs={**opened.configs, "refit": settings},
        vocabularies=vocabularies,
        metrics=opened.info["metrics"],
        history=saved.read_history(opened.directory),
        lineage={**opened.info["lineage"], **news},
    )


def _opened(model_dir: Path, measured_examples: Path) -> saved.Opened:
    """Opens the measured model.

    Raises:
        command.InputError: It cannot be served, so need not be refitted, or is of other examples.
    """
    return saved.open_directory(model_dir, kind=spec.CANDIDATE, examples_dir=measured_examples)


def _require_joined(examples_dir: Path, measured_examples: Path) -> None:
    joined, measured = dataset.info(examples_dir), dataset.info(measured_examples)
    same = all(joined.get(key) == measured.get(key) for key in ("logs", "until_s", "from_s"))
    if not same or joined.get("measured_until_s") != measured.get("train_until_s"):
        raise command.InputError(
            f"{examples_dir} should be {measured_examples} joined by its holdout, and is not. Make "
            f"it with: python -m pipeline.join_holdout --examples={os.fspath(measured_examples)} "
            f"--output={os.fspath(examples_dir)}"
        )


def _training_settings(
    opened: saved.Opened, settings: RefitConfig, num_examples: int
) -> TrainingConfig:
    """Returns the settings of the training loop: at most half as many steps as the first took."""
    training_config = TrainingConfig(
        epochs=settings.epochs, learning_rate=settings.learning_rate, decay=True, seed=settings.seed
    ).fitted_to(num_examples)
    first_steps = int(opened.info["lineage"].get("steps", 0))
    per_epoch = max(1, num_examples // training_config.batch_size)
    most = max(1, int(_MOST_OF_FIRST * first_steps / per_epoch))
    return dataclasses.replace(training_config, epochs=min(settings.epochs, most))


def _train(
    model: CandidateModel,
    videos: VideoFeatures,
    label_counts: npt.NDArray[np.int64],
    *,
    examples_dir: Path,
    splits: Sequence[str],
    settings: TrainingConfig,
    run: checkpoints.RunDirectory,
) -> int:
    task = candidate_training.CandidateTask(
        model, videos, label_counts, holdout=None, settings=settings
    )
    examples = candidate_training.open_examples(examples_dir, model, settings, splits=splits)
    result = loop.fit(task, examples, settings, run)
    candidate_training.fit_repeat_bias(model, videos, examples)
    run.remove()
    return result.steps


def _run_directory(
    output: Path, opened: saved.Opened, settings: RefitConfig
) -> checkpoints.RunDirectory:
    return checkpoints.RunDirectory(
        f"{os.fspath(output).rstrip('/')}.training",
        {
            "lineage": opened.info["lineage"],
            "configs": config.to_json(
                {"model": opened.config_as(CandidateConfig), "refit": settings}
            ),
        },
    )
