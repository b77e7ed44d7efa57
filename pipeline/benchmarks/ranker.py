"""Benchmark of the ranker: the paper's widest tower, more than 200 inputs, 500 candidates.

A small simulated site gets further columns of users and videos, half categories, half numbers, so
that the model reads as many features as the paper's. What is timed is what the funnel calls: the
ranker as arrays, from raw features and prepared video columns to watch times.

Beside it, on the same features and weights:

* unsplit: the query's features repeated for each candidate, so that nothing is shared between
  candidates (the signature ``score_pairs``);
* naive: one Keras ``predict`` for each candidate, as in tutorials; timed on some of them and
  multiplied, and spared the transform graph.
"""

import json
import pathlib
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from absl import logging

from features import dataset, files, spec
from features.spec import ResolvedSpec, Side
from pipeline.steps import commands

_SITE = ("--preset=small", "--days=4", "--seed=1")
# Of each table, so many categories and so many numbers.
_EXTRA = {"users": 20, "videos": 30}
_LEAST_INPUTS = 200
_HIDDEN = (1024, 512, 256)
_CANDIDATES = 500
_CALLS, _UNSPLIT_CALLS, _NAIVE_CALLS = 300, 60, 20
_WARM_UP = 20

Arrays = Mapping[str, np.ndarray]


def measure(work: pathlib.Path) -> dict[str, float]:
    """Returns latencies of 500 candidates, their ratios, and training examples a second."""
    examples = _examples(work)
    resolved = ResolvedSpec.load(examples)
    inputs = len(resolved.of(spec.RANKER))
    if inputs < _LEAST_INPUTS:
        raise ValueError(f"the benchmark must have {_LEAST_INPUTS} inputs, got {inputs}.")
    examples_per_s = _train(examples, work / "model")
    raw, prepared, model = _export(work, examples, resolved)
    from serving.arrays import backend, constants
    from serving.servables import embedded, signatures

    directory = work / "ranker"
    numbers = constants.load(directory)
    assert numbers is not None
    ours = backend.functions_of(spec.RANKER, resolved, numbers)[prepared[0]]
    unsplit = embedded.EmbeddedModel(directory, signatures.SCORE_PAIRS)
    query = resolved.of(spec.RANKER, Side.QUERY)
    names = {f.name for f in query} | {n for n in raw if n.startswith(Side.QUERY.value + "_")}
    pairs = {n: np.repeat(v, _CANDIDATES, axis=0) if n in names else v for n, v in raw.items()}
    # One after the other, in turns, so that what disturbs one disturbs both.
    seconds: dict[str, list[float]] = {"ours": [], "unsplit": []}
    for turn in range(_WARM_UP + _CALLS):
        calls: dict[str, Callable[[], Any]] = {"ours": lambda: ours(prepared[1])}
        if turn < _WARM_UP + _UNSPLIT_CALLS:
            calls["unsplit"] = lambda: unsplit.predict(pairs)
        for name, call in calls.items():
            started = time.perf_counter()
            call()
            if turn >= _WARM_UP:
                seconds[name].append(time.perf_counter() - started)
    p50, p99 = (float(np.percentile(seconds["ours"], q)) for q in (50, 99))
    return {
        "ranker.p50_ms_500_candidates": 1000 * p50,
        "ranker.p99_ms_500_candidates": 1000 * p99,
        "ranker.unsplit_over_split_ratio": statistics.median(seconds["unsplit"]) / p50,
        "ranker.naive_over_ours_ratio": _naive_seconds(model, examples) / p50,
        "ranker.examples_per_s": examples_per_s,
        "ranker.inputs": inputs,
    }


