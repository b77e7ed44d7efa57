"""Days on which something broke, through the whole command, beside a server that serves on."""

import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from features import files
from features.tables import logs
from pipeline.living import server as servers
from serving.release import manifest as release

DAY, HOUR = 86_400, 3600
FIRST, LAST = 1_651_363_200 + 7 * DAY, 1_651_363_200 + 8 * DAY  # The last day of the world.
EVENTS = ("watches", "impressions", "searches")


@pytest.fixture(scope="module")
def site(world, tmp_path_factory):
    """Releases and logs of their own, and a server that follows the releases."""
    root = tmp_path_factory.mktemp("bad_days")
    shutil.copytree(world.serving_root, root / "serving_root")
    files.link_tree(world.logs, root / "served_logs")
    paths = {"serving_root": root / "serving_root", "logs": root / "served_logs"}
    flags = [f"--{name}={path}" for name, path in paths.items()]
    with servers.running([*flags, f"--history={root / 'history.sqlite'}"]) as server:
        yield root, server.client


def next_day(world, name):
    """The rows of an event table on the day after the last: those of the last, a day later."""
    table = logs.read_table(world.logs, name)
    at = table["time"]
    table = table.filter(pc.and_(pc.greater_equal(at, FIRST), pc.less(at, LAST)))
    table = moved(table, DAY)
    if "page_id" in table.column_names:
        named = pc.binary_join_element_wise(table["page_id"], "next", "-")
        table = changed(table, "page_id", named)
    return table


def changed(table, name, column):
    return table.set_column(table.column_names.index(name), name, column)


def moved(table, seconds):
    return changed(table, "time", pc.add(table["time"], seconds))


def truncated(table, name):
    del name
    return table.filter(pc.less(table["time"], LAST + 19 * HOUR))


def shifted(table, name):
    del name
    return moved(table, 8 * HOUR)


def a_tenth(table, name):
    del name
    return table.take(pa.array(np.arange(0, table.num_rows, 10)))


def doubled(table, name):
    del name
    if "watch_time_s" not in table.column_names:
        return table
    return changed(table, "watch_time_s", pc.multiply(table["watch_time_s"], 2.0))


def without_watches(table, name):
    return table.slice(0, 0) if name == "watches" else table


def without_device(table, name):
    del name
    return table.drop_columns(["device"]) if "device" in table.column_names else table


CAUSES = {
    truncated: "silent where others are not: from 2022-05-09T19:00:00Z",
    shifted: "its clock is about 8 h ahead",
    a_tenth: "90% fewer than usual, are logs missing?",
    doubled: " times the usual, is it counted wrongly?",
    without_watches: "the holdout has examples: 0 watches to predict",
    without_device: "the column device went missing",
}


@pytest.mark.parametrize("broken", CAUSES, ids=lambda change: change.__name__)
def test_a_bad_day_is_refused_by_its_cause_before_training_and_the_release_serves_on(
    world, site, run_command, broken
):
    root, server = site
    before = release.current(root / "serving_root")
    case = root / broken.__name__
    case.mkdir()
    files.link_tree(world.logs, case / "logs")
    for name in EVENTS:
        logs.append(case / "logs", name, broken(next_day(world, name), name))
    done = run_command(
        "pipeline.retrain",
        f"--logs={case / 'logs'}",
        f"--serving_root={root / 'serving_root'}",
        f"--work={case / 'work'}",
        f"--until={'2022-05-10T08:00:00Z' if broken is shifted else '2022-05-10'}",
        "--candidate_flags=--learning_rate=-1",  # Ends a run that no gate has ended.
        f"--hook=cp /dev/stdin {case / 'told.json'}",
    )
    assert done.returncode == 3, done.stdout + done.stderr
    assert CAUSES[broken] in done.stderr
    assert "judge_examples was refused by a gate" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (case / "work" / "candidate_model").exists()
    told = json.loads((case / "told.json").read_text())
    assert (told["event"], told["step"], told["release"]) == ("refused", "judge_examples", before)
    user = logs.read_table(world.logs, "users")["user_id"][0].as_py()
    page = server.post("/v1/recommendations", {"user_id": user, "k": 5})
    assert (page["release_id"], page["rung"], len(page["items"])) == (before, "full", 5)
