"""Feedback as an outcome of impressions and watches."""

import pyarrow as pa
import pytest

from features import feedback, spec

T = 1_700_000_000
HOUR = 3600
VIDEOS = pa.table({"video_id": ["a", "b", "c"], "channel_id": ["x", "x", None]})


def table(*rows, **columns):
    names = ["user_id", "video_id", "time", *columns]
    values = [list(column) for column in zip(*rows, strict=True)] or [[], [], []]
    return pa.table(dict(zip(names, [*values, *columns.values()], strict=True)))


def said(*rows):
    """Rows of user, video, time, kind and, where it has them, channel, value and page."""
    names = ("user_id", "video_id", "time", "kind", "channel_id", "value", "page_id")
    types = [pa.string(), pa.string(), pa.int64(), pa.string(), pa.string(), pa.float64()]
    padded = [(*row, *(None,) * (len(names) - len(row))) for row in rows]
    schema = pa.schema(dict(zip(names, [*types, pa.string()], strict=True)))
    return pa.Table.from_pylist([dict(zip(names, row, strict=True)) for row in padded], schema)


def liked(impressions, *rows):
    found = feedback.outcomes(impressions, said(*rows), ["like"])
    return found["feedback_like"].to_pylist()


def test_feedback_is_of_the_last_impression_before_it():
    shown = table(("u", "a", T), ("u", "a", T + 60), ("u", "b", T), ("v", "a", T))
    assert liked(shown, ("u", "a", T + 90, "like")) == [0, 1, 0, 0]
    assert liked(shown, ("u", "a", T + 30, "like")) == [1, 0, 0, 0]
    # The page may be a second ahead of the clock that the like was seen by.
    assert liked(shown, ("u", "a", T + 59, "like")) == [0, 1, 0, 0]
    assert liked(shown, ("u", "a", T - 2, "like")) == [0, 0, 0, 0]
    assert liked(shown, ("u", "a", T + 60 + 4 * HOUR, "like")) == [0, 1, 0, 0]
    assert liked(shown, ("u", "a", T + 61 + 4 * HOUR, "like")) == [0, 0, 0, 0]


def test_feedback_that_names_its_page_is_of_that_page():
    shown = table(("u", "a", T), ("u", "a", T + 60), page_id=["p", "q"])
    assert liked(shown, ("u", "a", T + 90, "like", None, None, "p")) == [1, 0]
    # Of a page that is not there the time decides.
    assert liked(shown, ("u", "a", T + 90, "like", None, None, "elsewhere")) == [0, 1]


@pytest.mark.parametrize(
    ("watch", "clicked", "expected"),
    [
        # Watched from a search: the page that it was also on had no part in it.
        (("u", "a", T + 60), [False, False], [0, 0]),
        # Reported when it ended, after the like.
        (("u", "a", T + 500), [False, False], [0, 0]),
        (("u", "a", T + 60), [True, False], [1, 0]),
        (("u", "a", T + 60), [False, True], [0, 1]),
        # Before the pages, of others, too late or at one time with the play that it is itself.
        (("u", "a", T - 1), [False, False], [0, 1]),
        (("u", "b", T + 60), [False, False], [0, 1]),
        (("v", "a", T + 60), [False, False], [0, 1]),
        (("u", "a", T + 11 + 4 * HOUR), [False, False], [0, 1]),
        (("u", "a", T + 10), [False, False], [0, 1]),
    ],
)
def test_feedback_of_a_video_that_was_met_elsewhere_is_of_no_impression(watch, clicked, expected):
    shown = table(("u", "a", T), ("u", "a", T + 10), clicked=clicked)
    found = feedback.outcomes(
        shown, said(("u", "a", T + 90, "like")), ["like"], watches=table(watch)
    )
    assert found["feedback_like"].to_pylist() == expected


def test_page_that_feedback_names_counts_whatever_was_watched():
    shown = table(("u", "a", T), page_id=["p"], clicked=[False])
    found = feedback.outcomes(
        shown,
        said(("u", "a", T + 90, "hide", None, None, "p")),
        ["hide"],
        watches=table(("u", "a", T + 60)),
    )
    assert found["feedback_hide"].to_pylist() == [1]


def test_other_kinds_channels_and_what_is_taken_back_are_no_outcome():
    shown = table(("u", "a", T))
    assert liked(shown, ("u", "a", T, "share")) == [0]
    assert liked(shown, ("u", None, T, "like", "x")) == [0]
    assert liked(shown, ("u", "a", T, "like", None, 0.0)) == [0]
    assert liked(shown, ("u", "a", T, "like", None, 5.0)) == [1]
    assert liked(shown) == [0]


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([("u", "a", T + 60, "dislike")], [True, False, False]),
        ([("u", "a", T - 10**6, "hide")], [True, False, False]),
        ([("u", None, T + 60, "hide", "x")], [True, True, False]),
        ([("u", "a", T + 5 * HOUR, "dislike")], [False] * 3),
        ([("u", "a", T - 9, "hide"), ("u", "a", T - 5, "hide", None, 0.0)], [False] * 3),
        ([("u", "a", T, "like")], [False] * 3),
        ([("v", "a", T, "hide")], [False] * 3),
    ],
)
def test_watch_that_was_regretted_is_told(rows, expected):
    events = table(("u", "a", T), ("u", "b", T), ("u", "c", T))
    assert feedback.is_regretted(events, said(*rows), VIDEOS).to_pylist() == expected


def test_regretted_click_is_none():
    shown = table(("u", "a", T), ("u", "b", T), clicked=[True, True], watch_time_s=[5.0, 6.0])
    rows = said(("u", "a", T, "dislike"), ("u", "b", T, "like"))
    found = feedback.with_outcomes(shown, rows, ["like", "dislike"], VIDEOS).to_pylist()
    assert [row["clicked"] for row in found] == [False, True]
    assert [row["watch_time_s"] for row in found] == [0.0, 6.0]
    assert [row["feedback_dislike"] for row in found] == [1.0, 0.0]


def test_columns_that_count_feedback_are_told_from_others():
    names = {f.column for f in spec.FEATURES if feedback.kind_of(f.column)}
    entities = ("any", "video", "channel", "topic")
    assert names == {name for entity in entities for name in feedback.names(entity)}
    assert feedback.kind_of("user_topic_dislikes_7d") == "dislike"
    assert feedback.kind_of("user_topic_clicks_7d") == ""
