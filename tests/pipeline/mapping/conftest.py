"""What the tests of mappings share."""

import pytest

from features.tables import logs
from pipeline.mapping import importing, mapping_file
from pipeline.preprocessing.log_tallies import RejectedRows

NOW_S = 1_795_132_800  # 2026-11-20


@pytest.fixture(autouse=True)
def duckdb(needs_module):
    """All of it needs DuckDB."""
    return needs_module("duckdb")


@pytest.fixture
def imported(tmp_path):
    """Gives ``imported(mapping text, **options)``: the tables of the logs, and the notes."""

    def run(text, *, rejected=None, **options):
        path = tmp_path / "mapping.toml"
        path.write_text(text)
        logs_dir = tmp_path / "logs"
        options = {"max_rejected_fraction": 0.1, "now_s": NOW_S, **options}
        with logs.LogWriter(logs_dir, overwrite=True) as writer:
            notes = importing.import_mapping(
                mapping_file.load(path),
                writer,
                importing.MappingConfig(**options),
                rejected=RejectedRows(rejected),
            )
        tables = {name: logs.read_table(logs_dir, name) for name in writer.rows}
        return tables, notes

    return run
