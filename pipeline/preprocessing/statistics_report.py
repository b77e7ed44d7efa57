"""Statistics of what was read and made: ``statistics.json``, and ``statistics.html`` to look at.

A person reads them before training: what is missing, what is constant, which vocabulary does not
know the holdout, what has drifted. Everything is read by column and row group; of many examples
and rows a sample of evenly spread row groups, whose size is in the report.
"""

import contextlib
import dataclasses
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from absl import logging

from features import dataset, files, spec
from features.as_of.replay import HOLDOUT, TRAIN
from features.catalogue import combined
from features.spec import Feature, Kind, ResolvedSpec
from features.tables import drift
from pipeline.preprocessing import raw_examples
from pipeline.preprocessing.transform import reading
from pipeline.statistics import label_relations
from pipeline.statistics import page as statistics_page
from pipeline.statistics import tables as table_statistics
from pipeline.statistics.tables import QUANTILES, shortened

ROW_GROUPS = 50  # about 200,000 examples say enough about a distribution
TOP = 10


def write(examples_dir: pathlib.Path, resolved: ResolvedSpec, info: Mapping[str, Any]) -> None:
    """Writes both files and warns of drift."""
    report = build(examples_dir, resolved, info)
    text = json.dumps(report, indent=1, allow_nan=False)
    files.atomic_write(examples_dir / "statistics.json", text + "\n")
    files.atomic_write(examples_dir / "statistics.html", statistics_page.page(report))
    # What served features are compared with, see serving.report_health.
    files.atomic_write(examples_dir / drift.FILE, json.dumps(_training_bins(report)) + "\n")
    drifted = [f"{d['feature']} ({d['model']})" for d in report["drift"]["features"] if d["warns"]]
    if drifted:
        logging.warning(
            "%d features of the holdout differ from training, see statistics.html: %s%s.",
            len(drifted),
            ", ".join(drifted[:5]),
            ", ..." if len(drifted) > 5 else "",
        )
    for relation in report["relations"]["columns"]:
        for warning in relation["warnings"]:
            logging.warning(
                "Feature %s %s. %s", relation["feature"], warning, label_relations.REMEDY
            )


