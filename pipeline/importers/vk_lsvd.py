"""VK-LSVD (short videos of a social network, half a year) -> raw logs.

Reads the official layout, the whole or a subsample: ``train/week_00.parquet`` to ``week_24``,
``validation/week_25.parquet``, ``test/week_26.parquet`` (below ``interactions`` or
``subsamples/ur0.01_ir0.01`` or such), and ``metadata/{users_metadata,items_metadata}.parquet`` and
``item_embeddings.npz`` beside or above.

THERE IS NO CLOCK. A week's file has its rows in the order of time, and that is all that is known;
so times are made: the start of the week plus the share of its rows that came before. Order within
a week, and weeks, are right; hours, weekdays, pauses, pages and durations between events are not.

What maps to what:

impressions
  every row; a feed shows one video at a time, so there is no page and no position. ``surface`` =
  ``place_<place>``, ``device`` = ``platform_<platform>``, ``agent`` is kept. ``watch_time_s`` =
  ``timespent``, seconds, capped at 255 by the data set. ``clicked``: liked, shared or bookmarked,
  or at least 80 % of the duration watched, the target under which figures are published.
watches
  rows with a ``timespent`` above 0; ``completed`` = that target.
feedback
  ``like``, ``dislike``, ``share``, when the watch ended.
videos
  ``channel_id`` = ``author_id``, ``duration_s``; ``upload_time`` is a stand-in, the video's first
  row: example age is the time since a video was first shown. ``content_vector``: 64 numbers.
users
  ``age``, ``gender``, ``region`` = ``geo`` (codes).

Refused: ``train_interactions_rank`` of both metadata files, which counts what happened in all the
weeks of training, the outcomes that examples of these weeks predict. ``bookmark``,
``click_on_author`` and ``open_comments`` are outcomes too; the first is part of the target.

Missing: titles, topics, searches, languages. A pair of a user and a video comes once.

Source: deepvk/VK-LSVD, arXiv 2602.04567 (Apache-2.0).
"""

import pathlib
import re
import zipfile
from collections.abc import Iterator, Mapping

import numpy as np
import polars as pl
import pyarrow as pa

from features import command
from features import vectors as features_vectors
from features.durations import DAY_S
from features.tables import logs
from features.tables.time_windows import Window
from pipeline.importers import source_files
from pipeline.importers.source_files import text

WEEK_S = 7 * DAY_S
FIRST_WEEK_S = 1_735_689_600  # 2025-01-01; the data set says January to June of 2025.
WATCHED_SHARE = 0.8
VECTOR_WIDTH = 64
_I, _B = pa.int64(), pa.bool_()
ROWS: Mapping[str, pa.DataType] = {
    **dict.fromkeys(("user_id", "item_id", "place", "platform", "agent", "timespent"), _I),
    **dict.fromkeys(("like", "dislike", "share", "bookmark"), _B),
}
ITEMS: Mapping[str, pa.DataType] = dict.fromkeys(("item_id", "author_id", "duration"), _I)
USERS: Mapping[str, pa.DataType] = dict.fromkeys(("user_id", "age", "gender", "geo"), _I)
_WEEK = re.compile(r"week_(\d\d)\.parquet")
_FEEDBACK = ("like", "dislike", "share")


def import_logs(source: pathlib.Path, writer: logs.LogWriter, config: Window) -> list[str]:
    """Reads the data set and writes all its tables, a piece of a week at a time."""
    weeks, metadata = find(source)
    items = pl.concat(source_files.frames([metadata / "items_metadata.parquet"], ITEMS))
    durations = items.select("item_id", "duration")
    first = pl.DataFrame(schema={"item_id": pl.Int64, "upload_time": pl.Int64})
    users = pl.DataFrame(schema={"user_id": pl.Int64})
    for number, path in weeks.items():
        for rows in _timed(path, number):
            seen = rows.group_by("item_id").agg(upload_time=pl.col("time").min())
            first = pl.concat([first, seen]).group_by("item_id").agg(pl.col("upload_time").min())
            kept = config.kept(rows)
            users = pl.concat([users, kept.select("user_id")]).unique()
            shown = impressions(kept.join(durations, "item_id", "left", maintain_order="left"))
            writer.write("impressions", shown.to_arrow())
            writer.write(
                "watches", source_files.watches(shown, source=pl.col("surface")).to_arrow()
            )
            writer.write("feedback", feedback(kept).to_arrow())
    vectors, has_vectors = _vectors(metadata / "item_embeddings.npz", first["item_id"])
    writer.write("videos", videos(items, first, vectors).to_arrow())
    profiles = pl.concat(source_files.frames([metadata / "users_metadata.parquet"], USERS))
    profiles = profiles.join(users, "user_id", "semi", maintain_order="left")
    writer.write("users", user_table(profiles).to_arrow())
    writer.write_features(
        features_vectors.declarations_of("content_vector", VECTOR_WIDTH) if has_vectors else []
    )
    return [
        "THERE IS NO CLOCK: times are made of the week and the order of rows in it, so hours, "
        f"weekdays and pauses mean nothing; week 0 is put at {command.format_time(FIRST_WEEK_S)}",
        f"weeks read: {', '.join(str(number) for number in weeks)}",
        "upload_time is a video's first row, so example age is the time since it was first shown",
        "watch times end at 255 s; clicked and completed are like, share, bookmark or at least "
        f"{WATCHED_SHARE:.0%} of the duration",
        "train_interactions_rank is refused: it counts outcomes of all weeks of training",
        "content_vector holds the data set's vectors"
        if has_vectors
        else "there is no item_embeddings.npz, so videos have no content_vector",
        "the data has no titles, topics, searches or languages",
    ]


