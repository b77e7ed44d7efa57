"""MovieLens (ratings of films) -> raw logs, as far as ratings go.

Reads two layouts: ``ratings.dat``, ``movies.dat``, ``users.dat`` with ``::`` between the fields
(1M; also 10M, which has no users.dat), and ``ratings.csv``, ``movies.csv`` (20M, 25M, 32M, latest).

What maps to what:

watches
  one per rating, at the time of the rating. That is when the film was rated, not when it was
  watched: many users rate dozens of films within minutes. ``completed`` = rating of at least
  ``completed_rating``; ``rating`` is kept. ``watch_time_s`` is a stand-in, the same 90 minutes for
  every watch, since the data has none: it says nothing, and nothing can be learned from it.
videos
  ``title`` as it is; ``release_year`` from its end; ``topics`` = genres. ``upload_time`` is a
  stand-in: the first rating of the film; the first rating of any film, where it has none.
  No channel, language or duration.
users
  1M: ``gender``; ``age``, the code, which is the lower end of the bracket (1 is under 18);
  ``occupation`` (code); ``zip_code``, and ``region`` = ``us_<d>`` with its first digit, one of ten
  areas of the United States. Other editions: the ids of all who rated.

Missing altogether: impressions, so no ranker can be trained; searches. Tags, links and genome
scores are not read.

Source: Harper and Konstan, TiiS 2015, https://grouplens.org/datasets/movielens.
"""

import dataclasses
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import polars as pl
import pyarrow as pa
from absl import logging

from features import command
from features.tables import logs
from pipeline.importers import source_files

DEFAULT_COMPLETED_RATING = 4.0
STAND_IN_WATCH_TIME_S = 5400.0

_ROWS_PER_WRITE = 1_000_000
_RATINGS = {
    "userId": pa.int32(),
    "movieId": pa.int32(),
    "rating": pa.float32(),
    "timestamp": pa.int64(),
}
_MOVIES = {"movieId": pa.int32(), "title": pa.string(), "genres": pa.string()}
_USERS = {
    "userId": pa.int32(),
    "gender": pa.string(),
    "age": pa.float64(),
    "occupation": pa.string(),
    "zip_code": pa.string(),
}
_NO_GENRES = "(no genres listed)"


@dataclasses.dataclass(frozen=True, kw_only=True)
class MovieLensConfig:
    """How to read MovieLens.

    Attributes:
        completed_rating: A rating of at least this is a completed watch. Stars.
        from_s: First moment of the events that are kept, Unix seconds; None for no bound.
        until_s: End of the events that are kept, exclusive, Unix seconds; None for no bound.
    """

    completed_rating: float = DEFAULT_COMPLETED_RATING
    from_s: int | None = None
    until_s: int | None = None


def import_logs(source: pathlib.Path, writer: logs.LogWriter, config: MovieLensConfig) -> list[str]:
    """Reads the data set and writes users, videos and watches.

    Args:
        source: Directory with the files, or one above it.
        writer: Writer of the tables and the feature declarations.
        config: Choices of how to read.

    Returns:
        Notes that a user of the logs should know, one clause each.

    Raises:
        InputError: A file is missing, damaged, or not what it should be.
    """
    directory = _find(source)
    ratings = pl.concat(_read(directory, "ratings", _RATINGS)).sort(
        "timestamp", "userId", "movieId", maintain_order=True
    )
    writer.write(
        "videos", videos(pl.concat(_read(directory, "movies", _MOVIES)), ratings).to_arrow()
    )
    has_profiles = (directory / "users.dat").is_file()
    if has_profiles:
        writer.write("users", users(pl.concat(_read(directory, "users", _USERS))).to_arrow())
    else:
        ids = ratings.select(pl.col("userId").unique().sort())
        writer.write("users", ids.select(user_id=pl.col("userId").cast(pl.String)).to_arrow())
    for rows in _in_window(ratings, config).iter_slices(_ROWS_PER_WRITE):
        writer.write("watches", watches(rows, completed_rating=config.completed_rating).to_arrow())
    writer.write_features(declarations(has_profiles=has_profiles))
    logging.warning(
        "MovieLens has no impressions: candidate generation can be trained on these logs, a ranker "
        "cannot. The funnel will order by retrieval score."
    )
    return [
        "MovieLens has NO IMPRESSIONS, so no ranker can be trained on it",
        f"watch times are a stand-in ({STAND_IN_WATCH_TIME_S:.0f} s each), and watches lie at the "
        "time of the rating",
    ]


