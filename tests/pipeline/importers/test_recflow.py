"""RecFlow in its official layout, made up."""

import json

import polars as pl
import pyarrow as pa
import pytest
from pyarrow import feather

from features import command, declarations
from features.tables import logs
from pipeline.importers import recflow

REQUEST_MS = 1_705_104_000_123  # 2024-01-13T00:00:00.123Z
ROW = {
    **{"request_id": 11, "request_timestamp": REQUEST_MS, "user_id": 1, "device_id": 3},
    **{"age": 4, "gender": 1, "province": 9, "video_id": 100, "author_id": 50},
    **{"category_level_one": 7, "category_level_two": 71, "upload_type": 2},
    **{"upload_timestamp": 1_705_000_000, "duration": 20_000, "rerank_index": 0},
    **{"playing_time": 8_000, "effective_view": 1, "long_view": 0},
    **{"like": 0, "follow": 0, "forward": 0, "comment": 0},
}
STAGE = {**dict.fromkeys(("realshow", *recflow._STAGES), 0), "rank_index": 3}


def rows(*changes, base=ROW):
    frame = pl.DataFrame([{**base, **change} for change in changes])
    return pa.table(frame.to_arrow())


@pytest.fixture
def source(tmp_path):
    root = tmp_path / "RecFlow"
    (root / "realshow").mkdir(parents=True)
    day = rows(
        {},
        {"video_id": 101, "playing_time": 1_000, "effective_view": 0, "rerank_index": 1},
        {"video_id": 102, "playing_time": 0, "effective_view": 0, "rerank_index": 2},
    )
    feather.write_feather(day, root / "realshow" / "2024-01-13.feather")
    later = {"request_id": 12, "request_timestamp": REQUEST_MS + 86_400_000, "age": 5}
    done = {"playing_time": 25_000, "long_view": 1, "like": 1, "forward": 1}
    feather.write_feather(rows({**later, **done}), root / "realshow" / "2024-01-14.feather")
    (root / "request_id_dict").mkdir()
    (root / "request_id_dict" / "2024-01-13.pkl").write_bytes(b"a pickle runs code")
    return root


def imported(source, **options):
    logs_dir = source.parent / "logs"
    with logs.LogWriter(logs_dir, overwrite=True) as writer:
        notes = recflow.import_logs(source, writer, recflow.RecFlowConfig(**options))
    return logs_dir, notes


def table(logs_dir, name):
    return logs.read_table(logs_dir, name).to_pylist()


def test_a_request_is_a_page_and_its_rows_are_impressions(source):
    logs_dir, _ = imported(source)
    shown = sorted(table(logs_dir, "impressions"), key=lambda row: (row["time"], row["position"]))
    assert shown[0] == {
        **{"user_id": "1", "video_id": "100", "time": REQUEST_MS // 1000, "clicked": True},
        **{"watch_time_s": 8.0, "page_id": "11", "position": 0, "device": "3"},
    }
    assert [row["page_id"] for row in shown] == ["11", "11", "11", "12"]
    watched = table(logs_dir, "watches")
    assert sorted(row["video_id"] for row in watched) == ["100", "100", "101"]  # 102: not played.
    assert {row["video_id"] for row in watched if row["completed"]} == {"100"}


def test_what_users_said_is_known_when_the_watch_has_ended(source):
    said = table(imported(source)[0], "feedback")
    assert sorted(row["kind"] for row in said) == ["like", "share"]
    assert {row["time"] for row in said} == {REQUEST_MS // 1000 + 86_400 + 25}


def test_videos_and_users_are_of_their_last_row(source):
    logs_dir, _ = imported(source)
    video = next(row for row in table(logs_dir, "videos") if row["video_id"] == "100")
    assert (video["channel_id"], video["topics"]) == ("50", ["c1_7", "c2_71"])
    assert (video["upload_time"], video["duration_s"]) == (1_705_000_000, 20.0)
    assert [row["age_group"] for row in table(logs_dir, "users")] == ["5"]


def test_outcomes_of_a_row_are_no_columns_of_it(source):
    columns = logs.read_table(imported(source)[0], "impressions").column_names
    outcomes = {"effective_view", "long_view", "playing_time", "like", "realshow", "rank_pos"}
    assert not outcomes & set(columns)


@pytest.mark.parametrize(("unit", "factor"), [("ms", 1), ("s", 1000)])
def test_the_unit_of_the_playing_time_is_found_and_said(source, unit, factor):
    day = rows(*({"playing_time": ms // factor} for ms in (7_000, 9_000, 19_000)))
    feather.write_feather(day, source / "realshow" / "2024-01-13.feather")
    logs_dir, notes = imported(source, until_s=REQUEST_MS // 1000 + 100)
    assert any(f"playing_time is taken as {unit}" in note for note in notes)
    seconds = [row["watch_time_s"] for row in table(logs_dir, "impressions")]
    assert seconds == [7.0, 9.0, 19.0]


def test_a_unit_that_cannot_be_told_must_be_given(source):
    day = rows({"playing_time": 20_000, "effective_view": 0})
    feather.write_feather(day, source / "realshow" / "2024-01-13.feather")
    with pytest.raises(command.InputError, match="--playing_time_unit"):
        imported(source)
    imported(source, playing_time_unit="ms")


def test_what_was_nominated_and_not_shown_lies_beside_the_log(source):
    (source / "all_stage").mkdir()
    base = {**{k: v for k, v in ROW.items() if k in recflow.STAGES}, **STAGE}
    stages = rows(
        {"realshow": 1, "rerank_pos": 1},
        {"video_id": 200, "prerank_neg": 1, "rank_index": 300},
        {"video_id": 201, "coarse_neg": 1, "rank_neg": 1},
        base=base,
    )
    feather.write_feather(stages, source / "all_stage" / "2024-01-13.feather")
    logs_dir, notes = imported(source, stages=True)
    found = pl.read_parquet(logs_dir / "nominations").sort("video_id")
    assert found.select("video_id", "page_id", "stage").rows() == [
        ("200", "11", "prerank_neg"),
        ("201", "11", "rank_neg"),
    ]
    assert {"200", "201"} <= {row["video_id"] for row in table(logs_dir, "videos")}
    assert any("2 videos were nominated and not shown" in note for note in notes)


def test_declared_features_have_columns(source):
    logs_dir, _ = imported(source)
    declared = json.loads((logs_dir / logs.FEATURES_FILE).read_text())
    types = {name: logs.column_types(logs_dir, name) for name in logs.tables_in(logs_dir)}
    resolved = declarations.resolve(types, logs_dir / logs.FEATURES_FILE)
    assert {entry["name"] for entry in declared} <= {feature.name for feature in resolved.features}


def test_half_a_download_is_one_message(source, tmp_path):
    path = source / "realshow" / "2024-01-14.feather"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(command.InputError, match="2024-01-14.feather cannot be read"):
        imported(source)
    assert not (tmp_path / "logs").exists()
    feather.write_feather(rows({}).drop_columns(["like"]), path)
    with pytest.raises(command.InputError, match="lacks the column like"):
        imported(source)
    with pytest.raises(command.InputError, match="lacks realshow"):
        imported(source / "request_id_dict")


def test_agreement_needs_rows_that_were_played():
    nothing = pl.DataFrame({**ROW, "playing_time": 0})
    with pytest.raises(command.InputError, match="cannot be told"):
        recflow.playing_time_unit(nothing)
