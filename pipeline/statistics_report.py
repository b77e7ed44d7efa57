"""Statistics of the raw examples: what a person checks before training on them."""

import pathlib
from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from features import spec
from features.catalogue import combined
from features.spec import Feature, Kind, ResolvedSpec
from pipeline import transforming

QUANTILES = (0.0, 0.01, 0.25, 0.5, 0.75, 0.99, 1.0)
ROW_GROUPS = 50  # about 200,000 examples say enough about a distribution


def build(
    examples_dir: pathlib.Path, resolved: ResolvedSpec, info: Mapping[str, object]
) -> dict[str, object]:
    """Returns rows by table, and per model, split and feature: missing, quantiles, top values."""
    names = {spec.CANDIDATE: "candidate_examples", spec.RANKER: "ranking_examples"}
    features: dict[str, dict[str, object]] = {}
    for model in spec.MODELS:
        for split in ("train", "holdout"):
            table = _sample(examples_dir / names[model] / split)
            if table is not None:
                features[f"{model}_{split}"] = {
                    feature.name: _feature_statistics(table, resolved, model, feature)
                    for feature in resolved.of(model)
                }
    models = [m for m in spec.MODELS if f"{m}_train" in features]
    sizes = {model: transforming.vocabulary_sizes(examples_dir, model) for model in models}
    keys = ("rows", "counts")
    return {**{k: info[k] for k in keys}, "vocabulary_sizes": sizes, "features": features}


def _sample(directory: pathlib.Path) -> pa.Table | None:
    """Reads evenly spread row groups; all of them where there are few."""
    groups = transforming.row_groups(directory)
    if not groups:
        return None
    chosen = np.unique(np.linspace(0, len(groups) - 1, min(len(groups), ROW_GROUPS)).astype(int))
    tables = [pq.ParquetFile(groups[i].path).read_row_group(groups[i].number) for i in chosen]
    table = pa.concat_tables(tables).combine_chunks()
    return table if table.num_rows else None


def _feature_statistics(
    table: pa.Table, resolved: ResolvedSpec, model: str, feature: Feature
) -> dict[str, object]:
    if feature.categorical:
        return _categorical_statistics(combined(table[feature.name]))
    names = resolved.vector_names(model, feature.side, feature.kind)
    vector = combined(table[spec.vector_column(feature.side, feature.kind)])
    matrix = vector.flatten().to_numpy(zero_copy_only=False).reshape(-1, len(names))
    values = matrix[:, names.index(feature.name)]
    known = values[~np.isnan(values)]
    quantiles = np.quantile(known, QUANTILES).tolist() if len(known) else []
    return {
        "kind": feature.kind.value,
        "rows": len(values),
        "missing": int(len(values) - len(known)),
        "mean": float(known.mean()) if len(known) else None,
        "quantiles": dict(zip(map(str, QUANTILES), quantiles, strict=False)),
    }


def _categorical_statistics(column: pa.Array) -> dict[str, object]:
    is_list = pa.types.is_list(column.type)
    values = column.flatten() if is_list else column.filter(pc.not_equal(column, ""))
    lengths = pc.list_value_length(column) if is_list else None
    missing = pc.sum(pc.equal(lengths, 0) if is_list else pc.equal(column, "")).as_py() or 0
    counted = values.value_counts()
    counts = np.asarray(counted.field("counts"))
    top = np.argsort(-counts, kind="stable")[:10]
    names = counted.field("values").take(pa.array(top)).to_pylist()
    return {
        "kind": (Kind.MULTIVALENT if is_list else Kind.UNIVALENT).value,
        "rows": len(column),
        "missing": int(missing),
        "distinct": len(counts),
        "mean_length": float(pc.mean(lengths).as_py()) if is_list else None,
        "top": {name: int(counts[row]) for name, row in zip(names, top, strict=True)},
    }
