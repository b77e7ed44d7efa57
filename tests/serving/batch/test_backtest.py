"""The offline judge of the funnel, on the tiny world: what it writes, and what it must not see."""

import shutil

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from features import command
from features.tables import logs
from features.tables.log_writer import LogWriter
from serving.batch import backtest
from serving.batch.config import BacktestConfig
from serving.release import manifest as release

SAMPLE = 40


@pytest.fixture(scope="module")
def moment(world):
    """Noon of the last day."""
    newest = logs.read_table(world.logs, "impressions", columns=["time"])["time"]
    return pc.max(newest).as_py() // 86400 * 86400 + 43200


def run(world, logs_dir, output, **settings):
    settings.setdefault("sample", SAMPLE)
    settings.setdefault("allow_learnt", True)
    settings.setdefault("k", 10)
    settings.setdefault("exclude_watched", True)  # Also where users come back to what they watched.
    outcome = backtest.run(
        release.load(world.serving_root),
        serving_root=world.serving_root,
        logs_dir=logs_dir,
        output=output,
        settings=BacktestConfig(**settings),
    )
    return outcome, pq.read_table(output)


@pytest.fixture(scope="module")
def pages(world, moment, tmp_path_factory):
    output = tmp_path_factory.mktemp("pages") / "pages.parquet"
    return run(world, world.logs, output, from_s=moment)


def test_every_watch_has_a_whole_page_of_what_could_be_shown_then(world, moment, pages):
    outcome, table = pages
    assert outcome.queries == SAMPLE
    assert outcome.rows == table.num_rows == 10 * SAMPLE
    uploaded = {
        v["video_id"]: v["upload_time"] for v in logs.read_table(world.logs, "videos").to_pylist()
    }
    watches = logs.read_table(world.logs, "watches").to_pylist()
    for query in range(SAMPLE):
        page = table.filter(pc.equal(table["query_id"], query)).to_pylist()
        assert [row["rank"] for row in page] == list(range(1, 11))
        shown = [row["video_id"] for row in page]
        assert len(set(shown)) == 10
        now, user = page[0]["time"], page[0]["user_id"]
        assert now >= moment
        assert all(uploaded[video] <= now for video in shown)
        assert all(row["sources"] for row in page)
        before = {w["video_id"] for w in watches if w["user_id"] == user and w["time"] < now}
        assert not before & set(shown)
        asked = (user, now, page[0]["watched_video_id"])
        assert asked in {(w["user_id"], w["time"], w["video_id"]) for w in watches}
    assert "live popularity, 1 h" in outcome.text