def _training_bins(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Returns the bins of the numbers that models read, as training had them."""
    return [
        {name: entry[name] for name in ("model", "feature", "edges", "train")}
        for entry in report["drift"]["features"]
        if entry["edges"]
    ]


def build(
    examples_dir: pathlib.Path, resolved: ResolvedSpec, info: Mapping[str, Any]
) -> dict[str, Any]:
    """Returns the report; arguments as for :func:`write`.

    ``rows``, ``counts``, ``vocabulary_sizes``; ``tables``: see :mod:`pipeline.statistics.tables`;
    ``features``: per ``<model>_<split>`` and feature; ``relations`` of declared columns to the
    label, see :mod:`pipeline.statistics.label_relations`; ``drift``: the distance and its formula,
    and the features by it, see :mod:`features.tables.drift`.
    """
    features: dict[str, dict[str, Any]] = {}
    relations: list[label_relations.Relation] = []
    drifted: list[dict[str, Any]] = []
    sampled: dict[str, int] = {}
    models = []
    # What differs by construction is no news: a holdout of some days has some weekdays.
    expected = {"weekday"} if info["holdout_days"] < 7 else set()
    for model in spec.MODELS if info["has_ranking"] else (spec.CANDIDATE,):
        with contextlib.ExitStack() as stack:
            samples = {
                split: stack.enter_context(
                    _Sample(raw_examples.directory_of(examples_dir, model, split))
                )
                for split in (TRAIN, HOLDOUT)
            }
            samples = {split: sample for split, sample in samples.items() if sample.rows}
            if TRAIN not in samples:
                continue
            models.append(model)
            sampled |= {f"{model}_{split}": sample.rows for split, sample in samples.items()}
            described, bins = _described(examples_dir, resolved, model, samples)
            features |= {f"{model}_{split}": columns for split, columns in described.items()}
            if model == spec.RANKER:
                relations = _relations(examples_dir, resolved, samples)
            drifted += [
                _drift(model, name, both, is_expected=name in expected)
                for name, both in bins.items()
                if name != "example_age_s"  # 0 in the holdout, by definition.
            ]
    drifted.sort(key=lambda entry: (-(entry["distance"] or 0), entry["model"], entry["feature"]))
    return {
        **{key: info[key] for key in ("rows", "counts")},
        "vocabulary_sizes": {m: dataset.vocabulary_sizes(examples_dir, m) for m in models},
        "sampled_examples": sampled,
        "tables": table_statistics.build(
            pathlib.Path(info["logs"]),
            info["rows"],
            from_s=info["from_s"],
            until_s=info["until_s"],
        ),
        "features": features,
        "relations": {
            "remedy": label_relations.REMEDY,
            "columns": [relation.to_json() for relation in relations],
        },
        "drift": {
            "distance": drift.FORMULA,
            "warn_above": drift.WARN_ABOVE,
            "warn_above_noise_times": drift.WARN_ABOVE_NOISE,
            "features": drifted,
        },
    }


class _Sample:
    """Evenly spread row groups of a directory of raw examples; all of them where there are few."""

    def __init__(self, directory: pathlib.Path) -> None:
        groups = reading.row_groups(directory)
        last = len(groups) - 1
        chosen = np.unique(np.linspace(0, last, min(len(groups), ROW_GROUPS)).astype(int))
        self._groups = [groups[i] for i in chosen] if groups else []
        self._files: dict[str, pq.ParquetFile] = {}
        self.rows = 0

    def __enter__(self) -> "_Sample":
        for group in self._groups:
            if group.path not in self._files:
                self._files[group.path] = pq.ParquetFile(group.path)
            self.rows += self._files[group.path].metadata.row_group(group.number).num_rows
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._files.values():
            file.close()

    def _columns(self, name: str) -> list[pa.Array]:
        return [
            combined(
                self._files[g.path].read_row_group(g.number, columns=[name], use_threads=False)[0]
            )
            for g in self._groups
        ]

    def matrix(self, name: str, width: int) -> np.ndarray:
        """Returns a vector column, float32 [rows, width]."""
        parts = [c.flatten().to_numpy(zero_copy_only=False) for c in self._columns(name)]
        return np.concatenate(parts).reshape(-1, width)

    def numbers(self, name: str) -> np.ndarray:
        """Returns a column of numbers, [rows]."""
        return np.concatenate([c.to_numpy(zero_copy_only=False) for c in self._columns(name)])

    def counted(self, name: str) -> "_Counted":
        """Returns how often each value of a categorical column occurs."""
        parts, missing, total = [], 0, 0
        for column in self._columns(name):
            if pa.types.is_list(column.type):
                lengths = pc.list_value_length(column)
                missing += pc.sum(pc.equal(lengths, 0)).as_py() or 0
                values = column.flatten()
            else:
                missing += pc.sum(pc.equal(column, "")).as_py() or 0
                values = column.filter(pc.not_equal(column, ""))
            total += len(values)
            parts.append(pl.DataFrame(pl.from_arrow(pa.table([values], ["value"]))))
            # One frame of counts at a time: the flat values of all bags may be many.
            parts[-1] = parts[-1].group_by("value").agg(pl.len().cast(pl.Int64).alias("count"))
        together = pl.concat(parts).group_by("value").agg(pl.col("count").sum())
        ordered = together.sort(["count", "value"], descending=[True, False])
        return _Counted(self.rows, missing, total, dict(ordered.iter_rows()))


@dataclasses.dataclass(frozen=True)
class _Counted:
    """Values of a categorical column: rows, rows without any, values, value -> count (sorted)."""

    rows: int
    missing: int
    total: int
    counts: dict[str, int]


def _described(
    examples_dir: pathlib.Path,
    resolved: ResolvedSpec,
    model: str,
    samples: Mapping[str, _Sample],
) -> tuple[dict[str, dict[str, Any]], dict[str, drift.Bins]]:
    """Returns split -> feature -> statistics, and feature -> bins where there is a holdout."""
    described: dict[str, dict[str, Any]] = {split: {} for split in samples}
    bins: dict[str, drift.Bins] = {}
    vocabularies = {
        space.name: set(dataset.vocabulary(examples_dir, model, space.name))
        for space in resolved.spaces_of(model)
    }
    for feature in resolved.of(model):
        if feature.categorical:
            columns = {split: sample.counted(feature.name) for split, sample in samples.items()}
            for split, column in columns.items():
                known = vocabularies[feature.space]
                described[split][feature.name] = _of_ids(feature, column, known)
            if HOLDOUT in columns:
                bins[feature.name] = drift.of_ids(
                    columns[TRAIN].counts,
                    columns[HOLDOUT].counts,
                    missing=(columns[TRAIN].missing, columns[HOLDOUT].missing),
                )
    for side in spec.Side:
        for kind in (Kind.CONTINUOUS, Kind.BINARY):
            names = resolved.vector_names(model, side, kind)
            if names:
                vector = spec.vector_column(side, kind)
                matrices = {s: sample.matrix(vector, len(names)) for s, sample in samples.items()}
                _add_numbers(names, kind, matrices, described=described, bins=bins)
    order = [f.name for f in resolved.of(model) if f.kind is not Kind.VECTOR]
    ordered = {split: {n: columns[n] for n in order} for split, columns in described.items()}
    return ordered, {name: bins[name] for name in order if name in bins}


def _relations(
    examples_dir: pathlib.Path, resolved: ResolvedSpec, samples: Mapping[str, _Sample]
) -> list[label_relations.Relation]:
    """Returns how the numbers of the tables videos and users go with the clicks."""
    clicked = {split: sample.numbers("clicked") > 0 for split, sample in samples.items()}
    relations = []
    for side in spec.Side:
        for kind in (Kind.CONTINUOUS, Kind.BINARY):
            declared = resolved.of(spec.RANKER, side, kind)
            chosen = [f for f in declared if f.origin == "users" or f.static]
            if not chosen:
                continue
            vector = spec.vector_column(side, kind)
            matrices = {s: sample.matrix(vector, len(declared)) for s, sample in samples.items()}
            for feature in chosen:
                column = declared.index(feature)
                pairs = {s: (m[:, column], clicked[s]) for s, m in matrices.items()}
                of_videos = _with_watches(examples_dir, feature.column) if feature.static else None
                relations.append(
                    label_relations.relation(
                        feature.name,
                        train=pairs[TRAIN],
                        holdout=pairs.get(HOLDOUT),
                        videos=of_videos,
                    )
                )
    return relations


def _with_watches(examples_dir: pathlib.Path, column: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns a column of the videos and the number of their watches, float64 [N] each."""
    videos = pq.read_table(examples_dir / "videos", columns=["video_id", column])
    daily = pq.read_table(examples_dir / "video_statistics", columns=["video_id", "watches"])
    sums = daily.group_by("video_id").aggregate([("watches", "sum")])
    place = pc.index_in(combined(videos["video_id"]), value_set=combined(sums["video_id"]))
    watches = np.asarray(combined(sums["watches_sum"]).take(place).fill_null(0), np.float64)
    values = pc.cast(combined(videos[column]), pa.float64(), safe=False)
    return np.asarray(values.fill_null(np.nan)), watches


def _add_numbers(
    names: Sequence[str],
    kind: Kind,
    matrices: Mapping[str, np.ndarray],
    *,
    described: dict[str, dict[str, Any]],
    bins: dict[str, drift.Bins],
) -> None:
    for column, name in enumerate(names):
        values = {split: matrix[:, column] for split, matrix in matrices.items()}
        for split, one in values.items():
            described[split][name] = _of_numbers(kind, one)
        if HOLDOUT in values:
            bins[name] = drift.of_numbers(values[TRAIN], values[HOLDOUT])


def _of_numbers(kind: Kind, values: np.ndarray) -> dict[str, Any]:
    known = values[np.isfinite(values)]
    quantiles = np.quantile(known, QUANTILES).tolist() if len(known) else []
    return {
        "kind": kind.value,
        "rows": len(values),
        "missing": int(np.isnan(values).sum()),
        "zero": float((known == 0).mean()) if len(known) else None,
        "mean": float(known.mean(dtype=np.float64)) if len(known) else None,
        "quantiles": dict(zip(map(str, QUANTILES), quantiles, strict=False)),
    }


def _of_ids(feature: Feature, column: _Counted, vocabulary: set[str]) -> dict[str, Any]:
    tag = f"{feature.name}=" if feature.space == "category" else ""
    unknown = sum(n for value, n in column.counts.items() if tag + value not in vocabulary)
    is_list = feature.kind is Kind.MULTIVALENT
    return {
        "kind": feature.kind.value,
        "rows": column.rows,
        "missing": column.missing,
        "distinct": len(column.counts),
        "mean_length": column.total / column.rows if is_list else None,
        "out_of_vocabulary": unknown / column.total if column.total else None,
        "top": {shortened(v): n for v, n in list(column.counts.items())[:TOP]},
    }


def _drift(model: str, name: str, both: drift.Bins, *, is_expected: bool) -> dict[str, Any]:
    # Bins for the plot: of ids the first few, the others among the others.
    train, holdout, names = both.train, both.holdout, both.names
    if len(names) > statistics_page.MOST_BARS:
        kept = statistics_page.MOST_BARS - 2
        names = (*names[:kept], drift.OTHERS, drift.MISSING)
        train, holdout = (
            np.array([*c[:kept], c[kept:-1].sum(), c[-1]]) for c in (both.train, both.holdout)
        )
    return {
        "model": model,
        "feature": name,
        "distance": both.distance,
        "noise": both.noise,
        "warns": both.warns and not is_expected,
        "bins": [shortened(bin_name) for bin_name in names],
        "edges": both.edges,
        "train": train.tolist(),
        "holdout": holdout.tolist(),
    }
