"""Writes a model's numbers beside its SavedModel, for :mod:`serving.arrays` to run.

Definitions stay in the models; what is written is derived from the model in memory and the examples
that it was trained on. A model that NumPy cannot run has the reason written instead, and is run by
TensorFlow.
"""

import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tf_keras
from absl import logging

from features import dataset, spec
from features.spec import Kind, ResolvedSpec, Side
from models.candidate.model import CandidateModel
from models.embeddings import EmbeddingTable
from models.ranking.calibration import Calibration
from models.ranking.model import Ranker
from serving.arrays import constants, layers
from serving.arrays.constants import Constants
from serving.arrays.inputs import boundaries_name, moments_name
from serving.arrays.vocabulary import Vocabulary
from serving.servables import prepared_videos, signatures

Path = str | os.PathLike[str]


def write_query_tower(model: CandidateModel, examples_dir: Path, saved_model: Path) -> None:
    """Writes both towers of a candidate model beside their SavedModel.

    Args:
        model: Trained candidate model.
        examples_dir: The examples it was trained on.
        saved_model: SavedModel directory of :func:`serving.servables.export.export_query_tower`.
    """
    resolved = ResolvedSpec.load(examples_dir)
    problem = "attention over the watches" if model.has_attention else ""
    if problem:
        _write_none(saved_model, problem)
        return
    arrays = _transform(resolved, spec.CANDIDATE, examples_dir)
    tables = dict(model.tables)
    tables["softmax_rows"] = model.softmax_rows
    arrays |= _tables(tables)
    arrays["softmax_biases"] = _rows(model.softmax_biases)
    for number, layer in enumerate(model.hidden_layers):
        arrays |= _dense(f"hidden.{number}", layer)
    if model.output_layer is not None:
        arrays |= _dense("output", model.output_layer)
    if model.content_layer is not None:
        arrays |= _dense("content", model.content_layer)
    if model.has_vectors:
        arrays["youth"] = model.youth.numpy()
    if model.has_item_to_item:
        arrays["place_weights"] = model.place_weights.numpy()
    names = resolved.vector_names(spec.CANDIDATE, Side.QUERY, Kind.CONTINUOUS)
    query, video = model.layouts
    _write(
        saved_model,
        [signatures.DEFAULT, signatures.EMBED_VIDEOS],
        arrays,
        query_layout=query,
        video_layout=video,
        hidden=len(model.hidden_layers),
        has_output=model.output_layer is not None,
        has_content=model.has_content,
        age_pieces=model.config.age_pieces if model.has_age_pieces else 0,
        age_place=names.index("example_age_s") if model.has_age_pieces else 0,
    )


def write_ranker(model: Ranker, examples_dir: Path, saved_model: Path) -> None:
    """Writes a ranker beside its SavedModel; arguments as of :func:`write_query_tower`."""
    resolved = ResolvedSpec.load(examples_dir)
    if not prepared_videos.is_supported(resolved):
        _write_none(saved_model, "videos that cannot be prepared")
        return
    arrays = _transform(resolved, spec.RANKER, examples_dir) | _tables(model.tables)
    arrays |= _tower(model) | _heads(model)
    arrays |= _curve("calibration", model.calibration)
    if model.level is not None:
        arrays |= _dense("level.0", model.level.hidden)
        arrays |= _dense("level.1", model.level.output_layer)
    query, video, moment = model.layouts
    _write(
        saved_model,
        [signatures.SCORE_PREPARED, signatures.PREPARE_VIDEOS],
        arrays,
        query_layout=query,
        video_layout=video,
        moment_layout=moment,
        upper_layers=len(model.tower.upper_layers),
        has_level=model.level is not None,
        kinds=list(model.heads.kinds) if model.heads is not None else [],
    )


def _tower(model: Ranker) -> dict[str, np.ndarray]:
    first = model.tower.first_layer
    arrays = {
        "tower.first.query": first.query_kernel.numpy(),
        "tower.first.video": first.video_kernel.numpy(),
        "tower.first.moment": first.moment_kernel.numpy(),
        "tower.first.bias": first.bias.numpy(),
    }
    for place, layer in enumerate(model.tower.upper_layers):
        arrays |= _dense(f"tower.{place}", layer)
    return arrays


def _heads(model: Ranker) -> dict[str, np.ndarray]:
    arrays: dict[str, np.ndarray] = {}
    if model.heads is not None:
        arrays |= _dense("heads", model.heads.logits)
        for kind, curve in zip(model.heads.kinds, model.heads.curves, strict=True):
            arrays |= _curve(f"heads.calibration.{kind}", curve)
    return arrays


def _transform(resolved: ResolvedSpec, model: str, examples_dir: Path) -> dict[str, np.ndarray]:
    """Returns vocabularies, boundaries and moments of a model."""
    arrays: dict[str, np.ndarray] = {}
    for space in resolved.spaces_of(model):
        tokens = dataset.vocabulary(examples_dir, model, space.name)
        arrays |= Vocabulary.of(tokens).arrays(space.name)
    for side in Side:
        if resolved.of(model, side, Kind.CONTINUOUS):
            fitted = dataset.boundaries(examples_dir, model, side)
            arrays[boundaries_name(side)] = fitted
        if resolved.of(model, side, Kind.VECTOR):
            arrays[moments_name(side)] = dataset.moments(examples_dir, model, side)
    return arrays


def _tables(tables: Mapping[str, EmbeddingTable]) -> dict[str, np.ndarray]:
    return {f"table.{name}": _rows(table) for name, table in tables.items()}


def _rows(table: EmbeddingTable) -> np.ndarray:
    """Returns the rows, the first one zero: nothing reads it in the model either."""
    rows = np.array(table.rows.numpy())
    rows[0] = 0.0
    return rows


def _dense(name: str, layer: tf_keras.layers.Dense) -> dict[str, np.ndarray]:
    return layers.dense_arrays(name, layer.kernel.numpy(), layer.bias.numpy())


def _curve(name: str, curve: Calibration) -> dict[str, np.ndarray]:
    parts = {"knots": curve.knots, "slopes": curve.slopes, "height": curve.height}
    return {f"{name}.{part}": weight.numpy() for part, weight in parts.items()}


def _write(
    saved_model: Path, supported: Sequence[str], arrays: Mapping[str, np.ndarray], **plan: Any
) -> None:
    written = Constants({"signatures": list(supported), **plan}, arrays)
    constants.write(pathlib.Path(saved_model), written)


def _write_none(saved_model: Path, problem: str) -> None:
    logging.warning("%s will be run by TensorFlow: it has %s.", saved_model, problem)
    constants.write(pathlib.Path(saved_model), Constants({"unsupported": problem}, {}))
