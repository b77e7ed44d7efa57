"""Five CSV files of somebody's site to a served page: one mapping file, no code."""

import pytest

from features import command
from features.tables import logs
from pipeline.living import server as servers
from tests.pipeline.mapping import five_files


def succeed(completed):
    assert completed.returncode == 0, completed.stdout + completed.stderr
    return completed


@pytest.fixture(scope="module")
def site(needs_module, run_command, tmp_path_factory):
    """The directory in which it all happened."""
    needs_module("duckdb")
    root = tmp_path_factory.mktemp("five")
    five_files.write(root)
    (root / "mapping.toml").write_text(five_files.MAPPING)
    succeed(
        run_command(
            "pipeline.import_dataset",
            f"--mapping={root / 'mapping.toml'}",
            f"--logs={root / 'logs'}",
        )
    )
    succeed(
        run_command(
            "pipeline.retrain",
            f"--logs={root / 'logs'}",
            f"--serving_root={root / 'serving_root'}",
            f"--work={root / 'work'}",
            "--candidate_flags=--batch_size=64 --epochs=2 --depth=1",
            "--force_publish=sixty members are too few to be sure of anything",
        )
    )
    return root


def test_a_page_is_served_of_what_they_hold(site):
    newest = max(logs.read_table(site / "logs", "impressions")["time"].to_pylist())
    arguments = [
        f"--serving_root={site / 'serving_root'}",
        f"--logs={site / 'logs'}",
        f"--history={site / 'history.sqlite'}",
        f"--now={command.format_time(newest + 60)}",
    ]
    with servers.running(arguments) as server:
        page = server.client.post("/v1/recommendations", {"user_id": "7", "k": 10})
    assert page["rung"] == "full"
    assert len({item["video_id"] for item in page["items"]}) == 10
    films = {f"Film {number}" for number in range(1, five_files.VIDEOS + 1)}
    assert {item["title"] for item in page["items"]} <= films
    assert all(item["expected_watch_time_s"] > 0 for item in page["items"])


def test_the_feature_that_the_mapping_declares_is_learnt(site):
    (vocabulary,) = (site / "work" / "examples" / "transform_fn" / "ranker").rglob(
        "vocabulary_category"
    )
    assert {"plan=plus", "plan=free"} <= set(vocabulary.read_text().split())
