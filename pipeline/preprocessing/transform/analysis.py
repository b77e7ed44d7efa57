"""What transforms are fitted to: vocabularies and quantiles, from partial sums of columns.

The analyzers that :mod:`features.preprocessing` names, over columns of Arrow: no value of an
example becomes an object of Python, and no graph runs to count. What passes between workers is one
:class:`Partial` for each model and bundle, of the size of what was seen, not of the examples. The
quantiles come from the same sketch as tf.Transform's, of tfx_bsl.
"""

import pathlib
from collections.abc import Iterable, Mapping

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from tfx_bsl import sketches

from features import files, numbers, preprocessing, spec
from features.catalogue import combined
from features.id_spaces import IdSpace
from features.preprocessing import Fitted
from features.spec import Kind, ResolvedSpec
from pipeline.preprocessing.transform import kernel
from pipeline.preprocessing.transform.reading import RowGroup

# As tf.Transform has them.
_MOST_VALUES = 1 << 32
# A file without a line is none that a table can be made of.
_NO_TOKEN = "49d0cd50-04bb-48c0-bc6f-5b575dce351a"
_COUNTS = pa.schema({"token": pa.string(), "count": pa.int64()})
# Rows of counts that wait for being added up, beside as many as there are distinct ones.
_WAITING = 100_000


class Counts:
    """How often tokens were seen, exactly."""

    def __init__(self) -> None:
        self._total = _COUNTS.empty_table()
        self._waiting: list[pa.Table] = []
        self._rows = 0

    def add(self, counts: pa.Table) -> None:
        """Takes in ``token`` (each once) and ``count``."""
        self._waiting.append(counts)
        self._rows += counts.num_rows
        # As many as there are: so each row is added up a few times, however many tables come.
        if self._rows > max(_WAITING, self._total.num_rows):
            self.compact()

    def compact(self) -> None:
        """Adds up what waits."""
        if self._waiting:
            together = pa.concat_tables([self._total, *self._waiting])
            summed = together.group_by("token").aggregate([("count", "sum")])
            summed = summed.select(["token", "count_sum"]).rename_columns(_COUNTS.names)
            self._total, self._waiting, self._rows = summed.combine_chunks(), [], 0

    def merge(self, other: "Counts") -> None:
        """Takes in the counts of other examples."""
        other.compact()
        self.add(other._total)

    def most_frequent(self, space: IdSpace) -> list[str]:
        """Returns the vocabulary: by count, of equal ones the last in the order of bytes first."""
        self.compact()
        counts = self._total.filter(pc.greater_equal(self._total["count"], space.min_count))
        ordered = counts.sort_by([("count", "descending"), ("token", "descending")])
        return ordered["token"].slice(0, space.max_size).to_pylist()


class EstimatedCounts:
    """How often tokens were seen, in a Misra-Gries sketch of bounded size.

    Args:
        size: Number of counters.
        sketch: What :meth:`__reduce__` made of an earlier one.
    """

    def __init__(self, size: int, sketch: bytes = b"") -> None:
        on_tie = sketches.MisraGriesSketch.OrderOnTie.ReverseLexicographical
        self._size = size
        self._sketch = (
            sketches.MisraGriesSketch.Deserialize(sketch)
            if sketch
            else sketches.MisraGriesSketch(size, order_on_tie=on_tie)
        )

    def __reduce__(self) -> tuple[type["EstimatedCounts"], tuple[int, bytes]]:
        return EstimatedCounts, (self._size, self._sketch.Serialize())

    def add(self, counts: pa.Table) -> None:
        """Takes in ``token`` (each once) and ``count``."""
        if counts.num_rows:
            weights = pc.cast(combined(counts["count"]), pa.float32())
            self._sketch.AddValues(combined(counts["token"]), weights)

    def compact(self) -> None:
        """Does nothing: a sketch is compact."""

    def merge(self, other: "EstimatedCounts") -> None:
        """Takes in the counts of other examples."""
        self._sketch.Merge(other._sketch)

    def most_frequent(self, space: IdSpace) -> list[str]:
        """Returns the vocabulary, ordered as :meth:`Counts.most_frequent` does."""
        del space
        estimate = self._sketch.Estimate().flatten()
        return [token.decode() for token in estimate[0].to_pylist()]


