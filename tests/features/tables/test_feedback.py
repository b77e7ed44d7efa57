"""The table feedback: what is set aside, and why."""

import pyarrow as pa

from features.tables import schema

T = 1_700_000_000


def judged(**columns):
    count = max(len(values) for values in columns.values())
    filled = {"user_id": ["u"] * count, "time": [T] * count, "kind": ["like"] * count} | columns
    table = schema.conform("feedback", pa.table(filled))
    accepted, rejected = schema.validate(
        "feedback",
        table,
        known_video_ids=pa.array(["v1", "v2"]),
        known_user_ids=pa.array(["u"]),
        now_s=T + 10,
    )
    return accepted.num_rows, rejected["reason"].to_pylist()


def test_feedback_on_a_known_video_or_a_channel_counts():
    kinds = ["like", "hide", "follow", "hide"]
    videos = ["v1", None, "", "v2"]
    channels = [None, "c1", "c2", "c3"]
    # An empty text names nothing; it is no video that is unknown.
    assert judged(kind=kinds, video_id=videos, channel_id=channels) == (4, [])
    assert judged(kind=["hide"], channel_id=["c1"]) == (1, [])


def test_each_fault_has_its_reason():
    accepted, reasons = judged(
        user_id=["u", "u", "u", "u", "stranger", "u", "u"],
        kind=["like", "applaud", "like", "like", "like", None, "hide"],
        video_id=["unknown", "v1", None, None, "v1", "v1", None],
        channel_id=[None, None, None, "c1", None, None, " "],
    )
    assert accepted == 0
    assert reasons == [
        "unknown_video",
        "unknown_kind",
        "no_target",
        "no_target",
        "unknown_user",
        "missing_key",
        "no_target",
    ]


def test_remedy_of_an_unknown_kind_names_all_kinds():
    assert "like, dislike, share, follow, comment, hide" in schema.REMEDIES["unknown_kind"]
