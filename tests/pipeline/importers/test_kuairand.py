"""KuaiRand column by column, on rows whose mapping can be told by hand."""

import shutil

import polars as pl
import pyarrow as pa
import pytest

from features import command, declarations, spec
from features.tables import logs, schema
from pipeline.importers import kuairand, kuairand_files
from tests.pipeline.importers.kuairand_rows import (
    MINUTE_MS,
    START_MS,
    USER_ROW,
    VIDEO_ROW,
    imported,
    log_rows,
    rows_of,
    table,
    write_official,
)


def shown(*changes):
    return kuairand.impressions(log_rows(*changes)).to_dicts()


def test_impression_is_mapped_column_by_column():
    (row,) = shown({"is_click": 1, "long_view": 1, "time_ms": START_MS + 999, "is_rand": 1})
    assert row == {
        "user_id": "1",
        "video_id": "10",
        "time": START_MS // 1000,
        "clicked": 1,
        "watch_time_s": 2.5,
        "surface": "tab_1",
        "time_ms": START_MS + 999,
        "duration_ms": 60_000,
        "profile_stay_time_ms": 0,
        "comment_stay_time_ms": 0,
        "log_date": 20220425,
        "log_hourmin": 800,
        **dict.fromkeys(kuairand_files.LOG_FLAGS, False),
        "long_view": True,
        "is_rand": True,
    }


def test_time_follows_time_ms_and_not_the_date_that_runs_ahead():
    (row,) = shown({"date": 20220426, "hourmin": 0})
    assert row["time"] == START_MS // 1000


def test_exact_copies_stay_exact_copies():
    arrow = kuairand.impressions(log_rows({}, {}, {"tab": 2})).to_arrow()
    unique, duplicates = schema.split_duplicates(arrow)
    assert (unique.num_rows, duplicates.num_rows) == (2, 1)


def test_a_row_that_was_not_played_is_no_watch():
    rows = log_rows({"play_time_ms": 0, "is_click": 1}, {"play_time_ms": 1, "long_view": 1})
    assert kuairand.watches(rows).to_dicts() == [
        {
            "user_id": "1",
            "video_id": "10",
            "time": START_MS // 1000,
            "watch_time_s": 0.001,
            "completed": True,
            "source": "tab_1",
            "is_rand": False,
        }
    ]


