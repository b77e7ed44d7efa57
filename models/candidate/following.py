"""A candidate model that follows its site: a few steps on what was watched since it last learnt.

Two models go from cycle to cycle, as at night. The one that is *measured* has not learnt the last
hour: it takes steps on what came before it and since its own end, with as many older examples that
are gone over again, and is asked about the hour's watches beside the model that it was. The one
that *serves* starts from it and learns the hour besides; it is compared with the measured one as
after a night (:mod:`models.candidate.refit_checks`).

Biases of the moment (:mod:`models.candidate.recent_biases`) are put on copies: the model that goes
on learning is kept without them, since they would be added anew each time.

Source: ours; the paper retrains continuously (section 3.3).
"""

import dataclasses
import os
import pathlib
import shutil
from typing import Any

import numpy as np
import numpy.typing as npt
import tf_keras

from features import command, dataset, spec
from features.tables.site_facts import SiteFacts
from models import config
from models.candidate import model as candidate_model
from models.candidate import recent_biases, refit_checks
from models.candidate import training as candidate_training
from models.candidate.holdout import LABEL, Holdout, K
from models.candidate.model import CandidateModel
from models.candidate.video_features import VideoFeatures
from models.config import CandidateConfig, TrainingConfig
from models.evaluation import intervals, metrics
from models.training import batches, checkpoints, loop, saved, warm_start

Path = str | os.PathLike[str]
Ints = npt.NDArray[np.int64]
# Passes over what is new, and examples that are gone over again for each that is.
_EPOCHS, _OLDER_EACH = 4, 1.0


def take_up(model_dir: Path, examples_dir: Path, output: Path) -> None:
    """Makes the model that goes on learning of a night's.

    Args:
        model_dir: Directory that models.refit wrote.
        examples_dir: Examples that it learnt, which pipeline.join_holdout wrote.
        output: Directory to create or replace.
    """
    opened = saved.open_directory(model_dir, kind=spec.CANDIDATE, examples_dir=examples_dir)
    model = recent_biases.unmoved(candidate_model.load(model_dir))
    lineage = {**opened.info["lineage"], "train_until_s": dataset.info(examples_dir)["until_s"]}
    vocabularies = {s: saved.vocabulary(model_dir, s) for s in opened.vocabulary_sizes}
    _save(model, output, opened, vocabularies=vocabularies, lineage=lineage)


def follow(
    examples_dir: Path,
    model_dir: Path,
    output: Path,
    measured: Path,
    *,
    night: str = "",
) -> dict[str, Any]:
    """Writes the measured model and the one that serves, each whole.

    Args:
        examples_dir: Directory that :mod:`pipeline.following.examples` wrote.
        model_dir: Measured model of the cycle before, or what :func:`take_up` wrote.
        output: Directory of the model that serves, created or replaced.
        measured: Directory of the measured model, created or replaced; the next cycle's
            ``model_dir``.
        night: Name of the night that is followed.

    Returns:
        Facts of the steps, JSON values; also in the lineage of ``output``, under ``follow``.

    Raises:
        command.InputError: The examples have no hour to measure on, or the model is of other ones.
    """
    tf_keras.backend.clear_session()  # A process that follows for days keeps no old graphs.
    step = _Step(examples_dir, model_dir)
    facts = {"night": night} | step.measure(measured, run=f"{os.fspath(measured)}.training")
    return facts | step.serve(output, facts, run=f"{os.fspath(output)}.training")


