"""What the ranker reads of each video itself, transformed once when the release is built.

Of 500 candidates most inputs never change between two requests: ids of the video, its channel
and topics, its numbers. The transform graph makes them once for all videos; the funnel then takes
rows of arrays, where a million strings a second would have to be looked up otherwise. What depends
on the moment (history, statistics, nomination, age) is still computed as for training, and goes
through the same quantiles inside the model.

    ids.npy        int32 [N, I], the categorical columns side by side
    numbers.npy    float32 [N, F], the continuous columns, then the binary ones
    columns.json   names and widths; ids of the values that a nomination can have
"""

import dataclasses
import functools
import json
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from absl import logging

from features import examples, files, spec, tensors
from features.catalogue import Catalogue
from features.spec import Feature, Kind, ResolvedSpec, Side

DIRECTORY = "ranker_columns"  # In the videos of a release.
# The vectors of the signature: what this module holds has a name of its own beside what is raw.
KNOWN = "known_"
_IDS, _NUMBERS, _COLUMNS = "ids.npy", "numbers.npy", "columns.json"
_BATCH = 8192

Arrays = dict[str, np.ndarray]
Path = str | os.PathLike[str]
Transform = Callable[[Mapping[str, np.ndarray]], Mapping[str, np.ndarray]]


def is_known(feature: Feature) -> bool:
    """Whether a candidate-side feature depends on the video alone."""
    return feature.origin == "videos" and feature.column != "age_s"


def split(resolved: ResolvedSpec, kind: Kind) -> tuple[tuple[Feature, ...], tuple[Feature, ...]]:
    """Returns the ranker's candidate-side features of a kind: known ones, and all others."""
    features = resolved.of(spec.RANKER, Side.CANDIDATE, kind)
    known = tuple(f for f in features if is_known(f))
    return known, tuple(f for f in features if not is_known(f))


def _categorical(resolved: ResolvedSpec) -> tuple[Feature, ...]:
    return tuple(f for f in resolved.of(spec.RANKER, Side.CANDIDATE) if f.categorical)


def _width(feature: Feature) -> int:
    return feature.max_length if feature.kind is Kind.MULTIVALENT else 1


@dataclasses.dataclass(frozen=True)
class PreparedVideos:
    """The arrays of a release, in memory.

    Attributes:
        resolved: Features of the release.
        ids: int32 [N, I].
        numbers: float32 [N, F].
        nominated: Feature to value to id, of categorical features that are no column of videos.
    """

    resolved: ResolvedSpec
    ids: np.ndarray
    numbers: np.ndarray
    nominated: Mapping[str, Mapping[str, int]]

    @functools.cached_property
    def moving(self) -> Mapping[Kind, tuple[Feature, ...]]:
        """The numbers that depend on the moment."""
        kinds = (Kind.CONTINUOUS, Kind.BINARY)
        return {kind: split(self.resolved, kind)[1] for kind in kinds}

    def known_inputs(self, rows: np.ndarray) -> Arrays:
        """Returns the inputs of the signature that depend on the videos alone, by name.

        Args:
            rows: int [n], of the catalogue.
        """
        ids, numbers = self.ids[rows], self.numbers[rows]
        in_ids, in_numbers = self._places
        return {name: ids[:, place] for name, place in in_ids.items()} | {
            name: numbers[:, place] for name, place in in_numbers.items()
        }

    @functools.cached_property
    def _places(self) -> tuple[dict[str, int | slice], dict[str, slice]]:
        """Where each input of the signature stands in :attr:`ids`, and in :attr:`numbers`."""
        in_ids: dict[str, int | slice] = {}
        start = 0
        for feature in _categorical(self.resolved):
            if is_known(feature):
                many = feature.kind is Kind.MULTIVALENT
                in_ids[feature.name] = slice(start, start + _width(feature)) if many else start
                start += _width(feature)
        in_numbers: dict[str, slice] = {}
        start = 0
        for kind in (Kind.CONTINUOUS, Kind.BINARY):
            count = len(split(self.resolved, kind)[0])
            if count:
                name = KNOWN + spec.vector_column(Side.CANDIDATE, kind)
                in_numbers[name] = slice(start, start + count)
                start += count
        return in_ids, in_numbers

    def nominated_inputs(self, combinations: tuple[Sequence[Sequence[str]], np.ndarray]) -> Arrays:
        """Returns the inputs that a nomination gives, by name.

        Args:
            combinations: The lists of sources that occur, and which one each of n videos has.
        """
        lists, which = combinations
        inputs = {}
        for feature in _categorical(self.resolved):
            if not is_known(feature):
                ids = self.nominated_ids(feature.name, lists)[which]
                inputs[feature.name] = ids if feature.kind is Kind.MULTIVALENT else ids[:, 0]
        return inputs

    def nominated_ids(self, name: str, values: Sequence[Sequence[str]]) -> np.ndarray:
        """Returns int32 [n, L]: the ids of lists of strings, 0 for unknown ones."""
        (feature,) = (f for f in _categorical(self.resolved) if f.name == name)
        known = self.nominated[name]
        result = np.zeros((len(values), _width(feature)), np.int32)
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
        inputs = self.known_inputs(rows)
        for feature in _categorical(self.resolved):
            if not is_known(feature):
                values = raw[feature.name].reshape(len(rows), -1)
                ids = self.nominated_ids(feature.name, [[str(t) for t in row] for row in values])
                inputs[feature.name] = ids if feature.kind is Kind.MULTIVALENT else ids[:, 0]
        for kind, moving in self.moving.items():
            if moving:
                name = spec.vector_column(Side.CANDIDATE, kind)
                names = self.resolved.vector_names(spec.RANKER, Side.CANDIDATE, kind)
                inputs[name] = raw[name][:, [names.index(f.name) for f in moving]]
        return inputs

    @classmethod
    def load(cls, directory: Path, resolved: ResolvedSpec) -> "PreparedVideos":
        """Opens what :func:`write` wrote."""
        path = pathlib.Path(directory)
        return cls(
            resolved=resolved,
            # Held, not mapped, for the reason that serving/index_files.py gives.
            ids=np.load(path / _IDS, allow_pickle=False),
            numbers=np.load(path / _NUMBERS, allow_pickle=False),
            nominated=json.loads((path / _COLUMNS).read_text())["nominated"],
        )