def test_what_was_said_of_a_row_is_a_row_of_feedback_at_the_end_of_its_play():
    rows = log_rows(
        {"is_like": 1, "is_forward": 1, "play_time_ms": 5000},
        {"is_hate": 1, "play_time_ms": 0, "user_id": 2},
        {},
    )
    found = kuairand.feedback_of(rows).to_dicts()
    said = {"user_id": "1", "video_id": "10", "time": START_MS // 1000 + 5}
    assert found == [
        {**said, "kind": "like"},
        {**said, "user_id": "2", "time": START_MS // 1000, "kind": "dislike"},
        {**said, "kind": "share"},
    ]


def test_history_keeps_its_order_and_ends_before_the_log():
    history = pl.DataFrame(
        {
            "user_id": [1, 2, 3],
            "history_len": [3, 9, 0],
            # User 1 was last seen two hours before the log begins; by the clock of user 2 an
            # hour after.
            "last_time_ms": [START_MS - 120 * MINUTE_MS, START_MS + 60 * MINUTE_MS, START_MS],
            "long_watch_seq": [[10, 11, 10], [11], []],
        },
        schema_overrides={"long_watch_seq": pl.List(pl.Int64)},
    )
    durations = pl.DataFrame({"video_id": ["10", "11"], "duration_s": [60.0, None]})
    rows = kuairand.history_watches(history, durations, first_s=START_MS // 1000)
    start_s = START_MS // 1000
    assert rows.select("user_id", "video_id", "time").rows() == [
        ("1", "10", start_s - 7200 - 180),
        ("1", "11", start_s - 7200 - 120),
        ("1", "10", start_s - 7200 - 60),
        ("2", "11", start_s - 60),
    ]
    assert rows["watch_time_s"].to_list() == [18.0, 18.0, 18.0, 18.0]
    assert rows["completed"].all()
    assert set(rows["source"]) == {"history"}


def test_history_watch_of_a_short_video_lasts_as_long_as_the_video():
    history = pl.DataFrame(
        {
            "user_id": [1],
            "history_len": [1],
            "last_time_ms": [START_MS],
            "long_watch_seq": [[10]],
        }
    )
    durations = pl.DataFrame({"video_id": ["10"], "duration_s": [7.5]})
    rows = kuairand.history_watches(history, durations, first_s=START_MS // 1000)
    assert rows["watch_time_s"].to_list() == [7.5]


def test_video_is_mapped_and_unknown_values_become_null():
    unknown = {
        "video_id": 11,
        "video_duration": 0.0,
        "upload_dt": None,
        "tag": None,
        "video_type": "UNKNOWN",
        "music_type": -124,
    }
    first, second = kuairand.videos(rows_of(VIDEO_ROW, {}, unknown), first_s=99).to_dicts()
    assert first["upload_time"] == 1_649_520_000  # 2022-04-09T16:00Z is 00:00 in China on the 10th.
    assert first["channel_id"] == "77"
    assert first["topics"] == ["12", "65"]
    assert first["duration_s"] == 60.0
    assert first["video_type"] == "NORMAL"
    assert second["upload_time"] == 99
    assert (first["upload_time_known"], second["upload_time_known"]) == (True, False)
    for name in ("duration_s", "topics", "video_type", "music_type"):
        assert second[name] is None


def test_unreadable_upload_date_is_named():
    with pytest.raises(command.InputError, match="upload_dt must be YYYY-MM-DD, got '10.4.2022'"):
        kuairand.videos(rows_of(VIDEO_ROW, {"upload_dt": "10.4.2022"}), first_s=1)


def test_unknown_user_codes_become_null_and_known_ones_are_kept():
    odd = {
        "user_id": 2,
        "is_live_streamer": -124.0,
        "register_days": -124.0,
        "onehot_feat4": None,
        "user_active_degree": "UNKNOWN",
        "register_days_range": "8-14",  # Not in the documented set.
    }
    rows = rows_of({**USER_ROW, "onehot_feat4": 3.0, "is_live_streamer": 1.0}, {}, odd)
    first, second = kuairand.users(rows).to_dicts()
    assert (first["onehot_feat4"], first["is_live_streamer"]) == ("3", True)
    assert second["register_days_range"] == "8-14"
    for name in ("is_live_streamer", "register_days", "onehot_feat4", "user_active_degree"):
        assert second[name] is None
    assert set(first) == set(kuairand_files.USERS)


@pytest.mark.parametrize("edition", ["pure", "1k", "27k"])
@pytest.mark.parametrize("given", ["parent", "edition", "data"])
def test_official_layout_is_found_wherever_the_user_points(tmp_path, edition, given):
    source = write_official(tmp_path / "in", edition=edition)
    where = {"parent": source.parent, "edition": source, "data": source / "data"}[given]
    if given == "parent":  # One level above the edition's directory.
        assert kuairand_files.find_files(source)["log"]
    imported(where if given != "parent" else source, tmp_path / "logs")
    assert logs.tables_in(tmp_path / "logs") == {"videos", "users", "watches", "impressions"}


def test_parts_of_the_27k_edition_and_random_rows_are_read_together(tmp_path):
    source = write_official(
        tmp_path / "in", edition="27k", random=log_rows({"is_rand": 1, "video_id": 11})
    )
    data = source / "data"
    name = "log_standard_4_22_to_5_08_27k"
    shutil.move(data / f"{name}.csv", data / f"{name}_part1.csv")
    log_rows({"user_id": 2}).write_csv(data / f"{name}_part2.csv")
    imported(source, tmp_path / "logs")
    rows = table(tmp_path / "logs", "impressions").sort("user_id", "video_id")
    assert rows.select("user_id", "video_id", "is_rand").rows() == [
        ("1", "10", False),
        ("1", "11", True),
        ("2", "10", False),
    ]


def test_gzipped_csv_is_read(tmp_path):
    source = write_official(tmp_path / "in")
    for path in (source / "data").iterdir():
        arrow = pa.py_buffer(path.read_bytes())
        with pa.output_stream(f"{path}.gz", compression="gzip") as stream:
            stream.write(arrow)
        path.unlink()
    imported(source, tmp_path / "logs")
    assert table(tmp_path / "logs", "impressions").height == 1


def test_window_cuts_events(tmp_path):
    times = [START_MS + minute * MINUTE_MS for minute in (0, 10, 20)]
    source = write_official(tmp_path / "in", log=log_rows(*({"time_ms": time} for time in times)))
    second = times[1] // 1000
    imported(source, tmp_path / "logs", from_s=second, until_s=second + 1)
    rows = table(tmp_path / "logs", "impressions")
    assert rows["time"].to_list() == [second]
    assert table(tmp_path / "logs", "watches")["time"].to_list() == [second]


def test_declared_features_resolve_against_the_tables(tmp_path):
    imported(write_official(tmp_path / "in"), tmp_path / "logs")
    extra = declarations.load(tmp_path / "logs" / logs.FEATURES_FILE)
    columns = {
        name: logs.column_types(tmp_path / "logs", name)
        for name in ("videos", "users", "impressions", "watches")
    }
    declarations.require_answerable(extra, columns, path=logs.FEATURES_FILE)
    resolved = spec.resolve({**columns, "context": ["surface"]}, extra)
    assert set(extra) <= set(resolved.features)
    assert len(extra) == 19 + 3 + 4 + 3 + 2


def test_binary_and_continuous_features_have_numeric_columns():
    columns = {
        "users": kuairand.users(rows_of(USER_ROW)).schema,
        "videos": kuairand.videos(rows_of(VIDEO_ROW), first_s=1).schema,
    }
    for entry in kuairand_files.declarations(has_history=False):
        origin, _, column = entry["source"].partition(".")
        kind = columns[origin][column]
        expected = {"univalent": kind == pl.String, "binary": kind == pl.Boolean}
        assert expected.get(entry["kind"], kind.is_numeric()), entry


def test_captions_and_categories_of_2026_are_read_where_they_are(tmp_path):
    source = tmp_path / "KuaiRand-Pure"
    write_official(source)
    ids = videos_of(source)
    captions = "final_video_id,caption,show_cover_text,duration\n"
    captions += f'{ids[0]},"a cat, again",UNKNOWN,5\n999999,of no video here,x,5\n'
    (source / "kuairand_video_captions.csv").write_text(captions)
    names = [f"{level}_level_category" for level in ("first", "second", "third", "fourth")]
    header = ",".join(f"{n}_id,{n}_name,{n}_prob" for n in names)
    row = ",".join(["1,Pets,0.9", "2,Cats,0.8", "-124,UNKNOWN,-124", "-124,UNKNOWN,-124"])
    categories = f"final_video_id,{header}\n{ids[0]},{row}\n"
    (source / "kuairand_video_categories.csv").write_text(categories)
    imported(source, tmp_path / "logs")
    found = {row["video_id"]: row for row in table(tmp_path / "logs", "videos").to_dicts()}
    assert found[ids[0]]["title"] == "a cat, again"
    assert found[ids[0]]["cover_text"] is None
    levels = [found[ids[0]][f"category_{number}"] for number in range(1, 5)]
    assert levels == ["Pets", "Cats", None, None]
    assert all(row["title"] is None for name, row in found.items() if name != ids[0])
    declared = (tmp_path / "logs" / "features.json").read_text()
    assert "videos.category_1" in declared


def videos_of(source):
    path = next(source.rglob("video_features_basic*"))
    return [line.split(",")[0] for line in path.read_text().splitlines()[1:]]
