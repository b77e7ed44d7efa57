"""What each video alone contributes to the ranker, computed once when the release is built.

Of 500 candidates most inputs never change between two requests: ids of the video, its channel
and topics, its numbers. What they come to in the first layer of the ranker
(:mod:`models.ranking.layers`) is a row of numbers per video, so the funnel takes rows of an array
where it would transform, look up and multiply the widest vectors of all, again for each request.
What depends on the moment (history, statistics, nomination, age) is still computed as for
training, and goes through the same quantiles inside the model.

    parts.npy      float16 [N, P], see :meth:`models.ranking.model.Ranker.video_parts`
    columns.json   ids of the values that a nomination can have
"""

import dataclasses
import functools
import json
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from absl import logging

from features import command, files, spec, tensors
from features.as_of import examples
from features.catalogue import Catalogue
from features.screen import progress, quiet
from features.spec import Feature, Kind, ResolvedSpec, Side
from serving.index.exact_search import RowsByNumber
from serving.release import mapping

DIRECTORY = "ranker_videos"  # In the videos of a release.
# Input of the signature that scores, output of the one that prepares. Half precision keeps three
# digits of each of its hundreds of numbers, which x sums up, and half the memory.
PARTS = "video_parts"
DTYPE = np.dtype(np.float16)
_PARTS, _COLUMNS = "parts.npy", "columns.json"
_BATCH = 8192

Arrays = dict[str, np.ndarray]
Path = str | os.PathLike[str]
Prepare = Callable[[Mapping[str, np.ndarray]], Mapping[str, np.ndarray]]


def of_the_moment(resolved: ResolvedSpec, kind: Kind) -> tuple[Feature, ...]:
    """Returns the ranker's candidate-side features of a kind that are not static."""
    return tuple(f for f in resolved.of(spec.RANKER, Side.CANDIDATE, kind) if not f.static)


def _nominated(resolved: ResolvedSpec) -> tuple[Feature, ...]:
    """Returns the categorical features that are no column of videos."""
    features = resolved.of(spec.RANKER, Side.CANDIDATE)
    return tuple(f for f in features if f.categorical and not f.static)


@dataclasses.dataclass(frozen=True)
class PreparedVideos:
    """The array of a release, in memory.

    Attributes:
        resolved: Features of the release.
        parts: float16 [N, P], the parts of the catalogue's videos.
        nominated: Feature to value to id, of categorical features that are no column of videos.
    """

    resolved: ResolvedSpec
    parts: RowsByNumber
    nominated: Mapping[str, Mapping[str, int]]

    @functools.cached_property
    def moment(self) -> Mapping[Kind, tuple[Feature, ...]]:
        """The numbers that depend on the moment."""
        kinds = (Kind.CONTINUOUS, Kind.BINARY)
        return {kind: of_the_moment(self.resolved, kind) for kind in kinds}

    def static_inputs(self, rows: np.ndarray) -> Arrays:
        """Returns the input of the signature that depends on the videos alone, by name.

        Args:
            rows: int [n], of the catalogue.
        """
        return {PARTS: self.parts[rows]}

    def nominated_inputs(self, combinations: tuple[Sequence[Sequence[str]], np.ndarray]) -> Arrays:
        """Returns the inputs that a nomination gives, by name.

        Args:
            combinations: The lists of sources that occur, and which one each of n videos has.
        """
        lists, which = combinations
        return {
            feature.name: _shaped(feature, self.nominated_ids(feature.name, lists)[which])
            for feature in _nominated(self.resolved)
        }

    def nominated_ids(self, name: str, values: Sequence[Sequence[str]]) -> np.ndarray:
        """Returns int32 [n, L]: the ids of lists of strings, 0 for unknown ones."""
        (feature,) = (f for f in _nominated(self.resolved) if f.name == name)
        known = self.nominated[name]
        result = np.zeros((len(values), feature.max_length), np.int32)
        for row, texts in enumerate(values):
            for column, text in enumerate(texts[: result.shape[1]]):
                result[row, column] = known.get(text, 0)
        return result

    def inputs_for(self, raw: Mapping[str, np.ndarray], rows: np.ndarray) -> Arrays:
        """Returns the signature's candidate-side inputs for raw ones, to compare the two ways.

        Args:
            raw: Raw candidate-side arrays by name, n rows.
            rows: int [n], their rows of the catalogue, none below 0.
        """
        inputs = self.static_inputs(rows)
        for feature in _nominated(self.resolved):
            values = raw[feature.name].reshape(len(rows), -1)
            ids = self.nominated_ids(feature.name, [[str(t) for t in row] for row in values])
            inputs[feature.name] = _shaped(feature, ids)
        for kind, moment in self.moment.items():
            if moment:
                name = spec.vector_column(Side.CANDIDATE, kind)
                names = self.resolved.vector_names(spec.RANKER, Side.CANDIDATE, kind)
                inputs[name] = raw[name][:, [names.index(f.name) for f in moment]]
        return inputs

    @classmethod
    def load(cls, directory: Path, resolved: ResolvedSpec) -> "PreparedVideos":
        """Opens what :func:`write` wrote."""
        path = pathlib.Path(directory)
        return cls(
            resolved=resolved,
            parts=mapping.opened(path / _PARTS),
            nominated=json.loads((path / _COLUMNS).read_text())["nominated"],
        )


