r"""Puts what was measured into the tables of docs/results, with the setting that it is true in.

    python -m pipeline.record_results --measured=work/evaluation/metrics.json --part=candidate \
        --table=candidate.simulated --data="simulated site of 3,000 users, 21 days" --seed=1
    python -m pipeline.record_results --measured=reproduction/results.json --part=figure_6 \
        --table=figures.figure_6
    python -m pipeline.record_results --measured=build/bench.json --part=index \
        --table=vector-index.index --data="a million synthetic vectors of 256 dimensions"
    python -m pipeline.record_results --measured=one/report.json,two/report.json --part=days \
        --table=living-site.days

Reads metrics.json of ``models.evaluate``, results.json of ``models.reproduce``, the file of
``pipeline.measure_pages`` or ``pipeline.measure_satisfaction``, that of ``pipeline.bench``, or
report.json and experiment.json of ``pipeline.living_site``, of one or several seeds. What
the measurement says of its setting need not be told; date and commit are those of the measurement,
of bench.json those of now.
"""

import pathlib

from absl import flags

from features import command, reports

_MEASURED = flags.DEFINE_list(
    "measured", None, "The file of figures; of living sites, one for each seed.", required=True
)
_PART = flags.DEFINE_string(
    "part",
    None,
    "candidate or ranker, an experiment, a group of benchmarks, or a part of a living site.",
    required=True,
)
_TABLE = flags.DEFINE_string(
    "table", None, "FILE.NAME of the table, as pages ask for it.", required=True
)
_METRICS = flags.DEFINE_list(
    "metrics", [], "Only these metrics, by their names in the file; default: all."
)
_RESULTS = flags.DEFINE_string("results", "docs/results", "Directory of the tables.")
_TOLD = {
    "data": flags.DEFINE_string("data", "", "Which data it was measured on."),
    "protocol": flags.DEFINE_string("protocol", "", "How it was measured."),
    "seed": flags.DEFINE_string("seed", "", "Seeds of what was trained."),
    "interval": flags.DEFINE_string("interval", "", "What the brackets are."),
    "again": flags.DEFINE_string("again", "", "The command that measures it again."),
}


def main() -> None:
    """Reads a measurement, and writes its table."""
    from pipeline.benchmarks import results
    from pipeline.living import result_tables

    paths = [pathlib.Path(path) for path in _MEASURED.value]
    documents = [results.document_of(path) for path in paths]
    if result_tables.wrote(documents):
        measured = result_tables.table(documents, _PART.value, _METRICS.value)
    elif len(paths) == 1:
        measured = results.read(paths[0], _PART.value, _METRICS.value)
    else:
        raise command.InputError(
            f"--measured may name several files only of living sites, got {_MEASURED.value}."
        )
    told = {name: flag.value for name, flag in _TOLD.items()}
    if not measured.facts.get("measured"):
        told["measured"] = ", ".join(filter(None, reports.stamp().values()))
    directory = pathlib.Path(_RESULTS.value)
    results.record(directory, _TABLE.value, measured, told)
    file, _, name = _TABLE.value.partition(".")
    print(f"Wrote table {name} of {directory / file}.json: {len(measured.rows)} rows.")
    print(f"Next: a page of docs/ shows it with {{{{ table {_TABLE.value} }}}}; make docs")


if __name__ == "__main__":
    command.run(main)
