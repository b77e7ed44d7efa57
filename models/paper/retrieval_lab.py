"""Candidate models made for comparison, and measured on the very same holdout watches.

Examples of one set of logs can be made in several ways (all watches of a user or some, another
label, further features). Their holdout watches are the same, so every :class:`Lab` puts them in
one order, and figures of models that were trained on different examples can be paired.
"""

import dataclasses
import json
import pathlib
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import tf_keras

from features import dataset, files, spec
from features.catalogue import Catalogue
from features.spec import ResolvedSpec
from models.baselines import retrieval as baselines
from models.baselines.retrieval import Queries
from models.candidate import model as candidate_model
from models.candidate import training as candidate_training
from models.candidate.model import CandidateModel
from models.config import CANDIDATE_MODEL, MAP, RECALL, TrainingConfig
from models.evaluation import evaluation, metrics
from models.evaluation import retrieval as retrieval_evaluation
from models.evaluation.config import RetrievalConfig
from models.evaluation.intervals import Bootstrap
from models.evaluation.retrieval import Embeddings, Ranked
from models.paper import experiments
from models.paper.experiments import Row, Setting

MEASURED = (MAP, RECALL, "recall_at_10", "mean_age_days_at_100")
# The paper's model, where it differs from what models.train_candidate does by default.
PAPER: Mapping[str, Any] = {
    "item_to_item": False,
    "spectral_start": False,
    "age_pieces": 0,
    "video_content": False,
    "linear_output": False,
}
_REPLICATES = {experiments.SHORT: 200, experiments.FULL: 1000}
# Settings of a training, by mode: the short one only proves that all parts work together.
TRAINING: Mapping[str, Mapping[str, Any]] = {
    experiments.SHORT: {"epochs": 3, "patience": 9, "batch_size": 128, "stop_metric": MAP},
    experiments.FULL: {
        "epochs": 20,
        "patience": 20,  # Deep towers start slowly: all rounds are run, the best one is kept.
        "decay": True,
        "stop_metric": MAP,
        "holdout_examples": 4000,
    },
}
# The default model, narrower: the simulated site has few videos, and the trainings are many.
MODEL: Mapping[str, Mapping[str, Any]] = {
    experiments.SHORT: {"embedding_dim": 16, "negatives": 256},
    experiments.FULL: {"embedding_dim": 64},
}
# What turns the full mode's settings into those of models.train_candidate.
_AS_SHIPPED: Mapping[str, Any] = {"patience": 0, "stop_metric": ""}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trained:
    """A model on disk.

    Attributes:
        directory: Directory of the model.
        examples: Directory of the examples that it was trained on.
        seed: Seed of the training.
        seconds: Wall time of the training alone, looks at the holdout included.
        epochs: Passes over the examples.
        examples_per_s: Median speed of the steps alone.
    """

    directory: pathlib.Path
    examples: pathlib.Path
    seed: int
    seconds: float
    epochs: float
    examples_per_s: float