def signature_inputs(resolved: ResolvedSpec) -> dict[str, tuple[str, list[int | None]]]:
    """Returns name to (dtype name, shape) of the candidate-side inputs of the signature."""
    shapes: dict[str, tuple[str, list[int | None]]] = {}
    for feature in _categorical(resolved):
        many = feature.kind is Kind.MULTIVALENT
        shapes[feature.name] = ("int32", [None, feature.max_length] if many else [None])
    for kind in (Kind.CONTINUOUS, Kind.BINARY):
        for prefix, features in zip((KNOWN, ""), split(resolved, kind), strict=True):
            if features:
                column = prefix + spec.vector_column(Side.CANDIDATE, kind)
                shapes[column] = ("float32", [None, len(features)])
    return shapes


def is_supported(resolved: ResolvedSpec) -> bool:
    """Whether every categorical candidate-side feature is of the video, or its sources."""
    return all(
        is_known(f) or f.source == "nomination.candidate_sources" for f in _categorical(resolved)
    )


def write(
    directory: Path,
    *,
    resolved: ResolvedSpec,
    catalogue: Catalogue,
    transform: Transform,
    vocabularies: Mapping[str, Sequence[str]],
) -> None:
    """Transforms the whole catalogue.

    Args:
        directory: To create.
        resolved: Features of the release.
        catalogue: All videos.
        transform: The ranker's candidate-side transform: raw arrays by name to transformed ones.
        vocabularies: Of the spaces of nominated features; the token of id i is element i - 1.
    """
    path = pathlib.Path(directory)
    path.mkdir(parents=True)
    ids, numbers = columns_of(resolved, catalogue, np.arange(len(catalogue)), transform)
    np.save(path / _IDS, ids, allow_pickle=False)
    np.save(path / _NUMBERS, numbers, allow_pickle=False)
    nominated = {
        f.name: _ids_of_values(f, vocabularies[f.space])
        for f in _categorical(resolved)
        if not is_known(f)
    }
    files.atomic_write(path / _COLUMNS, json.dumps({"nominated": nominated}, indent=1) + "\n")
    logging.info(
        "Prepared %d columns of %d videos for the ranker.",
        ids.shape[1] + numbers.shape[1],
        len(catalogue),
    )


def columns_of(
    resolved: ResolvedSpec, catalogue: Catalogue, rows: np.ndarray, transform: Transform
) -> tuple[np.ndarray, np.ndarray]:
    """Returns ids int32 [n, I] and numbers float32 [n, F] of some videos.

    Args:
        resolved: Features of the release.
        catalogue: All videos.
        rows: int [n].
        transform: See :func:`write`.
    """
    known = [f for f in _categorical(resolved) if is_known(f)]
    columns = [
        (spec.vector_column(Side.CANDIDATE, kind), _positions(resolved, kind))
        for kind in (Kind.CONTINUOUS, Kind.BINARY)
        if split(resolved, kind)[0]
    ]
    count = len(rows)
    ids = np.zeros((count, sum(_width(f) for f in known)), np.int32)
    numbers = np.zeros((count, sum(len(kept) for _, kept in columns)), np.float32)
    for start in range(0, count, _BATCH):
        block = slice(start, min(start + _BATCH, count))
        raw = examples.candidate_batch(
            resolved,
            spec.RANKER,
            catalogue=catalogue,
            video_rows=rows[block],
        )
        done = transform(tensors.to_arrays(raw, resolved, spec.RANKER, Side.CANDIDATE))
        wide = [np.asarray(done[f.name]).reshape(len(raw), _width(f)) for f in known]
        if wide:
            ids[block] = np.concatenate(wide, axis=1)
        floats = [np.asarray(done[name])[:, kept] for name, kept in columns]
        if floats:
            numbers[block] = np.concatenate(floats, axis=1)
    return ids, numbers


def _positions(resolved: ResolvedSpec, kind: Kind) -> list[int]:
    """Returns where the known features of a kind stand in its vector."""
    features = resolved.of(spec.RANKER, Side.CANDIDATE, kind)
    return [place for place, feature in enumerate(features) if is_known(feature)]


def _ids_of_values(feature: Feature, tokens: Sequence[str]) -> dict[str, int]:
    """Returns value to id; tokens of the shared category space are ``feature=value``."""
    prefix = f"{feature.name}=" if feature.space == "category" else ""
    return {
        token.removeprefix(prefix): number
        for number, token in enumerate(tokens, start=1)
        if token.startswith(prefix)
    }


def order_of_vector(resolved: ResolvedSpec, kind: Kind) -> list[int]:
    """Returns where each feature of a vector stands in [known ones, the others]."""
    features = resolved.of(spec.RANKER, Side.CANDIDATE, kind)
    together = [f.name for part in split(resolved, kind) for f in part]
    return [together.index(feature.name) for feature in features]
