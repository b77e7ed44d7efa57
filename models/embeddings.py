"""Shared embedding tables, averaged bags, and the dense input vector of one side of a model.

One table per ID space; all features of the space look up the same table, each is fed to the
network separately (paper section 4.1). Row 0, missing or out of vocabulary, is the zero vector:
nothing reads it, so nothing trains it. All look-ups have sparse gradients (tf.IndexedSlices).
"""

import contextlib
import contextvars
import dataclasses
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras

from features import id_spaces, spec
from features.spec import Feature, Kind, ResolvedSpec, Side

Tensors = Mapping[str, tf.Tensor]
_Gradient = Callable[[tf.Tensor], tuple[tf.Tensor, None, None, None, None]]
_STDDEV = 0.05
_IS_TABLE = contextvars.ContextVar("is_table", default=False)


def is_table() -> bool:
    """Whether the variable that is being made holds the rows of a table, which may be parted."""
    return _IS_TABLE.get()


@contextlib.contextmanager
def _of_table() -> Iterator[None]:
    token = _IS_TABLE.set(True)
    try:
        yield
    finally:
        _IS_TABLE.reset(token)


class EmbeddingTable(tf_keras.layers.Layer):
    """The embedding of one ID space: ``rows``, float32 [V + 1, width].

    Args:
        size: V, number of ids, which are 1 to V.
        width: Width of an embedding.
        seed: Seed of the initial values, which are normal.
        stddev: Standard deviation of the initial values, 0.05 unless told; 0 starts at zero.
        name: Name of the layer.
    """

    def __init__(
        self,
        size: int,
        width: int,
        *,
        seed: int,
        stddev: float = _STDDEV,
        name: str,
    ) -> None:
        super().__init__(name=name)
        self.size = size
        self.width = width
        initial = (
            tf_keras.initializers.RandomNormal(stddev=stddev, seed=seed) if stddev else "zeros"
        )
        with _of_table():
            self.rows = self.add_weight(name="rows", shape=[size + 1, width], initializer=initial)
        self.rows.scatter_update(tf.IndexedSlices(tf.zeros([1, width]), tf.constant([0])))

    @property
    def parts(self) -> Sequence[tf.Variable]:
        """The variables that hold the rows: one, or those of several parameter servers."""
        return getattr(self.rows, "variables", None) or [self.rows]

    def gather(self, ids: tf.Tensor) -> tf.Tensor:
        """Returns the row of each id, float32 [N, width]; ids, int [N], in any order."""
        # tf.gather of parted rows gives them in the order of the parts.
        return (
            tf.gather(self.rows, ids)
            if len(self.parts) == 1
            else tf.nn.embedding_lookup(self.rows, ids)
        )

    def lookup(self, ids: tf.Tensor) -> tf.Tensor:
        """Returns the embedding of each id, zero for id 0.

        Args:
            ids: Ids, int32 or int64 [B], in [0, V].

        Returns:
            Embedding of each id, float32 [B, width].
        """
        known = tf.cast(ids > 0, tf.float32)
        return self.gather(ids) * known[:, tf.newaxis]

    def mean(self, ids: tf.Tensor) -> tf.Tensor:
        """Returns the average embedding of each bag's known ids, zero where it has none.

        Args:
            ids: int32 or int64 [B, L]; 0 is no member of the bag. An id that is in the bag
                twice counts twice.

        Returns:
            Mean of each bag, float32 [B, width].
        """
        return self.read([ids])[0]

    def members(self, ids: tf.Tensor) -> tf.Tensor:
        """Returns the embedding of each member of each bag, zero for id 0.

        Args:
            ids: int32 or int64 [B, L]; 0 is no member of the bag.

        Returns:
            Embeddings, float32 [B, L, width].
        """
        grouped = _Grouped.of(tf.reshape(tf.cast(ids, tf.int32), [-1]))
        members = tf.gather(self.gather(grouped.distinct), grouped.places)
        return tf.reshape(members, [*tf.unstack(tf.shape(ids)), self.width])

    def read(self, features: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        """Returns the embeddings of several features, all from one read of the table.

        Each distinct row is read, and its gradient written, once, however many features and
        bags hold it.

        Args:
            features: Ids of features, int [B] each, see :meth:`lookup`, or int [B, L], see
                :meth:`mean`.

        Returns:
            Embedding or mean of each feature, float32 [B, width] each.
        """
        flat, bags, total = _members(features)
        sums = _Grouped.of(flat)
        rows = self.gather(sums.distinct)
        means = _segment_mean(rows, sums.places, sums.order, bags, total)
        return tf.split(means, [tf.shape(ids)[0] for ids in features], num=len(features))


def _members(features: Sequence[tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Puts the known ids of several features in one row; a single id is a bag of one.

    Returns:
        int32 [M], the ids; int32 [M], ascending, the bag of each, where the bags of a feature
        follow those of the feature before; int32 scalar, the number of bags.
    """
    ids_of, bags_of = [], []
    first_bag = tf.constant(0)
    for ids in features:
        bags = first_bag + tf.range(tf.shape(ids)[0])
        if ids.shape.rank == 2:
            bags = tf.repeat(bags, tf.shape(ids)[1])
        ids_of.append(tf.reshape(tf.cast(ids, tf.int32), [-1]))
        bags_of.append(bags)
        first_bag += tf.shape(ids)[0]
    ids = tf.concat(ids_of, axis=0)
    known = tf.where(ids > 0)[:, 0]
    return tf.gather(ids, known), tf.gather(tf.concat(bags_of, axis=0), known), first_bag


@dataclasses.dataclass(frozen=True)
class _Grouped:
    """Ids grouped by sorting them.

    Both the table's rows and the gradient's are then walked through in order, which is what
    memory is fast at, and an optimizer sees at a glance that no row is repeated.

    Attributes:
        distinct: Ids that occur, int32 [U], ascending.
        places: Place in ``distinct`` of each id, int32 [M].
        order: int32 [M], the permutation that sorts the ids.
    """

    distinct: tf.Tensor
    places: tf.Tensor
    order: tf.Tensor

    @classmethod
    def of(cls, ids: tf.Tensor) -> "_Grouped":
        """Groups int32 [M]."""
        order = tf.argsort(ids)
        ascending = tf.gather(ids, order)
        is_first = tf.concat([[True], ascending[1:] != ascending[:-1]], axis=0)[: tf.size(ids)]
        sorted_places = tf.cumsum(tf.cast(is_first, tf.int32)) - 1
        places = tf.gather(sorted_places, tf.math.invert_permutation(order))
        return cls(tf.boolean_mask(ascending, is_first), places, order)


@tf.custom_gradient
def _segment_mean(  # noqa: PLR0917
    rows: tf.Tensor, places: tf.Tensor, order: tf.Tensor, bags: tf.Tensor, num_bags: tf.Tensor
) -> tuple[tf.Tensor, _Gradient]:
    """Returns the mean of ``rows[places]`` for each bag, zero for an empty one.

    Args:
        rows: Rows of the table, float32 [U, width].
        places: Places in ``rows``, int32 [M] in [0, U).
        order: int32 [M], permutation that sorts ``places``.
        bags: int32 [M], bag of each place, ascending, in [0, num_bags).
        num_bags: Number of bags B, int32 scalar.
    """
    means = tf.sparse.segment_mean(rows, places, bags, num_segments=num_bags)
    sizes = tf.math.bincount(bags, minlength=num_bags, dtype=tf.float32)
    num_rows = tf.shape(rows)[0]

    def gradient(upstream: tf.Tensor) -> tuple[tf.Tensor, None, None, None, None]:
        # TensorFlow's own gradient walks through memory at random; in order it is faster by
        # half where the batch holds many distinct rows.
        shares = upstream / tf.maximum(sizes, 1.0)[:, tf.newaxis]
        summed = tf.sparse.segment_sum(
            shares, tf.gather(bags, order), tf.gather(places, order), num_segments=num_rows
        )
        return summed, None, None, None, None

    return means, gradient


def with_powers(values: tf.Tensor) -> tf.Tensor:
    """Returns x, x^2 and sqrt(x) of normalised features: [B, F] becomes [B, 3 F].

    Args:
        values: Quantiles of continuous features, float32 [B, F], in [0, 1).

    Source: Covington et al., RecSys 2016, section 4.1.
    """
    return tf.concat([values, tf.square(values), tf.sqrt(tf.maximum(values, 0.0))], axis=1)


def make_tables(
    features: Sequence[Feature],
    vocabulary_sizes: Mapping[str, int],
    *,
    widths: Mapping[str, int],
    seed: int,
) -> dict[str, EmbeddingTable]:
    """Returns one table for each ID space that ``features`` read.

    Args:
        features: Features that the model reads.
        vocabulary_sizes: V by ID space.
        widths: Width by ID space; others get ``id_spaces.embedding_width(V)``.
        seed: Seed of the initial values.
    """
    tables: dict[str, EmbeddingTable] = {}
    for space in sorted({f.space for f in features if f.categorical}):
        size = vocabulary_sizes[space]
        width = widths.get(space, id_spaces.embedding_width(size))
        tables[space] = EmbeddingTable(size, width, seed=seed + len(tables), name=space)
    return tables


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Vector:
    """What a side reads of a column of numbers.

    Attributes:
        column: Name of the column.
        width: Number of entries that the column adds to the dense vector.
        powers: Whether squares and square roots are fed.
        of_all: Positions of the features in the column; None: they are all there is, in order.
        of_group: Positions of the features in a column that holds the group alone; None: all of it.
    """

    column: str
    width: int
    powers: bool
    of_all: list[int] | None
    of_group: list[int] | None


def _places(kept: Sequence[str], names: Sequence[str]) -> list[int] | None:
    return None if list(kept) == list(names) else [names.index(name) for name in kept]


class SideInputs:
    """Turns the features of one side into one dense vector; holds no weights of its own.

    The order is fixed: embeddings in the order of the spec, then continuous values, their
    squares and square roots, then binary values, then vectors.

    Args:
        resolved: Declarations of the data set.
        model: Name of the model, ``candidate`` or ``ranker``.
        side: Side whose features are read.
        exclude: Names of features that are left out.
        powers: Whether squares and square roots are fed.
        static: Whether to read static features alone, or the others alone; None: both.
    """

    def __init__(
        self,
        resolved: ResolvedSpec,
        model: str,
        side: Side,
        *,
        exclude: Collection[str] = (),
        powers: bool = True,
        static: bool | None = None,
    ) -> None:
        def of_group(features: Sequence[Feature]) -> list[Feature]:
            return [f for f in features if static is None or f.static is static]

        self.features = tuple(
            f for f in of_group(resolved.of(model, side)) if f.name not in exclude
        )
        self._categorical = tuple(f for f in self.features if f.categorical)
        self._vectors: list[_Vector] = []
        for kind in spec.NUMERIC:
            names = resolved.vector_names(model, side, kind)
            features = of_group(resolved.of(model, side, kind))
            group = [name for f in features for name in f.entries]
            kept = [name for f in features if f.name not in exclude for name in f.entries]
            if kept:
                vector = _Vector(
                    column=spec.vector_column(side, kind),
                    width=len(kept) * (3 if kind is Kind.CONTINUOUS and powers else 1),
                    powers=kind is Kind.CONTINUOUS and powers,
                    of_all=_places(kept, names),
                    of_group=_places(kept, group),
                )
                self._vectors.append(vector)

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the tensors that are read."""
        return (*(f.name for f in self._categorical), *(v.column for v in self._vectors))

    def layout(self) -> list[dict[str, Any]]:
        """Returns the parts of the dense vector in order, plain values for JSON.

        An embedding has ``feature`` and ``space``; numbers have ``column``, ``powers``, and the
        positions that are read of a column of all features, ``of_all``, or of the group alone,
        ``of_group``; None is all of it.
        """
        parts: list[dict[str, Any]] = [
            {"feature": f.name, "space": f.space} for f in self._categorical
        ]
        for vector in self._vectors:
            part = dataclasses.asdict(vector)
            del part["width"]
            parts.append(part)
        return parts

    def width(self, tables: Mapping[str, EmbeddingTable]) -> int:
        """Returns F, the length of the dense vector."""
        categorical = sum(tables[f.space].width for f in self._categorical)
        return categorical + sum(vector.width for vector in self._vectors)

    def dense(
        self, features: Tensors, tables: Mapping[str, EmbeddingTable], *, of_group: bool = False
    ) -> tf.Tensor:
        """Returns the dense vector of each row.

        Args:
            features: Transformed features by name; others than :attr:`columns` are ignored.
            tables: Embedding tables by ID space.
            of_group: Whether continuous and binary columns hold what ``static`` names alone, and
                not all features of the side.

        Returns:
            Dense vector of each row, float32 [B, F].

        Raises:
            ValueError: A column is missing.
        """
        missing = [name for name in self.columns if name not in features]
        if missing:
            raise ValueError(f"features must hold {missing}, got {sorted(features)}.")
        embedded: dict[str, tf.Tensor] = {}
        for space in dict.fromkeys(f.space for f in self._categorical):
            names = [f.name for f in self._categorical if f.space == space]
            ids = [tf.convert_to_tensor(features[name]) for name in names]
            embedded |= zip(names, tables[space].read(ids), strict=True)
        parts = [embedded[f.name] for f in self._categorical]
        for vector in self._vectors:
            values = tf.cast(features[vector.column], tf.float32)
            places = vector.of_group if of_group else vector.of_all
            if places is not None:
                values = tf.gather(values, np.array(places), axis=1)
            parts.append(with_powers(values) if vector.powers else values)
        return tf.concat(parts, axis=1)