def watches(ratings: pl.DataFrame, *, completed_rating: float) -> pl.DataFrame:
    """Returns one watch per rating (userId, movieId, rating, timestamp), in their order."""
    return ratings.select(
        user_id=pl.col("userId").cast(pl.String),
        video_id=pl.col("movieId").cast(pl.String),
        time=pl.col("timestamp"),
        watch_time_s=pl.lit(STAND_IN_WATCH_TIME_S),
        completed=pl.col("rating") >= completed_rating,
        source=pl.lit("rating"),
        rating=pl.col("rating"),
    )


def videos(movies: pl.DataFrame, ratings: pl.DataFrame) -> pl.DataFrame:
    """Returns the videos table.

    Args:
        movies: Columns movieId, title, genres (separated by ``|``).
        ratings: All ratings, also those outside the window: they tell when a film was there.
    """
    first = ratings.group_by("movieId").agg(upload_time=pl.col("timestamp").min())
    genres = pl.col("genres").str.split("|")
    return movies.join(first, on="movieId", how="left", maintain_order="left").select(
        video_id=pl.col("movieId").cast(pl.String),
        # Not the last rating, which would put a film that nobody rated on the fresh shelf.
        upload_time=pl.col("upload_time").fill_null(ratings["timestamp"].min()),
        topics=pl.when(pl.col("genres") == _NO_GENRES).then(pl.lit([])).otherwise(genres),
        title=pl.col("title"),
        release_year=pl.col("title").str.extract(r"\((\d{4})\)\s*$").cast(pl.Float64),
    )


def users(profiles: pl.DataFrame) -> pl.DataFrame:
    """Returns the users table of the 1M edition."""
    area = pl.col("zip_code").str.extract(r"^(\d)\d{4}")
    return profiles.select(
        user_id=pl.col("userId").cast(pl.String),
        region=pl.concat_str(pl.lit("us_"), area),
        gender=pl.col("gender"),
        age=pl.col("age"),
        occupation=pl.col("occupation"),
        zip_code=pl.col("zip_code"),
    )


def declarations(*, has_profiles: bool) -> list[dict[str, Any]]:
    """Returns the extra features of this data set, as ``features.json`` holds them."""
    both = ["candidate", "ranker"]
    year = {"name": "release_year", "kind": "continuous", "side": "candidate"}
    occupation = {"name": "occupation", "kind": "univalent", "side": "query"}
    return [
        {**year, "models": both, "source": "videos.release_year"},
        *([{**occupation, "models": both, "source": "users.occupation"}] if has_profiles else []),
    ]


def _find(source: pathlib.Path) -> pathlib.Path:
    """Returns the directory that holds ratings and movies."""
    source_files.require_directory(source, expected="MovieLens' ratings and movies files")
    directories = [
        directory
        for directory in (source, *sorted(source.glob("ml-*")))
        if any((directory / name).is_file() for name in ("ratings.dat", "ratings.csv"))
    ]
    if len(directories) > 1:
        names = ", ".join(str(directory) for directory in directories)
        raise command.InputError(f"{source} holds several editions ({names}). Give one of them.")
    if not directories:
        hint = ""
        if any(source.glob("**/u.data")):
            hint = " The layout of MovieLens 100K (u.data) is not supported: use ml-latest-small."
        raise command.InputError(
            f"{source} lacks ratings.dat and ratings.csv: give the unpacked directory of "
            f"MovieLens 1M, 10M, 20M, 25M, 32M or latest.{hint}"
        )
    return directories[0]


def _read(
    directory: pathlib.Path, table: str, types: Mapping[str, pa.DataType]
) -> Iterator[pl.DataFrame]:
    layouts = {".dat": source_files.Dialect(separator="::", has_header=False)}
    suffix = ".dat" if (directory / "ratings.dat").is_file() else ".csv"
    path = directory / f"{table}{suffix}"
    if not path.is_file():
        names = ", ".join(sorted(item.name for item in directory.iterdir()))
        raise command.InputError(f"{path} is missing. {directory} holds: {names}.")
    logging.info("Reading %s", path)
    dialect = layouts.get(suffix, source_files.CSV)
    for batch in source_files.read_batches(path, types, dialect=dialect):
        yield pl.DataFrame(pl.from_arrow(batch))


def _in_window(ratings: pl.DataFrame, config: MovieLensConfig) -> pl.DataFrame:
    if config.from_s is not None:
        ratings = ratings.filter(pl.col("timestamp") >= config.from_s)
    if config.until_s is not None:
        ratings = ratings.filter(pl.col("timestamp") < config.until_s)
    return ratings
