"""Gates of models as arrays: they read what training read, and answer as the SavedModels do."""

import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from features import spec, tensors
from features.spec import ResolvedSpec, Side
from serving.arrays import constants
from serving.arrays.backend import functions_of
from serving.building import gates, skew
from serving.building.gates import NOT_CHECKED, Gate
from serving.servables import signatures, warmup

# Between TensorFlow's float32 sums and NumPy's: of a logit, and of a part of an embedding, by the
# larger of 1 and what is the largest in the answer. bfloat16 would be a thousand times that.
TOLERANCE = 1e-4
# Prepared parts are in half precision, where neighbours are a thousandth apart.
_PARTS_TOLERANCE = 2e-3

Arrays = Mapping[str, np.ndarray]
Function = Callable[[Arrays], dict[str, np.ndarray]]


def query_tower(
    saved_model: pathlib.Path, examples_dir: pathlib.Path, resolved: ResolvedSpec
) -> list[Gate]:
    """Judges the towers of the candidate model as arrays."""
    return _judged(saved_model, examples_dir, resolved, spec.CANDIDATE)


def ranker(
    saved_model: pathlib.Path, examples_dir: pathlib.Path, resolved: ResolvedSpec
) -> list[Gate]:
    """Judges the ranker as arrays; arguments as of :func:`query_tower`."""
    return _judged(saved_model, examples_dir, resolved, spec.RANKER)


def _judged(
    saved_model: pathlib.Path, examples_dir: pathlib.Path, resolved: ResolvedSpec, model: str
) -> list[Gate]:
    what = f"{model} model as arrays"
    numbers = constants.load(saved_model)
    reason = "it has none" if numbers is None else numbers.unsupported
    if numbers is None or reason:
        rule = f"the {what} answers as the SavedModel does"
        return [
            Gate(
                rule=rule,
                value=f"TensorFlow runs it: {reason}",
                threshold=f"logits to {TOLERANCE:g}",
                verdict=NOT_CHECKED,
            )
        ]
    functions = functions_of(model, resolved, numbers)
    return [
        gates.skew_proof(what, skew.measure(_transforms(functions), examples_dir, model)),
        _trial(saved_model, what, functions, _requests(saved_model, resolved, model)),
    ]


def _transforms(functions: Mapping[str, Any]) -> skew.Transforms:
    sides = {
        signatures.DEFAULT: Side.QUERY,
        signatures.SCORE_PREPARED: Side.QUERY,
        signatures.EMBED_VIDEOS: Side.CANDIDATE,
        signatures.PREPARE_VIDEOS: Side.CANDIDATE,
    }
    return {sides[name]: function.transform for name, function in functions.items()}


def _requests(
    saved_model: pathlib.Path, resolved: ResolvedSpec, model: str
) -> Sequence[warmup.Request]:
    """Returns the requests that the SavedModel is warmed up with, and videos to prepare."""
    requests = [(name, _texts(arrays)) for name, arrays in warmup.read(saved_model)]
    names = set(tensors.signature_shapes(resolved, model, Side.CANDIDATE))
    prepare = [
        (signatures.PREPARE_VIDEOS, {n: v for n, v in arrays.items() if n in names})
        for name, arrays in requests
        if name == signatures.DEFAULT and model == spec.RANKER
    ]
    return [*requests, *prepare]


def _texts(arrays: Arrays) -> dict[str, np.ndarray]:
    """Returns arrays whose strings are str, as the funnel gives them."""
    return {
        name: np.array([t.decode() for t in values.reshape(-1)], object).reshape(values.shape)
        if values.dtype == object
        else values
        for name, values in arrays.items()
    }


def _trial(
    saved_model: pathlib.Path,
    what: str,
    functions: Mapping[str, Function],
    requests: Sequence[warmup.Request],
) -> Gate:
    loaded = tf.saved_model.load(str(saved_model))
    largest, problem, answered = 0.0, "", 0
    for name, inputs in requests:
        if name not in functions:
            continue
        given = {n: tf.constant(v) for n, v in inputs.items()}
        wanted = {n: v.numpy() for n, v in loaded.signatures[name](**given).items()}
        answer = functions[name](inputs)
        answered += 1
        for output, values in wanted.items():
            if output == "expected_watch_time_s":
                continue  # The exponential of the logit, which is compared.
            allowed = _PARTS_TOLERANCE if name == signatures.PREPARE_VIDEOS else TOLERANCE
            gap = _gap(values, answer[output])
            if not gap <= allowed:
                problem = problem or f"{output} of {name} differs by {gap:.2g}"
            largest = max(largest, gap / allowed)
    if not answered:
        problem = "no request to try it with"
    account = f"{answered} requests answered as by TensorFlow, {largest:.1g} of the tolerance"
    return gates.trial(what, problem, account=account)


def _gap(wanted: np.ndarray, answered: np.ndarray) -> float:
    if wanted.shape != answered.shape:
        return float("inf")
    scale = max(1.0, float(np.abs(wanted).max(initial=0.0)))
    # A NaN on either side is larger than any tolerance: it compares as false.
    return float(np.abs(wanted.astype(np.float64) - answered).max(initial=0.0)) / scale
