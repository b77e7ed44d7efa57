"""Both towers of the candidate model in NumPy; :mod:`models.candidate.model` has what they are."""

from collections.abc import Mapping

import numpy as np

from features import spec
from features.spec import Kind, ResolvedSpec, Side
from models.candidate import youth
from serving.arrays.constants import Constants
from serving.arrays.inputs import DenseSide, RawSide, members, tables_of
from serving.arrays.layers import Dense, relu
from serving.servables import signatures

Arrays = Mapping[str, np.ndarray]
_VIDEO = "video"
_WATCHES = "watched_video_ids"


class QueryTower:
    """Raw query features -> ``embedding``."""

    def __init__(self, resolved: ResolvedSpec, constants: Constants) -> None:
        """Prepares."""
        plan, arrays = constants.plan, constants.arrays
        self.transform = RawSide(resolved, spec.CANDIDATE, Side.QUERY, constants)
        self._tables = tables_of(constants)
        self._dense = DenseSide(plan["query_layout"], self._tables)
        self._hidden = [Dense.from_arrays(f"hidden.{n}", arrays) for n in range(plan["hidden"])]
        self._output = Dense.from_arrays("output", arrays) if plan["has_output"] else None
        self._age_pieces = int(plan["age_pieces"])
        self._age_place = plan["age_place"]
        self._place_weights = arrays.get("place_weights")

    def __call__(self, raw: Arrays) -> dict[str, np.ndarray]:
        """Returns ``embedding``, float32 [B, D + 1], of raw features."""
        return {"embedding": self.embeddings(self.transform(raw))}

    def embeddings(self, features: Arrays) -> np.ndarray:
        """Returns u and a 1, float32 [B, D + 1], of transformed features."""
        hidden = self._dense(features)
        if self._age_pieces:
            column = features[spec.vector_column(Side.QUERY, Kind.CONTINUOUS)]
            tips = np.arange(self._age_pieces + 1, dtype=np.float32)
            ages = column[:, self._age_place, np.newaxis] * np.float32(self._age_pieces)
            hidden = np.concatenate([hidden, np.maximum(1 - np.abs(ages - tips), 0)], axis=1)
        for layer in self._hidden:
            hidden = relu(layer(hidden))
        if self._output is not None:
            hidden = self._output(hidden)
        if self._place_weights is not None:
            hidden = hidden + self._of_watches(features[_WATCHES])
        ones = np.ones((len(hidden), 1), np.float32)
        return np.concatenate([hidden, ones], axis=1, dtype=np.float32)

    def _of_watches(self, ids: np.ndarray) -> np.ndarray:
        """Returns the sum of the watched videos' embeddings by the weights of their places."""
        assert self._place_weights is not None
        weights = np.where(ids > 0, self._place_weights, np.float32(0))
        watches = members(self._tables[_VIDEO], ids)
        return (weights[:, np.newaxis] @ watches)[:, 0]


class VideoTower:
    """Raw video features -> ``embedding``, and ``youth`` where videos have vectors."""

    def __init__(self, resolved: ResolvedSpec, constants: Constants) -> None:
        """Prepares; arguments as of :class:`QueryTower`."""
        plan, arrays = constants.plan, constants.arrays
        self.transform = RawSide(resolved, spec.CANDIDATE, Side.CANDIDATE, constants)
        tables = tables_of(constants)
        self._rows = tables["softmax_rows"]
        self._biases = arrays["softmax_biases"]
        self._dense = DenseSide(plan["video_layout"], tables)
        self._content = Dense.from_arrays("content", arrays) if plan["has_content"] else None
        self._youth = arrays.get("youth")

    def __call__(self, raw: Arrays) -> dict[str, np.ndarray]:
        """Returns ``embedding``, float32 [N, D + 1], last the bias, of raw features.

        Beside it ``youth``, float32 [N, 2], where the model has it, see
        :mod:`models.candidate.youth`.
        """
        features = self.transform(raw)
        ids = features["video_id"]
        rows = np.concatenate(
            [self._rows.take(ids, axis=0), self._biases.take(ids, axis=0)], axis=1
        )
        if self._content is not None:
            rows = rows + self._content(self._dense(features))
        else:
            # Nothing is known of a video outside the vocabulary, see serving.servables.export.
            rows[ids == 0] = [*[0.0] * (rows.shape[1] - 1), signatures.UNREACHABLE_BIAS]
        if self._youth is None:
            return {"embedding": rows}
        return {"embedding": rows, youth.OUTPUT: np.tile(self._youth, (len(rows), 1))}
