"""Embeddings of real users' queries, to tune and judge an index with, and of all videos."""

import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from absl import logging

from features import command, dataset, spec
from features.spec import ResolvedSpec, Side
from models.candidate_model import CandidateModel
from serving.exact_search import Floats

# Half of them tune the index, half measure it.
NUM_QUERIES = 2000
_BATCH = 4096
_LIGHT_WATCHES = 10


def side_features(
    resolved: ResolvedSpec, side: Side, arrays: Mapping[str, npt.NDArray[Any]]
) -> dict[str, npt.NDArray[Any]]:
    """Returns the transformed inputs of one tower."""
    names = [f.name for f in resolved.of(spec.CANDIDATE, side) if f.categorical]
    names += [spec.vector_column(side, f.kind) for f in resolved.of(spec.CANDIDATE, side)]
    return {name: arrays[name] for name in dict.fromkeys(names) if name in arrays}


def embed(tower: Callable[..., Any], features: Mapping[str, npt.NDArray[Any]]) -> Floats:
    """Runs a tower in batches: float32 [n, D + 1]."""
    count = len(next(iter(features.values())))
    parts = [
        np.asarray(tower({name: values[at : at + _BATCH] for name, values in features.items()}))
        for at in range(0, count, _BATCH)
    ]
    return np.concatenate(parts).astype(np.float32)


def of_held_out_users(
    model: CandidateModel, examples: pathlib.Path, resolved: ResolvedSpec
) -> tuple[Floats, dict[str, npt.NDArray[np.bool_]]]:
    """Embeds queries of as many held-out users as possible, and says which are light users.

    Without a holdout, training queries stand in: the index still meets real users.
    """
    for split in ("holdout", "train"):
        arrays = _sample(examples, split)
        if arrays:
            break
        logging.warning("%s has no %s examples of users to query with.", examples, split)
    else:
        raise command.InputError(f"{examples} has no candidate examples; preprocess more logs.")
    queries = embed(model.query_embeddings, side_features(resolved, Side.QUERY, arrays))
    if "watched_video_ids" not in arrays:
        return queries, {}
    watched = (arrays["watched_video_ids"] > 0).sum(axis=1)
    return queries, {
        "no watches": watched == 0,
        "light users": (watched > 0) & (watched < _LIGHT_WATCHES),
        "heavy users": watched >= _LIGHT_WATCHES,
    }


def _sample(examples: pathlib.Path, split: str) -> dict[str, npt.NDArray[Any]]:
    """Returns at most :data:`NUM_QUERIES` examples in random order, different users first."""
    kept: dict[str, npt.NDArray[Any]] = {}
    rng = np.random.default_rng(0)
    for batch in dataset.batches(
        examples, spec.CANDIDATE, split, batch_size=_BATCH
    ).as_numpy_iterator():
        merged = {n: np.concatenate([kept[n], v]) if kept else v for n, v in batch.items()}
        order = rng.permutation(len(merged["time"]))
        _, first = np.unique(merged["user_id"][order], return_index=True)
        again = np.setdiff1d(np.arange(len(order)), first)
        chosen = order[np.concatenate([rng.permutation(first), again])][:NUM_QUERIES]
        kept = {name: values[chosen] for name, values in merged.items()}
    return kept
