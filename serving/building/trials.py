"""Loads what was written and asks it real questions, before anybody else can."""

import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import tensorflow as tf

from features import command, spec, tensors
from features.as_of import examples
from features.catalogue import Catalogue, combined
from features.spec import ResolvedSpec, Side
from models.candidate import youth
from serving.building.gates import Gate, trial
from serving.funnel import filters
from serving.index.index import Index
from serving.servables import signatures, warmup

# Between the training program's float sums and the served graph's.
TOLERANCE = 1e-4
REPEATS = 9  # Calls of which a time is the median.
# What prepared videos lose to half precision, in the logit: half a per cent of watch time.
_PREPARED_TOLERANCE = 5e-3
_VIDEOS = 64
_BY_REGION = ("regions", "blocked_regions")
_K = 10

Path = str | os.PathLike[str]


def times_ms(saved_model: Path) -> list[tuple[str, float, float, float]]:
    """Times the warm-up requests of a SavedModel, :data:`REPEATS` calls of each.

    Returns:
        For each request what is asked, and the median, the first and the third quartile in ms.
    """
    loaded = tf.saved_model.load(str(saved_model))
    timed = []
    for signature, inputs in warmup.read(saved_model):
        _answer(loaded, signature, inputs)  # The first call traces.
        ms = []
        for _ in range(REPEATS):
            begun = time.perf_counter()
            _answer(loaded, signature, inputs)
            ms.append(1000 * (time.perf_counter() - begun))
        rows = max(len(values) for values in inputs.values())
        middle, low, high = (float(q) for q in np.quantile(ms, [0.5, 0.25, 0.75]))
        timed.append((f"{signature}, {rows} rows", middle, low, high))
    return timed


def query_tower(
    saved_model: Path, *, index: Index, resolved: ResolvedSpec, catalogue: Catalogue
) -> Gate:
    """Queries have embeddings that the index takes, and videos those that the index holds."""
    loaded = tf.saved_model.load(str(saved_model))
    problem, answered = "", 0
    for signature, inputs in warmup.read(saved_model):
        embedding = _answer(loaded, signature, inputs)["embedding"]
        problem = problem or _embedding_problem(signature, embedding, index.dimension)
        answered += 1
        if signature == signatures.DEFAULT and not problem:
            _, scores = index.search(embedding, _K)
            problem = "" if np.isfinite(scores).all() else "scores are not finite"
    if not problem:
        problem = _video_problem(loaded, index, resolved=resolved, catalogue=catalogue)
    account = f"{answered} requests, {min(_VIDEOS, len(index))} videos as indexed"
    return trial("query tower", problem, account=account)


def ranker(saved_model: Path) -> Gate:
    """Every candidate has an expected watch time."""
    loaded = tf.saved_model.load(str(saved_model))
    problem, answered = "", 0
    for signature, inputs in warmup.read(saved_model):
        expected = _answer(loaded, signature, inputs)["expected_watch_time_s"]
        candidates = max(len(values) for values in inputs.values())
        if expected.shape != (candidates,):
            problem = f"{candidates} candidates got answers of shape {expected.shape}"
        elif not (np.isfinite(expected) & (expected >= 0)).all():
            problem = "an expected watch time is negative or not finite"
        answered += 1
    return trial("ranker", problem, account=f"{answered} requests")


def prepared_ranker(saved_model: Path, requests: Sequence[warmup.Request]) -> Gate:
    """Videos that were prepared before score as raw ones do."""
    loaded = tf.saved_model.load(str(saved_model))
    logits = [_answer(loaded, name, dict(inputs))["logit"] for name, inputs in requests]
    half = len(logits) // 2
    gap = max(
        float(np.abs(raw - prepared).max())
        for raw, prepared in zip(logits[:half], logits[half:], strict=True)
    )
    problem = "" if gap <= _PREPARED_TOLERANCE else f"logits of prepared videos differ by {gap:.2g}"
    count = sum(len(values) for values in logits[half:])
    return trial("prepared ranker", problem, account=f"{count} videos score as raw ones do")


def rules(catalogue: Catalogue) -> Gate:
    """Every filter can be asked, by viewers of whom nothing is known and by those of a region."""
    problem, names = "", "no column"
    try:
        columns = filters.rule_columns(catalogue.table)
        names = ", ".join(columns.column_names) or names
        withdrawn = filters.withdrawn_rows(catalogue, catalogue.table)
        account = filters.VideoRules(filters.ruled(catalogue, columns), withdrawn)
        for region in ("", _a_region(columns)):
            account.allowed_in(region)
        if len(withdrawn) == len(catalogue):
            problem = "every video is withdrawn, so that nothing could be shown"
    except command.InputError as error:
        problem = str(error)
    return trial("filters", problem, account=f"{names} of {len(catalogue)} videos")


def _a_region(columns: pa.Table) -> str:
    """Returns a region that a video names; empty where none does."""
    lists = [combined(columns[name]) for name in _BY_REGION if name in columns.column_names]
    named = [region for column in lists for region in column.flatten().slice(0, 1).to_pylist()]
    return next((region for region in named if region), "")


def _answer(loaded: Any, signature: str, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    given = {name: tf.constant(values) for name, values in inputs.items()}
    return {name: out.numpy() for name, out in loaded.signatures[signature](**given).items()}


def _embedding_problem(signature: str, embedding: np.ndarray, dimension: int) -> str:
    if embedding.ndim != 2 or embedding.shape[1] != dimension:
        return f"embeddings have shape {embedding.shape}, the index has {dimension} columns"
    if not np.isfinite(embedding).all():
        return f"{signature} gives embeddings that are not finite"
    if signature == signatures.DEFAULT and not (embedding[:, -1] == 1).all():
        return "the last column of a query embedding is not 1, so the bias would be scaled"
    return ""


def _video_problem(
    loaded: Any, index: Index, *, resolved: ResolvedSpec, catalogue: Catalogue
) -> str:
    """Says where the served video tower and the indexed vectors differ."""
    if not index.video_ids.equals(catalogue.video_ids):
        return "the index and the catalogue do not have the same videos in the same order"
    rows = np.unique(np.linspace(0, len(index) - 1, _VIDEOS).astype(np.int64))
    raw = examples.candidate_batch(resolved, spec.CANDIDATE, catalogue=catalogue, video_rows=rows)
    inputs = tensors.to_arrays(raw, resolved, spec.CANDIDATE, Side.CANDIDATE)
    answer = _answer(loaded, signatures.EMBED_VIDEOS, inputs)
    served = youth.with_bias(answer, catalogue.upload_times[rows])
    if not np.allclose(served, index.embeddings[rows], rtol=TOLERANCE, atol=TOLERANCE):
        gap = float(np.abs(served - index.embeddings[rows]).max())
        return f"the served video tower differs from the indexed vectors by {gap:.2g}"
    return ""
