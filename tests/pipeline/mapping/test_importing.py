"""Five CSV files and one mapping file; and what else files hold that nobody wrote for us."""

import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from features import command
from features.tables import logs
from tests.pipeline.mapping import five_files

# Two tables that are there, so that a test need only say what is its own.
FILMS = "id,added\n1,2026-11-01\n2,2026-11-02\n"
PLAYS = "user,film,at,secs\n007,1,2026-11-03T10:00:00Z,30\n8,2,2026-11-04 10:00,40\n"
REST = """
[videos]
source = "films"
[videos.columns]
video_id = "id"
upload_time = "added"
"""
MAPPING = (
    """
[sources]
films = "films.csv"
plays = "plays.csv"
"""
    + REST
    + """
[watches]
source = "plays"
[watches.columns]
user_id = "user"
video_id = "film"
time = "at"
watch_time_s = "secs"
"""
)


@pytest.fixture
def site(tmp_path):
    (tmp_path / "films.csv").write_text(FILMS)
    (tmp_path / "plays.csv").write_text(PLAYS)
    return tmp_path


def refusal(imported, text, **options):
    with pytest.raises(command.InputError) as caught:
        imported(text, **options)
    return str(caught.value)


def test_five_files_become_logs_by_one_mapping_file(imported, tmp_path):
    five_files.write(tmp_path)
    tables, notes = imported(five_files.MAPPING)
    assert notes == []
    lines = {name: len((tmp_path / name).read_text().splitlines()) - 1 for name in five_files.FILES}
    assert [tables[n].num_rows for n in ("videos", "users", "watches", "searches")] == [
        lines[n] for n in ("Films.csv", "Members.csv", "Plays.csv", "Searches.csv")
    ]
    assert tables["impressions"].num_rows == lines["Shown.csv"]
    first = tables["impressions"].sort_by("time").to_pylist()[0]
    assert isinstance(first["clicked"], bool) and first["watch_time_s"] >= 0
    videos = tables["videos"].to_pylist()
    assert videos[0]["video_id"] == "1"
    assert {topic for video in videos for topic in video["topics"] or ()} == set(five_files.TAGS)
    assert {user["region"] for user in tables["users"].to_pylist()} == {"DE", "FR", None}
    assert {user["plan"] for user in tables["users"].to_pylist()} == {"free", "plus"}
    declared = json.loads((tmp_path / "logs" / logs.FEATURES_FILE).read_text())
    assert declared[0]["source"] == "users.plan"
    assert (tmp_path / "logs" / "watches" / "date=2022-05-02").is_dir()


def test_ids_are_kept_as_they_are_written(imported, site):
    tables, _ = imported(MAPPING)
    assert tables["watches"]["user_id"].to_pylist() == ["007", "8"]


def test_all_that_is_wrong_is_said_at_once(imported, site):
    text = MAPPING.replace('"films.csv"', '"film.csv"').replace('"secs"', '"seconds"')
    text = (
        text.replace('"at"', '"secs = 1::VARCHAR"')
        + 'device = "sum("\nplace = "struct_pack(a := 1)"\n'
    )
    message = refusal(imported, text)
    assert "has 5 problems" in message
    assert "film.csv does not exist" in message
    assert "watches.watch_time_s: the source has no column 'seconds'. Is it 'secs'?" in message
    assert "watches.time: expected a time, but secs = 1::VARCHAR is BOOLEAN" in message
    assert "watches.device: syntax error" in message
    assert "watches.place: nothing here can use its type, STRUCT" in message
    assert not (site / "logs").exists()


def test_all_that_rows_hold_is_said_at_once_and_nothing_is_written(imported, site):
    (site / "films.csv").write_text("id,added\n1,long ago\n2,recently\n")
    (site / "plays.csv").write_text("user,film,at,secs\n7,1,2026-11-03,many\n8,1,2026-11-04,few\n")
    message = refusal(imported, MAPPING)
    assert "videos.upload_time: 2 of 2 values cannot be read, such as 'long ago'" in message
    assert "watches.watch_time_s: 2 of 2 values cannot be read, such as 'many'" in message
    assert not (site / "logs").exists()


