"""What training the candidate model costs: time of a step, speed, memory.

All figures are of the real training step (towers, sampled softmax, sparse Adam) on made-up
examples in the paper's shape: bags of up to 50 watches, a region, example age, videos with a
channel. Videos are drawn as they are watched, by a power law. The two steps of a ratio take turns
in one process, so that a busy machine slows both, and medians are compared.
"""

import dataclasses
import os
import pathlib
import resource
import time
from typing import Any

import numpy as np
from absl import logging

from models.training import huge_pages
from pipeline.benchmarks import commits
from pipeline.steps import commands

_EXPONENT = 0.8  # Of the power law: the most watched 1% of 1M videos get 36% of the watches.
_BAG = 50
_NUM_BATCHES = 8
_WARM_UP = 4
_KIBI = 1024
_ROUNDS = 2


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """One way to train.

    Attributes:
        videos: Number of videos, V.
        dim: Dimension of embeddings, D.
        negatives: Number of sampled negatives, S.
        batch: Number of examples per batch, B.
        loss: Loss, one of ``models.config``.
        video_content: Whether videos are more than their ids.
        optimizer: Optimizer, one of ``models.config``.
    """

    videos: int
    dim: int
    negatives: int
    batch: int = 1024
    loss: str = "sampled"
    video_content: bool = True
    optimizer: str = "adam"


# A ratio has the same batch, negatives and D on both sides. The full softmax takes a smaller batch,
# ids alone and Adagrad, so that logits and gradients of 1M x 256 fit in 12 GB; so does the sampled
# one. (The smaller the batch, the more of a sampled step is not the softmax.)
_STEP = Case(videos=10_000, dim=256, negatives=5000)
_FULL = Case(
    videos=1_000_000,
    dim=256,
    negatives=5000,
    batch=256,
    video_content=False,
    optimizer="adagrad",
)
_SMALL = Case(videos=100_000, dim=32, negatives=255)
_LARGE = Case(videos=1_000_000, dim=256, negatives=5000)


def measure(work: pathlib.Path, *, against: str = "") -> dict[str, float]:
    """Returns the figures of the group; each part runs in a process of its own.

    Args:
        work: Directory for what is made meanwhile.
        against: Another commit, as Git names it: then all figures by both, and their ratios.
    """
    if against:
        with commits.beside(against, work, rounds=_ROUNDS) as comparison:
            return commits.whole_group("candidate", work, comparison)
    os.environ.update(huge_pages.environment())  # As models.train_candidate runs.
    apart = commands.in_own_process
    return {
        "candidate.step_1m_over_10k_videos_ratio": apart(_corpus_ratio),
        # One after the other, in a process each: the two together need more than 12 GB.
        "candidate.full_over_sampled_step_ratio": (
            apart(_step_s, dataclasses.replace(_FULL, loss="full"), 4) / apart(_step_s, _FULL, 20)
        ),
        "candidate.examples_per_s_d32_n255": apart(_examples_per_s, _SMALL),
        "candidate.examples_per_s_d256_n5000": apart(_examples_per_s, _LARGE),
        "candidate.peak_memory_gb_1m_d256": apart(_peak_memory_gb, _LARGE),
    }


def _corpus_ratio() -> float:
    small, large = _Steps(_STEP), _Steps(dataclasses.replace(_STEP, videos=1_000_000))
    return _ratio(large, small, rounds=6, steps=8)


def _step_s(case: Case, steps: int) -> float:
    measured = _Steps(case)
    measured.run(_WARM_UP)
    return float(np.median(measured.run(steps)))


def _examples_per_s(case: Case) -> float:
    return case.batch / _step_s(case, 40)


def _peak_memory_gb(case: Case) -> float:
    _Steps(case).run(_WARM_UP)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _KIBI / 1e9


def _ratio(one: "_Steps", other: "_Steps", *, rounds: int, steps: int) -> float:
    one.run(_WARM_UP)
    other.run(_WARM_UP)
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds):
        for side, taken in zip((one, other), times, strict=True):
            taken += side.run(steps)
    medians = [float(np.median(taken)) for taken in times]
    logging.info("Steps of %.1f and %.1f ms.", *(1000 * median for median in medians))
    return medians[0] / medians[1]


