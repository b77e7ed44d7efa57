"""RecFlow (all stages of the funnel of a short-video app) -> raw logs.

Reads the official layout: ``realshow/YYYY-MM-DD.feather``, one row per video shown, and with
``stages`` also ``all_stage/YYYY-MM-DD.feather``, one row per video that any stage of the funnel
looked at (1.9 billion). Pickles (``*_dict/*.pkl``) are never opened: a pickle runs code.

What maps to what:

impressions
  every row of realshow. ``time`` = ``request_timestamp`` // 1000, ``page_id`` = ``request_id``,
  ``position`` = ``rerank_index``, ``device`` = ``device_id``. ``clicked`` = ``effective_view``:
  at least 30 % watched, or what the app holds for that. ``watch_time_s`` = ``playing_time``, whose
  unit the data set does not state: it is found from ``effective_view`` and ``long_view`` (30 % and
  100 % of ``duration``, which is in milliseconds), and said.
watches
  rows with a playing time above 0, at the request; ``completed`` = ``effective_view``, the data
  set's own positive.
feedback
  ``like``, ``follow``, ``comment`` and ``forward`` (as share), when the watch ended.
videos
  ``channel_id`` = ``author_id``, ``topics`` = both categories (``c1_<code>``, ``c2_<code>``),
  ``upload_time`` = ``upload_timestamp``, ``duration_s``, ``upload_type``: of the last row of each.
users
  ``age``, ``gender``, ``province`` (as region): codes, of the last row of each.
nominations (with ``stages``)
  what candidate generation nominated and nobody saw: rows of all_stage with ``realshow`` 0, with
  page, the furthest stage that they came to, and their places. It is kept beside the tables for
  those who study the funnel; nothing here learns from it but the catalogue, whose videos they
  are.

Refused as features: ``effective_view``, ``long_view``, ``playing_time`` and the feedback of the
same row, which are what is to be predicted, and the stage flags, which tell that a row was shown.

Missing: titles, searches, languages, signed-in state. Users and videos are a sample; ids are codes.

Source: Liu et al., ICLR 2025, arXiv 2410.20868 (CC BY-SA 4.0).
"""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Annotated, Any

import polars as pl
import pyarrow as pa

from features import command
from features.config import OneOf
from features.tables import logs
from features.tables.time_windows import Window
from pipeline.importers import source_files
from pipeline.importers.source_files import text