class Partial:
    """What some of a model's training examples come to."""

    def __init__(self, resolved: ResolvedSpec, model: str) -> None:
        self.counts: dict[str, Counts | EstimatedCounts] = {
            space.name: EstimatedCounts(space.max_size) if space.approximate else Counts()
            for space in resolved.spaces_of(model)
        }
        self.quantiles: dict[str, sketches.QuantilesSketch] = {}
        self.moments: dict[str, np.ndarray] = {}
        self.newest_s = 0
        for side, kind, names in preprocessing.vectors(resolved, model):
            column = spec.vector_column(side, kind)
            if kind is Kind.CONTINUOUS:
                self.quantiles[column] = sketches.QuantilesSketch(
                    preprocessing.QUANTILE_ERROR, _MOST_VALUES, len(names)
                )
            elif kind is Kind.VECTOR:
                self.moments[column] = np.zeros([3, len(names)])

    def add(self, rows: pa.Table, resolved: ResolvedSpec, model: str) -> None:
        """Takes in raw examples."""
        if not rows.num_rows:
            return
        self.newest_s = max(self.newest_s, pc.max(rows["time"]).as_py())
        for name, counts in self.counts.items():
            features, only_clicked = preprocessing.counted_features(resolved, model, name)
            clicked = pc.greater(rows["clicked"], 0) if only_clicked else None
            for feature in features:
                column = rows[feature.name]
                column = column if clicked is None else column.filter(clicked)
                counts.add(_counted(combined(column), tag=preprocessing.tag_of(feature)))
        for side, kind, names in preprocessing.vectors(resolved, model):
            column = spec.vector_column(side, kind)
            if kind is Kind.CONTINUOUS:
                values = kernel.matrix(rows, column, len(names))
                filled = numbers.filled(values, resolved.of(model, side, kind))
                self.quantiles[column].AddValues(pa.array(filled.reshape(-1)))
            elif kind is Kind.VECTOR:
                self.moments[column] += _moments(kernel.matrix(rows, column, len(names)))

    def merge(self, other: "Partial") -> None:
        """Takes in what other examples come to."""
        self.newest_s = max(self.newest_s, other.newest_s)
        for name, counts in self.counts.items():
            counts.merge(other.counts[name])  # type: ignore[arg-type]
        for column, sketch in self.quantiles.items():
            sketch.Merge(other.quantiles[column])
        for column, moments in other.moments.items():
            self.moments[column] += moments

    def compact(self) -> None:
        """Becomes as small as it can be, before it is sent."""
        for counts in self.counts.values():
            counts.compact()
        for sketch in self.quantiles.values():
            sketch.Compact()

    def fitted(self, spaces: Iterable[IdSpace], directory: pathlib.Path) -> Fitted:
        """Returns what the transform is fitted to."""
        vocabularies = {}
        for space in spaces:
            path = directory / preprocessing.vocabulary_name(space.name)
            tokens = self.counts[space.name].most_frequent(space) or [_NO_TOKEN]
            files.atomic_write(path, "".join(f"{token}\n" for token in tokens))
            vocabularies[space.name] = str(path)
        shares = preprocessing.NUM_QUANTILES + 1
        return Fitted(
            vocabularies=vocabularies,
            boundaries={
                column: np.array(sketch.GetQuantiles(shares).to_pylist(), np.float32)[:, 1:-1]
                for column, sketch in self.quantiles.items()
            },
            moments={column: sums.astype(np.float32) for column, sums in self.moments.items()},
        )


def _counted(column: pa.Array, *, tag: str) -> pa.Table:
    """Returns how often each token of a column, of ids or of lists of them, is there."""
    values = column.flatten() if pa.types.is_list(column.type) else column
    counts = values.value_counts()
    tokens, numbers = counts.field("values"), counts.field("counts")
    # A vocabulary has a token in each line.
    broken = pc.or_(pc.match_substring(tokens, "\n"), pc.match_substring(tokens, "\r"))
    usable = pc.and_(pc.not_equal(tokens, ""), pc.invert(broken))
    table = pa.table([tokens, numbers], schema=_COUNTS).filter(pc.fill_null(usable, False))
    if not tag:
        return table
    return table.set_column(0, "token", pc.binary_join_element_wise(tag, table["token"], ""))


def _moments(values: np.ndarray) -> np.ndarray:
    """Returns number, sum and sum of squares of the finite values of columns, [3, columns]."""
    known, there = numbers.known_entries(values)
    there = there.astype(np.float64)
    return np.stack([known.sum(axis=0), there.sum(axis=0), np.square(there).sum(axis=0)])


class AddExamples(beam.CombineFn):
    """(model, row groups of its training examples) -> what they come to."""

    def __init__(self, resolved_json: str) -> None:
        super().__init__()
        self._resolved_json = resolved_json

    def setup(self) -> None:
        """Reads the features once per worker."""
        self._resolved = ResolvedSpec.from_json(self._resolved_json)
        self._columns = {
            model: list(preprocessing.raw_feature_spec(self._resolved, model))
            for model in spec.MODELS
        }

    def create_accumulator(self) -> dict[str, Partial]:
        """Starts empty."""
        return {}

    def add_input(
        self, partials: dict[str, Partial], model_and_group: tuple[str, RowGroup]
    ) -> dict[str, Partial]:
        """Reads row groups and takes their examples in."""
        model, group = model_and_group
        if model not in partials:
            partials[model] = Partial(self._resolved, model)
        partials[model].add(group.read(self._columns[model]), self._resolved, model)
        return partials

    def merge_accumulators(self, many: Iterable[dict[str, Partial]]) -> dict[str, Partial]:
        """Adds all."""
        total: dict[str, Partial] = {}
        for partials in many:
            for model, partial in partials.items():
                if model in total:
                    total[model].merge(partial)
                else:
                    total[model] = partial
        return total

    def compact(self, partials: dict[str, Partial]) -> dict[str, Partial]:
        """Becomes small before it is sent."""
        for partial in partials.values():
            partial.compact()
        return partials

    def extract_output(self, partials: Mapping[str, Partial]) -> Mapping[str, Partial]:
        """Returns model to what its examples come to."""
        return partials