class _Steps:
    """A model in training on made-up examples."""

    def __init__(self, case: Case) -> None:
        import tensorflow as tf

        from models import config
        from models.candidate import training as candidate_training
        from models.training import loop

        rng = np.random.default_rng(0)
        weights = 1.0 / np.arange(1, case.videos + 1) ** _EXPONENT
        counts = (weights / weights.sum() * 2e7).astype(np.int64)
        settings = config.TrainingConfig(batch_size=case.batch, optimizer=case.optimizer)
        model, videos = _model(case, rng)
        task = candidate_training.CandidateTask(
            model, videos, counts, holdout=None, settings=settings
        )
        self._step = loop.compiled_step(task, settings)
        self._number = tf.Variable(0, dtype=tf.int64)
        cumulative = np.cumsum(weights) / weights.sum()
        self._batches = [_batch(case, cumulative, rng) for _ in range(_NUM_BATCHES)]

    def run(self, steps: int) -> list[float]:
        """Returns the seconds that each of some steps took."""
        taken = []
        for _ in range(steps):
            batch = self._batches[int(self._number.numpy()) % _NUM_BATCHES]
            started = time.perf_counter()
            float(self._step(batch, self._number))
            taken.append(time.perf_counter() - started)
            self._number.assign_add(1)
        return taken


def _model(case: Case, rng: np.random.Generator) -> tuple[Any, Any]:
    from features import spec
    from features.spec import Kind, Side
    from models import config
    from models.candidate import model as candidate_model
    from models.candidate import video_features

    query: dict[str, Any] = {"side": Side.QUERY, "models": (spec.CANDIDATE,)}
    video: dict[str, Any] = {"side": Side.CANDIDATE, "models": (spec.CANDIDATE,)}
    resolved = spec.ResolvedSpec(
        features=(
            spec.Feature(
                name="watched_video_ids",
                kind=Kind.MULTIVALENT,
                source="history.watched_video_ids",
                space="video",
                max_length=_BAG,
                **query,
            ),
            spec.Feature(name="region", kind=Kind.UNIVALENT, source="users.region", **query),
            spec.Feature(
                name="example_age_s",
                kind=Kind.CONTINUOUS,
                source="context.example_age_s",
                **query,
            ),
            spec.Feature(
                name="video_id",
                kind=Kind.UNIVALENT,
                source="videos.video_id",
                space="video",
                **video,
            ),
            spec.Feature(
                name="channel_id",
                kind=Kind.UNIVALENT,
                source="videos.channel_id",
                space="channel",
                **video,
            ),
        )
    )
    channels = case.videos // 10
    sizes = {"video": case.videos, "channel": channels, "category": 100}
    model = candidate_model.CandidateModel(
        resolved,
        sizes,
        dataclasses.replace(
            config.CANDIDATE_MODEL,
            embedding_dim=case.dim,
            negatives=case.negatives,
            loss=case.loss,
            video_content=case.video_content,
        ),
    )
    channel_of = np.append(0, rng.integers(1, channels + 1, case.videos))
    columns = {"channel_id": channel_of} if model.has_content else {}
    return model, video_features.VideoFeatures(columns)


def _batch(case: Case, cumulative: Any, rng: np.random.Generator) -> dict[str, Any]:
    import tensorflow as tf

    def watched(*shape: int) -> Any:
        rows = np.searchsorted(cumulative, rng.random(shape))
        return np.minimum(rows, case.videos - 1).astype(np.int32) + 1

    bags = watched(case.batch, _BAG)
    bags[np.arange(_BAG) >= rng.integers(1, _BAG + 1, case.batch)[:, np.newaxis]] = 0
    arrays = {
        "watched_video_ids": bags,
        "region": rng.integers(1, 101, case.batch).astype(np.int32),
        "query_continuous": rng.random((case.batch, 1)).astype(np.float32),
        "video_id": watched(case.batch),
    }
    return {name: tf.constant(array) for name, array in arrays.items()}