def test_rows_that_cannot_be_used_are_set_aside_with_reasons(imported, site):
    rows = "".join(f"{user},1,2026-11-03T10:00:00Z,30\n" for user in range(100))
    bad = "x,9,2026-11-03,1\nx,1,2026-11-03,-1\nx,1,soon,1\n,1,2026-11-03,1\nx,1,2031-01-01,1\n"
    (site / "plays.csv").write_text("user,film,at,secs\n" + rows + bad)
    tables, notes = imported(MAPPING, rejected=site / "rejected")
    assert tables["watches"].num_rows == 100
    aside = pq.read_table(site / "rejected" / "watches").to_pylist()
    assert {row["reason"] for row in aside} == {
        *("unknown_video", "negative_watch_time", "unreadable_value", "missing_key"),
        "future_time",
    }
    unreadable = next(row for row in aside if row["reason"] == "unreadable_value")
    assert unreadable["time"] == "soon"  # As it was written.
    assert any("1 of 105 rows are set aside as unknown_video" in note for note in notes)


def test_an_optional_value_that_cannot_be_read_costs_no_row(imported, site):
    people = "id,age\n" + "".join(f"{user},30\n" for user in range(20)) + "20,old\n"
    (site / "people.csv").write_text(people)
    text = MAPPING.replace("[sources]", '[sources]\npeople = "people.csv"') + (
        '[users]\nsource = "people"\n[users.columns]\nuser_id = "id"\nage = "age"\n'
    )
    tables, notes = imported(text, max_rejected_fraction=0.9)
    assert tables["users"]["age"].to_pylist() == [30.0] * 20 + [None]
    assert any("users.age: 1 of 21 values cannot be read, such as 'old'" in note for note in notes)


def test_units_zones_and_forms_are_of_the_column(imported, site):
    (site / "plays.csv").write_text("user;film;at;mins\n7;1;3.11.2026 10:00;1.5\n")
    text = MAPPING.replace('"at"', '{ sql = "at", format = "%d.%m.%Y %H:%M" }')
    text = text.replace('"secs"', '{ sql = "mins", unit = "min" }')
    tables, _ = imported('time_zone = "Asia/Tokyo"\n' + text)
    row = tables["watches"].to_pylist()[0]
    assert row["time"] == command.parse_time("2026-11-03T10:00:00+09:00")
    assert row["watch_time_s"] == 90.0
    upload = tables["videos"]["upload_time"][0].as_py()
    assert upload == command.parse_time("2026-11-01T00:00:00+09:00")


def test_a_query_joins_sources_whatever_they_are(imported, site):
    pq.write_table(pa.table({"id": [1, 2], "len": [60, 50]}), site / "lengths.parquet")
    text = MAPPING.replace(
        "[sources]",
        '[sources]\nlengths = "lengths.parquet"\nboth = { query = '
        '"SELECT p.*, l.len FROM plays p JOIN lengths l ON p.film = l.id::VARCHAR" }',
    ).replace('source = "plays"', 'source = "both"\nwhere = "\\"user\\" <> \'007\'"')
    tables, _ = imported(text + 'completed = "secs::DOUBLE >= 0.8 * len"\n')
    assert tables["watches"].select(["user_id", "completed"]).to_pylist() == [
        {"user_id": "8", "completed": True}
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("user,film,at,secs\n7,1,2026-11-03,1\n8,1\n", "Expected Number of Columns: 4 Found: 2"),
        ('user,film,at,secs\n7,1,2026-11-03,1\n8,"1', "unterminated quote"),
        ("", "is empty"),
        ("user,film,at,secs\n", "its source has no rows"),
        ("User,user,film,at,secs\n7,7,1,2026-11-03,1\n", "differ in their case"),
    ],
)
def test_half_a_file_is_an_error_that_names_it(imported, site, content, message):
    (site / "plays.csv").write_text(content)
    assert message in refusal(imported, MAPPING)
    assert not (site / "logs").exists()