def find(source: pathlib.Path) -> tuple[dict[int, pathlib.Path], pathlib.Path]:
    """Returns the files by number of the week, ascending, and the directory of the metadata.

    Raises:
        InputError: There are none of the one or no directory of the other.
    """
    source_files.require_directory(source, expected="VK-LSVD's train/week_00.parquet and so on")
    for root in (source, source / "interactions"):
        files = sorted(root.glob("*/week_??.parquet"))
        weeks = {int(match[1]): path for path in files if (match := _WEEK.fullmatch(path.name))}
        if weeks:
            break
    else:
        raise command.InputError(
            f"{source} lacks train/week_00.parquet, as in the original download. Give the "
            "directory of the whole, or of one subsample. " + source_files.told(source)
        )
    for above in (root, *list(root.resolve().parents)[:3]):
        if (above / "metadata" / "items_metadata.parquet").is_file():
            return dict(sorted(weeks.items())), above / "metadata"
    raise command.InputError(
        f"{source} has no metadata/items_metadata.parquet, nor has one of the three directories "
        "above. Download metadata/ too."
    )


def impressions(rows: pl.DataFrame) -> pl.DataFrame:
    """Returns the impressions of rows with their time and the duration of the video."""
    is_watched = pl.col("timespent") >= WATCHED_SHARE * pl.col("duration")
    is_target = pl.col("like") | pl.col("share") | pl.col("bookmark") | is_watched.fill_null(False)
    return rows.select(
        user_id=text("user_id"),
        video_id=text("item_id"),
        time=pl.col("time"),
        clicked=is_target,
        watch_time_s=pl.col("timespent").cast(pl.Float64),
        surface=pl.concat_str(pl.lit("place_"), "place"),
        device=pl.concat_str(pl.lit("platform_"), "platform"),
        agent=text("agent"),
    )


def feedback(rows: pl.DataFrame) -> pl.DataFrame:
    """Returns what users said, when their watch ended."""
    return pl.concat(
        [
            rows.filter(pl.col(kind)).select(
                user_id=text("user_id"),
                video_id=text("item_id"),
                time=pl.col("time") + pl.col("timespent"),
                kind=pl.lit(kind),
            )
            for kind in _FEEDBACK
        ]
    )


def videos(items: pl.DataFrame, first: pl.DataFrame, vectors: pl.DataFrame) -> pl.DataFrame:
    """Returns the videos that have a row: metadata, first times and content vectors by item_id."""
    joined = first.sort("upload_time", "item_id").join(items, "item_id", "left")
    return joined.join(vectors, "item_id", "left", maintain_order="left").select(
        video_id=text("item_id"),
        upload_time=pl.col("upload_time"),
        channel_id=text("author_id"),
        duration_s=pl.when(pl.col("duration") > 0).then("duration").cast(pl.Float64),
        **({"content_vector": pl.col("embedding")} if "embedding" in vectors.columns else {}),
    )


def user_table(rows: pl.DataFrame) -> pl.DataFrame:
    """Returns the users of columns of ``USERS``."""
    return rows.select(
        user_id=text("user_id"),
        region=text("geo"),
        gender=text("gender"),
        age=pl.col("age").cast(pl.Float64),
    )


def _vectors(path: pathlib.Path, item_ids: pl.Series) -> tuple[pl.DataFrame, bool]:
    """Returns the content vectors of some items, and whether there are any."""
    if not path.is_file():
        return pl.DataFrame({"item_id": item_ids}), False
    try:
        # NumPy leaves a file open that is no archive, so it is not its to open.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            ids, embedding = arrays["item_id"], arrays["embedding"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise command.InputError(
            f"{path} cannot be read: {error}. It should hold item_id [n] and embedding "
            f"[n, {VECTOR_WIDTH}]; download it again."
        ) from None
    if ids.ndim != 1 or embedding.ndim != 2 or len(ids) != len(embedding):
        raise command.InputError(
            f"{path} should hold item_id [n] and embedding [n, {VECTOR_WIDTH}], has "
            f"{list(ids.shape)} and {list(embedding.shape)}."
        )
    keep = np.isin(ids, item_ids.to_numpy())
    kept = embedding[keep].astype(np.float32)
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(kept.ravel()), kept.shape[1])
    lists = pl.Series("embedding", pl.from_arrow(vectors.cast(pa.list_(pa.float32()))))
    return pl.DataFrame({"item_id": ids[keep].astype(np.int64)}).with_columns(lists), True


def _timed(path: pathlib.Path, week: int) -> Iterator[pl.DataFrame]:
    """Yields the rows of a week with the time that their place in it gives."""
    total, before = source_files.num_rows(path), 0
    for rows in source_files.frames([path], ROWS):
        place = pl.int_range(before, before + rows.height, dtype=pl.Int64)
        begin = FIRST_WEEK_S + week * WEEK_S
        yield rows.with_columns(time=begin + place * WEEK_S // total)
        before += rows.height
