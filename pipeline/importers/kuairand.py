"""KuaiRand (real logs of a short-video app) -> raw logs.

Reads the official CSV files of KuaiRand-Pure, -1K and -27K, and the same tables as Parquet:

======================================  ====================================================
log_standard_*, log_random_*            impressions and watches, one row each
user_features_*, video_features_basic_* users and videos
history_* (optional, Parquet)           per user, in order: videos watched before the log
kuairand_video_captions, _categories    of 2026 (optional): captions, four levels of categories
video_features_statistic_*              NEVER READ. It averages over the month that contains the
                                        log, so it holds the outcomes that are to be predicted.
======================================  ====================================================

What maps to what:

impressions
  every log row. ``time`` = ``time_ms`` // 1000: the one clock. ``date`` and ``hourmin`` run up to
  an hour ahead of it and are kept as ``log_date`` and ``log_hourmin``, for the record only.
  ``clicked`` = ``is_click``, whose meaning depends on the screen: a click where videos are offered
  as a grid, a "valid play" (to the end, or above 7 s) where they follow each other. It contradicts
  the watch time now and then (clicks without a play); both are taken as they are.
  ``watch_time_s`` = ``play_time_ms`` / 1000, which may exceed the duration (loops).
  ``surface`` = ``tab_<tab>``. No ``page_id``, ``position`` or ``device``: pages end at pauses, see
  :mod:`features.as_of.pages`.
  All other columns are kept; those that report what the user did (``is_like``, ``long_view``,
  ``profile_stay_time_ms``, ...) are outcomes, never features of the same row.
  Randomly exposed rows are kept, ``is_rand`` true. Exact copies of a row stay exact copies:
  preprocessing drops and counts them.
watches
  rows with ``play_time_ms`` above 0: a row that was not played is no watch.
  ``completed`` = ``long_view`` (to the end, or at least 18 s), ``source`` = ``tab_<tab>``.
feedback, where ``with_feedback`` asks for it
  one row for each of ``is_like``, ``is_hate`` (dislike), ``is_forward`` (share), ``is_follow`` and
  ``is_comment`` of a log row, on its video. The data gives no moment: it is the end of the play.
watches, from the history
  ``long_watch_seq``, in its order. The data gives no times: they are one minute apart and end one
  minute before the earlier of the user's ``last_time_ms`` and the first instant of the log, so
  that no split by time puts them after a log row (the clocks overlap by about an hour).
  ``completed`` true, ``watch_time_s`` a stand-in: 18 s, or the duration where that is less, the
  least that ``long_view`` means. ``source`` = ``history``: leave these out as labels.
  The other videos of ``watch_seq`` were shown, but whether they were played is not known: they
  become neither watches nor impressions. ``history_len`` becomes ``users.history_impressions``.
videos
  ``channel_id`` = ``author_id``, ``topics`` = ``tag``, ``duration_s`` (null where it is 0 or
  unknown), ``upload_time`` = ``upload_dt`` at 00:00 UTC+8; where that is unknown the first instant
  of the log stands in and ``upload_time_known`` is false. No language; no title without the
  additions of 2026: ``title`` = ``caption``, ``cover_text``, ``category_1`` to ``category_4``.
users
  all columns. -124 and "UNKNOWN" mean unknown and become null. No region, gender or age.

No searches. KuaiRand-Pure keeps only impressions of 7,583 videos, so sequences have gaps.

Source: Gao et al., CIKM 2022, https://kuairand.com (CC BY-SA 4.0).
"""

import dataclasses
import pathlib
from collections.abc import Sequence

import polars as pl

from features import command, feedback
from features.durations import HOUR_S
from features.tables import logs
from features.tables.time_windows import Window
from pipeline.importers import kuairand_content, kuairand_files, source_files

LONG_VIEW_S = 18.0  # What long_view asks of a video that is not shorter.
HISTORY_STEP_S = 60
HISTORY = "history"  # Source of the watches at artificial times.

