"""Raw examples: the columns that a model reads, for any moments and videos.

Training and serving both come through here. Beam asks for every page of a bundle of users, the
funnel for the one request it answers; the columns are those of :mod:`features.spec`:

* univalent: string, ``""`` where missing;
* multivalent: list<string>, the first ``max_length`` values, empty where missing;
* continuous, binary and vector: one list<float> of fixed length per side and kind,
  ``query_continuous`` and so on, NaN where missing, in the order of ``ResolvedSpec.vector_names``.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from features import feedback, spec
from features.as_of import ragged, table_values
from features.as_of.history import History
from features.as_of.live_statistics import LiveColumns
from features.as_of.query_history import QueryHistory
from features.as_of.statistics import VideoStatistics
from features.catalogue import Catalogue, filled
from features.durations import DAY_S, HOUR_S
from features.event_columns import Queries
from features.spec import Feature, Kind, ResolvedSpec, Side

IdsOf = Callable[[Feature, pa.Array | ragged.Coded], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Users:
    """User profiles, one row each; ``user_id`` is unique."""

    table: pa.Table

    @functools.cached_property
    def row_of(self) -> dict[str, int]:
        """User id to row."""
        return {user: row for row, user in enumerate(self.table["user_id"].to_pylist())}


@dataclasses.dataclass(frozen=True)
class Request:
    """Moments at which a model is asked, or was.

    Attributes:
        queries: Users (codes of the history) and moments, q of them.
        user_rows: int [q], rows of the users table, -1 for a user without a profile.
        context: Logged request columns, string [q] each: ``device``, ``surface``.
        example_age_s: Age, float32 [q], seconds, ``t_max - t_label``; 0 at serving (section 3.3).
    """

    queries: Queries
    user_rows: np.ndarray
    context: Mapping[str, pa.Array]
    example_age_s: np.ndarray | None = None

    def take(self, rows: np.ndarray) -> "Request":
        """Returns the moments at ``rows``."""
        ages = self.example_age_s
        return Request(
            queries=self.queries.take(rows),
            user_rows=self.user_rows[rows],
            context={name: column.take(pa.array(rows)) for name, column in self.context.items()},
            example_age_s=None if ages is None else ages[rows],
        )


def query_batch(
    resolved: ResolvedSpec, model: str, *, request: Request, users: Users, history: History
) -> pa.RecordBatch:
    """Returns the query-side columns of ``model``, one row per moment."""
    side = _QuerySide(resolved, model, request, users, QueryHistory(history, request.queries))
    made: dict[str, Any] = {"strings": side.strings, "floats": side.floats}
    made["vectors_of"] = side.vectors
    return _batch(resolved, model, Side.QUERY, rows=len(request.user_rows), **made)


def query_arrays(
    resolved: ResolvedSpec,
    model: str,
    *,
    request: Request,
    users: Users,
    past: QueryHistory,
    ids_of: IdsOf,
) -> dict[str, np.ndarray]:
    """Returns the query-side inputs of a model for one moment, by name, with ids for strings.

    Args:
        resolved: The data set's features.
        model: Name of the model.
        request: The moment.
        users: User profiles.
        past: What the user did before it.
        ids_of: Function of a categorical feature and its values that returns their ids, int [n],
            0 for none.
    """
    side = _QuerySide(resolved, model, request, users, past)
    arrays: dict[str, np.ndarray] = {}
    for feature in resolved.of(model, Side.QUERY):
        if feature.categorical:
            many = feature.kind is Kind.MULTIVALENT
            ids = ids_of(feature, side.values(feature, feature.max_length if many else 1))
            arrays[feature.name] = np.zeros((1, feature.max_length) if many else 1, np.int32)
            arrays[feature.name][..., : len(ids)] = ids
    for kind in (Kind.CONTINUOUS, Kind.BINARY):
        features = resolved.of(model, Side.QUERY, kind)
        if features:
            arrays[spec.vector_column(Side.QUERY, kind)] = _matrix(features, 1, side.floats)
    dense = [side.vectors(feature) for feature in resolved.of(model, Side.QUERY, Kind.VECTOR)]
    if dense:
        arrays[spec.vector_column(Side.QUERY, Kind.VECTOR)] = np.concatenate(dense, axis=1)
    return arrays


@dataclasses.dataclass(frozen=True)
class _QuerySide:
    """How the query-side features of a model are read at some moments."""

    resolved: ResolvedSpec
    model: str
    request: Request
    users: Users
    past: QueryHistory

    @functools.cached_property
    def _computed(self) -> Mapping[str, np.ndarray]:
        features = self.resolved.of(self.model, Side.QUERY, Kind.CONTINUOUS)
        return self.past.numbers if any(f.origin == "history" for f in features) else {}

    def strings(self, feature: Feature) -> pa.Array:
        """Returns string [q], "" where missing, or list<string> [q]."""
        if feature.origin == "users":
            return table_values.strings(self.users.table, feature, self.request.user_rows)
        if feature.origin == "context":
            return _context_strings(feature, self.request)
        lengths, values = self.past.bag(feature.column)
        if feature.kind is Kind.MULTIVALENT:
            return ragged.list_array(*ragged.cut(lengths, values, feature.max_length))
        return _scattered(*ragged.cut(lengths, values, 1))

    def values(self, feature: Feature, limit: int) -> pa.Array | ragged.Coded:
        """Returns the first ``limit`` values at the only moment."""
        if feature.origin != "history":
            strings = self.strings(feature)
            return strings.flatten() if feature.kind is Kind.MULTIVALENT else strings
        _, values = self.past.bag(feature.column)
        if isinstance(values, ragged.Coded):
            return ragged.Coded(values.codes[:limit], values.names)
        return values[:limit]

    def floats(self, feature: Feature) -> np.ndarray:
        """Returns float32 [q], NaN where missing."""
        rows = len(self.request.user_rows)
        if feature.origin == "users":
            return table_values.floats(self.users.table, feature.column, self.request.user_rows)
        if feature.source == "context.example_age_s":
            ages = self.request.example_age_s
            return np.zeros(rows, np.float32) if ages is None else ages
        if feature.column not in self._computed and feedback.kind_of(feature.column):
            return np.zeros(rows, np.float32)  # Nobody here said anything.
        return self._computed[feature.column]

    def vectors(self, feature: Feature) -> np.ndarray:
        """Returns float32 [q, width], NaN where missing."""
        if feature.of_watched:
            return self.past.mean_vectors(feature)
        rows, width = self.request.user_rows, feature.width
        return table_values.dense(self.users.table, feature.column, rows, width=width)


def candidate_batch(
    resolved: ResolvedSpec,
    model: str,
    *,
    catalogue: Catalogue,
    video_rows: np.ndarray,
    history: History | None = None,
    queries: Queries | None = None,
    statistics: VideoStatistics | None = None,
    live: LiveColumns | None = None,
    nominations: Mapping[str, pa.Array] | None = None,
) -> pa.RecordBatch:
    """Returns the candidate-side columns of ``model``, one row per video.

    Args:
        resolved: The data set's features.
        model: Name of the model, ``candidate`` or ``ranker``.
        catalogue: Catalogue of all videos.
        video_rows: int [n], -1 for a video outside the catalogue (all its columns are missing).
        history: Events of the users, for features of origin ``history``.
        queries: The moment at which each video is scored, n of them; needed with ``history``,
            ``statistics``, ``live`` and for the age of a video.
        statistics: Daily statistics of the videos, for features of origin ``statistics``.
        live: Live statistics of the videos, for features of origin ``live``; missing without them.
        nominations: Columns ``candidate_sources`` list<string> [n], ``retrieval_score`` float [n].
    """
    floats = _candidate_floats(
        resolved.of(model, Side.CANDIDATE),
        catalogue=catalogue,
        video_rows=video_rows,
        history=history,
        queries=queries,
        statistics=statistics,
        live=live,
        nominations=nominations,
    )

    def strings(feature: Feature) -> pa.Array:
        if feature.origin == "videos":
            return table_values.strings(catalogue.table, feature, video_rows)
        return _given_strings(nominations, feature, len(video_rows))

    def vectors_of(feature: Feature) -> np.ndarray:
        width = feature.width
        return table_values.dense(catalogue.table, feature.column, video_rows, width=width)

    made: dict[str, Any] = {"strings": strings, "floats": floats, "vectors_of": vectors_of}
    return _batch(resolved, model, Side.CANDIDATE, rows=len(video_rows), **made)


def candidate_numbers(
    features: Sequence[Feature], *, video_rows: np.ndarray, **moment: Any
) -> np.ndarray:
    """Returns some candidate-side numbers, continuous or binary, as :func:`candidate_batch` does.

    float32 [n, F], NaN where missing: a column for each of ``features``. The other arguments are
    those of :func:`candidate_batch`, by name.
    """
    floats = _candidate_floats(features, video_rows=video_rows, **moment)
    return _matrix(features, len(video_rows), floats)


def _candidate_floats(
    features: Sequence[Feature],
    *,
    catalogue: Catalogue,
    video_rows: np.ndarray,
    history: History | None = None,
    queries: Queries | None = None,
    statistics: VideoStatistics | None = None,
    live: LiveColumns | None = None,
    nominations: Mapping[str, pa.Array] | None = None,
) -> Callable[[Feature], np.ndarray]:
    """Computes what ``features`` need, and returns how to read one of them: float32 [n]."""
    computed: dict[str, np.ndarray] = {}
    origins = {f.origin for f in features}
    if "history" in origins and history is not None and queries is not None:
        computed |= history.video_grid(queries, video_rows)
    if "statistics" in origins and statistics is not None and queries is not None:
        computed |= statistics.columns(video_rows, queries.now)
    if "live" in origins and live is not None and queries is not None:
        computed |= live.columns(video_rows, queries.now)
    if queries is not None:
        uploaded = catalogue.upload_times[np.maximum(video_rows, 0)] if len(catalogue) else 0
        age = np.where(video_rows < 0, np.nan, np.maximum(queries.now - uploaded, 0))
        computed["age_s"] = age.astype(np.float32)

    def floats(feature: Feature) -> np.ndarray:
        # A column of the videos table may have a name that is computed, too.
        if feature.column in computed and not feature.static:
            return computed[feature.column]
        if feature.origin == "videos":
            return table_values.floats(catalogue.table, feature.column, video_rows)
        if feature.origin == "history" and feedback.kind_of(feature.column):
            return np.zeros(len(video_rows), np.float32)  # Nobody here said anything.
        column = (nominations or {}).get(feature.column)
        if column is None:
            return np.full(len(video_rows), np.nan, np.float32)
        return table_values.numbers(column)

    return floats


def join(*batches: pa.RecordBatch) -> pa.RecordBatch:
    """Puts the columns of batches of equal length side by side."""
    columns = {n: b.column(n) for b in batches for n in b.schema.names}
    return pa.RecordBatch.from_pydict(columns)


def _batch(
    resolved: ResolvedSpec,
    model: str,
    side: Side,
    *,
    rows: int,
    strings: Callable[[Feature], pa.Array],
    floats: Callable[[Feature], np.ndarray],
    vectors_of: Callable[[Feature], np.ndarray],
) -> pa.RecordBatch:
    columns: dict[str, pa.Array] = {}
    for feature in resolved.of(model, side):
        if feature.categorical:
            columns[feature.name] = strings(feature)
    for kind in (Kind.CONTINUOUS, Kind.BINARY):
        features = resolved.of(model, side, kind)
        if features:
            matrix = _matrix(features, rows, floats)
            columns[spec.vector_column(side, kind)] = vector_array(matrix)
    dense = [vectors_of(feature) for feature in resolved.of(model, side, Kind.VECTOR)]
    if dense:
        name = spec.vector_column(side, Kind.VECTOR)
        columns[name] = vector_array(np.concatenate(dense, axis=1))
    return pa.RecordBatch.from_pydict(columns)


def _matrix(
    features: Sequence[Feature], rows: int, floats: Callable[[Feature], np.ndarray]
) -> np.ndarray:
    columns = np.empty((len(features), rows), np.float32)
    for column, feature in enumerate(features):
        columns[column] = floats(feature)
    return columns.T


def vector_array(matrix: np.ndarray) -> pa.ListArray:
    """Returns float32 [n, F] as list<float> [n]."""
    rows, width = matrix.shape
    offsets = np.arange(rows + 1, dtype=np.int32) * np.int32(width)
    return pa.ListArray.from_arrays(offsets, np.ascontiguousarray(matrix, np.float32).reshape(-1))


def _scattered(lengths: np.ndarray, values: pa.Array) -> pa.Array:
    """Returns string [n] from runs of at most one value, "" for none."""
    rows = np.where(lengths > 0, np.cumsum(lengths) - lengths, -1)
    return filled(table_values.taken(values, rows), pa.string(), "")


def _context_strings(feature: Feature, request: Request) -> pa.Array:
    now = request.queries.now
    if feature.column == "hour":
        return pa.array(now // HOUR_S % 24).cast(pa.string())
    if feature.column == "weekday":
        # 1970-01-01 was a Thursday, weekday 3.
        return pa.array((now // DAY_S + 3) % 7).cast(pa.string())
    column = request.context.get(feature.column)
    if column is None:
        return pa.array([""] * len(now), pa.string())
    return filled(column, pa.string(), "")


def _given_strings(
    nominations: Mapping[str, pa.Array] | None, feature: Feature, rows: int
) -> pa.Array:
    column = (nominations or {}).get(feature.column)
    if column is None:
        column = pa.nulls(rows, pa.list_(pa.string()))
    table = pa.table({feature.column: column})
    return table_values.strings(table, feature, np.arange(rows))
