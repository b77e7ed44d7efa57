"""Starts a model from an older one whose vocabularies were smaller.

Every day brings new videos, channels and tokens; what was learned about the old ones need not be
learned again. Rows of embedding tables are matched by vocabulary entry, for every ID space, since
the id of a video changes when the vocabulary is made anew. Ids that the old model did not know
start as in a new model. Dense weights are taken where their shapes agree.

A model that is taught for longer and longer what it knows learns it by heart: it finds less of the
next day than one that starts anew. So of rows that a new model would start from today's counts
(:mod:`models.candidate.spectral_start`) a share is kept alone, and the rest is that start. Factors
are told up to a rotation, so they are first turned to where the old rows are; new videos then stand
among the old ones.

Sources: Ash and Adams, "On warm-starting neural network training", NeurIPS 2020: shrink and
perturb; Schoenemann, "A generalized solution of the orthogonal Procrustes problem", Psychometrika
1966. That what is mixed in knows something is ours.
"""

import dataclasses
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import tf_keras
from absl import logging

from features import command, dataset
from features.stores import door
from models.config import TrainingConfig, WarmStart
from models.embeddings import EmbeddingTable
from models.training import batches, loop, saved

Vocabularies = Mapping[str, Sequence[str]]
# The softmax has a row per video as the table of watched videos has.
_SPACES = {"softmax_rows": "video", "softmax_biases": "video"}
# Settings that decide what a weight means, not only how it was found.
_MEANING = (
    "embedding_dim",
    "linear_output",
    "item_to_item",
    "query_encoder",
    "attention_blocks",
    "attention_heads",
    "age_pieces",
    "powers",
    "exclude",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Summary:
    """What was taken from the old model.

    Attributes:
        kept: Table to the number of ids that keep their rows.
        new: Table to the number of ids that start anew.
        dense: Names of dense weights that were taken.
        anew: Names of dense weights and tables that start anew, since their shapes differ.
    """

    kept: dict[str, int]
    new: dict[str, int]
    dense: list[str]
    anew: list[str]


def apply(
    model: tf_keras.Model,
    vocabularies: Vocabularies,
    *,
    old_model: tf_keras.Model,
    old_vocabularies: Vocabularies,
    started: Sequence[str] = (),
    keep: float = 1.0,
) -> Summary:
    """Copies what the old model knows into a new one, before its training.

    Args:
        model: Model whose weights are overwritten.
        vocabularies: ID space to tokens; the token of id i is element i - 1.
        old_model: A model of the same kind.
        old_vocabularies: Vocabularies of the old model, ID space to tokens.
        started: Names of tables, of one width, whose rows know something already. They are turned
            to where the old ones are.
        keep: Share of the old rows that is kept in these, in [0, 1].

    Returns:
        Summary of what was taken.

    Raises:
        command.InputError: The models do not read the same features, or weights of the one would
            mean something else in the other; says what differs.
    """
    _require_compatible(model, old_model)
    old_tables = loop.tables_of(old_model)
    kept, new, anew, taken = {}, {}, [], {}
    for name, table in loop.tables_of(model).items():
        old = old_tables.get(name)
        if old is None or old.width != table.width:
            anew.append(name)
            continue
        space = _SPACES.get(name, name)
        ids, old_ids = _shared(vocabularies[space], old_vocabularies[space])
        taken[name] = _Taken(table, ids, old.rows.numpy()[old_ids])
        kept[name], new[name] = len(ids), table.size - len(ids)
    turn = _turn([taken[name] for name in started]) if started else None
    for name, one in taken.items():
        rows = one.table.rows.numpy()
        if name in started:
            rows = rows @ turn
            rows[one.ids] = keep * one.rows + (1 - keep) * rows[one.ids]
        else:
            rows[one.ids] = one.rows
        one.table.rows.assign(rows)
    dense, changed = _copy_dense(model, old_model)
    summary = Summary(kept=kept, new=new, dense=dense, anew=[*anew, *changed])
    _log(summary)
    return summary


@dataclasses.dataclass(frozen=True)
class _Taken:
    """What a table gets of the old model: the old rows, [n, D], of some of its ids, [n]."""

    table: EmbeddingTable
    ids: npt.NDArray[np.int64]
    rows: npt.NDArray[np.float32]


def _turn(taken: Sequence[_Taken]) -> npt.NDArray[np.float32]:
    """Returns the rotation, float32 [D, D], that leads new rows closest to the old ones."""
    new = np.concatenate([one.table.rows.numpy()[one.ids] for one in taken])
    left, _, right = np.linalg.svd(new.T @ np.concatenate([one.rows for one in taken]))
    return np.asarray(left @ right, np.float32)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Begun:
    """A training that is about to start.

    Attributes:
        facts: Lineage, with ``warm_start`` where the model was started from an older one.
        settings: Settings to train by.
        vocabularies: Tokens by ID space; the token of id i is element i - 1.
        newer: Choice of the examples to train on; None: all of them.
    """

    facts: dict[str, Any]
    settings: TrainingConfig
    vocabularies: Vocabularies
    newer: batches.Newer | None = None


def begun(
    model: tf_keras.Model,
    examples_dir: str | os.PathLike[str],
    settings: TrainingConfig,
    *,
    kind: str,
    warm: WarmStart,
    load: Callable[[str | os.PathLike[str]], tf_keras.Model],
    num_examples: int,
    times: Callable[[], npt.NDArray[np.int64]],
    started: Sequence[str] = (),
) -> Begun:
    """Starts a model from an older one, where there is one.

    An older model is taught what it has not learnt: the examples that are newer than those of its
    training, and some of the others, which it would forget.

    Args:
        model: Model whose weights are overwritten.
        examples_dir: Directory that pipeline.preprocess wrote.
        settings: Settings as they are given.
        kind: Kind of model, ``candidate`` or ``ranker``.
        warm: The old model, or none; it is left alone where there are few examples and it may be.
        load: Function that reads the model of a directory.
        num_examples: Number of the training examples.
        times: Function that returns their times, int64 [n], Unix seconds.
        started: Names of the tables whose rows know something already, see :func:`apply`.
    """
    facts = saved.lineage_of(examples_dir, kind)
    vocabularies = {
        space: dataset.vocabulary(examples_dir, kind, space) for space in model.vocabulary_sizes
    }
    cold = Begun(facts=facts, settings=settings.fitted_to(num_examples), vocabularies=vocabularies)
    if warm.directory is None:
        return cold
    if warm.or_cold and num_examples < settings.warm_least:
        logging.info("Starting cold: there are %d examples, no more.", num_examples)
        return cold
    try:
        older = _from_directory(
            model, vocabularies, warm.directory, load, started=started, keep=settings.warm_keep
        )
    except command.InputError as error:
        if not warm.or_cold:
            raise
        logging.warning("Starting cold. %s", error)
        return cold
    until_s = saved.read_lineage(warm.directory).get("train_until_s")
    newer = until_s and batches.Newer.of(
        times(), since_s=int(until_s), older_each=settings.warm_older
    )
    if not newer:
        logging.warning(
            "Warm start: it cannot be told which examples are new to %s, so all of them are "
            "trained on.",
            warm.directory,
        )
        numbers = {}
    else:
        num_examples = sum(newer.counts)
        numbers = dict(zip(("newer_examples", "older_examples"), newer.counts, strict=True))
        logging.info("Warm start: %s newer examples, %s older ones.", *newer.counts)
    return Begun(
        facts={**facts, "warm_start": {**older, **numbers}},
        settings=dataclasses.replace(settings, epochs=settings.warm_epochs).fitted_to(num_examples),
        vocabularies=vocabularies,
        newer=newer or None,
    )


def _from_directory(
    model: tf_keras.Model,
    vocabularies: Vocabularies,
    directory: pathlib.Path,
    load: Callable[[str | os.PathLike[str]], tf_keras.Model],
    *,
    started: Sequence[str],
    keep: float,
) -> dict[str, Any]:
    """As :func:`apply`, from a saved model; returns what the lineage says of it."""
    old_model = load(directory)
    old = {space: saved.vocabulary(directory, space) for space in old_model.vocabulary_sizes}
    summary = apply(
        model,
        vocabularies,
        old_model=old_model,
        old_vocabularies=old,
        started=started,
        keep=keep,
    )
    lineage = saved.read_lineage(directory)
    return {
        "model": door.shown(directory.resolve()),
        "trained_at": lineage.get("trained_at", ""),
        "starts": lineage.get("warm_start", {}).get("starts", 0) + 1,
        "ids_kept": summary.kept,
    }


def _shared(
    tokens: Sequence[str], old_tokens: Sequence[str]
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Returns the ids of the tokens that both have, in the new vocabulary and in the old."""
    old_id = {token: i for i, token in enumerate(old_tokens, start=1)}
    pairs = [(i, old_id[t]) for i, t in enumerate(tokens, start=1) if t in old_id]
    both = np.array(pairs, np.int64).reshape(-1, 2)
    return both[:, 0], both[:, 1]


def _copy_dense(model: tf_keras.Model, old_model: tf_keras.Model) -> tuple[list[str], list[str]]:
    old = _dense(old_model)
    taken, anew = [], []
    for name, variable in _dense(model).items():
        if name in old and old[name].shape == variable.shape:
            variable.assign(old[name])
            taken.append(name)
        else:
            anew.append(name)
    return taken, anew


def _dense(model: tf_keras.Model) -> dict[str, Any]:
    """Returns all trainable weights that are no rows of a table, by layers and name."""
    tables = {id(part) for table in loop.tables_of(model).values() for part in table.parts}
    # Layers that were built by hand give their weights no prefix, and layers within a layer would
    # share a name: so all that hold a weight stand in it, the outermost first.
    holders: dict[int, list[str]] = {}
    for layer in (m for m in model.submodules if isinstance(m, tf_keras.layers.Layer)):
        for variable in layer.trainable_weights:
            holders.setdefault(id(variable), []).append(layer.name)
    return {
        "/".join([*holders.get(id(variable), [model.name]), variable.name]): variable
        for variable in model.trainable_weights
        if id(variable) not in tables
    }


def _require_compatible(model: tf_keras.Model, old_model: tf_keras.Model) -> None:
    new, old = model.config, old_model.config
    different = [
        f"{name} is {getattr(new, name)!r} and was {getattr(old, name)!r}"
        for name in _MEANING
        if getattr(new, name, None) != getattr(old, name, None)
    ]
    features = [{f.name: f for f in m.resolved.features} for m in (model, old_model)]
    if list(features[0].items()) != list(features[1].items()):
        changed = sorted(
            name
            for name in {*features[0], *features[1]}
            if features[0].get(name) != features[1].get(name)
        )
        different.append(f"the features differ: {', '.join(changed) or 'their order'}")
    if different:
        raise command.InputError(
            f"--warm_start: the old model does not fit. {'; '.join(different)}. Use the settings "
            "and features of the old model, or train without --warm_start."
        )


def _log(summary: Summary) -> None:
    for name, kept in summary.kept.items():
        logging.info(
            "Warm start: %s keeps %s rows, %s ids are new.",
            name,
            f"{kept:,}",
            f"{summary.new[name]:,}",
        )
    if summary.anew:
        logging.warning("Warm start: %s start anew, shapes differ.", ", ".join(summary.anew))
