"""The two servables: names of their signatures, and what the funnel sees of one, wherever it runs.

Inputs are named as in the feature spec: univalent string [B], multivalent string [B, max_length]
padded with "", vectors float32 [B, F] with NaN for missing; :func:`features.tensors.to_arrays`
makes them. Models as arrays take ids of the query side in the place of strings, too.

===============  ====================  ==========================================================
servable         signature             answers
===============  ====================  ==========================================================
``query_tower``  ``serving_default``   query side -> ``embedding`` float32 [B, D + 1], last is 1
..               ``embed_videos``      video side -> ``embedding`` float32 [N, D + 1], last is bias
``ranker``       ``serving_default``   query side [1], video side [N] -> ``expected_watch_time_s``
                                       and ``logit``, float32 [N]
..               ``score_pairs``       the same with a query of its own for each video, both [N]
..               ``prepare_videos``    video side -> ``video_parts`` float16 [N, P]
..               ``score_prepared``    as the first, of videos that were prepared before:
                                       :mod:`serving.servables.prepared_videos`
both             ``transform_query``   query side -> what the model itself reads, for the skew proof
both             ``transform_videos``  video side -> the same
===============  ====================  ==========================================================
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

import numpy as np

from features.as_of.examples import IdsOf
from serving import errors

QUERY_TOWER = "query_tower"
RANKER = "ranker"
DEFAULT = "serving_default"
EMBED_VIDEOS = "embed_videos"
SCORE_PAIRS = "score_pairs"
PREPARE_VIDEOS = "prepare_videos"
SCORE_PREPARED = "score_prepared"
TRANSFORM_QUERY = "transform_query"
TRANSFORM_VIDEOS = "transform_videos"
# Bias of a video that has no embedding. Logits of real videos lie within hundreds of 0.
UNREACHABLE_BIAS = -10_000.0

Arrays = Mapping[str, np.ndarray]


class Model(Protocol):
    """One signature of one model version. Safe for threads."""

    def predict(self, inputs: Arrays, *, deadline_s: float | None = None) -> dict[str, np.ndarray]:
        """Returns the outputs by name.

        Args:
            inputs: Name to array: strings as object arrays of str, numbers in the signature's
                dtype.
            deadline_s: Seconds that the answer may take; None for the backend's default.

        Raises:
            ModelError: See the subclasses.
        """


def ids_of(model: Model) -> IdsOf | None:
    """Returns how a model tells the ids that it takes in the place of strings; None for none."""
    told: IdsOf | None = getattr(model, "ids_of", None)
    return told


def require_inputs(
    inputs: Mapping[str, np.ndarray], shapes: Mapping[str, Sequence[int | None]], *, model: str
) -> None:
    """Refuses inputs that do not fit: a graph may well compute something from a wrong shape.

    Raises:
        ModelError: An input is missing, unknown or of another shape than ``shapes`` says.
    """
    if inputs.keys() != shapes.keys():
        given, needed = set(inputs), set(shapes)
        raise errors.ModelError(
            f"model {model} needs the inputs {sorted(needed)}: "
            f"missing {sorted(needed - given)}, unknown {sorted(given - needed)}."
        )
    for name, wanted in shapes.items():
        shape = np.shape(inputs[name])
        sizes = zip(shape, wanted, strict=False)
        if len(shape) != len(wanted) or any(w is not None and w != size for size, w in sizes):
            raise errors.ModelError(
                f"input {name!r} of model {model} must have the shape {tuple(wanted)}, got {shape}."
            )


@contextlib.contextmanager
def explained(model: str, *failures: type[Exception]) -> Iterator[None]:
    """Makes failures of a model one error of one line that names it."""
    try:
        yield
    except failures as error:
        line = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
        raise errors.ModelError(f"model {model} failed: {line}") from error
