"""Runs a release's models in this process as arrays; what arrays cannot do, TensorFlow does.

A release that was built before models were arrays, a model that NumPy does not run, and a signature
that the funnel seldom asks for go to :class:`serving.servables.embedded.EmbeddedBackend`. Of those
that every request asks for that is said, and counted: TensorFlow is four times slower there, and
takes a gigabyte.
"""

import functools
import pathlib
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import numpy as np
from absl import logging

from features import spec, tensors
from features.as_of.examples import IdsOf
from features.loops import compiled
from features.spec import ResolvedSpec, Side
from serving.arrays import constants
from serving.arrays.constants import Constants
from serving.arrays.inputs import RawSide
from serving.arrays.query_tower import QueryTower, VideoTower
from serving.arrays.ranker import RankerOfPrepared, VideoPreparer
from serving.release import manifest as release
from serving.servables import prepared_videos, signatures
from serving.servables.embedded import EmbeddedBackend, EmbeddedModel, Kept
from serving.servables.signatures import Arrays, Model


class Function(Protocol):
    """A signature of a model, computed by NumPy."""

    transform: RawSide

    def __call__(self, inputs: Arrays, /) -> dict[str, np.ndarray]:
        """Returns the outputs by name."""


Shapes = Mapping[str, tuple[str, tuple[int | None, ...]]]
_FUNCTIONS: Mapping[str, Mapping[str, Callable[[ResolvedSpec, Constants], Function]]] = {
    spec.CANDIDATE: {signatures.DEFAULT: QueryTower, signatures.EMBED_VIDEOS: VideoTower},
    spec.RANKER: {
        signatures.SCORE_PREPARED: RankerOfPrepared,
        signatures.PREPARE_VIDEOS: VideoPreparer,
    },
}
# What a page needs; all else TensorFlow may do without a word.
_OF_PAGES = {
    signatures.QUERY_TOWER: (signatures.DEFAULT,),
    signatures.RANKER: (signatures.DEFAULT, signatures.SCORE_PREPARED),
}


class ArraysBackend(EmbeddedBackend):
    """A backend in this process that does without TensorFlow where it can.

    Attributes:
        fallbacks: Why a model that pages need is run by TensorFlow all the same, by name of the
            model; empty where none is.
    """

    def __init__(self) -> None:
        super().__init__()
        if compiled.loops() is None:
            logging.warning(
                "Numba is not installed: NumPy does what compiled loops would, in more time. "
                "pip install '.[serving,compiled]' adds it."
            )
        self.fallbacks: dict[str, str] = {}
        self._arrays: Kept[_Opened] = weakref.WeakValueDictionary()

    def open(
        self, component: str, on_disk: release.Release, *, signature: str = signatures.DEFAULT
    ) -> Model:
        """Returns a signature of a model, of arrays where there are some."""
        directory = on_disk.model(component)
        opened = self._arrays.get(directory)
        if opened is None:
            opened = self._arrays[directory] = _Opened(component, on_disk, directory)
        reason = opened.lacks(signature)
        if not reason:
            self.fallbacks.pop(component, None)
            return ArrayModel(opened, signature)
        if signature in _OF_PAGES[component] and not self._is_extra(component, signature, opened):
            self.fallbacks[component] = reason
            logging.warning(
                "The %s of release %s is run by TensorFlow, which is slower: %s.",
                *(component, on_disk.version, reason),
            )
        return super().open(component, on_disk, signature=signature)

    @staticmethod
    def _is_extra(component: str, signature: str, opened: "_Opened") -> bool:
        """Whether pages do without it: the raw ranker, beside one of prepared videos."""
        is_raw = (component, signature) == (signatures.RANKER, signatures.DEFAULT)
        return is_raw and not opened.lacks(signatures.SCORE_PREPARED)


def is_by_tensorflow(model: Model | None) -> bool:
    """Whether TensorFlow runs a model in this process."""
    return isinstance(model, EmbeddedModel)


class _Opened:
    """The numbers of a model in memory."""

    def __init__(self, component: str, on_disk: release.Release, directory: pathlib.Path) -> None:
        self.name = f"{directory.parent.name}/{directory.name}"
        self.component = component
        self.constants: Constants | None = constants.load(directory)
        self.resolved = ResolvedSpec.load(on_disk.videos)

    def lacks(self, signature: str) -> str:
        """Returns why a signature cannot be had of arrays; "" where it can."""
        if self.constants is None:
            return "the release was built before models were arrays"
        if self.constants.unsupported:
            return self.constants.unsupported
        if signature not in self.constants.plan["signatures"]:
            return f"arrays do not have {signature}"
        return ""

    def function(self, signature: str) -> tuple[Function, Shapes]:
        """Returns a signature as a function, and name to dtype and shape of its inputs."""
        assert self.constants is not None
        model = spec.RANKER if self.component == signatures.RANKER else spec.CANDIDATE
        function = _FUNCTIONS[model][signature](self.resolved, self.constants)
        shape_of = functools.partial(tensors.signature_shapes, self.resolved, model)
        if signature in {signatures.EMBED_VIDEOS, signatures.PREPARE_VIDEOS}:
            return function, _frozen(shape_of(Side.CANDIDATE))
        shapes = dict(shape_of(Side.QUERY))
        if isinstance(function, RankerOfPrepared):
            shapes = {name: (dtype, [1, *shape[1:]]) for name, (dtype, shape) in shapes.items()}
            shapes |= prepared_videos.signature_inputs(self.resolved, function.parts_width)
        return function, _frozen(shapes)


def functions_of(
    model: str, resolved: ResolvedSpec, constants_of: Constants
) -> dict[str, Function]:
    """Returns the signatures that arrays have of a model, by name.

    Args:
        model: ``candidate`` or ``ranker``.
        resolved: Features of the release.
        constants_of: Numbers of the model.
    """
    return {
        name: make(resolved, constants_of)
        for name, make in _FUNCTIONS[model].items()
        if name in constants_of.plan["signatures"]
    }


def _frozen(shapes: Mapping[str, tuple[str, Sequence[int | None]]]) -> Shapes:
    return {name: (dtype, tuple(shape)) for name, (dtype, shape) in shapes.items()}


class ArrayModel:
    """A signature of a model of arrays; safe for threads.

    Attributes:
        signature: Name of the signature.
        function: What it computes.
        shapes: Name to dtype and shape of its inputs.
        ids_of: Ids that may stand for the strings of its inputs.
    """

    def __init__(self, opened: _Opened, signature: str) -> None:
        self.signature = signature
        self._opened = opened  # As long as this is used, all are.
        self.function, self.shapes = opened.function(signature)
        self.ids_of: IdsOf = self.function.transform.ids

    def predict(self, inputs: Arrays, *, deadline_s: float | None = None) -> dict[str, np.ndarray]:
        """Returns the outputs; a running call cannot be stopped: the deadline is not enforced."""
        del deadline_s
        name = self._opened.name
        shapes = {key: shape for key, (_, shape) in self.shapes.items()}
        signatures.require_inputs(inputs, shapes, model=name)
        with signatures.explained(name, ValueError, TypeError, IndexError, AttributeError):
            return self.function(inputs)
