"""The ranker in NumPy, over videos that were prepared; see :mod:`models.ranking.model`.

Of 500 candidates the products are most of the work that is left, and those of NumPy run without the
interpreter lock.
"""

from collections.abc import Mapping

import numpy as np

from features import numbers, spec
from features.loops import compiled
from features.spec import Kind, ResolvedSpec, Side
from serving.arrays import halves, layers
from serving.arrays.constants import Constants
from serving.arrays.inputs import DenseSide, RawSide, boundaries_name, tables_of
from serving.arrays.layers import Curve, Dense, relu
from serving.servables import prepared_videos

Arrays = Mapping[str, np.ndarray]
_MAX_LOGIT = np.float32(40.0)  # As in models.losses.


class _Tower:
    """A split first layer, rectified layers above it, one output."""

    def __init__(self, num_upper: int, arrays: Arrays) -> None:
        self._query = Dense(arrays["tower.first.query"], arrays["tower.first.bias"])
        self._moment = arrays["tower.first.moment"]
        self._upper = [Dense.from_arrays(f"tower.{n}", arrays) for n in range(num_upper)]
        self.units = len(self._query.bias)

    def __call__(
        self, query: np.ndarray, video_part: np.ndarray, moment: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns the order logit float32 [N], and what the output layer reads [N, width]."""
        hidden = moment @ self._moment
        least = np.float32(0 if self._upper else -np.inf)
        loops = compiled.loops("serving.arrays.loops")
        if loops is None:
            hidden += halves.to_float32(video_part)
            hidden += self._query(query)
            hidden = np.maximum(hidden, least, out=hidden)
        else:
            bits = np.ascontiguousarray(video_part).view(np.uint16)
            loops.add_halves(hidden, bits, self._query(query)[0], least)
        top = hidden
        for place, layer in enumerate(self._upper):
            top = relu(hidden) if place else hidden
            hidden = layer(top)
        return hidden[:, 0], top


class RankerOfPrepared:
    """The signature ``score_prepared``: raw query, and videos that were prepared before."""

    def __init__(self, resolved: ResolvedSpec, constants: Constants) -> None:
        """Prepares."""
        plan, arrays = constants.plan, constants.arrays
        tables = tables_of(constants)
        self.transform = RawSide(resolved, spec.RANKER, Side.QUERY, constants)
        self._query_dense = DenseSide(plan["query_layout"], tables)
        self._moment_dense = None
        if plan["moment_layout"]:
            self._moment_dense = DenseSide(plan["moment_layout"], tables, of_group=True)
        self._binary = prepared_videos.of_the_moment(resolved, Kind.BINARY)
        self._quantiles = _of_the_moment(resolved, arrays)
        self._tower = _Tower(int(plan["upper_layers"]), arrays)
        self._level = None
        if plan["has_level"]:
            self._level = [Dense.from_arrays(f"level.{n}", arrays) for n in range(2)]
        self._curve = Curve.from_arrays("calibration", arrays)
        self._heads = Dense.from_arrays("heads", arrays) if plan["kinds"] else None
        self._head_curves = {
            kind: Curve.from_arrays(f"heads.calibration.{kind}", arrays) for kind in plan["kinds"]
        }

    def __call__(self, inputs: Arrays) -> dict[str, np.ndarray]:
        """Returns ``logit``, ``expected_watch_time_s``, and each kind of feedback, float32 [N]."""
        parts = inputs[prepared_videos.PARTS]
        query = self._query_dense(self.transform(inputs))
        order, top = self._tower(query, parts, self._moment(inputs, len(parts)))
        level = np.float32(0)
        if self._level is not None:
            hidden, output = self._level
            level = output(relu(hidden(query)))[0, 0]
        logits = self._curve(order + level).astype(np.float32)
        expected = np.exp(np.minimum(logits, _MAX_LOGIT))
        return {"logit": logits, "expected_watch_time_s": expected, **self._feedback(top)}

    @property
    def parts_width(self) -> int:
        """Columns of the prepared videos."""
        return self._tower.units

    def _moment(self, inputs: Arrays, rows: int) -> np.ndarray:
        """Returns the dense vector of what depends on the moment, float32 [N, Fm]."""
        if self._moment_dense is None:
            return np.zeros((rows, 0), np.float32)
        features = dict(inputs)
        if self._quantiles is not None:
            name = spec.vector_column(Side.CANDIDATE, Kind.CONTINUOUS)
            features[name] = self._quantiles(inputs[name])
        if self._binary:
            name = spec.vector_column(Side.CANDIDATE, Kind.BINARY)
            features[name] = numbers.binary(inputs[name], self._binary)
        return self._moment_dense(features)

    def _feedback(self, top: np.ndarray) -> dict[str, np.ndarray]:
        if self._heads is None:
            return {}
        logits = self._heads(top)
        return {
            kind: layers.sigmoid(curve(logits[:, column]))
            for column, (kind, curve) in enumerate(self._head_curves.items())
        }


class VideoPreparer:
    """The signature ``prepare_videos``: raw videos -> what they alone contribute."""

    def __init__(self, resolved: ResolvedSpec, constants: Constants) -> None:
        """Prepares; arguments as of :class:`RankerOfPrepared`."""
        plan, arrays = constants.plan, constants.arrays
        self.transform = RawSide(resolved, spec.RANKER, Side.CANDIDATE, constants)
        self._dense = None
        if plan["video_layout"]:
            self._dense = DenseSide(plan["video_layout"], tables_of(constants))
        self._kernel = arrays["tower.first.video"]

    def __call__(self, raw: Arrays) -> dict[str, np.ndarray]:
        """Returns ``video_parts``, float16 [N, P]."""
        features = self.transform(raw)
        rows = len(next(iter(features.values())))
        video = self._dense(features) if self._dense else np.zeros((rows, 0), np.float32)
        with np.errstate(over="ignore"):  # Whoever prepares looks for what is not finite.
            parts = (video @ self._kernel).astype(prepared_videos.DTYPE)
        return {prepared_videos.PARTS: parts}


def _of_the_moment(resolved: ResolvedSpec, arrays: Arrays) -> numbers.Quantiles | None:
    """Returns the quantiles of the candidate-side numbers that depend on the moment."""
    features = prepared_videos.of_the_moment(resolved, Kind.CONTINUOUS)
    if not features:
        return None
    names = resolved.vector_names(spec.RANKER, Side.CANDIDATE, Kind.CONTINUOUS)
    rows = [names.index(feature.name) for feature in features]
    return numbers.Quantiles(arrays[boundaries_name(Side.CANDIDATE)][rows], features)
