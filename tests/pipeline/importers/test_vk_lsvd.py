"""VK-LSVD in its official layout, made up."""

import numpy as np
import polars as pl
import pytest

from features import command, declarations, spec
from features.tables import logs
from features.tables.time_windows import Window
from pipeline.importers import vk_lsvd

ROW = {
    **{"user_id": 1, "item_id": 10, "place": 0, "platform": 2, "agent": 5, "timespent": 30},
    **dict.fromkeys(("like", "dislike", "share", "bookmark"), False),
    **dict.fromkeys(("click_on_author", "open_comments"), False),
}
TYPES = {"user_id": pl.UInt32, "item_id": pl.UInt32} | dict.fromkeys(
    ("place", "platform", "agent", "timespent"), pl.UInt8
)


def week(path, *changes):
    path.parent.mkdir(parents=True, exist_ok=True)
    frame = pl.DataFrame([{**ROW, **change} for change in changes], schema_overrides=TYPES)
    frame.write_parquet(path)


@pytest.fixture
def source(tmp_path):
    root = tmp_path / "VK-LSVD"
    week(
        root / "interactions" / "train" / "week_00.parquet",
        {"item_id": 11},
        {"timespent": 90},
        {"user_id": 2, "like": True},
        {"user_id": 2, "item_id": 11, "timespent": 0, "dislike": True},
    )
    week(root / "interactions" / "test" / "week_26.parquet", {"item_id": 12, "bookmark": True})
    (root / "metadata").mkdir()
    items = {"item_id": [10, 11, 12, 13], "author_id": [5, 5, 6, 6], "duration": [100, 120, 0, 9]}
    pl.DataFrame({**items, "train_interactions_rank": [1, 2, 3, 4]}).write_parquet(
        root / "metadata" / "items_metadata.parquet"
    )
    people = {"user_id": [1, 2, 3], "age": [30, 40, 50], "gender": [1, 2, 1], "geo": [7, 8, 9]}
    pl.DataFrame({**people, "train_interactions_rank": [1, 2, 3]}).write_parquet(
        root / "metadata" / "users_metadata.parquet"
    )
    vectors = np.arange(4 * 64, dtype=np.float16).reshape(4, 64)
    ids = np.array([13, 12, 11, 10], np.uint32)
    np.savez(root / "metadata" / "item_embeddings.npz", item_id=ids, embedding=vectors)
    return root


def imported(source, **options):
    logs_dir = source.parent / "logs"
    with logs.LogWriter(logs_dir, overwrite=True) as writer:
        notes = vk_lsvd.import_logs(source, writer, Window(**options))
    return logs_dir, notes


def table(logs_dir, name):
    return logs.read_table(logs_dir, name).to_pylist()


def test_times_are_made_of_the_week_and_the_order_of_rows(source):
    logs_dir, notes = imported(source)
    shown = table(logs_dir, "impressions")
    quarter = vk_lsvd.WEEK_S // 4
    first = [vk_lsvd.FIRST_WEEK_S + place * quarter for place in range(4)]
    last = vk_lsvd.FIRST_WEEK_S + 26 * vk_lsvd.WEEK_S
    assert [row["time"] for row in shown] == [*first, last]
    assert [row["video_id"] for row in shown] == ["11", "10", "10", "11", "12"]
    assert any("THERE IS NO CLOCK" in note for note in notes)


def test_the_target_is_what_was_liked_shared_kept_or_watched_to_80_percent(source):
    logs_dir, _ = imported(source)
    # 30 of 120 s; 90 of 100 s; liked; disliked; bookmarked, of a video of unknown length.
    clicked = [row["clicked"] for row in table(logs_dir, "impressions")]
    assert clicked == [False, True, True, False, True]
    watched = table(logs_dir, "watches")
    assert [row["completed"] for row in watched] == [False, True, True, True]  # 0 s is no watch.
    said = table(logs_dir, "feedback")
    assert sorted((row["kind"], row["user_id"]) for row in said) == [
        ("dislike", "2"),
        ("like", "2"),
    ]


def test_videos_that_were_shown_have_a_stand_in_and_their_vector(source):
    videos = {row["video_id"]: row for row in table(imported(source)[0], "videos")}
    assert set(videos) == {"10", "11", "12"}
    assert videos["11"]["upload_time"] == vk_lsvd.FIRST_WEEK_S
    assert videos["12"]["upload_time"] == vk_lsvd.FIRST_WEEK_S + 26 * vk_lsvd.WEEK_S
    assert videos["12"]["duration_s"] is None
    assert videos["12"]["content_vector"] == list(range(64, 128))
    assert videos["10"]["channel_id"] == "5"


def test_the_vector_is_declared_as_a_feature_that_its_column_answers(source):
    logs_dir, _ = imported(source)
    types = {name: logs.column_types(logs_dir, name) for name in logs.tables_in(logs_dir)}
    resolved = declarations.resolve(types, logs_dir / logs.FEATURES_FILE)
    vector = next(feature for feature in resolved.features if feature.name == "content_vector")
    assert (vector.kind, vector.width) == (spec.Kind.VECTOR, 64)


def test_what_counts_outcomes_of_training_is_refused(source):
    logs_dir, notes = imported(source)
    for name in ("videos", "users"):
        assert "train_interactions_rank" not in logs.read_table(logs_dir, name).column_names
    columns = logs.read_table(logs_dir, "impressions").column_names
    assert not {"like", "bookmark", "click_on_author", "open_comments"} & set(columns)
    assert any("train_interactions_rank is refused" in note for note in notes)


def test_users_are_those_who_were_shown_something(source):
    users = {row["user_id"]: row for row in table(imported(source)[0], "users")}
    assert set(users) == {"1", "2"}
    assert (users["2"]["region"], users["2"]["age"]) == ("8", 40.0)


def test_a_subsample_finds_the_metadata_above(source, tmp_path):
    below = source / "subsamples" / "ur0.01_ir0.01"
    week(below / "train" / "week_03.parquet", {}, {"item_id": 11})
    _, notes = imported(below)
    assert len(list((below.parent / "logs" / "impressions").glob("date=*"))) == 2
    assert any("weeks read: 3" in note for note in notes)


def test_without_vectors_there_is_no_column(source):
    (source / "metadata" / "item_embeddings.npz").unlink()
    logs_dir, notes = imported(source)
    assert "content_vector" not in logs.read_table(logs_dir, "videos").column_names
    assert any("no item_embeddings.npz" in note for note in notes)


def test_what_is_missing_or_torn_is_one_message(source, tmp_path):
    vectors = source / "metadata" / "item_embeddings.npz"
    vectors.write_bytes(vectors.read_bytes()[:200])
    with pytest.raises(command.InputError, match="item_embeddings.npz cannot be read"):
        imported(source)
    np.savez(vectors, item_id=np.arange(3), embedding=np.zeros((2, 64)))
    with pytest.raises(command.InputError, match=r"should hold item_id \[n\]"):
        imported(source)
    (source / "metadata" / "items_metadata.parquet").unlink()
    with pytest.raises(command.InputError, match="Download metadata/ too"):
        imported(source)
    with pytest.raises(command.InputError, match="lacks train/week_00.parquet"):
        imported(source / "metadata")
    assert not (tmp_path / "logs").exists()


def test_a_window_keeps_the_events_inside_and_first_times_of_all(source):
    until_s = vk_lsvd.FIRST_WEEK_S + vk_lsvd.WEEK_S
    logs_dir, _ = imported(source, until_s=until_s)
    assert len(table(logs_dir, "impressions")) == 4
    assert len(table(logs_dir, "videos")) == 3
