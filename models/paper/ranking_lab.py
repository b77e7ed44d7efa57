"""Rankers made for comparison, and measured on the very same holdout impressions.

A :class:`Lab` reads the impressions of one set of examples once, and of a large one no more than
it uses. Training stops by the newest part of the training days, which is not trained on, so that
no figure of the holdout was chosen by the holdout. Scores are kept on disk, by what they were made
from.
"""

import copy
import dataclasses
import functools
import gc
import io
import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf
import tf_keras
from absl import logging

from features import dataset, files, preprocessing, spec
from features.spec import ResolvedSpec
from models import config as configs
from models import losses
from models.config import RankerConfig, TrainingConfig
from models.evaluation import metrics
from models.evaluation.intervals import Bootstrap
from models.evaluation.ranking import Impressions
from models.paper import experiments
from models.paper.experiments import Row, Setting
from models.ranking import scoring
from models.ranking import training as ranker_training
from models.ranking.model import Ranker
from models.training import batches, checkpoints, loop

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]

LOSS, AUC = "weighted_per_user_loss", "auc"
_REPLICATES = {experiments.SHORT: 200, experiments.FULL: 1000}
# Impressions at most: to train on, to stop and calibrate by, to measure on.
_MOST = {
    experiments.SHORT: (20_000, 10_000, 10_000),
    experiments.FULL: (1_000_000, 300_000, 200_000),
}
_VALIDATION_SHARE = 0.1
TRAINING: Mapping[str, Mapping[str, Any]] = {
    experiments.SHORT: {"epochs": 1, "patience": 2},
    experiments.FULL: {"patience": 8, "evaluations_per_epoch": 2},
}
# In full, a large set is gone over twice, a small one up to four times, until so many were seen.
_SEEN, _EPOCHS = 2_000_000, (2, 4)
# What rows are chosen by.
_CHOSEN_BY = ("time", "user_id", "page_id", "clicked")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trained:
    """What a ranker says about the holdout.

    Attributes:
        logits: Logits that order impressions, float64 [n].
        seconds: float64 [n], expected watch time.
        uncalibrated: float64 [n], the same before the curve of :mod:`models.ranking.calibration`,
            which is fitted to the newest tenth of the training impressions.
        seed: Seed of the training.
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
    """The impressions of one set of examples."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self.resolved = ResolvedSpec.load(setting.examples)
        self.sizes = dataset.vocabulary_sizes(setting.examples, spec.RANKER)
        self._keep_unclicked = 1.0
        most_train, most_validation, most_holdout = _MOST[setting.mode]
        train, holdout = (
            dataset.load(setting.examples, spec.RANKER, split, _CHOSEN_BY)
            for split in ("train", "holdout")
        )
        for name, arrays in (("training", train), ("holdout", holdout)):
            if not len(arrays["clicked"]) or not arrays["clicked"].any():
                raise experiments.NotApplicableError(f"the {name} days have no clicked impression.")
        order = np.argsort(train["time"], kind="stable")
        newest = max(1, int(_VALIDATION_SHARE * len(order)))
        older, newer = (
            _some_pages(train, part, most)
            for part, most in ((order[:-newest], most_train), (order[-newest:], most_validation))
        )
        rows = self._load("train", train, np.concatenate([older, newer]))
        self.train_rows: dict[str, Any] = {}
        self._validation: dict[str, Array] = {}
        for name in list(rows):
            values = rows.pop(name)
            self._validation[name] = values[len(older) :].copy()
            # Batches are cut from tensors: most of what is held is held once.
            is_wide = values.ndim > 1
            self.train_rows[name] = (tf.constant if is_wide else np.copy)(values[: len(older)])
        holdout["row"] = np.arange(len(holdout["time"]))
        of_users = batches.sample_users(holdout, most_holdout, seed=0)["row"]
        by_page = _some_pages(holdout, of_users, len(of_users))
        self._measure_on(self._load("holdout", holdout, by_page))

    def _load(self, split: str, known: Mapping[str, Array], rows: Array) -> dict[str, Array]:
        """Reads rows of a split; ``known`` are the columns that were read of all."""
        names = preprocessing.transformed_feature_spec(self.resolved, spec.RANKER)
        columns = [name for name in names if name not in _CHOSEN_BY]
        loaded = batches.load_rows(self.setting.examples, spec.RANKER, split, rows, columns=columns)
        return {**loaded, **{name: known[name][rows] for name in _CHOSEN_BY}}

    def _measure_on(self, holdout: dict[str, Array]) -> None:
        self.holdout = holdout
        self.impressions = Impressions.of(holdout)
        self.num_users = int(self.impressions.user_codes.max()) + 1

    def thinned(self, keep_unclicked: float) -> "Lab":
        """Returns a lab of all clicks and of some impressions without one.

        Args:
            keep_unclicked: Share of them that is kept, at random, in training and holdout. That
                raises the click rate and changes nothing else.
        """
        lab = copy.copy(self)
        lab._keep_unclicked = keep_unclicked
        lab.train_rows, lab._validation, holdout = (
            _thinned(arrays, keep_unclicked, seed=seed)
            for seed, arrays in enumerate((self.train_rows, self._validation, self.holdout))
        )
        lab._measure_on(holdout)
        return lab

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
            label: Beginning of the name of its files.
            seed: Seed of the training.
            **model: Settings of :class:`RankerConfig` that differ from the default.
        """
        settings = dataclasses.replace(configs.RANKER_TRAINING, seed=seed, **self._training())
        settings = settings.fitted_to(len(self.train_rows["clicked"]))
        config = RankerConfig(**model)
        most = _MOST[self.setting.mode]
        path = self.setting.directory(label, most, self._keep_unclicked, config, settings)
        scores = path.with_suffix(".npz")
        if not scores.is_file():
            self._train(path, config, settings)
        with np.load(scores, allow_pickle=False) as stored:
            scored = {name: stored[name] for name in ("logits", "seconds", "uncalibrated")}
            facts = json.loads(str(stored["facts"]))
        return Trained(**scored, seed=seed, **facts)

    def _training(self) -> dict[str, Any]:
        """Returns the settings of every training."""
        fewest, most = _EPOCHS
        wanted = round(_SEEN / len(self.train_rows["clicked"]))
        epochs = {"epochs": min(max(wanted, fewest), most)} if self.setting.is_full else {}
        return {**TRAINING[self.setting.mode], **epochs}

    def _train(self, path: Any, config: RankerConfig, settings: TrainingConfig) -> None:
        tf_keras.backend.clear_session()
        gc.collect()  # What was trained before points to itself, and to its copy of the rows.
        model = Ranker(self.resolved, self.sizes, config, seed=settings.seed)
        model.set_bias(self._labels(config).starting_logit(config.loss))
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
        result = loop.fit(task, rows, settings, run)
        took_s = time.monotonic() - started
        run.remove()
        logging.info("%s: %s", path.name, result.summary())
        score = scoring.Scorer(model)
        before = np.asarray(losses.expected_watch_time_s(score(self.holdout)))
        task.calibrate(self._validation)
        logits = score(self.holdout)
        seconds = np.asarray(losses.expected_watch_time_s(logits))
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

    # ---- figures

    def bootstrap(self) -> Bootstrap:
        """Returns the resamples of users that every figure of this holdout meets."""
        return Bootstrap(num_users=self.num_users, replicates=_REPLICATES[self.setting.mode])

    def loss_sums(self, scores: Sequence[Floats]) -> metrics.UserSums:
        """Returns the weighted, per-user loss, the mean over models, as sums per user."""
        sums = [
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
        return dataclasses.replace(sums[0], numerator=np.mean([f.numerator for f in sums], 0))

    def auc_sums(self, scores: Sequence[Floats]) -> metrics.UserSums:
        """Returns the AUC of clicks, the mean over models, as sums per user."""
        sums = [
            metrics.auc_by_user(
                one,
                self.impressions.clicked,
                user_codes=self.impressions.user_codes,
                num_users=self.num_users,
            )
            for one in scores
        ]
        return dataclasses.replace(sums[0], numerator=np.mean([f.numerator for f in sums], 0))

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
        estimates = self.bootstrap().intervals(sums)
        rows += [
            Row.of(name, metric, interval, n=len(self.impressions))
            for metric, interval in zip((LOSS, AUC), estimates, strict=True)
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
            "protocol": "days after training; features as of the page's start; whole pages drawn "
            "at random; the best round by log loss, and the curve through x, on the newest tenth "
            "of the training impressions, which is not trained on",
            "training": self._training(),
            "bootstrap": _REPLICATES[self.setting.mode],
            **others,
        }


@functools.lru_cache(maxsize=1)
def opened(setting: Setting) -> Lab:
    """Returns the lab of a setting: experiments in a row read their impressions once."""
    return Lab(setting)


def _some_pages(arrays: Mapping[str, Array], rows: Array, most: int) -> npt.NDArray[np.int64]:
    """Returns at most so many of ``rows``: whole pages, the last one maybe not, page by page."""
    users, pages = (metrics.codes_of(arrays[name][rows]) for name in ("user_id", "page_id"))
    codes = metrics.codes_of(users * (pages.max() + 1) + pages)
    place = np.random.default_rng(0).permutation(int(codes.max()) + 1)[codes]
    return np.asarray(rows[np.argsort(place, kind="stable")[:most]], np.int64)


def _thinned(arrays: Mapping[str, Any], keep_unclicked: float, *, seed: int) -> dict[str, Any]:
    clicked, unclicked = (np.flatnonzero((arrays["clicked"] > 0) == one) for one in (True, False))
    draw = np.random.default_rng(seed)
    kept = draw.choice(unclicked, round(keep_unclicked * len(unclicked)), replace=False)
    rows = np.sort(np.concatenate([clicked, kept]))
    return {
        name: values[rows] if isinstance(values, np.ndarray) else tf.gather(values, rows)
        for name, values in arrays.items()
    }
