"""Gradient-boosted trees (LightGBM) as a ranking baseline, on exactly the ranker's inputs.

They have the ranker's loss: a click weighs its watch seconds, and counts as a unit-weight negative
besides, so that the odds are the expected watch time. Trees need no normalisation: what they read
is the same transformed example all the same, so that a difference to the ranker is one of models,
not of inputs.

``lightgbm`` is optional (the extra ``gbdt``); nothing else here needs it.
"""

import importlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from features import spec
from features.spec import Kind, ResolvedSpec
from models.baselines.ranking import Floats, Scores, scored, targets, vector_columns

Array = npt.NDArray[Any]

INSTALL = "pip install '.[gbdt]' in the checkout"
# Ids of a larger vocabulary enter trees as numbers: ids rise as frequency falls, so a split has
# a meaning, while thousands of categories would let each split single out a few rows.
_MOST_CATEGORIES = 500
_ROUNDS = 600
_PATIENCE = 30
# The newest share of the training rows stops the trees' growth; it is not trained on.
_VALIDATION_FRACTION = 0.1
_SETTINGS = {
    "objective": "cross_entropy",  # The logistic loss for soft labels.
    "learning_rate": 0.05,
    "num_leaves": 63,
    "min_data_in_leaf": 50,
    "feature_fraction": 0.7,
    "bagging_fraction": 0.8,
    "bagging_freq": 1,
    "verbosity": -1,
}


def available() -> bool:
    """Says whether ``lightgbm`` is installed."""
    try:
        importlib.import_module("lightgbm")
    except ImportError:
        return False
    return True


def matrix(
    resolved: ResolvedSpec, examples: Mapping[str, Array]
) -> tuple[npt.NDArray[np.float32], list[str]]:
    """Returns the ranker's inputs as one matrix float32 [n, columns], and the columns' names.

    A bag becomes its first id (the newest watch, the first topic) and its size.
    """
    columns, names = [], []
    for feature in resolved.of(spec.RANKER):
        if feature.kind is Kind.UNIVALENT:
            columns.append(examples[feature.name][:, np.newaxis])
            names.append(f"id:{feature.name}")
        elif feature.kind is Kind.MULTIVALENT:
            ids = examples[feature.name]
            columns += [ids[:, :1], np.count_nonzero(ids, axis=1)[:, np.newaxis]]
            names += [f"id:{feature.name}", f"size:{feature.name}"]
    for name in vector_columns(resolved):
        columns.append(examples[name])
        names += [f"{name}:{i}" for i in range(examples[name].shape[1])]
    return np.concatenate([column.astype(np.float32) for column in columns], axis=1), names


def fit(
    resolved: ResolvedSpec,
    train: Mapping[str, Array],
    holdout: Mapping[str, Array],
    *,
    seed: int = 0,
) -> Scores:
    """Trains on the older training rows, stops by the newest, and scores the holdout.

    Args:
        resolved: The data set's features.
        train: Transformed impressions, m rows, with ``clicked``, ``watch_time_s`` and ``time``.
        holdout: Transformed holdout impressions, n rows, with the same columns.
        seed: Seed of bagging.

    Returns:
        Scores of the holdout, float64 [n].

    Raises:
        ModuleNotFoundError: The optional package ``lightgbm`` is not installed.
    """
    lightgbm = importlib.import_module("lightgbm")
    inputs, names = matrix(resolved, train)
    labels, weights = targets(train)
    order = np.argsort(train["time"], kind="stable")
    newest = max(1, int(len(order) * _VALIDATION_FRACTION))
    categories = _categories(names, inputs)
    parts = [
        lightgbm.Dataset(
            inputs[rows], labels[rows], weight=weights[rows], categorical_feature=categories
        )
        for rows in (order[:-newest], order[-newest:])
    ]
    booster = lightgbm.train(
        {**_SETTINGS, "seed": seed},
        parts[0],
        num_boost_round=_ROUNDS,
        valid_sets=[parts[1]],
        callbacks=[lightgbm.early_stopping(_PATIENCE, verbose=False)],
    )
    logits: Floats = np.asarray(booster.predict(matrix(resolved, holdout)[0], raw_score=True))
    return scored("trees", logits)


def _categories(names: Sequence[str], inputs: npt.NDArray[np.float32]) -> list[int]:
    return [
        column
        for column, name in enumerate(names)
        if name.startswith("id:") and inputs[:, column].max(initial=0) <= _MOST_CATEGORIES
    ]
