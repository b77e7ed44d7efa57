"""MovieLens (ratings of films) -> raw logs, as far as ratings go.

Reads three layouts: ``u.data``, ``u.item``, ``u.user`` (100K); ``ratings.dat``, ``movies.dat``,
``users.dat`` with ``::`` between the fields (1M; also 10M, which has no users.dat); and
``ratings.csv``, ``movies.csv`` (20M, 25M, 32M, latest, latest-small).

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
  100K and 1M: ``gender``; ``age``, in 1M the lower end of its bracket (1 is under 18);
  ``occupation`` (100K: its name, 1M: its code); ``zip_code``, and ``region`` = ``us_<d>`` with its
  first digit, one of ten areas of the United States. Other editions: the ids of all who rated.

With ``leave_one_out``, for figures beside published ones (``models.evaluate
--protocol=movielens_leave_one_out``): the last rating of every user with two or more is moved to
the day after the end of the data, in the same order, so that a holdout of one day holds just
these, and all else is learnt from. Every rating then counts as completed. ``rated_time`` keeps
when it was.

Missing altogether: impressions, so no ranker can be trained; searches. Tags, links and genome
scores are not read.

Source: Harper and Konstan, TiiS 2015, https://grouplens.org/datasets/movielens.
"""

import dataclasses
import math
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import polars as pl
import pyarrow as pa
from absl import logging

