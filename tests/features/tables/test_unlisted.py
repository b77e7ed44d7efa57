"""Videos that are watched and stand in no table."""

import pyarrow as pa

from features.tables import logs, unlisted

T0 = 1_700_000_000


def watches(*rows):
    videos, times = zip(*rows, strict=True)
    return pa.table(
        {
            "user_id": ["u"] * len(rows),
            "video_id": list(videos),
            "time": [T0 + t for t in times],
            "watch_time_s": [1.0] * len(rows),
        }
    )


def test_a_video_without_a_row_exists_from_its_first_watch(tmp_path):
    logs.append(tmp_path, "watches", watches(("b", 50), ("a", 90), ("c", 5)))
    logs.append(tmp_path, "watches", watches(("a", 70), ("b", 99_999), ("\n", 1)))
    listed = pa.table({"video_id": ["c"], "upload_time": [T0], "title": ["C"]})
    found = unlisted.first_watches(tmp_path, listed)
    assert found.to_pylist() == [
        {"video_id": "b", "upload_time": T0 + 50, "watches": 2},
        {"video_id": "a", "upload_time": T0 + 70, "watches": 2},
    ]
    assert unlisted.joined(listed, found).to_pylist() == [
        {"video_id": "c", "upload_time": T0, "title": "C"},
        {"video_id": "b", "upload_time": T0 + 50, "title": None},
        {"video_id": "a", "upload_time": T0 + 70, "title": None},
    ]
    # What happens later is not known before.
    early = unlisted.first_watches(tmp_path, None, until_s=T0 + 60)
    assert early["video_id"].to_pylist() == ["c", "b"]
    assert unlisted.joined(None, early).column_names == ["video_id", "upload_time"]


def test_where_rows_say_who_may_see_a_video_one_without_a_row_is_shown_to_nobody():
    plain = {"video_id": ["a"], "upload_time": [T0]}
    assert unlisted.may_be_shown(None)
    assert unlisted.may_be_shown(pa.table(plain))
    assert unlisted.may_be_shown(pa.table({**plain, "min_age": pa.nulls(1, pa.float64())}))
    assert not unlisted.may_be_shown(pa.table({**plain, "min_age": [18.0]}))