def test_nothing_later_is_seen(world, moment, pages, tmp_path):
    """Pages are the same when the log ends right after them, whatever would have followed."""
    _, table = pages
    times = np.unique(np.asarray(table["time"]))
    cut = int(times[len(times) // 2])
    with LogWriter(tmp_path / "logs") as writer:
        for name in logs.tables_in(world.logs):
            rows = logs.read_table(world.logs, name)
            if name == "videos":
                rows = rows.filter(pc.less(rows["upload_time"], cut))
            elif name != "users":
                rows = rows.filter(pc.less_equal(rows["time"], cut))
            if name == "impressions":
                # How a page went on is not known when it begins: here nobody clicks any more.
                late = pc.greater(rows["time"], cut - 60)
                clicked = pc.if_else(late, False, rows["clicked"])
                rows = rows.set_column(rows.column_names.index("clicked"), "clicked", clicked)
            writer.write(name, rows)
    asked = table.filter(pc.less(table["time"], cut))
    count = len(pc.unique(asked["query_id"]))
    _, again = run(world, tmp_path / "logs", tmp_path / "again.parquet", from_s=moment, sample=0)
    keys = ["user_id", "time", "watched_video_id", "rank"]
    found = {tuple(row[k] for k in keys): row for row in again.to_pylist()}
    same = [found[tuple(row[k] for k in keys)]["video_id"] for row in asked.to_pylist()]
    assert count > SAMPLE // 3
    assert same == asked["video_id"].to_pylist()


def test_what_is_watched_everywhere_enters_the_pages_at_once(world, moment, tmp_path):
    """A video without any past, watched by many within minutes, is a candidate minutes later."""
    before = logs.read_table(world.logs, "watches")
    late = before.filter(pc.greater_equal(before["time"], moment))
    start = int(late["time"][0].as_py())
    users = logs.read_table(world.logs, "users")["user_id"].to_pylist()
    video = "uploaded just now"
    with LogWriter(tmp_path / "logs") as writer:
        for name in logs.tables_in(world.logs):
            rows = logs.read_table(world.logs, name)
            if name == "videos":
                new = rows.slice(0, 1).to_pylist()[0] | {"video_id": video, "upload_time": start}
                rows = pa.concat_tables([rows, pa.Table.from_pylist([new], rows.schema)])
            if name == "watches":
                first = rows.slice(0, 1).to_pylist()[0]
                new = [
                    first | {"user_id": user, "video_id": video, "time": start + 120 + n}
                    for n, user in enumerate(users[:60])
                ]
                rows = pa.concat_tables([rows, pa.Table.from_pylist(new, rows.schema)])
            writer.write(name, rows)
    settings = {"from_s": start + 3600, "until_s": start + 6 * 3600, "sample": 0, "k": 100}
    _, table = run(world, tmp_path / "logs", tmp_path / "pages.parquet", **settings)
    shown = table.filter(pc.equal(table["video_id"], video))
    assert shown.num_rows
    assert any("trending" in names for names in shown["sources"].to_pylist())
    settings = {"from_s": moment - 3600, "until_s": start, "sample": 0}
    _, table = run(world, tmp_path / "logs", tmp_path / "before.parquet", **settings)
    assert video not in table["video_id"].to_pylist()


def test_pages_do_not_depend_on_the_number_of_processes(world, moment, pages, tmp_path):
    outcome, table = pages
    again, same = run(world, world.logs, tmp_path / "pages.parquet", from_s=moment, workers=2)
    keys = ["query_id", "user_id", "time", "watched_video_id", "rank"]
    assert same.select(keys).equals(table.select(keys))
    # Other batches round in another order, which may swap two videos of the same score.
    equal = pc.equal(same["video_id"], table["video_id"])
    assert pc.mean(equal.cast("int8")).as_py() > 0.98
    assert len(outcome.text.splitlines()) == len(again.text.splitlines())


def test_moments_that_the_release_has_learnt_are_refused_or_marked(world, moment, pages, tmp_path):
    outcome, _ = pages
    assert "TOO GOOD TO BE TRUE" in outcome.text
    with pytest.raises(command.InputError, match="has learnt everything before .*--allow_learnt"):
        run(world, world.logs, tmp_path / "pages.parquet", from_s=moment, allow_learnt=False)
    assert not (tmp_path / "pages.parquet").exists()


def test_a_log_without_watches_to_ask_for_is_refused(world, tmp_path):
    with pytest.raises(command.InputError, match="no watch at or after"):
        run(world, world.logs, tmp_path / "pages.parquet", from_s=3_000_000_000)


def test_what_was_hidden_by_then_is_on_no_page(world, moment, pages, tmp_path):
    """A hide counts after its second, for its user, until it is taken back."""
    _, table = pages
    firsts = table.filter(pc.equal(table["rank"], 1)).to_pylist()
    one = firsts[0]
    others = [first for first in firsts if first["user_id"] != one["user_id"]]
    late, back = others[0], next(o for o in others if o["user_id"] != others[0]["user_id"])
    said = [
        (one["user_id"], one["video_id"], one["time"] - 1, 1.0),
        (late["user_id"], late["video_id"], late["time"], 1.0),
        (back["user_id"], back["video_id"], back["time"] - 9, 1.0),
        (back["user_id"], back["video_id"], back["time"] - 5, 0.0),
    ]
    logs_dir = tmp_path / "logs"
    shutil.copytree(world.logs, logs_dir)
    rows = [
        {"user_id": u, "video_id": v, "time": t, "kind": "hide", "value": value}
        for u, v, t, value in said
    ]
    logs.append(logs_dir, "feedback", pa.Table.from_pylist(rows))
    _, hidden = run(world, logs_dir, tmp_path / "pages.parquet", from_s=moment)
    # The last row of a query of each user.
    now = {row["query_id"]: row for row in hidden.filter(pc.equal(hidden["rank"], 1)).to_pylist()}
    assert now[late["query_id"]]["video_id"] == late["video_id"]
    assert now[back["query_id"]]["video_id"] == back["video_id"]
    of_one = hidden.filter(pc.equal(hidden["user_id"], one["user_id"]))
    after = of_one.filter(pc.greater_equal(of_one["time"], one["time"]))
    assert after.num_rows
    assert one["video_id"] not in after["video_id"].to_pylist()
    # Nobody else's pages are other ones.
    for user in set(table["user_id"].to_pylist()) - {one["user_id"]}:
        same = [t.filter(pc.equal(t["user_id"], user)) for t in (table, hidden)]
        assert same[0].equals(same[1])
