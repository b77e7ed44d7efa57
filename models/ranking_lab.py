"""Rankers made for comparison, and measured on the very same holdout impressions.

A :class:`Lab` reads the impressions of one set of examples once. Training stops by the newest part
of the training days, which is not trained on, so that no figure of the holdout was chosen by the
holdout. Scores are kept on disk, by what they were made from.
"""

import dataclasses
import io
import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import tf_keras
from absl import logging

from features import dataset, files, spec
from features.spec import ResolvedSpec
from models import (
    batches,
    checkpoints,
    duration_target,
    experiments,
    metrics,
    ranker_training,
    training,
)
from models import config as configs
from models.config import RankerConfig, TrainingConfig
from models.experiments import Row, Setting
from models.intervals import Bootstrap
from models.ranker import Ranker
from models.ranking_evaluation import Impressions

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]

LOSS, AUC = "weighted_per_user_loss", "auc"
_REPLICATES = {experiments.SHORT: 200, experiments.FULL: 1000}
# Impressions to train on at most, drawn at random, and to stop by or to measure on.
_MOST = {experiments.SHORT: (20_000, 10_000), experiments.FULL: (250_000, 100_000)}
_VALIDATION_SHARE = 0.1
TRAINING: Mapping[str, Mapping[str, Any]] = {
    experiments.SHORT: {"epochs": 1, "patience": 2},
    experiments.FULL: {"epochs": 4, "patience": 3, "evaluations_per_epoch": 2},
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trained:
    """What a ranker says about the holdout.

    Attributes:
        logits: float64 [n], orders impressions.
        seconds: float64 [n], expected watch time.
        uncalibrated: float64 [n], the same before the curve of :mod:`models.calibration`, which is
            fitted to the newest tenth of the training impressions.
        seed: Of the training.
        took_s: Wall time of the training.
        epochs: Passes over the examples.
    """

    logits: Floats
    seconds: Floats
    uncalibrated: Floats
    seed: int
    took_s: float
    epochs: float


class Lab:
    """The impressions of one set of examples.

    Args:
        setting: Of the run.
        keep_unclicked: Share of the unclicked impressions that is kept, in training and holdout:
            thinning them raises the click rate and changes nothing else.
    """

    def __init__(self, setting: Setting, *, keep_unclicked: float = 1.0) -> None:
        self.setting = setting
        self.resolved = ResolvedSpec.load(setting.examples)
        self.sizes = dataset.vocabulary_sizes(setting.examples, spec.RANKER)
        self._keep_unclicked = keep_unclicked
        most_train, most_holdout = _MOST[setting.mode]
        train = self._thinned(dataset.load(setting.examples, spec.RANKER, "train"), seed=1)
        holdout = self._thinned(dataset.load(setting.examples, spec.RANKER, "holdout"), seed=2)
        for name, arrays in (("training", train), ("holdout", holdout)):
            if not len(arrays["clicked"]) or not arrays["clicked"].any():
                raise experiments.NotApplicableError(f"the {name} days have no clicked impression.")
        order = np.argsort(train["time"], kind="stable")
        newest = max(1, int(_VALIDATION_SHARE * len(order)))
        draw = np.random.default_rng(0)
        rows, last = (
            np.sort(draw.choice(part, min(most, len(part)), replace=False))
            for part, most in ((order[:-newest], most_train), (order[-newest:], most_holdout))
        )
        self.train_rows = {name: values[rows] for name, values in train.items()}
        self._validation = {name: values[last] for name, values in train.items()}
        self.holdout = batches.sample_users(holdout, most_holdout, seed=0)
        self.impressions = Impressions.of(self.holdout)
        self.num_users = int(self.impressions.user_codes.max()) + 1

    def _thinned(self, arrays: Mapping[str, Array], *, seed: int) -> dict[str, Array]:
        if self._keep_unclicked >= 1:
            return dict(arrays)
        drawn = np.random.default_rng(seed).random(len(arrays["clicked"]))
        rows = np.flatnonzero((arrays["clicked"] > 0) | (drawn < self._keep_unclicked))
        return {name: values[rows] for name, values in arrays.items()}

    @property
    def click_rate(self) -> float:
        """P of the training impressions."""
        return self._labels(RankerConfig()).click_rate

    def names(self, *prefixes: str) -> tuple[str, ...]:
        """Returns the ranker's features whose names begin so."""
        return tuple(f.name for f in self.resolved.of(spec.RANKER) if f.name.startswith(prefixes))

    def train(self, label: str, *, seed: int, **model: Any) -> Trained:
        """Trains a ranker, or reads the scores of one that was trained so before.

        Args:
            label: Begins the name of its files.
            seed: Of the training.
            **model: Settings of :class:`RankerConfig` that differ from the default.
        """
        settings = dataclasses.replace(
            configs.RANKER_TRAINING, seed=seed, **TRAINING[self.setting.mode]
        ).fitted_to(len(self.train_rows["clicked"]))
        config = RankerConfig(**model)
        path = self.setting.directory(label, self._keep_unclicked, config, settings)
        scores = path.with_suffix(".npz")
        if not scores.is_file():
            self._train(path, config, settings)
        with np.load(scores, allow_pickle=False) as stored:
            found = {name: stored[name] for name in ("logits", "seconds", "uncalibrated")}
            facts = json.loads(str(stored["facts"]))
        return Trained(**found, seed=seed, **facts)

    def _train(self, path: Any, config: RankerConfig, settings: TrainingConfig) -> None:
        tf_keras.backend.clear_session()
        model = Ranker(self.resolved, self.sizes, config, seed=settings.seed)
        model.set_bias(self._labels(config).starting_logit(config.loss))
        if config.target == configs.RELATIVE:
            model.duration_factors.assign(self._duration_factors())
        task = ranker_training.RankerTask(model, holdout=self._validation, stop_metric="")
        columns = (*model.query_columns, *model.candidate_columns, *ranker_training.LABELS)
        rows = batches.InMemory(
            {name: self.train_rows[name] for name in dict.fromkeys(columns)},
            batch_size=settings.batch_size,
            seed=settings.seed,
            together=ranker_training.together(config),
        )
        run = checkpoints.RunDirectory(
            f"{path}.training", {"configs": json.loads(configs.to_json({"model": config}))}
        )
        started = time.monotonic()
        result = training.fit(task, rows, settings, run)
        took_s = time.monotonic() - started
        run.remove()
        logging.info("%s: %s", path.name, result.summary())
        score = ranker_training.Scorer(model)
        before = np.asarray(model.seconds(score(self.holdout), self.holdout))
        task.calibrate()
        logits = score(self.holdout)
        seconds = np.asarray(model.seconds(logits, self.holdout))
        facts = json.dumps({"took_s": took_s, "epochs": result.epochs})
        buffer = io.BytesIO()
        np.savez(
            buffer,
            logits=logits.astype(np.float64),
            seconds=seconds.astype(np.float64),
            uncalibrated=before.astype(np.float64),
            facts=np.array(facts),
        )
        files.atomic_write(path.with_suffix(".npz"), buffer.getvalue())

    def _labels(self, config: RankerConfig) -> ranker_training.Labels:
        clicked = np.asarray(self.train_rows["clicked"], np.float32) > 0
        watched = np.asarray(self.train_rows["watch_time_s"], np.float64)
        seconds = np.minimum(watched, config.watch_cap_s or np.inf)
        return ranker_training.Labels(
            impressions=len(clicked),
            clicks=int(clicked.sum()),
            watch_time_s=float(seconds[clicked].sum()),
        )

    def _duration_factors(self) -> npt.NDArray[np.float32]:
        means = duration_target.Means()
        place = duration_target.position(self.resolved)
        rows = self.train_rows
        quantiles = rows[duration_target.COLUMN][:, place]
        means.add(quantiles, rows["clicked"], rows["watch_time_s"])
        return means.factors()

    # ---- figures

    def bootstrap(self) -> Bootstrap:
        """Returns the resamples of users that every figure of this holdout meets."""
        return Bootstrap(num_users=self.num_users, replicates=_REPLICATES[self.setting.mode])

    def loss_sums(self, scores: Sequence[Floats]) -> metrics.UserSums:
        """Returns the weighted, per-user loss, the mean over models, as sums per user."""
        found = [
            metrics.pair_loss_by_user(
                one,
                self.impressions.clicked,
                self.impressions.watch_time_s,
                user_codes=self.impressions.user_codes,
                page_ids=self.impressions.pages,
                num_users=self.num_users,
            )
            for one in scores
        ]
        # The pairs are the same for all models, so their denominators are.
        return dataclasses.replace(found[0], numerator=np.mean([f.numerator for f in found], 0))

    def auc_sums(self, scores: Sequence[Floats]) -> metrics.UserSums:
        """Returns the AUC of clicks, the mean over models, as sums per user."""
        found = [
            metrics.auc_by_user(
                one,
                self.impressions.clicked,
                user_codes=self.impressions.user_codes,
                num_users=self.num_users,
            )
            for one in scores
        ]
        return dataclasses.replace(found[0], numerator=np.mean([f.numerator for f in found], 0))

    def rows(self, name: str, models: Sequence[Trained]) -> list[Row]:
        """Returns loss and AUC of each model, and of all with intervals where they are several.

        The interval is over users. That the seed matters too shows in the rows of single seeds.
        """
        rows = [
            Row(
                setting=name,
                metric=LOSS,
                value=self.loss_sums([one.logits]).value,
                seed=one.seed,
                seconds=one.took_s,
                n=len(self.impressions),
            )
            for one in models
        ]
        logits = [one.logits for one in models]
        sums = [self.loss_sums(logits), self.auc_sums(logits)]
        found = self.bootstrap().intervals(sums)
        rows += [
            Row.of(name, metric, interval, n=len(self.impressions))
            for metric, interval in zip((LOSS, AUC), found, strict=True)
        ]
        return rows

    def difference(self, name: str, first: Sequence[Trained], second: Sequence[Trained]) -> Row:
        """Returns the loss of first minus that of second, means over seeds, paired over users."""
        pair = tuple(self.loss_sums([one.logits for one in models]) for models in (first, second))
        (interval,) = self.bootstrap().differences([(pair[0], pair[1])])
        return Row.of(name, LOSS, interval, n=len(self.impressions))

    def settings(self, **others: Any) -> dict[str, Any]:
        """Returns what a reader must know to repeat an experiment."""
        return {
            "training_impressions": len(self.train_rows["clicked"]),
            "validation_impressions": len(self._validation["clicked"]),
            "holdout_impressions": len(self.impressions),
            "holdout_users": self.num_users,
            "click_rate": round(self.click_rate, 4),
            "inputs": len(self.resolved.of(spec.RANKER)),
            "protocol": "days after training; features as of the page's start; early stopping by "
            "log loss on the newest tenth of the training impressions, which is not trained on",
            "training": dict(TRAINING[self.setting.mode]),
            "bootstrap": _REPLICATES[self.setting.mode],
            **others,
        }