def test_half_a_packed_file_is_an_error(imported, site):
    packed = gzip.compress(PLAYS.encode() + b"9,1,2026-11-03,1\n" * 100_000)
    (site / "plays.csv.gz").write_bytes(packed[: len(packed) // 2])
    message = refusal(imported, MAPPING.replace("plays.csv", "plays.csv.gz"))
    assert "Truncated compressed stream" in message


def test_a_column_that_changes_its_type_is_put_together_or_named(imported, site):
    for name, ids in (("a", pa.array([7])), ("b", pa.array(["x8"]))):
        rows = pa.table({"user": ids, "film": ["1"], "at": ["2026-11-03"], "secs": [5.0]})
        (site / "plays").mkdir(exist_ok=True)
        pq.write_table(rows, site / "plays" / f"{name}.parquet")
    tables, _ = imported(MAPPING.replace("plays.csv", "plays"))
    assert tables["watches"]["user_id"].to_pylist() == ["7", "x8"]
    lists = pa.table({"user": [["u"]], "film": ["1"], "at": ["2026-11-03"], "secs": [5.0]})
    pq.write_table(lists, site / "plays" / "c.parquet")
    message = refusal(imported, MAPPING.replace("plays.csv", "plays"))
    assert "user" in message


def test_directories_of_spark_and_hive_are_read_as_they_lie(imported, site):
    for day, user in (("2026-11-03", "7"), ("2026-11-04", "8")):
        part = site / "plays" / f"dt={day}"
        part.mkdir(parents=True)
        rows = pa.table({"user": [user], "film": [1], "secs": [5]})
        pq.write_table(rows, part / "part-00000-c000.snappy.parquet", compression="snappy")
        (part / ".part-00000-c000.snappy.parquet.crc").write_bytes(b"crc")
    (site / "plays" / "_SUCCESS").touch()
    tables, _ = imported(MAPPING.replace("plays.csv", "plays").replace('"at"', '"dt"'))
    days = [command.parse_time(day) for day in ("2026-11-03", "2026-11-04")]
    assert tables["watches"]["time"].to_pylist() == days


def test_json_lines_keep_text_as_it_is_written(imported, site):
    rows = [
        {"user": "007", "film": 1, "at": "2026-11-03T10:00:00+02:00", "secs": 5, "o": {"x": 1}},
        {"user": "8", "film": 2, "at": "2026-11-03T10:00:00Z", "secs": None, "more": [1]},
    ]
    (site / "plays.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    text = MAPPING.replace("plays.csv", "plays.jsonl").replace('"secs"', '"coalesce(secs, 0)"')
    tables, _ = imported(text + 'x = "o.x"\n')
    by_user = {row["user_id"]: row for row in tables["watches"].to_pylist()}
    assert by_user["007"]["time"] == command.parse_time("2026-11-03T08:00:00Z")
    assert (by_user["007"]["x"], by_user["8"]["watch_time_s"]) == (1, 0.0)


def test_text_that_is_not_utf_8_is_read(imported, site):
    (site / "films.csv").write_bytes(
        "id,added,name\n1,2026-11-01,Café\n2,2026-11-01,\n".encode("latin-1")
    )
    text = MAPPING.replace("upload_time =", 'title = "name"\nupload_time =')
    tables, _ = imported(text)
    assert tables["videos"]["title"].to_pylist() == ["Café", None]


def test_rows_keep_the_order_of_the_file_beyond_one_batch(imported, site):
    lines = (f"{n},1,2026-11-03T10:00:00Z,{n % 50}\n" for n in range(300_000))
    (site / "plays.csv").write_text("user,film,at,secs\n" + "".join(lines))
    tables, _ = imported(MAPPING)
    assert tables["watches"]["user_id"].to_pylist() == [str(n) for n in range(300_000)]


def test_a_window_keeps_the_events_inside(imported, site):
    until_s = command.parse_time("2026-11-04")
    tables, _ = imported(MAPPING, until_s=until_s)
    assert tables["watches"]["user_id"].to_pylist() == ["007"]
    assert "no rows" in refusal(imported, MAPPING, from_s=NOW, until_s=None)


NOW = command.parse_time("2026-11-20")