class Lab:
    """One way of making examples, with the holdout in the order that all labs share.

    Args:
        setting: Setting of the run.
        examples: Directory that pipeline.preprocess wrote; by default with its default settings and
            without impressions, which candidate generation does not read.
    """

    def __init__(self, setting: Setting, examples: pathlib.Path | None = None) -> None:
        self.setting = setting
        self.examples = examples or setting.variant("next", candidate_only=True)
        self.info = dataset.info(self.examples)
        self.catalogue: Catalogue = evaluation.read_catalogue(self.examples)
        raw = baselines.read_queries(self.examples, "holdout", self.catalogue)
        if not len(raw):
            raise experiments.NotApplicableError(f"{self.examples} has no holdout examples.")
        arrays = dataset.load(self.examples, spec.CANDIDATE, "holdout")
        queries = retrieval_evaluation.aligned(raw, arrays)
        order = np.lexsort(
            (queries.label_ids.astype("U"), queries.times, queries.user_ids.astype("U"))
        )
        self.queries = queries.take(order)
        self.features = {name: values[order] for name, values in arrays.items()}
        self.train_queries: Queries = baselines.read_queries(self.examples, "train", self.catalogue)
        self.videos = dataset.videos(self.examples)
        self.user_codes = metrics.codes_of(self.queries.user_ids)
        self.num_users = int(self.user_codes.max()) + 1
        self.masks = retrieval_evaluation.slices(self.queries, self.train_queries, self.catalogue)
        self._settings = RetrievalConfig()

    @property
    def train_until_s(self) -> int:
        """End of training, Unix seconds."""
        return int(str(self.info["train_until_s"]))

    def train(self, *, seed: int, as_shipped: bool = False, **model: Any) -> Trained:
        """Trains a candidate model, or finds the one that was trained so before.

        Args:
            seed: Seed of the training.
            as_shipped: Whether it is trained like models.train_candidate, as wide and as long,
                where the mode has time for it.
            **model: Settings that differ from :data:`MODEL`.
        """
        settings = TrainingConfig(seed=seed, **TRAINING[self.setting.mode])
        config = dataclasses.replace(CANDIDATE_MODEL, **{**MODEL[self.setting.mode], **model})
        if as_shipped and self.setting.is_full:
            epochs = self.setting.epochs
            settings = dataclasses.replace(settings, **_AS_SHIPPED, epochs=epochs)
            width = CANDIDATE_MODEL.embedding_dim
            config = dataclasses.replace(config, embedding_dim=width)
        directory = self.setting.directory("model", self.examples.name, config, settings)
        timing = directory.with_name(f"{directory.name}.json")
        if files.read_complete(directory) is None or not timing.is_file():
            tf_keras.backend.clear_session()
            started = time.monotonic()
            result = candidate_training.train(self.examples, directory, config, settings)
            facts = {
                "seconds": time.monotonic() - started,
                "epochs": result.epochs,
                "examples_per_s": result.examples_per_s,
            }
            files.atomic_write(timing, json.dumps(facts) + "\n")
        return Trained(
            directory=directory,
            examples=self.examples,
            seed=seed,
            **json.loads(timing.read_text()),
        )

    def open(self, trained: Trained) -> CandidateModel:
        """Reads a model that was trained on this lab's examples."""
        return candidate_model.load(trained.directory, self.examples)

    def embed(self, trained: Trained) -> Embeddings:
        """Returns the embeddings of all holdout queries and all videos."""
        return retrieval_evaluation.embed(
            self.open(trained),
            ResolvedSpec.load(self.examples),
            query_features=self.features,
            video_features=self.videos,
        )

    def rank(self, trained: Trained) -> Ranked:
        """Ranks all videos for all holdout queries."""
        return self.rank_embeddings(self.embed(trained))

    def rank_embeddings(self, embeddings: Embeddings) -> Ranked:
        """Ranks all videos by inner product."""
        return retrieval_evaluation.rank_with_model(
            embeddings, self.queries, catalogue=self.catalogue, settings=self._settings
        )

    def bootstrap(self) -> Bootstrap:
        """Returns the resamples of users that every figure of this holdout meets."""
        return Bootstrap(num_users=self.num_users, replicates=_REPLICATES[self.setting.mode])

    def rows(
        self,
        name: str,
        ranked: Ranked,
        *,
        trained: Trained | None = None,
        slices: Mapping[str, npt.NDArray[np.bool_]] | None = None,
    ) -> list[Row]:
        """Returns the figures of a ranking with intervals.

        Args:
            name: The setting, as people say it.
            ranked: Ranking of this lab's queries.
            trained: Model that gives seed and seconds; None for none.
            slices: bool [Q] by name: MAP and recall of these too, as ``<metric>:<slice>``.
        """
        values = values_of(ranked)
        figures: list[tuple[str, metrics.Floats, npt.NDArray[np.bool_] | None]] = [
            (metric, values[metric], None) for metric in MEASURED
        ]
        for slice_name, mask in (slices or {}).items():
            figures += [(f"{m}:{slice_name}", values[m], mask) for m in (MAP, RECALL)]
        sums = [
            metrics.sums_by_user(column, self.user_codes, self.num_users, where=mask)
            for _, column, mask in figures
        ]
        estimates = self.bootstrap().intervals(sums)
        return [
            Row.of(
                name,
                metric,
                interval,
                seed=trained.seed if trained else None,
                seconds=trained.seconds if trained else experiments.NAN,
                n=len(self.queries) if mask is None else int(mask.sum()),
            )
            for (metric, _, mask), interval in zip(figures, estimates, strict=True)
        ]

    def difference(
        self,
        name: str,
        first: Ranked,
        second: Ranked,
        *,
        metric: str = MAP,
        where: npt.NDArray[np.bool_] | None = None,
        label: str = "",
        seed: int | None = None,
    ) -> Row:
        """Returns first minus second, paired over users.

        Args:
            name: The setting, such as ``with minus without``.
            first: Ranking of this lab's queries.
            second: Ranking of the same queries, maybe from another lab of the same logs.
            metric: Name of the metric, a key of :func:`values_of`.
            where: bool [Q], the queries that count.
            label: Label of the slice, appended to the metric's name.
            seed: Seed of both trainings.
        """
        sums = [
            metrics.sums_by_user(
                values_of(one)[metric], self.user_codes, self.num_users, where=where
            )
            for one in (first, second)
        ]
        (interval,) = self.bootstrap().differences([(sums[0], sums[1])])
        n = len(self.queries) if where is None else int(where.sum())
        shown = f"{metric}:{label}" if label else metric
        return Row.of(name, shown, interval, seed=seed, n=n)

    def differences(
        self,
        pair: tuple[str, str],
        ranked: Mapping[str, Ranked],
        masks: Mapping[str, npt.NDArray[np.bool_]],
        *,
        seed: int,
    ) -> list[Row]:
        """Returns the first of two rankings minus the second: their MAP, in each slice."""
        first, second = pair
        return [
            self.difference(
                f"{first} minus {second}",
                *(ranked[first], ranked[second]),
                where=mask,
                label=label,
                seed=seed,
            )
            for label, mask in masks.items()
        ]

    def settings(self, **others: Any) -> dict[str, Any]:
        """Returns what a reader must know to repeat an experiment."""
        return {
            "training_examples": len(self.train_queries),
            "videos": len(self.catalogue),
            "holdout_watches": len(self.queries),
            "holdout_users": self.num_users,
            "protocol": "next completed watch of the days after training among all videos; "
            "inputs as of the watch; early stopping by MAP@100 of the same days",
            "model": {
                **dataclasses.asdict(CANDIDATE_MODEL),
                **MODEL[self.setting.mode],
            },
            "training": dict(TRAINING[self.setting.mode]),
            "bootstrap": _REPLICATES[self.setting.mode],
            **others,
        }


def values_of(ranked: Ranked) -> dict[str, metrics.Floats]:
    """Returns one value per query by metric."""
    return {
        MAP: metrics.reciprocal_ranks(ranked.ranks, 100),
        RECALL: (ranked.ranks <= 100).astype(np.float64),
        "recall_at_10": (ranked.ranks <= 10).astype(np.float64),
        "mean_age_days_at_100": ranked.mean_age_days,
    }


def verdict(row: Row) -> str:
    """Returns what an interval of a difference says."""
    if not row.excludes_zero:
        return "not told apart (the interval holds 0)"
    return "higher" if row.value > 0 else "lower"


def find(rows: Sequence[Row], name: str, seed: int, metric: str = MAP) -> Row:
    """Returns the row of a setting, a seed and a metric."""
    return next(r for r in rows if (r.setting, r.metric, r.seed) == (name, metric, seed))


def sentences(changes: Sequence[Row]) -> str:
    """Returns differences as people say them."""
    told = (f"{r.setting}, {r.metric} (seed {r.seed}): {r}, {verdict(r)}" for r in changes)
    return "; ".join(told) + "."