def _shaped(feature: Feature, ids: np.ndarray) -> np.ndarray:
    """Returns ids int32 [n, L] in the shape of the feature's kind."""
    return ids if feature.kind is Kind.MULTIVALENT else ids[:, 0]


def signature_inputs(
    resolved: ResolvedSpec, parts_width: int
) -> dict[str, tuple[str, list[int | None]]]:
    """Returns name to (dtype name, shape) of the candidate-side inputs of the signature."""
    shapes: dict[str, tuple[str, list[int | None]]] = {PARTS: (DTYPE.name, [None, parts_width])}
    for feature in _nominated(resolved):
        many = feature.kind is Kind.MULTIVALENT
        shapes[feature.name] = ("int32", [None, feature.max_length] if many else [None])
    for kind in (Kind.CONTINUOUS, Kind.BINARY):
        features = of_the_moment(resolved, kind)
        if features:
            shapes[spec.vector_column(Side.CANDIDATE, kind)] = ("float32", [None, len(features)])
    return shapes


def is_supported(resolved: ResolvedSpec) -> bool:
    """Whether every categorical candidate-side feature is of the video, or its sources."""
    return all(f.source == "nomination.candidate_sources" for f in _nominated(resolved))


def write(
    directory: Path,
    *,
    resolved: ResolvedSpec,
    catalogue: Catalogue,
    prepare: Prepare,
    vocabularies: Mapping[str, Sequence[str]],
) -> None:
    """Prepares the whole catalogue.

    Args:
        directory: Directory to create.
        resolved: Features of the release.
        catalogue: Catalogue of all videos.
        prepare: Raw candidate-side arrays of the ranker by name to :data:`PARTS`.
        vocabularies: Vocabularies of the spaces of nominated features; the token of id i is element
            i - 1.

    Raises:
        command.InputError: See :func:`parts_of`.
    """
    path = pathlib.Path(directory)
    path.mkdir(parents=True)
    progress.at("preparing the videos", total=len(catalogue), unit="videos")
    with quiet.filtered_stderr():  # The first half-precision numbers have oneDNN speak.
        parts = parts_of(resolved, catalogue, np.arange(len(catalogue)), prepare)
    np.save(path / _PARTS, parts, allow_pickle=False)
    nominated = {f.name: _ids_of_values(f, vocabularies[f.space]) for f in _nominated(resolved)}
    files.atomic_write(path / _COLUMNS, json.dumps({"nominated": nominated}, indent=1) + "\n")
    logging.info(
        "Prepared %d videos for the ranker, %.1f MB.", len(catalogue), parts.nbytes / 1_000_000
    )


def parts_of(
    resolved: ResolvedSpec, catalogue: Catalogue, rows: np.ndarray, prepare: Prepare
) -> np.ndarray:
    """Returns the parts of some videos, float16 [n, P].

    Args:
        resolved: Features of the release.
        catalogue: Catalogue of all videos.
        rows: int [n], one or more.
        prepare: Raw candidate-side arrays of the ranker by name to :data:`PARTS`.

    Raises:
        command.InputError: A number is not finite, or too large for half precision.
    """
    parts: np.ndarray | None = None
    for start in range(0, len(rows), _BATCH):
        block = rows[start : start + _BATCH]
        raw = examples.candidate_batch(resolved, spec.RANKER, catalogue=catalogue, video_rows=block)
        arrays = tensors.to_arrays(raw, resolved, spec.RANKER, Side.CANDIDATE)
        with np.errstate(over="ignore"):  # It is told below, of which video.
            prepared = np.asarray(prepare(arrays)[PARTS], DTYPE)
        bad = np.flatnonzero(~np.isfinite(prepared).all(axis=1))
        if len(bad):
            names = catalogue.video_ids.take(block[bad[:3]]).to_pylist()
            raise command.InputError(
                f"The ranker gives {len(bad)} videos (first: {names}) numbers that are not finite "
                f"or above {np.finfo(DTYPE).max:.0f}: its training has diverged. Train it again, "
                "with a lower learning rate."
            )
        if parts is None:
            parts = np.empty((len(rows), prepared.shape[1]), DTYPE)
        parts[start : start + len(block)] = prepared
        progress.add(len(block))
    if parts is None:
        raise ValueError("rows must be one or more, got none.")
    return parts


def _ids_of_values(feature: Feature, tokens: Sequence[str]) -> dict[str, int]:
    """Returns value to id; tokens of the shared category space are ``feature=value``."""
    prefix = f"{feature.name}=" if feature.space == "category" else ""
    return {
        token.removeprefix(prefix): number
        for number, token in enumerate(tokens, start=1)
        if token.startswith(prefix)
    }