# Milliseconds of one unit of playing_time.
UNITS = {"ms": 1.0, "s": 1000.0}
EFFECTIVE_SHARE, LONG_SHARE = 0.3, 1.0
_LEAST_AGREEMENT = 0.75
_FEEDBACK = {"like": "like", "follow": "follow", "comment": "comment", "forward": "share"}
# From the first stage to the last; the furthest one names a row.
_STAGES = ("prerank_neg", "coarse_neg", "rank_neg", "rank_pos", "rerank_neg", "rerank_pos")
_I = pa.int64()
_VIDEO = (
    *("video_id", "author_id", "category_level_one", "category_level_two", "upload_type"),
    *("upload_timestamp", "duration"),
)
_USER = ("user_id", "age", "gender", "province")
_REQUEST = ("request_id", "request_timestamp", "device_id")
SHOWN = dict.fromkeys(
    (
        *(*_REQUEST, *_USER, *_VIDEO, "rerank_index", "playing_time"),
        *("effective_view", "long_view", *_FEEDBACK),
    ),
    _I,
)
STAGES = dict.fromkeys(
    (*_REQUEST, "user_id", *_VIDEO, "realshow", *_STAGES, "rank_index", "rerank_index"), _I
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RecFlowConfig(Window):
    """How to read RecFlow.

    Attributes:
        stages: Whether to read all_stage too, what was nominated and not shown.
        playing_time_unit: Unit of ``playing_time``. Default: it is told by the data.
    """

    stages: bool = False
    playing_time_unit: Annotated[str | None, OneOf(*UNITS)] = None


def import_logs(source: pathlib.Path, writer: logs.LogWriter, config: RecFlowConfig) -> list[str]:
    """Reads the data set and writes all its tables, a day of it at a time.

    Raises:
        InputError: The unit of the playing time cannot be told, besides.
    """
    root = _find(source)
    unit = config.playing_time_unit
    notes, videos, users = [], _Newest("video_id"), _Newest("user_id")
    for path in _days(root / "realshow"):
        for rows in source_files.frames([path], SHOWN):
            if unit is None:
                unit, agreement = playing_time_unit(rows)
                notes.append(
                    f"playing_time is taken as {unit}: with that, effective_view and long_view "
                    f"are {EFFECTIVE_SHARE:.0%} and {LONG_SHARE:.0%} of the duration in "
                    f"{agreement:.1%} of the rows of {path.name}"
                )
            videos.add(rows.select(_VIDEO))
            users.add(rows.select(_USER))
            kept = config.kept(rows, "request_timestamp", per_s=1000)
            shown = impressions(kept, unit=unit)
            writer.write("impressions", shown.to_arrow())
            writer.write("watches", source_files.watches(shown, source=pl.lit("feed")).to_arrow())
            writer.write("feedback", feedback(kept, shown).to_arrow())
    if config.stages:
        notes.append(_import_stages(root / "all_stage", writer, config, videos))
    writer.write("videos", video_table(videos.rows()).to_arrow())
    writer.write("users", user_table(users.rows()).to_arrow())
    writer.write_features(declarations())
    return [
        *notes,
        "clicked and completed are effective_view, the data set's own positive",
        "outcomes of a row (views, playing time, likes) and its stage are no columns of it",
        "the data has no titles, searches or languages; categories, regions and ages are codes",
    ]


def playing_time_unit(rows: pl.DataFrame) -> tuple[str, float]:
    """Returns the unit of ``playing_time`` and the share of rows that agree with it.

    Args:
        rows: Columns playing_time, duration (ms), effective_view and long_view.

    Raises:
        InputError: No unit agrees with enough rows.
    """
    usable = rows.filter((pl.col("duration") > 0) & (pl.col("playing_time") > 0))
    agreement = {}
    for unit, ms in UNITS.items():
        share = pl.col("playing_time") * ms / pl.col("duration")
        agrees = pl.concat_list(
            (share >= EFFECTIVE_SHARE) == (pl.col("effective_view") != 0),
            (share >= LONG_SHARE) == (pl.col("long_view") != 0),
        )
        agreeing = usable.select(agrees.list.mean().mean()).item()
        agreement[unit] = 0.0 if agreeing is None else float(agreeing)
    best = max(agreement, key=lambda unit: agreement[unit])
    if agreement[best] < _LEAST_AGREEMENT:
        told = ", ".join(f"{unit} {share:.1%}" for unit, share in agreement.items())
        raise command.InputError(
            "the unit of playing_time cannot be told: rows that agree with effective_view and "
            f"long_view are {told}. Give --playing_time_unit=ms or s."
        )
    return best, agreement[best]


def impressions(rows: pl.DataFrame, *, unit: str) -> pl.DataFrame:
    """Returns the impressions of rows of realshow, in their order."""
    return rows.select(
        user_id=text("user_id"),
        video_id=text("video_id"),
        time=pl.col("request_timestamp") // 1000,
        clicked=pl.col("effective_view") != 0,
        watch_time_s=pl.col("playing_time") * UNITS[unit] / 1000,
        page_id=text("request_id"),
        position=pl.col("rerank_index"),
        device=text("device_id"),
    )


def feedback(rows: pl.DataFrame, shown: pl.DataFrame) -> pl.DataFrame:
    """Returns what users said, when their watch ended: rows of realshow and their impressions."""
    ended = pl.col("time") + pl.col("watch_time_s").ceil().cast(pl.Int64)
    said = shown.select(*("user_id", "video_id", "page_id"), time=ended)
    said = pl.concat([said, rows.select(*_FEEDBACK)], how="horizontal")
    return pl.concat(
        [
            said.filter(pl.col(column) != 0).select(
                *("user_id", "video_id", "time", "page_id"), kind=pl.lit(kind)
            )
            for column, kind in _FEEDBACK.items()
        ]
    )


def nominations(rows: pl.DataFrame) -> pl.DataFrame:
    """Returns what was nominated and not shown: rows of all_stage, in their order."""
    furthest = pl.coalesce(
        *(pl.when(pl.col(stage) != 0).then(pl.lit(stage)) for stage in reversed(_STAGES))
    )
    return rows.filter(pl.col("realshow") == 0).select(
        user_id=text("user_id"),
        video_id=text("video_id"),
        time=pl.col("request_timestamp") // 1000,
        page_id=text("request_id"),
        stage=furthest,
        rank_index=pl.col("rank_index"),
        rerank_index=pl.col("rerank_index"),
    )


def video_table(rows: pl.DataFrame) -> pl.DataFrame:
    """Returns the videos of columns of ``SHOWN``."""
    duration = pl.when(pl.col("duration") > 0).then("duration")
    return rows.select(
        video_id=text("video_id"),
        upload_time=pl.col("upload_timestamp"),
        channel_id=text("author_id"),
        topics=pl.concat_list(
            pl.concat_str(pl.lit("c1_"), "category_level_one"),
            pl.concat_str(pl.lit("c2_"), "category_level_two"),
        ),
        duration_s=duration / 1000,
        upload_type=text("upload_type"),
    )


def user_table(rows: pl.DataFrame) -> pl.DataFrame:
    """Returns the users of columns of ``SHOWN``."""
    return rows.select(
        user_id=text("user_id"),
        region=text("province"),
        gender=text("gender"),
        age_group=text("age"),
    )


def declarations() -> list[dict[str, Any]]:
    """Returns the extra features of this data set, as ``features.json`` holds them."""
    both = ["candidate", "ranker"]
    return [
        {
            "name": name,
            "kind": "univalent",
            "side": side,
            "models": both,
            "source": f"{table}.{name}",
        }
        for table, side, name in (
            ("videos", "candidate", "upload_type"),
            ("users", "query", "age_group"),
        )
    ]


class _Newest:
    """The last row of each id; ids are few beside rows."""

    def __init__(self, key: str) -> None:
        self._key = key
        self._parts: list[pl.DataFrame] = []

    def add(self, rows: pl.DataFrame) -> None:
        self._parts.append(rows.unique(self._key, keep="last", maintain_order=True))
        if len(self._parts) > 16:
            self._parts = [self.rows()]

    def rows(self) -> pl.DataFrame:
        return pl.concat(self._parts).unique(self._key, keep="last", maintain_order=True)


def _import_stages(
    directory: pathlib.Path, writer: logs.LogWriter, config: RecFlowConfig, videos: _Newest
) -> str:
    count = 0
    for path in _days(directory):
        for rows in source_files.frames([path], STAGES):
            videos.add(rows.select(_VIDEO))
            unshown = nominations(config.kept(rows, "request_timestamp", per_s=1000))
            count += unshown.height
            writer.write_beside("nominations", unshown.to_arrow())
    return f"{count:,} videos were nominated and not shown: they are in nominations, beside the log"


def _find(source: pathlib.Path) -> pathlib.Path:
    source_files.require_directory(source, expected="RecFlow's realshow/*.feather")
    directories = [d for d in (source, *sorted(source.glob("*/"))) if (d / "realshow").is_dir()]
    if not directories:
        raise command.InputError(
            f"{source} lacks realshow/YYYY-MM-DD.feather, as in the original download. "
            + source_files.told(source)
        )
    return directories[0]


def _days(directory: pathlib.Path) -> Sequence[pathlib.Path]:
    days = sorted(directory.glob("????-??-??.feather"))
    if not days:
        raise command.InputError(f"{directory} has no YYYY-MM-DD.feather. Download it again.")
    return days
