"""A first mapping of files that nobody described: right where names and values tell, else said."""

import contextlib
import datetime
import json
import sqlite3

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from features import command
from features.tables import logs
from pipeline.mapping import proposal
from tests.pipeline.mapping import five_files


def write(directory, name, header, *rows):
    lines = [header, *(",".join(map(str, row)) for row in rows)]
    (directory / name).write_text("\n".join(lines) + "\n")
    return str(directory / name)


def test_five_files_are_mapped_without_a_hand(imported, tmp_path):
    paths = five_files.write(tmp_path)
    proposed = proposal.propose([str(path) for path in paths], directory=tmp_path)
    tables, _ = imported(proposed.text)
    by_hand, _ = imported(five_files.MAPPING)
    for name, rows in by_hand.items():
        # What a person said besides is a feature, and the year in which the log ends.
        known = [c for c in rows.column_names if c not in {"board", "age"}]
        assert tables[name].select(known).equals(rows.select(known)), name
    assert tables["videos"]["rating_board"].equals(by_hand["videos"]["board"])
    assert "# CHECK: of BirthYear" in proposed.text
    assert any(line.startswith("watches from plays: user_id") for line in proposed.summary)


def test_one_file_of_events_is_parted_by_what_happened(imported, tmp_path):
    events = write(
        tmp_path,
        "events.csv",
        "event_type,visitorId,itemId,timestamp,search_term,duration_ms",
        ("view", "u1", "a", 1667469600000, "", 30000),
        ("search", "u1", "", 1667469500000, "cats", ""),
        ("view", "u2", "b", 1667469700000, "", 90000),
        ("addtocart", "u2", "b", 1667469800000, "", ""),
        ("LIKE", "u2", "b", 1667469900000, "", ""),
    )
    proposed = proposal.propose([events], directory=tmp_path)
    tables, _ = imported(proposed.text)
    assert tables["watches"]["user_id"].to_pylist() == ["u1", "u2"]
    assert tables["watches"]["watch_time_s"].to_pylist() == [30.0, 90.0]
    assert tables["watches"]["time"].to_pylist() == [1667469600, 1667469700]
    assert tables["searches"]["query"].to_pylist() == ["cats"]
    assert tables["feedback"].select(["kind", "video_id"]).to_pylist() == [
        {"kind": "like", "video_id": "b"}
    ]
    # Nobody has described the videos: each exists from its first watch, in whatever reads the logs.
    assert tables.keys() == {"watches", "searches", "feedback"}
    assert "other values are 'search', 'addtocart', 'LIKE'" in proposed.text


def test_what_nothing_tells_is_a_stand_in_that_is_marked(imported, tmp_path):
    films = write(tmp_path, "movies.csv", "id,name", (1, "Heat"), (2, "Alien"), (3, "Unseen"))
    plays = write(
        tmp_path, "history.csv", "user,movie,date", (7, 1, "13.11.2022"), (8, 2, "14.11.2022")
    )
    proposed = proposal.propose([films, plays], directory=tmp_path)
    checks = [line for line in proposed.summary if "CHECK" in line]
    assert any("upload_time" in line and "first watch" in line for line in checks)
    assert any("watch_time_s = 60" in line for line in checks)
    tables, _ = imported(proposed.text)
    days = [command.parse_time(day) for day in ("2022-11-13", "2022-11-14")]
    assert tables["watches"]["time"].to_pylist() == days
    assert tables["videos"].select(["video_id", "upload_time", "title"]).to_pylist() == [
        {"video_id": "1", "upload_time": days[0], "title": "Heat"},
        {"video_id": "2", "upload_time": days[1], "title": "Alien"},
        {"video_id": "3", "upload_time": days[0], "title": "Unseen"},
    ]


def test_a_day_and_a_month_that_could_be_swapped_are_marked(tmp_path):
    plays = write(tmp_path, "plays.csv", "user,film,day,secs", (7, 1, "03/04/2022", 30))
    text = proposal.propose([plays], directory=tmp_path).text
    assert '{ sql = "day", format = "%d/%m/%Y" }  # CHECK' in text
    assert "or %m/%d/%Y" in text
    sure = write(tmp_path, "plays.csv", "user,film,day,secs", (7, 1, "03/24/2022", 30))
    assert 'format = "%m/%d/%Y"' in proposal.propose([sure], directory=tmp_path).text


def test_all_tables_of_a_database_are_looked_at(imported, tmp_path):
    with contextlib.closing(sqlite3.connect(tmp_path / "site.db")) as connection:
        connection.execute("CREATE TABLE tracks (track_id INT, released TEXT, artist TEXT)")
        connection.execute("INSERT INTO tracks VALUES (1, '2022-01-01', 'x')")
        connection.execute("CREATE TABLE listens (listener INT, track INT, ts REAL, ms_played INT)")
        connection.execute("INSERT INTO listens VALUES (7, 1, 1667469600.25, 30000)")
        connection.execute("CREATE TABLE invoices (number INT, total REAL)")
        connection.commit()
    proposed = proposal.propose([str(tmp_path / "site.db")], directory=tmp_path)
    assert 'tracks = { database = "site.db", table = "tracks" }' in proposed.text
    assert any("invoices: looks like none of the tables" in line for line in proposed.summary)
    tables, _ = imported(proposed.text)
    assert tables["watches"].select(["time", "watch_time_s"]).to_pylist() == [
        {"time": 1667469600, "watch_time_s": 30.0}
    ]
    assert tables["videos"]["channel_id"].to_pylist() == ["x"]


def test_types_of_parquet_and_json_tell_what_names_do_not(imported, tmp_path):
    at = datetime.datetime(2022, 11, 3, tzinfo=datetime.timezone.utc)
    rows = pa.table({"member_id": [7], "clip_id": [1], "x": [at], "dwell_time": [12.0]})
    pq.write_table(rows, tmp_path / "part-0.parquet")
    clips = {"clip_id": 1, "published": "2022-11-01T00:00:00Z", "genres": ["a", "b"]}
    (tmp_path / "clips.jsonl").write_text(json.dumps(clips) + "\n")
    sources = [str(tmp_path / name) for name in ("part-0.parquet", "clips.jsonl")]
    proposed = proposal.propose(sources, directory=tmp_path)
    assert "the only times" in proposed.text
    tables, _ = imported(proposed.text)
    assert tables["watches"]["time"].to_pylist() == [int(at.timestamp())]
    assert tables["videos"]["topics"].to_pylist() == [["a", "b"]]


def test_what_cannot_be_opened_or_used_is_said_at_once(tmp_path):
    with pytest.raises(command.InputError) as caught:
        proposal.propose([str(tmp_path / "a.csv"), str(tmp_path / "b.db")], directory=tmp_path)
    assert "a.csv does not exist" in str(caught.value)
    assert "b.db does not exist" in str(caught.value)
    prices = write(tmp_path, "prices.csv", "sku,price", (1, 2))
    with pytest.raises(command.InputError, match="nothing looks like watches"):
        proposal.propose([prices], directory=tmp_path)


def test_names_that_are_words_of_sql_are_quoted(imported, tmp_path):
    plays = write(tmp_path, "2022.csv", "user,item,when,order", (7, 1, "2022-11-03T00:00:00Z", 5))
    proposed = proposal.propose([plays], directory=tmp_path)
    tables, _ = imported(proposed.text)
    assert tables["watches"]["user_id"].to_pylist() == ["7"]
    assert tables["watches"]["order"].to_pylist() == [5.0]
    assert logs.FEATURES_FILE not in {p.name for p in (tmp_path / "logs").iterdir()}