class _Step:
    """One cycle of a model; :meth:`measure`, then :meth:`serve`."""

    def __init__(self, examples_dir: Path, model_dir: Path) -> None:
        self._examples = examples_dir
        self._opened = saved.open_directory(model_dir, kind=spec.CANDIDATE)
        self._settings = config.from_mapping(TrainingConfig, self._opened.configs["training"])
        info: Any = dataset.info(examples_dir)
        if "held_out_from_s" not in info:
            raise command.InputError(
                f"{os.fspath(examples_dir)} keeps no last hour aside: give --follow examples that "
                "pipeline.follow wrote."
            )
        self._hour_s, self._until_s = int(info["held_out_from_s"]), int(info["until_s"])
        self._learnt_s = int(self._opened.info["lineage"]["train_until_s"])
        self._weights = dict(self._opened.info["lineage"].get("recent") or {})
        self._vocabularies = {
            space: dataset.vocabulary(examples_dir, spec.CANDIDATE, space)
            for space in self._opened.vocabulary_sizes
        }
        self._labels = recent_biases.labels(examples_dir)
        self._half_life_s = SiteFacts.of_info(info).half_life_s
        self._model = self._started(model_dir)
        self._videos = VideoFeatures.of_catalogue(
            dataset.videos(examples_dir),
            columns=self._model.content_columns,
            num_videos=self._model.num_videos,
        )
        columns = [*self._model.query_columns, "label_video_id", "user_id"]
        self._holdout = Holdout(
            dataset.load(examples_dir, spec.CANDIDATE, "holdout", columns),
            dataset.videos(examples_dir),
            limit=0,
            seed=self._settings.seed,
        )

    def measure(self, output: Path, *, run: str) -> dict[str, Any]:
        """Teaches what came before the hour, measures on it, and saves the model without biases."""
        before = self._judged(self._model, self._learnt_s, self._weights)
        steps = self._teach(self._learnt_s, self._hour_s, run)
        lineage = {**self._lineage(), "train_until_s": self._hour_s}
        plain = [variable.numpy() for variable in self._model.variables]
        watches = self._decayed(self._hour_s)
        if self._opened.config_as(CandidateConfig).recent_biases:
            # Of too few watches they cannot be told; then those before still hold.
            told = recent_biases.fit(self._model, self._examples, watches)
            self._weights = told or self._weights
        self._save(output, {**lineage, "recent": self._weights})
        after = self._judged(self._model, self._hour_s, self._weights)
        if self._weights:
            recent_biases.apply(self._model, watches, self._weights, until_s=self._hour_s)
        popular = self._holdout.ranks_by(watches[0], self._model)
        self._side = self._side_of(self._model, self._hour_s)
        self._plain = plain
        return {
            "learnt_from_s": self._learnt_s,
            "held_out_from_s": self._hour_s,
            "until_s": self._until_s,
            "steps": steps,
            "watches": len(after),
            "recall": metrics.recall_at_k(after, K),
            "against_before": self._difference(after, before),
            "against_popularity": self._difference(after, popular),
        }

    def serve(self, output: Path, facts: dict[str, Any], *, run: str) -> dict[str, Any]:
        """Teaches the hour to a model like the measured one, and saves it with its biases."""
        self._model = self._new()
        for variable, value in zip(self._model.variables, self._plain, strict=True):
            variable.assign(value)
        self._begin_biases(self._hour_s, self._until_s)
        biases = self._model.softmax_biases.rows
        begun = biases.numpy()
        steps = self._teach(self._hour_s, self._until_s, run)
        if self._weights:
            # How often the hour's videos were watched is said by their counts, once: the weights
            # were told with a model whose biases had not learnt it.
            biases.assign(begun)
            watches = self._decayed(self._until_s)
            recent_biases.apply(self._model, watches, self._weights, until_s=self._until_s)
        final = self._side_of(self._model, self._until_s)
        more = {
            "serving_steps": steps,
            "new_videos": int((final.known & ~self._side.known).sum()),
        }
        checks = refit_checks.compare(self._side, final)
        lineage = {**self._lineage(), "train_until_s": self._until_s, "recent": self._weights}
        lineage |= {"refit": {"checks": checks, "at": saved.now()}, "follow": facts | more}
        self._save(output, lineage)
        return more

    def _new(self) -> CandidateModel:
        sizes = {space: len(tokens) for space, tokens in self._vocabularies.items()}
        model_config = self._opened.config_as(CandidateConfig)
        return CandidateModel(self._opened.resolved, sizes, model_config, seed=self._settings.seed)

    def _started(self, model_dir: Path) -> CandidateModel:
        """Returns the model of before with rows for all that is new."""
        model, older = self._new(), candidate_model.load(model_dir)
        old = {space: saved.vocabulary(model_dir, space) for space in self._vocabularies}
        if model.config.popularity_bias:
            # What is new starts as popular as it was, and nothing of the hour is known yet.
            model.set_popularity_bias(self._counts(self._hour_s))
        warm_start.apply(model, self._vocabularies, old_model=older, old_vocabularies=old)
        model.repeat_bias.assign(older.repeat_bias)
        model.youth.assign(older.youth)
        return model

    def _begin_biases(self, since_s: int, until_s: int) -> None:
        """Starts the biases of what was first watched in a time as those of other new videos."""
        if self._model.config.popularity_bias:
            before, now = self._counts(since_s), self._counts(until_s)
            rows = self._model.softmax_biases.rows
            started = np.where((before == 0) & (now > 0), np.log1p(now), rows.numpy()[1:, 0])
            rows.assign(np.concatenate([[0.0], started])[:, np.newaxis].astype(np.float32))

    def _counts(self, until_s: int) -> Ints:
        """Returns how often each video is the label of an example before a time, int64 [V]."""
        ids, times = self._labels
        size = len(self._vocabularies[candidate_model.VIDEO_SPACE])
        return np.bincount(ids[times < until_s], minlength=size + 1)[1:]

    def _decayed(self, until_s: int) -> npt.NDArray[np.float64]:
        """Returns the decayed counts of what lies before a time, float64 [parts, V]."""
        ids, times = self._labels
        before = times < until_s
        size = len(self._vocabularies[candidate_model.VIDEO_SPACE])
        return recent_biases.counts_of(ids[before], times[before], size, self._half_life_s)

    def _teach(self, since_s: int, until_s: int, run: str) -> int:
        """Trains on the examples of a time and on some older ones; returns the number of steps."""
        _, times = self._labels
        newer = int(((times >= since_s) & (times < until_s)).sum())
        older = int((times < since_s).sum())
        if not newer:
            return 0
        share = min(1.0, _OLDER_EACH * newer / max(1, older))
        chosen = batches.Newer(since_s=since_s, older=share, counts=(newer, round(share * older)))
        # Of the night's settings all but those that were fitted to its number of examples.
        settings = dataclasses.replace(self._settings, epochs=_EPOCHS, batch_size=0).fitted_to(
            sum(chosen.counts)
        )
        task = candidate_training.CandidateTask(
            self._model, self._videos, self._counts(until_s), holdout=None, settings=settings
        )
        examples = batches.open_training(
            self._examples,
            spec.CANDIDATE,
            columns=(*self._model.query_columns, LABEL),
            settings=settings,
            keep=lambda part: (
                (part[LABEL].astype(np.int64) > 0) & (part["time"].astype(np.int64) < until_s)
            ),
            newer=chosen,
        )
        directory = checkpoints.RunDirectory(run, {"at": saved.now()})
        result = loop.fit(task, examples, settings, directory)
        candidate_training.fit_repeat_bias(self._model, self._videos, examples)
        shutil.rmtree(run)
        return result.steps

    def _judged(self, model: CandidateModel, until_s: int, weights: dict[str, float]) -> Ints:
        """Returns the ranks of the hour's watches, int64 [n], by a model with its biases."""
        moved = (model.softmax_biases.rows, model.moved_biases, model.repeat_bias, model.youth)
        kept = [variable.numpy() for variable in moved]
        if weights:
            recent_biases.apply(model, self._decayed(until_s), weights, until_s=until_s)
        ranks = self._holdout.ranks(model)
        for variable, value in zip(moved, kept, strict=True):
            variable.assign(value)
        return ranks

    def _difference(self, ours: Ints, others: Ints) -> list[float]:
        """Returns by how much recall@100 of the hour is higher, and its interval, over users."""
        assert self._holdout.users is not None
        _, codes = np.unique(self._holdout.users, return_inverse=True)
        number = int(codes.max(initial=-1)) + 1
        sums = [
            metrics.sums_by_user((ranks <= K).astype(np.float64), codes.astype(np.int64), number)
            for ranks in (ours, others)
        ]
        (change,) = intervals.Bootstrap(num_users=max(1, number)).differences([(sums[0], sums[1])])
        return [float(v) for v in (change.value, change.low, change.high) if np.isfinite(v)]

    def _side_of(self, model: CandidateModel, until_s: int) -> refit_checks.Side:
        """Returns what is compared; a video that had no watch by then is one that is not known."""
        side = refit_checks.Side.of(model, self._examples)
        ids = np.asarray(dataset.videos(self._examples)[LABEL], np.int64)
        seen = np.concatenate([[False], self._counts(until_s) > 0])
        return dataclasses.replace(side, known=side.known & seen[ids])

    def _save(self, output: Path, lineage: dict[str, Any]) -> None:
        vocabularies = self._vocabularies
        _save(self._model, output, self._opened, vocabularies=vocabularies, lineage=lineage)

    def _lineage(self) -> dict[str, Any]:
        return {
            **self._opened.info["lineage"],
            **saved.lineage_of(self._examples, spec.CANDIDATE),
            "trained_at": saved.now(),
        }


def _save(
    model: CandidateModel,
    output: Path,
    opened: saved.Opened,
    *,
    vocabularies: dict[str, list[str]],
    lineage: dict[str, Any],
) -> None:
    contents = saved.Contents(
        configs=opened.configs,
        vocabularies=vocabularies,
        metrics=opened.info["metrics"],
        history=saved.read_history(pathlib.Path(opened.directory)),
        lineage=lineage,
    )
    candidate_model.save(model, output, contents=contents)
