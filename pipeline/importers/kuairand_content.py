"""KuaiRand's additions of 2026: captions and four levels of categories of its videos."""

import pathlib
from collections.abc import Mapping, Sequence

import polars as pl
import pyarrow as pa

from pipeline.importers import kuairand_files, source_files

_UNKNOWN = "UNKNOWN"


def read(files: Mapping[str, Sequence[pathlib.Path]]) -> pl.DataFrame | None:
    """Returns captions and categories of the videos that there are, by video_id; None for none."""
    if not files["captions"] and not files["categories"]:
        return None
    ids = pl.concat(source_files.frames(files["videos"], {"video_id": pa.int64()}))
    content = ids.select(video_id=pl.col("video_id").cast(pl.String)).unique()
    levels = zip(kuairand_files.CATEGORY_COLUMNS, kuairand_files.LEVELS, strict=True)
    columns = {
        "captions": {"title": _name("caption"), "cover_text": _name("show_cover_text")},
        "categories": {ours: _name(f"{level}_level_category_name") for ours, level in levels},
    }
    types = {"captions": kuairand_files.CAPTIONS, "categories": kuairand_files.CATEGORIES}
    for role, named in columns.items():
        if not files[role]:
            continue
        parts = [
            rows.join(ids, left_on="final_video_id", right_on="video_id", how="semi")
            for rows in source_files.frames(files[role], types[role])
        ]
        key = pl.col("final_video_id").cast(pl.String)
        wanted = pl.concat(parts).select(video_id=key, **named).unique("video_id", keep="last")
        content = content.join(wanted, "video_id", "left")
    return content


def _name(column: str) -> pl.Expr:
    return pl.when(pl.col(column) != _UNKNOWN).then(column)