from features import command
from features.durations import DAY_S
from features.tables import logs
from features.tables.time_windows import Window
from pipeline.importers import source_files

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
_USERS_100K = ("userId", "age", "gender", "occupation", "zip_code")
_NO_GENRES = "(no genres listed)"
# The flags of u.item, in its order.
GENRES = (
    *("unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime"),
    *("Documentary", "Drama", "Fantasy", "Film-Noir", "Horror", "Musical", "Mystery", "Romance"),
    *("Sci-Fi", "Thriller", "War", "Western"),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Layout:
    """Names and forms of the files of some editions.

    Attributes:
        ratings: Name of the file of ratings.
        movies: Name of the file of films.
        users: Name of the file of users, which not all editions have.
        separator: Text between fields.
        has_header: Whether the first line names the columns.
        encoding: Encoding; None for one that is looked for.
        movie_types: Columns of the films and their types.
        user_types: Columns of the users and their types.
    """

    ratings: str
    movies: str
    users: str
    separator: str = ","
    has_header: bool = True
    encoding: str | None = None
    movie_types: Mapping[str, pa.DataType]
    user_types: Mapping[str, pa.DataType]


_LAYOUTS = (
    _Layout(
        ratings="u.data",
        movies="u.item",
        users="u.user",
        separator="|",
        has_header=False,
        encoding="latin-1",
        movie_types={
            "movieId": pa.int32(),
            **dict.fromkeys(("title", "release_date", "video_release_date", "url"), pa.string()),
            **dict.fromkeys(GENRES, pa.int32()),
        },
        user_types={name: _USERS[name] for name in _USERS_100K},
    ),
    _Layout(
        ratings="ratings.dat",
        movies="movies.dat",
        users="users.dat",
        separator="::",
        has_header=False,
        movie_types=_MOVIES,
        user_types=_USERS,
    ),
    _Layout(
        ratings="ratings.csv",
        movies="movies.csv",
        users="",
        movie_types=_MOVIES,
        user_types=_USERS,
    ),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MovieLensConfig(Window):
    """How to read MovieLens.

    Attributes:
        completed_rating: Rating, in stars, from which on it counts as a completed watch.
        leave_one_out: Whether the last rating of each user lies on a day of its own.
    """

    completed_rating: float = 4.0
    leave_one_out: bool = False

    def __post_init__(self) -> None:
        if self.leave_one_out and (self.from_s is not None or self.until_s is not None):
            raise command.InputError("--leave_one_out takes all ratings: leave --from and --until.")


def import_logs(source: pathlib.Path, writer: logs.LogWriter, config: MovieLensConfig) -> list[str]:
    """Reads the data set and writes users, videos and watches."""
    directory, layout = _find(source)
    ratings = pl.concat(_read(directory, layout.ratings, _RATINGS, layout)).sort(
        "timestamp", "userId", "movieId", maintain_order=True
    )
    films = pl.concat(_read(directory, layout.movies, layout.movie_types, layout))
    films = _with_genres(films) if GENRES[0] in films.columns else films
    writer.write("videos", videos(films, ratings).to_arrow())
    has_profiles = (directory / layout.users).is_file()
    if has_profiles:
        profiles = pl.concat(_read(directory, layout.users, layout.user_types, layout))
        writer.write("users", users(profiles).to_arrow())
    else:
        ids = ratings.select(pl.col("userId").unique().sort())
        writer.write("users", ids.select(user_id=pl.col("userId").cast(pl.String)).to_arrow())
    notes = []
    if config.leave_one_out:
        ratings, end_s = last_apart(ratings)
        until = command.format_time(end_s + DAY_S)
        notes.append(
            "the last rating of each user lies on the day after the end of the data: preprocess "
            f"with --until={until} --holdout_days=1, and evaluate with "
            "--protocol=movielens_leave_one_out"
        )
    completed = -math.inf if config.leave_one_out else config.completed_rating
    for rows in config.kept(ratings, "timestamp").iter_slices(_ROWS_PER_WRITE):
        writer.write("watches", watches(rows, completed_rating=completed).to_arrow())
    writer.write_features(declarations(has_profiles=has_profiles))
    logging.warning(
        "MovieLens has no impressions: candidate generation can be trained on these logs, a ranker "
        "cannot. The funnel will order by retrieval score."
    )
    return [
        "MovieLens has NO IMPRESSIONS, so no ranker can be trained on it",
        f"watch times are a stand-in ({STAND_IN_WATCH_TIME_S:.0f} s each), and watches lie at the "
        "time of the rating",
        *notes,
    ]


def last_apart(ratings: pl.DataFrame) -> tuple[pl.DataFrame, int]:
    """Moves the last rating of each user with two or more to a day of its own.

    Returns:
        (ratings by time, beginning of that day, Unix seconds): the times of moved ratings keep
        their order within the day, and ``rated_time`` has the old ones of all.
    """
    end_s = -(-(int(ratings["timestamp"].max()) + 1) // DAY_S) * DAY_S  # type: ignore[arg-type]
    is_last = pl.int_range(pl.len()).over("userId") == pl.len().over("userId") - 1
    is_moved = is_last & (pl.len().over("userId") > 1)
    marked = ratings.with_columns(rated_time="timestamp", is_moved=is_moved)
    place = pl.col("is_moved").cum_sum() - 1
    number = pl.col("is_moved").sum()
    moved = end_s + place * DAY_S // pl.max_horizontal(number, 1)
    timestamp = pl.when("is_moved").then(moved).otherwise("timestamp").cast(pl.Int64)
    apart = marked.with_columns(timestamp=timestamp).drop("is_moved")
    return apart.sort("timestamp", maintain_order=True), end_s


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
        **({"rated_time": pl.col("rated_time")} if "rated_time" in ratings.columns else {}),
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
    """Returns the users table of the editions that have one."""
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


def _find(source: pathlib.Path) -> tuple[pathlib.Path, "_Layout"]:
    """Returns the directory that holds ratings and movies, and their layout."""
    source_files.require_directory(source, expected="MovieLens' ratings and movies files")
    editions = [
        (directory, layout)
        for directory in (source, *sorted(source.glob("ml-*")))
        for layout in _LAYOUTS
        if (directory / layout.ratings).is_file()
    ]
    if len(editions) > 1:
        names = ", ".join(str(directory / layout.ratings) for directory, layout in editions)
        raise command.InputError(f"{source} holds several editions ({names}). Give one of them.")
    if not editions:
        names = ", ".join(layout.ratings for layout in _LAYOUTS)
        raise command.InputError(
            f"{source} has none of {names}: give the unpacked directory of MovieLens 100K, 1M, "
            "10M, 20M, 25M, 32M or latest."
        )
    return editions[0]


def _read(
    directory: pathlib.Path, name: str, types: Mapping[str, pa.DataType], layout: "_Layout"
) -> Iterator[pl.DataFrame]:
    path = directory / name
    if not path.is_file():
        raise command.InputError(f"{path} is missing. {source_files.told(directory)}")
    separator = "\t" if name == "u.data" else layout.separator
    dialect = source_files.Dialect(
        separator=separator, has_header=layout.has_header, encoding=layout.encoding
    )
    return source_files.frames([path], types, dialect=dialect)


def _with_genres(films: pl.DataFrame) -> pl.DataFrame:
    """Returns films with their genres as one text, as the later editions have them."""
    names = [pl.when(pl.col(genre) == 1).then(pl.lit(genre)) for genre in GENRES[1:]]
    genres = pl.concat_str(names, separator="|", ignore_nulls=True)
    none = pl.when(genres == "").then(pl.lit(_NO_GENRES)).otherwise(genres)
    return films.select("movieId", "title", genres=none)