def _examples(work: pathlib.Path) -> pathlib.Path:
    """Simulates a site, widens its tables and preprocesses it."""
    logs, examples = work / "logs", work / "examples"
    commands.run_binary("pipeline.simulate", f"--logs={logs}", *_SITE)
    rng = np.random.default_rng(0)
    declared = []
    for table, count in _EXTRA.items():
        (path,) = sorted((logs / table).glob("*.parquet"))
        rows = pq.read_table(path)
        for number in range(count):
            values = rng.integers(0, 50, len(rows))
            name = f"{table}_category_{number}"
            rows = rows.append_column(name, pa.array([f"{v}" for v in values]))
            declared.append(_declared(table, name, "univalent"))
            name = f"{table}_number_{number}"
            rows = rows.append_column(name, pa.array(rng.lognormal(size=len(rows))))
            declared.append(_declared(table, name, "continuous"))
        pq.write_table(rows, path)
    files.atomic_write(logs / "features.json", json.dumps(declared, indent=1) + "\n")
    commands.run_binary("pipeline.preprocess", f"--logs={logs}", f"--examples={examples}")
    return examples


def _declared(table: str, name: str, kind: str) -> dict[str, Any]:
    side = Side.QUERY if table == "users" else Side.CANDIDATE
    return {
        "name": name,
        "kind": kind,
        "side": side.value,
        "models": [spec.RANKER],
        "source": f"{table}.{name}",
    }


def _train(examples: pathlib.Path, directory: pathlib.Path) -> float:
    """Trains one epoch; returns examples a second of the steps alone."""
    from models.config import RankerConfig, TrainingConfig
    from models.ranking import training as ranker_training

    settings = TrainingConfig(epochs=1, batch_size=1024, holdout_examples=1000)
    model = RankerConfig(hidden=_HIDDEN)
    result = ranker_training.train(examples, directory, model, settings)
    return result.examples_per_s


def _export(
    work: pathlib.Path, examples: pathlib.Path, resolved: ResolvedSpec
) -> tuple[Arrays, tuple[str, Arrays], Any]:
    """Writes the SavedModel; returns raw inputs, the funnel's signature and inputs, the model."""
    from features.catalogue import Catalogue
    from models.ranking import model as ranker
    from serving.arrays import export as arrays_export
    from serving.servables import export, prepared_videos, signatures, warmup

    model = ranker.load(work / "model", examples)
    directory = work / "ranker"
    export.export_ranker(model, examples, directory)
    arrays_export.write_ranker(model, examples, directory)
    name, raw = warmup.ranker_requests(examples)[-1]
    count = max(len(values) for values in raw.values())
    if count != _CANDIDATES:
        raise ValueError(f"the request must have {_CANDIDATES} candidates, got {count}.")
    catalogue = Catalogue(pa.concat_tables(map(pq.read_table, _parts(examples / "videos"))))
    prepared_videos.write(
        work / "prepared",
        resolved=resolved,
        catalogue=catalogue,
        prepare=export.function_of(directory, signatures.PREPARE_VIDEOS),
        vocabularies={
            space.name: dataset.vocabulary(examples, spec.RANKER, space.name)
            for space in resolved.spaces_of(spec.RANKER)
        },
    )
    prepared = prepared_videos.PreparedVideos.load(work / "prepared", resolved)
    (request,) = warmup.prepared_requests([(name, raw)], prepared, catalogue)
    return raw, request, model


def _parts(directory: pathlib.Path) -> list[pathlib.Path]:
    return sorted(directory.glob("*.parquet"))


def _naive_seconds(model: Any, examples: pathlib.Path) -> float:
    """Returns the seconds of one ``predict`` after the other for 500 candidates."""
    names = (*model.query_columns, *model.candidate_columns)
    arrays = dataset.load(examples, spec.RANKER, "holdout", names)
    times = []
    for row in range(_NAIVE_CALLS):
        one = {name: values[row : row + 1] for name, values in arrays.items()}
        started = time.perf_counter()
        np.exp(model.predict(one, verbose=0))
        times.append(time.perf_counter() - started)
    # The first call compiles.
    seconds = statistics.median(times[1:])
    logging.info("One naive prediction of one candidate takes %.1f ms.", 1000 * seconds)
    return seconds * _CANDIDATES
