"""Whether two runs of preprocessing wrote the same, whatever runner they used.

Rows lie in other files and in another order, so both are sorted. Everything must be equal but
the medians and quantiles that tf.Transform takes from sketches: see ``FLOAT_TOLERANCE``.
"""

import json
import pathlib
import re

import numpy as np
import polars as pl
import pyarrow.parquet as pq

from features import dataset, spec

# A sketch that was merged in another order may answer with a neighbouring value, and TensorFlow
# may add in another order. The columns concerned are quantile ranks within [0, 1).
FLOAT_TOLERANCE = 1e-5
# What says when and with what a run was made, not what came out.
_OF_THE_RUN = ("logs", "cache", "beam_args")


def assert_equal(expected: pathlib.Path, actual: pathlib.Path) -> dict[str, int]:
    """Compares two examples directories and returns how many rows each part has."""
    rows = _tables(expected, actual)
    for model in spec.MODELS:
        _vocabularies(expected, actual, model)
        for split in dataset.SPLITS if model == spec.CANDIDATE else dataset.SPLITS[:2]:
            if (expected / "transformed" / model / split).exists():
                rows[f"transformed/{model}/{split}"] = _transformed(expected, actual, model, split)
    information = [dict(dataset.info(directory)) for directory in (expected, actual)]
    for name in _OF_THE_RUN:
        for of_one in information:
            of_one.pop(name)
            of_one["config"].pop(name, None)
    if dataset.info(actual)["cache"]:
        # Inputs are audited where they are made: those of cached days were when the days were.
        for of_one in information:
            of_one["audit"].pop("inputs")
    assert information[0] == information[1]
    assert (expected / "spec.json").read_text() == (actual / "spec.json").read_text()
    _statistics(expected, actual)
    assert_nothing_temporary(actual)
    return rows


def assert_nothing_temporary(directory: pathlib.Path) -> None:
    """A retried task must leave no part of its first try behind."""
    paths = [path for path in directory.rglob("*") if path.is_file()]
    assert not [path for path in paths if "temp" in str(path.relative_to(directory))]
    for path in paths:
        if shard := re.fullmatch(r"part-\d+-of-(\d+)\.\w+", path.name):
            assert len(list(path.parent.glob("part-*-of-*"))) == int(shard[1]), path


def _tables(expected: pathlib.Path, actual: pathlib.Path) -> dict[str, int]:
    """Compares every directory of Parquet files, all columns, as sorted rows."""
    directories = {
        str(path.parent.relative_to(root))
        for root in (expected, actual)
        for path in root.rglob("*.parquet")
    }
    rows = {}
    for name in sorted(directories):
        ours, theirs = (_sorted_rows(root / name) for root in (expected, actual))
        assert ours.equals(theirs), f"{name}: {len(ours)} and {len(theirs)} rows differ"
        rows[name] = len(ours)
    return rows


def _sorted_rows(directory: pathlib.Path) -> pl.DataFrame:
    frame = pl.DataFrame(pl.from_arrow(pq.read_table(directory)))
    frame = frame.select(sorted(frame.columns))
    keys = frame.hash_rows(seed=1)
    return frame.with_columns(__key=keys).sort("__key").drop("__key")


def _vocabularies(expected: pathlib.Path, actual: pathlib.Path, model: str) -> None:
    assets = [
        {path.name: path.read_bytes() for path in assets.iterdir()}
        for root in (expected, actual)
        if (assets := root / "transform_fn" / model / "transform_fn" / "assets").exists()
    ]
    assert len(assets) != 1
    assert all(of_one == assets[0] for of_one in assets)


def _transformed(expected: pathlib.Path, actual: pathlib.Path, model: str, split: str) -> int:
    """Compares ids exactly and floats within the tolerance, rows sorted by all their ids."""
    ours, theirs = (dataset.load(root, model, split) for root in (expected, actual))
    assert set(ours) == set(theirs)
    exact = sorted(name for name, values in ours.items() if values.dtype.kind != "f")
    sizes = {len(values) for values in (*ours.values(), *theirs.values())}
    assert len(sizes) == 1, f"{model} {split}: {sizes} rows"
    orders = [_order(arrays, exact) for arrays in (ours, theirs)]
    for name in ours:
        one, other = ours[name][orders[0]], theirs[name][orders[1]]
        if name in exact:
            np.testing.assert_array_equal(one, other, err_msg=f"{model} {split} {name}")
        else:
            np.testing.assert_allclose(
                one, other, rtol=0, atol=FLOAT_TOLERANCE, err_msg=f"{model} {split} {name}"
            )
    return sizes.pop()


def _order(arrays: dict[str, np.ndarray], exact: list[str]) -> np.ndarray:
    """Sorts by all ids and then by all floats, rounded: rows equal in both may be exchanged."""
    rows = len(arrays[exact[0]])
    columns = [arrays[name].reshape(rows, -1).astype("S64") for name in exact]
    floats = sorted(set(arrays) - set(exact))
    columns += [np.round(arrays[name].reshape(rows, -1), 3).astype("S16") for name in floats]
    keys = [b"\x00".join(row) for row in np.concatenate(columns, axis=1).tolist()]
    return np.asarray(sorted(range(rows), key=keys.__getitem__), np.int64)


def _statistics(expected: pathlib.Path, actual: pathlib.Path) -> None:
    ours, theirs = (json.loads((d / "statistics.json").read_text()) for d in (expected, actual))
    assert _differences(ours, theirs) == []


def _differences(one: object, other: object, path: str = "") -> list[str]:
    """Names the places where two JSON values differ by more than the tolerance."""
    if isinstance(one, dict) and isinstance(other, dict):
        if one.keys() != other.keys():
            return [f"{path}: {sorted(one.keys() ^ other.keys())}"]
        return [
            found
            for key in one
            if key not in _OF_THE_RUN
            for found in _differences(one[key], other[key], f"{path}/{key}")
        ]
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        pairs = enumerate(zip(one, other, strict=True))
        return [found for i, (a, b) in pairs for found in _differences(a, b, f"{path}/{i}")]
    if isinstance(one, float) and isinstance(other, float):
        close = np.isclose(one, other, rtol=1e-6, atol=FLOAT_TOLERANCE)
        return [] if close else [f"{path}: {one} and {other}"]
    return [] if one == other else [f"{path}: {one!r} and {other!r}"]
