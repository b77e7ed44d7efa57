"""Saved model directories: whole or not there, and readable without the examples.

    model/
      COMPLETE              kind, metrics, lineage, vocabulary sizes (JSON); written last
      config.json           settings of the model and of its training
      spec.json             the features
      metrics.json          holdout metrics
      history.json          what each round of the training came to
      weights.*             TensorFlow checkpoint
      vocabulary_*.parquet  tokens; the token of id i is row i - 1

A model knows the fingerprint of the transform graph whose ids and quantiles it was trained on;
it refuses to work with another.
"""

import dataclasses
import datetime
import hashlib
import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq
import tensorflow as tf
import tf_keras

from features import command, dataset, files, spec
from features.spec import ResolvedSpec
from features.stores import door
from models import config

Path = str | os.PathLike[str]
_Config = TypeVar("_Config")
_WEIGHTS, _CONFIG, _METRICS = "weights", "config.json", "metrics.json"
_HISTORY = "history.json"
_MADE_BY = {
    spec.CANDIDATE: "python -m models.train_candidate --examples=EXAMPLES --model=MODEL",
    spec.RANKER: "python -m models.train_ranker --examples=EXAMPLES --model=MODEL",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Contents:
    """What belongs to a model besides its weights.

    Attributes:
        configs: ``model`` and, where it was trained here, ``training``: config dataclasses.
        vocabularies: ID space to its tokens; the token of id i is element i - 1.
        metrics: Holdout metrics, finite.
        lineage: Origin of the model, JSON values; ``transform`` is the fingerprint of the transform
            graph.
        history: Rounds of the training, of :class:`models.training.checkpoints.History`.
    """

    configs: Mapping[str, Any]
    vocabularies: Mapping[str, Sequence[str]]
    metrics: Mapping[str, float] = dataclasses.field(default_factory=dict)
    lineage: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    history: Sequence[Mapping[str, Any]] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Opened:
    """A complete model directory, its weights not read yet.

    Attributes:
        directory: Directory of the model.
        resolved: Features of the data set.
        vocabulary_sizes: V by ID space.
        configs: Content of ``config.json``.
        info: Content of ``COMPLETE``.
    """

    directory: pathlib.Path
    resolved: ResolvedSpec
    vocabulary_sizes: dict[str, int]
    configs: dict[str, Any]
    info: dict[str, Any]

    def config_as(self, config_class: type[_Config]) -> _Config:
        """Returns the model's settings.

        Raises:
            command.InputError: The directory was written by a version with other settings.
        """
        try:
            return config.from_mapping(config_class, self.configs["model"])
        except (KeyError, ValueError) as error:
            raise command.InputError(
                f"{self.directory / _CONFIG} does not fit this version: {error} "
                f"Train again with: {_MADE_BY[self.info['kind']]}"
            ) from None

    def restore(self, model: tf_keras.Model) -> None:
        """Reads the weights into a model of the same shape.

        Raises:
            command.InputError: The weights are damaged or of another shape.
        """
        prefix = str(self.directory / _WEIGHTS)
        try:
            status = tf.train.Checkpoint(model=model).read(prefix)
            status.assert_existing_objects_matched()
        except (tf.errors.OpError, AssertionError, IndexError, ValueError) as error:
            raise command.InputError(
                f"{prefix}.* cannot be read as weights of this model: {error} "
                f"Train again with: {_MADE_BY[self.info['kind']]}"
            ) from None


def write(
    directory: Path,
    *,
    kind: str,
    model: tf_keras.Model,
    contents: Contents,
) -> None:
    """Writes a model directory under a temporary name, then renames it.

    Args:
        directory: Directory, created or replaced.
        kind: Kind of model, ``candidate`` or ``ranker``.
        model: Model whose weights, ``resolved`` and ``vocabulary_sizes`` are saved.
        contents: Content of the directory besides the weights.
    """
    with files.atomic_directory(directory) as temporary:
        # write(), not save(): no checkpoint bookkeeping files with temporary names in them.
        tf.train.Checkpoint(model=model).write(str(temporary / _WEIGHTS))
        model.resolved.save(temporary)
        files.atomic_write(temporary / _CONFIG, config.to_json(contents.configs))
        metrics = json.dumps(dict(contents.metrics), indent=1, sort_keys=True, allow_nan=False)
        files.atomic_write(temporary / _METRICS, metrics + "\n")
        rounds = json.dumps([dict(one) for one in contents.history], indent=1, allow_nan=False)
        files.atomic_write(temporary / _HISTORY, rounds + "\n")
        for space, tokens in contents.vocabularies.items():
            table = pa.table({"token": pa.array(tokens, pa.string())})
            pq.write_table(table, _vocabulary_path(temporary, space))
        files.mark_complete(
            temporary,
            {
                "kind": kind,
                "vocabulary_sizes": dict(model.vocabulary_sizes),
                "metrics": dict(contents.metrics),
                "lineage": dict(contents.lineage),
            },
        )


def open_directory(directory: Path, *, kind: str, examples_dir: Path | None = None) -> Opened:
    """Checks a model directory and reads everything but weights.

    Args:
        directory: Directory of the model.
        kind: Kind of model, ``candidate`` or ``ranker``.
        examples_dir: Examples with the transform of the training; None: not checked.

    Raises:
        command.InputError: The directory is not complete, holds another kind of model, or another
            transform.
    """
    info = files.require_complete(directory, what=f"a {kind} model", made_by=_MADE_BY[kind])
    if info.get("kind") != kind:
        raise command.InputError(
            f"{directory} holds a {info.get('kind')!r} model, not a {kind} model. "
            f"Make one with: {_MADE_BY[kind]}"
        )
    trained_on = info["lineage"].get("transform")
    if examples_dir is not None and trained_on is not None:
        fingerprint = transform_fingerprint(examples_dir, kind)
        if fingerprint != trained_on:
            raise command.InputError(
                f"{directory} was trained on another transform than that of {examples_dir}: ids "
                f"and quantiles would be mixed up. It came from {info['lineage'].get('examples')}."
            )
    path = pathlib.Path(directory)
    return Opened(
        directory=path,
        resolved=ResolvedSpec.load(path),
        vocabulary_sizes=info["vocabulary_sizes"],
        configs=json.loads((path / _CONFIG).read_text()),
        info=info,
    )


def lineage_of(examples_dir: Path, model: str) -> dict[str, Any]:
    """Returns paths, times and the transform's fingerprint of the examples; JSON values."""
    info = dataset.info(examples_dir)
    times: dict[str, Any] = {
        key: info[key] for key in ("from_s", "until_s", "train_until_s") if key in info
    }
    return {
        "examples": door.shown(pathlib.Path(examples_dir).resolve()),
        "transform": transform_fingerprint(examples_dir, model),
        **times,
    }


def now() -> str:
    """Returns the time, UTC, ISO 8601."""
    return datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def read_lineage(directory: Path) -> dict[str, Any]:
    """Returns what a complete model directory says it was made from."""
    return dict((files.read_complete(directory) or {}).get("lineage", {}))


def read_history(directory: Path) -> list[dict[str, Any]]:
    """Returns the rounds of a training; none of a model that an older version trained."""
    path = pathlib.Path(directory) / _HISTORY
    return list(json.loads(path.read_text())) if path.is_file() else []


def vocabulary(directory: Path, space: str) -> list[str]:
    """Returns the tokens of an ID space of a saved model; the token of id i is element i - 1.

    Raises:
        command.InputError: The directory has no such vocabulary.
    """
    path = _vocabulary_path(pathlib.Path(directory), space)
    if not path.is_file():
        raise command.InputError(f"{path} does not exist: no vocabulary of {space!r}.")
    return pq.read_table(path).column("token").to_pylist()


def _vocabulary_path(directory: pathlib.Path, space: str) -> pathlib.Path:
    return directory / f"vocabulary_{space}.parquet"


def transform_fingerprint(examples_dir: Path, model: str) -> str:
    """Returns a SHA-256 over the files of a model's transform graph, vocabularies included."""
    root = pathlib.Path(examples_dir) / "transform_fn" / model
    digest = hashlib.sha256()
    for path in sorted(p for p in root.rglob("*") if p.is_file()):
        digest.update(f"{path.relative_to(root)}\n{path.stat().st_size}\n".encode())
        with path.open("rb") as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
    return digest.hexdigest()
