"""What each group of features contributes to expected watch times, by leaving the group out.

The ranker is asked again with every feature of a group missing, everything else as it is: exactly
what it would say of a viewer or video of whom that were not known. What a group contributes is the
expected watch time with it minus that without it. Contributions do not add up to the whole, where
groups say the same or work together.

==============  ====================================================================================
user            columns of the users table
context         device, surface, hour, weekday
history         what the viewer watched, searched and was shown before, also of this very video
video           columns of the videos table, the video's statistics, also those of the last minutes
nomination      retrieval score, and who nominated it
==============  ====================================================================================
"""

import threading
import weakref
from collections.abc import Callable, Mapping

import numpy as np

from features import spec
from features.spec import Kind, Side
from serving import errors
from serving.funnel.candidates import Candidates
from serving.funnel.loaded_release import LoadedRelease
from serving.funnel.viewer import Viewer
from serving.servables.signatures import Model

GROUPS: Mapping[str, frozenset[str]] = {
    "user": frozenset({"users"}),
    "context": frozenset({"context"}),
    "history": frozenset({"history"}),
    "video": frozenset({"videos", "statistics", "live"}),
    "nomination": frozenset({"nomination"}),
}


class RawRankers:
    """The signature of rankers that reads videos raw, opened when somebody first asks why."""

    def __init__(self, open_raw: Callable[[LoadedRelease], Model] | None = None) -> None:
        """Opens nothing yet.

        Args:
            open_raw: Function that opens the signature of a release; None takes the release's own
                ranker, which then must read videos raw.
        """
        self._open = open_raw
        self._lock = threading.Lock()
        self._opened: weakref.WeakKeyDictionary[Model, Model] = weakref.WeakKeyDictionary()

    def of(self, release: LoadedRelease) -> Model | None:
        """Returns the signature; None where the release has no ranker, or none that reads raw."""
        ranker = release.ranker
        if ranker is None or self._open is None:
            return ranker if release.prepared is None else None
        with self._lock:  # Of one ranker, whatever is renewed around it.
            opened = self._opened.get(ranker)
            if opened is None:
                opened = self._opened[ranker] = self._open(release)
            return opened


def without_each(
    ranker: Model, release: LoadedRelease, viewer: Viewer, candidates: Candidates
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Returns expected watch times with everything, and without each group that there is.

    Returns:
        Seconds, float32 [n], and the same of each group's name.

    Raises:
        ModelError: The ranker failed.
    """
    inputs = release.raw_ranker_inputs(viewer, candidates)
    whole = _seconds(ranker, inputs, len(candidates))
    without = {}
    for group, origins in GROUPS.items():
        blanked = _blanked(release, inputs, origins)
        if blanked is not None:
            without[group] = _seconds(ranker, blanked, len(candidates))
    return whole, without


def _seconds(ranker: Model, inputs: Mapping[str, np.ndarray], count: int) -> np.ndarray:
    output = np.asarray(ranker.predict(inputs)["expected_watch_time_s"], np.float32).reshape(-1)
    if output.shape != (count,):
        raise errors.ModelError(f"the ranker must give {count} numbers, got {output.shape}.")
    return output


def _blanked(
    release: LoadedRelease, inputs: Mapping[str, np.ndarray], origins: frozenset[str]
) -> dict[str, np.ndarray] | None:
    """Returns the inputs with all features of some origins missing; None where there is none."""
    changed: dict[str, np.ndarray] = {}
    for side in Side:
        for feature in release.resolved.of(spec.RANKER, side):
            if feature.categorical and feature.origin in origins:
                changed[feature.name] = np.full_like(inputs[feature.name], "")
        for kind in (Kind.CONTINUOUS, Kind.BINARY):
            features = release.resolved.of(spec.RANKER, side, kind)
            gone = [number for number, f in enumerate(features) if f.origin in origins]
            if gone:
                name = spec.vector_column(side, kind)
                changed[name] = inputs[name].copy()
                changed[name][:, gone] = np.nan
    return {**inputs, **changed} if changed else None
