"""What users say of videos beside watching them: the closed list of kinds, and what each means.

A row of the table ``feedback`` is about a video; a follow or a hide may name a channel in its
place. A row whose ``value`` is 0 takes back the ones before it, of the same kind and target:
whoever hides a channel can show it again. Any other value, or none, means that it was given.

What was said of a video is an outcome of the impression that it was said of: the one on the page
that it names, else the last one of the user and video at most :data:`WINDOW_S` before it. One that
was not clicked, and whose video was watched within that time all the same (from a search, a
channel, another page), is none of these: what was said is of that watch.
"""

import functools
from collections.abc import Sequence

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from features.durations import HOUR_S

LIKE, DISLIKE, SHARE, FOLLOW, COMMENT, HIDE = KINDS = (
    "like",
    "dislike",
    "share",
    "follow",
    "comment",
    "hide",
)
# A watch that one of these follows is no positive one.
NEGATIVE = (DISLIKE, HIDE)
# These may be about a channel.
OF_CHANNELS = frozenset({FOLLOW, HIDE})
TAKEN_BACK = 0.0
# As long as the watch of an impression may take to be reported.
WINDOW_S = 4 * HOUR_S
# A page may lie a second ahead of the clock, see serving.events.event.
_AHEAD_S = 1
# Windows of the counts of a history; of these rare events the short ones hold nothing.
WINDOWS = ("7d", "all")


@functools.cache
def names(entity: str, kinds: tuple[str, ...] = KINDS) -> tuple[str, ...]:
    """Names of the counts of feedback on ``any``, a ``video``, ``channel`` or ``topic``."""
    return tuple(f"user_{entity}_{kind}s_{window}" for kind in kinds for window in WINDOWS)


def kind_of(column: str) -> str:
    """Returns the kind that a column of :func:`names` counts; "" for any other column."""
    word = column.split("_")[2].removesuffix("s") if column.startswith("user_") else ""
    return word if word in KINDS and column.rpartition("_")[2] in WINDOWS else ""


def label(kind: str) -> str:
    """Name of the column of ranking examples that says whether an impression got feedback."""
    return f"feedback_{kind}"


def outcomes(
    impressions: pa.Table,
    feedback: pa.Table,
    kinds: Sequence[str],
    *,
    watches: pa.Table | None = None,
) -> dict[str, pa.Array]:
    """Finds the feedback that impressions got.

    Args:
        impressions: ``user_id``, ``video_id``, ``time``, ``page_id`` where there are pages, and
            ``clicked`` where there are ``watches``; n rows.
        feedback: Rows of the table of that name, of the same users.
        kinds: Kinds of feedback to look for.
        watches: ``user_id``, ``video_id``, ``time`` of all watches of these users, from wherever.

    Returns:
        Name of the label to float32 [n], 1 where an impression got that kind and 0 elsewhere.
    """
    keys = ["user_id", "video_id"]
    columns = [*keys, "time", *({"page_id"} & set(impressions.column_names))]
    shown = _frame(impressions.select(columns)).with_row_index("row").sort("time")
    given = _given(feedback).filter(pl.col("video_id").is_not_null())
    may_lead_to_it = shown
    if watches is not None:
        may_lead_to_it = shown.join(_met_elsewhere(impressions, watches), on="row", how="anti")
    labels = {}
    for kind in kinds:
        mine = given.filter(pl.col("kind") == kind).with_row_index("said")
        named = mine.clear().with_columns(row=pl.lit(None, pl.UInt32))
        if "page_id" in columns:
            pages = shown.select(*keys, "page_id", "row", shown="time")
            near = pl.col("time").is_between(pl.col("shown") - _AHEAD_S, pl.col("shown") + WINDOW_S)
            named = mine.join(pages, on=[*keys, "page_id"]).filter(near)
        last = mine.join(named, on="said", how="anti").with_columns(pl.col("time") + _AHEAD_S)
        by_time = last.sort("time").join_asof(
            may_lead_to_it.select(*keys, "time", "row").sort("time"),
            on="time",
            by=keys,
            strategy="backward",
            tolerance=WINDOW_S + _AHEAD_S,
            check_sortedness=False,  # Both are; it cannot see it by group, and would say so.
        )
        rows = pl.concat([named["row"], by_time["row"]]).drop_nulls().unique()
        is_it = pl.Series("row", range(len(shown)), pl.UInt32).is_in(rows.implode())
        labels[label(kind)] = is_it.cast(pl.Float32).to_arrow()
    return labels


