"""What happens in a world, and how it becomes logs."""

import dataclasses
import itertools
import os
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from features.durations import DAY_S, HOUR_S
from features.tables import logs

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
PLACES = "places.parquet"
# What a log of clicks says of how long something was watched: the same of all.
_WATCH_TIME_S = 60.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Happenings:
    """Watches in the order of time, and what is known of those who watch.

    Attributes:
        users: int64 [n], number of the user of each watch.
        videos: int64 [n], number of the video.
        times: int64 [n], Unix seconds, ascending.
        places: int64 [n], place of the video in the true order at that moment for that user, from
            0: what an oracle would have ranked before it.
        regions: int64 [users], region of each user; None where nobody knows.
        devices: int64 [users], device of each user; None where nobody knows.
    """

    users: Ints
    videos: Ints
    times: Ints
    places: Ints
    regions: Ints | None = None
    devices: Ints | None = None

    def in_order(self) -> "Happenings":
        """Returns them in the order of time."""
        order = np.lexsort((self.users, self.times))
        sorted_ = {n: getattr(self, n)[order] for n in ("users", "videos", "times", "places")}
        return dataclasses.replace(self, **sorted_)


class World(Protocol):
    """A world of watches alone.

    It is a frozen dataclass with a ``seed``, ``days`` and a number of ``users``, and more.
    """

    def happen(self, start_s: int) -> Happenings:
        """Returns what happens from ``start_s``, a midnight, on."""


def write_logs(
    world: World, start_s: int, logs_dir: str | os.PathLike[str], *, overwrite: bool = False
) -> dict[str, int]:
    """Writes watches, and users where their regions are known; videos have no table.

    ``truth/places.parquet`` has the place of each watched video in the true order of its moment:
    ``user_id, video_id, time, place`` (from 0).

    Returns:
        Rows written by table.

    Raises:
        InputError: The directory has content and ``overwrite`` is not given.
    """
    happened = world.happen(start_s).in_order()
    keys = {
        "user_id": _ids("u", happened.users),
        "video_id": _ids("v", happened.videos),
        "time": pa.array(happened.times),
    }
    watches = {**keys, "watch_time_s": np.full(len(happened.times), _WATCH_TIME_S)}
    if happened.devices is not None:
        watches["device"] = _ids("d", happened.devices[happened.users])
    with logs.LogWriter(logs_dir, overwrite=overwrite) as writer:
        writer.write("watches", pa.table(watches))
        if happened.regions is not None:
            users = np.arange(len(happened.regions))
            region = _ids("r", happened.regions)
            writer.write("users", pa.table({"user_id": _ids("u", users), "region": region}))
        rows = dict(writer.rows)
        writer.write_truth(PLACES, pa.table({**keys, "place": happened.places}))
    return rows


def _ids(letter: str, numbers: Ints) -> pa.Array:
    distinct, place = np.unique(numbers, return_inverse=True)
    names = pa.array([f"{letter}{number}" for number in distinct.tolist()])
    return names.take(pa.array(place))


def visits(
    rng: np.random.Generator,
    *,
    users: int,
    days: int,
    watches_per_user: float,
    per_visit: float,
    pause_s: float,
    by_hour: Floats,
    spread: float = 1.6,
) -> tuple[Ints, Ints]:
    """Draws who watches when: visits of a few watches each, by the clock, most users rarely.

    Args:
        rng: Source of draws.
        users: Number of users.
        days: Length, days.
        watches_per_user: Mean number of watches of a user over all days.
        per_visit: Mean number of watches in a visit, above 1.
        pause_s: Mean time between two watches of a visit, seconds.
        by_hour: float64 [24], how many visits begin in each hour, in any unit.
        spread: Exponent of the Pareto distribution of users' activity.

    Returns:
        User and second of each watch from the start on, int64 [n] each, in the order of time.
    """
    activity = rng.pareto(spread, users) + 0.25
    number = max(1, round(users * watches_per_user / per_visit))
    lengths = rng.geometric(1 / per_visit, number)
    owners = rng.choice(users, number, p=activity / activity.sum())
    hours = rng.choice(24, number, p=by_hour / by_hour.sum())
    begin = rng.integers(0, days, number) * DAY_S + hours * HOUR_S + rng.integers(0, HOUR_S, number)
    visit = np.repeat(np.arange(number), lengths)
    total = np.cumsum(np.ceil(rng.exponential(pause_s, len(visit))).astype(np.int64))
    first = np.repeat(total[np.cumsum(lengths) - lengths], lengths)
    times = begin[visit] + total - first
    inside = times < days * DAY_S
    who, times = owners[visit][inside], times[inside]
    order = np.lexsort((who, times))
    return who[order].astype(np.int64), times[order]


def turns(users: Ints) -> list[Ints]:
    """Splits rows so that a user comes once in each part, the first time in the first."""
    order = np.argsort(users, kind="stable")
    ordered = users[order]
    turn = np.empty(len(users), np.int64)
    turn[order] = np.arange(len(users)) - np.searchsorted(ordered, ordered)
    by_turn = np.argsort(turn, kind="stable")
    bounds = np.searchsorted(turn[by_turn], np.arange(int(turn.max(initial=-1)) + 2))
    return [by_turn[a:b] for a, b in itertools.pairwise(bounds)]


def drawn(rng: np.random.Generator, chances: Floats) -> tuple[Ints, Ints]:
    """Draws a column for each row of chances, float64 [n, m], and its place among them.

    Returns:
        Column and number of columns that are likelier, int64 [n] each; ties by chance.
    """
    sums = np.cumsum(chances, axis=1)
    columns = (rng.random((len(chances), 1)) * sums[:, -1:] >= sums).sum(axis=1)
    columns = np.minimum(columns, chances.shape[1] - 1)
    mine = chances[np.arange(len(chances)), columns][:, None]
    better, equal = (chances > mine).sum(axis=1), (chances == mine).sum(axis=1)
    return columns, better + (rng.random(len(columns)) * equal).astype(np.int64)
