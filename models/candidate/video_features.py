"""Content of the vocabulary's videos, by id, for a model that draws videos by id.

Negatives are drawn by id; this gives them their content by one gather.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import tensorflow as tf

Array = npt.NDArray[np.generic]
VIDEO_ID = "video_id"


class VideoFeatures:
    """What the video tower reads of each video of the vocabulary: row i is id i.

    Negatives are drawn by id; this gives them their content by one gather. It is data, no
    weight: checkpoints leave it out.

    Args:
        arrays: Name to array [V + 1, ...]; row 0 is zero.
    """

    def __init__(self, arrays: Mapping[str, Array]) -> None:
        self.arrays = {name: _compact(array) for name, array in arrays.items()}
        self._tensors = {name: tf.constant(array) for name, array in self.arrays.items()}

    @classmethod
    def of_catalogue(
        cls, videos: Mapping[str, Array], *, columns: Sequence[str], num_videos: int
    ) -> "VideoFeatures":
        """Takes the videos of the vocabulary from the whole catalogue.

        Args:
            videos: Features of all videos, as ``features.dataset.videos`` returns them.
            columns: Names of the features that the model reads of a video besides its id.
            num_videos: V, number of videos of the vocabulary.
        """
        ids = np.asarray(videos[VIDEO_ID], np.int64)
        arrays = {}
        for name in columns:
            column = np.asarray(videos[name])
            rows = np.zeros((num_videos + 1, *column.shape[1:]), column.dtype)
            rows[ids[ids > 0]] = column[ids > 0]
            arrays[name] = rows
        return cls(arrays)

    def of(self, ids: tf.Tensor) -> dict[str, tf.Tensor]:
        """Returns the features of ids, ``video_id`` included; leading dimension as ``ids``."""
        features = {name: tf.gather(tensor, ids) for name, tensor in self._tensors.items()}
        return {**features, VIDEO_ID: ids}


def _compact(array: Array) -> Array:
    """Ids fit in 32 bits, and a million videos are then half as large."""
    kind = np.int32 if array.dtype.kind in "iu" else np.float32
    return array.astype(kind)
