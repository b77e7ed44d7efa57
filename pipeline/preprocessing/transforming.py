"""Beam's side of the transforms: raw examples -> graphs and transformed examples, in one pipeline.

The logic is in :mod:`pipeline.preprocessing.transform`. Raw examples are read twice, by whoever
needs them: one collection with two readers at different times would be held by the runner.
"""

import dataclasses
import pathlib
import shutil
import uuid
from collections.abc import Iterator, Mapping

import apache_beam as beam
import numpy as np
import pyarrow as pa

from features import preprocessing
from features.as_of import replay
from features.preprocessing import Fitted
from features.spec import ResolvedSpec
from pipeline.preprocessing import leakage_audit
from pipeline.preprocessing.transform import graphs, kernel, reading, records
from pipeline.preprocessing.transform.analysis import AddExamples, Partial
from pipeline.preprocessing.transform.reading import RowGroup, row_groups

# Rows of each table that the saved graph transforms, too.
_PROVEN_ROWS = 32


@dataclasses.dataclass(frozen=True)
class Part:
    """One file of transformed examples.

    Attributes:
        model: Name of the model.
        path: File to write.
        groups: Row groups of its raw examples; none for a file of no examples.
    """

    model: str
    path: pathlib.Path
    groups: tuple[RowGroup, ...]


def parts_of(model: str, raw: pathlib.Path, transformed: pathlib.Path) -> list[Part]:
    """Lists the files of a split."""
    runs = reading.runs(row_groups(raw), reading.ROWS_PER_FILE) or [()]
    names = (f"part-{number:05d}-of-{len(runs):05d}.tfrecord" for number in range(len(runs)))
    return [Part(model, transformed / name, run) for name, run in zip(names, runs, strict=True)]


class TransformParts(beam.DoFn):
    """:class:`Part` -> its file."""

    def __init__(self, resolved_json: str, output: pathlib.Path) -> None:
        self._resolved_json = resolved_json
        self._output = output

    def setup(self) -> None:
        """Reads the features once per worker."""
        self._resolved = ResolvedSpec.from_json(self._resolved_json)
        self._models: dict[str, tuple[kernel.Kernel, kernel.Proof, records.Encoder]] = {}

    def process(self, part: Part, fitted: Mapping[str, Fitted]) -> Iterator[str]:
        """Transforms what one file is of, proves a sample and writes all; yields its path."""
        transform, proof, encoder = self._of_model(part.model, fitted[part.model])
        columns = list(preprocessing.raw_feature_spec(self._resolved, part.model))
        with records.whole_file(part.path) as writer:
            for rows in reading.tables(part.groups, columns):
                transformed = transform(rows)
                _prove(proof, rows, transformed)
                for example in encoder(transformed):
                    writer.write(example)
        yield str(part.path)

    def _of_model(
        self, model: str, fitted: Fitted
    ) -> tuple[kernel.Kernel, kernel.Proof, records.Encoder]:
        if model not in self._models:
            self._models[model] = (
                kernel.Kernel(self._resolved, model, fitted),
                kernel.Proof(graphs.directory_of(self._output, model), self._resolved, model),
                records.Encoder(preprocessing.transformed_feature_spec(self._resolved, model)),
            )
        return self._models[model]


def _prove(
    proof: kernel.Proof, rows: pa.Table, transformed: Mapping[str, pa.Array | np.ndarray]
) -> None:
    """Has the graph transform a sample, evenly spread."""
    size = min(rows.num_rows, _PROVEN_ROWS)
    chosen = np.unique(np.linspace(0, rows.num_rows - 1, size).astype(np.int64))
    taken = pa.array(chosen)
    proof.check(
        rows.take(taken).combine_chunks(),
        {
            name: values[chosen] if isinstance(values, np.ndarray) else values.take(taken)
            for name, values in transformed.items()
        },
    )


def write_graphs(
    partials: Mapping[str, Partial],
    *,
    resolved_json: str,
    output: pathlib.Path,
    temporary: pathlib.Path,
) -> dict[str, Fitted]:
    """Writes ``transform_fn/<model>`` and what the audit asks; returns what was fitted."""
    resolved = ResolvedSpec.from_json(resolved_json)
    fitted = {}
    for model, partial in partials.items():
        # An attempt of its own: another may have been lost while it wrote.
        attempt = temporary / uuid.uuid4().hex
        analysed = partial.fitted(resolved.spaces_of(model), attempt / "vocabularies")
        graphs.write(attempt / "graph", resolved, model, analysed)
        target = graphs.directory_of(output, model)
        shutil.rmtree(target, ignore_errors=True)
        target.parent.mkdir(exist_ok=True)
        (attempt / "graph").rename(target)
        leakage_audit.write_analysed(partial.newest_s, model=model, directory=output)
        assets = graphs.vocabularies(target, analysed.vocabularies)
        fitted[model] = dataclasses.replace(analysed, vocabularies=assets)
    return fitted


def add_fit_and_transform(
    pipeline: beam.Pipeline,
    *,
    resolved: ResolvedSpec,
    raw: Mapping[str, Mapping[str, pathlib.Path]],
    output: pathlib.Path,
    temporary: pathlib.Path,
) -> None:
    """Adds the pipeline from raw examples to graphs and transformed examples.

    Args:
        pipeline: Pipeline to add to.
        resolved: The data set's features.
        raw: Model to split to directory of raw examples. Transforms are fitted to ``train``.
        output: Examples directory; writes ``transform_fn`` and ``transformed``.
        temporary: Directory on the same file system, for what is not whole.
    """
    resolved_json = resolved.to_json()
    train = [(m, group) for m, splits in raw.items() for group in row_groups(splits[replay.TRAIN])]
    parts = [
        part
        for model, splits in raw.items()
        for split, directory in splits.items()
        for part in parts_of(model, directory, output / "transformed" / model / split)
    ]
    fitted = (
        pipeline
        | "List training examples" >> beam.Create(train)
        | "Spread training examples" >> beam.Reshuffle()
        | "Add up training examples" >> beam.CombineGlobally(AddExamples(resolved_json))
        | "Write graphs"
        >> beam.Map(write_graphs, resolved_json=resolved_json, output=output, temporary=temporary)
    )
    (
        pipeline
        | "List files" >> beam.Create(parts)
        | "Spread files" >> beam.Reshuffle()
        | "Transform"
        >> beam.ParDo(TransformParts(resolved_json, output), beam.pvalue.AsSingleton(fitted))
    )