def _met_elsewhere(impressions: pa.Table, watches: pa.Table) -> pl.DataFrame:
    """Returns ``row`` of impressions without a click whose video was watched soon after them."""
    keys = ["user_id", "video_id"]
    shown = _frame(impressions.select([*keys, "time", "clicked"])).with_row_index("row")
    watched = _frame(watches.select([*keys, "time"])).sort("time").with_columns(watched="time")
    next_watch = (
        shown.filter(pl.col("clicked").not_())
        .sort("time")
        .join_asof(
            watched,
            on="time",
            by=keys,
            strategy="forward",
            tolerance=WINDOW_S,
            allow_exact_matches=False,  # Logs of plays alone have one time for both.
            check_sortedness=False,
        )
    )
    return next_watch.filter(pl.col("watched").is_not_null()).select("row")


def with_outcomes(
    impressions: pa.Table,
    feedback: pa.Table,
    kinds: Sequence[str],
    videos: pa.Table,
    *,
    watches: pa.Table | None = None,
) -> pa.Table:
    """Returns impressions as examples have them: with labels, and no click where it is regretted.

    Arguments are those of :func:`outcomes` and :func:`is_regretted`.
    """
    for name, values in outcomes(impressions, feedback, kinds, watches=watches).items():
        impressions = impressions.append_column(name, values)
    regretted = is_regretted(impressions, feedback, videos)
    for name, nothing in (("clicked", False), ("watch_time_s", 0.0)):
        kept = pc.if_else(regretted, nothing, impressions[name])
        place = impressions.column_names.index(name)
        impressions = impressions.set_column(place, name, kept)
    return impressions


def is_regretted(events: pa.Table, feedback: pa.Table, videos: pa.Table) -> pa.Array:
    """Says of watches or impressions whether a dislike or a hide tells that they were no good.

    What counts is what stood until :data:`WINDOW_S` after the event, of its video or channel.

    Args:
        events: ``user_id``, ``video_id``, ``time``; n.
        feedback: Rows of the table of that name, of the same users.
        videos: ``video_id`` and, where they have one, ``channel_id``.

    Returns:
        bool [n].
    """
    rows = _frame(events.select(["user_id", "video_id", "time"])).with_row_index("row")
    rows = rows.with_columns(pl.col("time") + WINDOW_S).sort("time")
    channels = [name for name in ("channel_id",) if name in videos.column_names]
    of_videos = _frame(videos.select(["video_id", *channels]))
    rows = rows.join(of_videos, on="video_id", how="left", maintain_order="left")
    said = _given(feedback, taken_back=True).filter(pl.col("kind").is_in(NEGATIVE))
    regretted = pl.Series("row", [], pl.UInt32)
    for kind in NEGATIVE:
        for key in ("video_id", *channels):
            of_kind = (pl.col("kind") == kind) & pl.col(key).is_not_null()
            of_kind &= pl.lit(True) if key == "video_id" else pl.col("video_id").is_null()
            last = rows.select("row", "user_id", key, "time").join_asof(
                said.filter(of_kind).select("user_id", key, "time", "value").sort("time"),
                on="time",
                by=["user_id", key],
                strategy="backward",
                check_sortedness=False,
            )
            stands = last.filter(pl.col("value").is_not_null() & (pl.col("value") != TAKEN_BACK))
            regretted = pl.concat([regretted, stands["row"]])
    row = pl.Series("row", range(events.num_rows), pl.UInt32)
    return row.is_in(regretted.unique().implode()).to_arrow()


def _given(feedback: pa.Table, *, taken_back: bool = False) -> pl.DataFrame:
    """Returns feedback with all its columns; ids that are empty are null, no value is 1."""
    frame = _frame(feedback)
    for name in ("video_id", "channel_id", "page_id", "value"):
        if name not in frame.columns:
            kind = pl.Float64() if name == "value" else pl.String()
            frame = frame.with_columns(pl.lit(None, kind).alias(name))
    ids = pl.col("video_id", "channel_id", "page_id")
    frame = frame.with_columns(
        pl.when(ids.str.strip_chars() != "").then(ids), pl.col("value").fill_null(1.0)
    )
    return frame if taken_back else frame.filter(pl.col("value") != TAKEN_BACK)


def _frame(table: pa.Table) -> pl.DataFrame:
    return pl.DataFrame(pl.from_arrow(table))
