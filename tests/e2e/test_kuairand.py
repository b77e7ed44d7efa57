"""Some users of KuaiRand-Pure: a release with every default, and one that collapsed."""

import zlib

import pyarrow as pa
import pytest

from features.tables import logs
from serving.release import manifest as release
from tests.e2e import collapse
from tests.pipeline.importers.kuairand_rows import imported

_ONE_OF = 16


def write_some_users(source, target):
    with logs.LogWriter(target) as writer:
        for table in sorted(logs.tables_in(source)):
            rows = logs.read_table(source, table)
            if "user_id" in rows.column_names:
                users = rows["user_id"].to_pylist()
                rows = rows.filter(pa.array([zlib.crc32(u.encode()) % _ONE_OF == 0 for u in users]))
            writer.write(table, rows)
    (target / logs.FEATURES_FILE).write_bytes((source / logs.FEATURES_FILE).read_bytes())


@pytest.fixture(scope="module")
def site(kuairand_dir, run_command, tmp_path_factory):
    root = tmp_path_factory.mktemp("kuairand")
    imported(kuairand_dir, root / "all")
    write_some_users(root / "all", root / "logs")
    done = run_command(
        "pipeline.retrain",
        *(f"--{name}={root / name}" for name in ("logs", "work")),
        f"--serving_root={root / 'serving_root'}",
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return root


def test_all_gates_pass(site):
    gates = release.load_manifest(site / "serving_root").gates
    verdicts = [gate["verdict"] for gate in gates]
    assert verdicts.count("pass") > 10
    assert "FAIL" not in verdicts


def test_a_model_with_one_list_for_everybody_is_refused(site, run_command, tmp_path):
    assert "FAIL         mean overlap of the top" in collapse.refused(site, run_command, tmp_path)