_UNKNOWN_CODE = -124
_UNKNOWN_NAME = "UNKNOWN"
_CHINA_OFFSET_S = 8 * HOUR_S
_FEEDBACK = {
    feedback.LIKE: "is_like",
    feedback.DISLIKE: "is_hate",
    feedback.SHARE: "is_forward",
    feedback.FOLLOW: "is_follow",
    feedback.COMMENT: "is_comment",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class KuaiRandConfig(Window):
    """How to read KuaiRand.

    Attributes:
        with_feedback: Whether likes, dislikes, shares, follows and comments become the feedback
            table: features and further objectives.
    """

    with_feedback: bool = False


def import_logs(source: pathlib.Path, writer: logs.LogWriter, config: KuaiRandConfig) -> list[str]:
    """Reads the data set and writes all its tables."""
    files = kuairand_files.find_files(source)
    has_history = bool(files["history"])
    first_s, num_unplayed = _import_log(files["log"], writer, config)
    notes = [f"{num_unplayed:,} impressions were not played, so they are not watches"]
    durations = []
    content = kuairand_content.read(files)
    for rows in source_files.frames(files["videos"], kuairand_files.VIDEOS):
        batch = videos(rows, first_s=first_s)
        if content is not None:
            batch = batch.join(content, "video_id", "left", maintain_order="left")
        writer.write("videos", batch.to_arrow())
        durations.append(batch.select("video_id", "duration_s") if has_history else batch.clear())
    profiles = users(pl.concat(source_files.frames(files["users"], kuairand_files.USERS)))
    if has_history:
        history = pl.concat(source_files.frames(files["history"], kuairand_files.HISTORY))
        watches = history_watches(history, pl.concat(durations), first_s=first_s)
        watches = config.kept(watches)
        writer.write("watches", watches.to_arrow())
        notes.append(
            f"{watches.height:,} watches are from before the log: right order, artificial times, "
            f"source={HISTORY}"
        )
        profiles = _with_history_length(profiles, history)
    writer.write("users", profiles.to_arrow())
    has = {"has_history": has_history, "has_categories": bool(files["categories"])}
    writer.write_features(kuairand_files.declarations(**has))
    titles = "" if files["captions"] else " titles,"
    return [*notes, f"the data has no searches,{titles} languages, regions or devices"]


def impressions(rows: pl.DataFrame) -> pl.DataFrame:
    """Returns the impressions of log rows, in their order."""
    return rows.select(
        *(pl.col(name).cast(pl.String) for name in ("user_id", "video_id")),
        time=pl.col("time_ms") // 1000,
        clicked=pl.col("is_click"),
        watch_time_s=pl.col("play_time_ms") / 1000,
        surface=_surface(),
        time_ms=pl.col("time_ms"),
        duration_ms=pl.col("duration_ms"),
        profile_stay_time_ms=pl.col("profile_stay_time"),
        comment_stay_time_ms=pl.col("comment_stay_time"),
        # Without these two, 355 rows more of KuaiRand-Pure would look like copies.
        log_date=pl.col("date"),
        log_hourmin=pl.col("hourmin"),
        **{name: pl.col(name) != 0 for name in kuairand_files.LOG_FLAGS},
    )


def watches(rows: pl.DataFrame) -> pl.DataFrame:
    """Returns the watches of log rows, in their order: those with a play time above 0."""
    return rows.filter(pl.col("play_time_ms") > 0).select(
        *(pl.col(name).cast(pl.String) for name in ("user_id", "video_id")),
        time=pl.col("time_ms") // 1000,
        watch_time_s=pl.col("play_time_ms") / 1000,
        completed=pl.col("long_view") != 0,
        source=_surface(),
        is_rand=pl.col("is_rand") != 0,
    )


def feedback_of(rows: pl.DataFrame) -> pl.DataFrame:
    """Returns what was said of log rows, kind by kind in the order of ``feedback.KINDS``."""
    end = pl.col("time_ms") + pl.max_horizontal(pl.col("play_time_ms"), pl.lit(0))
    parts = [
        rows.filter(pl.col(flag) != 0).select(
            *(pl.col(name).cast(pl.String) for name in ("user_id", "video_id")),
            time=end // 1000,
            kind=pl.lit(kind),
        )
        for kind, flag in _FEEDBACK.items()
    ]
    return pl.concat(parts)


def history_watches(
    history: pl.DataFrame, durations: pl.DataFrame, *, first_s: int
) -> pl.DataFrame:
    """Returns the watches before the log, at artificial times that keep their order.

    Args:
        history: Columns of ``kuairand_files.HISTORY``, one row per user.
        durations: Columns video_id (string) and duration_s.
        first_s: First instant of the log, Unix seconds. All times are before it.
    """
    length = pl.col("long_watch_seq").list.len().cast(pl.Int64)
    end_s = pl.min_horizontal(pl.col("last_time_ms") // 1000, pl.lit(first_s))
    return (
        history.filter(length > 0)
        .select(
            pl.col("user_id").cast(pl.String),
            video_id=pl.col("long_watch_seq"),
            time=end_s - HISTORY_STEP_S * length,
            step=pl.int_ranges(0, length),
        )
        .explode("video_id", "step")
        .with_columns(pl.col("video_id").cast(pl.String))
        .join(durations, on="video_id", how="left", maintain_order="left")
        .select(
            "user_id",
            "video_id",
            time=pl.col("time") + HISTORY_STEP_S * pl.col("step"),
            watch_time_s=pl.min_horizontal(pl.col("duration_s"), pl.lit(LONG_VIEW_S)),
            completed=pl.lit(value=True),
            source=pl.lit(HISTORY),
            is_rand=pl.lit(value=False),
        )
    )


def videos(rows: pl.DataFrame, *, first_s: int) -> pl.DataFrame:
    """Returns the videos table.

    Args:
        rows: Columns of ``kuairand_files.VIDEOS``.
        first_s: First instant of the log, Unix seconds; stands in for an unknown upload time.
    """
    day = pl.col("upload_dt").str.to_date("%Y-%m-%d", strict=False)
    unreadable = rows.filter(day.is_null() & pl.col("upload_dt").is_not_null())
    if unreadable.height:
        raise command.InputError(
            f"video_features_basic: upload_dt must be YYYY-MM-DD, got "
            f"{unreadable['upload_dt'][0]!r} for video {unreadable['video_id'][0]}."
        )
    upload_time = day.cast(pl.Datetime("ms")).dt.epoch("s") - _CHINA_OFFSET_S
    duration_ms = pl.when(pl.col("video_duration") > 0).then("video_duration")
    codes = {name: _code(name) for name in kuairand_files.VIDEO_CODES}
    return rows.select(
        pl.col("video_id").cast(pl.String),
        upload_time=upload_time.fill_null(first_s),
        upload_time_known=upload_time.is_not_null(),
        channel_id=codes.pop("author_id"),
        topics=_name("tag").str.replace_all(" ", "").str.split(","),
        duration_s=duration_ms / 1000,
        **codes,
        **{name: _name(name) for name in kuairand_files.VIDEO_NAMES},
        **{name: _known(name) for name in kuairand_files.VIDEO_SIZES},
    )


def users(rows: pl.DataFrame) -> pl.DataFrame:
    """Returns the users table from the columns of ``kuairand_files.USERS``."""
    flags = {
        name: pl.when((pl.col(name) == 0) | (pl.col(name) == 1)).then(pl.col(name) == 1)
        for name in kuairand_files.USER_FLAGS
    }
    return rows.select(
        pl.col("user_id").cast(pl.String),
        **{name: _name(name) for name in kuairand_files.USER_NAMES},
        **flags,
        **{name: _known(name) for name in kuairand_files.USER_COUNTS},
        **{name: _code(name) for name in kuairand_files.USER_CODES},
    )


def _with_history_length(profiles: pl.DataFrame, history: pl.DataFrame) -> pl.DataFrame:
    lengths = history.select(
        pl.col("user_id").cast(pl.String), history_impressions=pl.col("history_len")
    )
    # A user without a row in the history was shown nothing before the log.
    return profiles.join(lengths, on="user_id", how="left", maintain_order="left").with_columns(
        pl.col("history_impressions").fill_null(0)
    )


def _surface() -> pl.Expr:
    return pl.concat_str(pl.lit("tab_"), pl.col("tab"))


def _name(column: str) -> pl.Expr:
    return pl.when(pl.col(column) != _UNKNOWN_NAME).then(column)


def _known(column: str) -> pl.Expr:
    return pl.when(pl.col(column) != _UNKNOWN_CODE).then(column)


def _code(column: str) -> pl.Expr:
    return _known(column).cast(pl.Int64).cast(pl.String)


def _import_log(
    paths: Sequence[pathlib.Path], writer: logs.LogWriter, config: KuaiRandConfig
) -> tuple[int, int]:
    """Writes impressions and watches; returns the first instant and the rows not played."""
    first_ms: list[int] = []
    num_unplayed = 0
    for rows in source_files.frames(paths, kuairand_files.LOG):
        first_ms.extend(rows.select(pl.col("time_ms").min()).to_series().drop_nulls())
        shown = config.kept(impressions(rows))
        played = config.kept(watches(rows))
        num_unplayed += shown.height - played.height
        writer.write("impressions", shown.to_arrow())
        writer.write("watches", played.to_arrow())
        if config.with_feedback:
            writer.write("feedback", config.kept(feedback_of(rows)).to_arrow())
    if not first_ms:
        raise command.InputError(f"{paths[0]} has no row with a time_ms. Unpack it again.")
    return min(first_ms) // 1000, num_unplayed
