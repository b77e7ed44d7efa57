"""What a living site showed: figures of each arm by day, differences, and what stands behind.

Watch time counts for all users of an arm, also for those who did not come: who stopped coming
watches nothing. Intervals are those of a bootstrap over users.
"""

import dataclasses
import pathlib
import types
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import pyarrow.parquet as pq

from features.durations import DAY_S, HOUR_S
from models.evaluation.intervals import Bootstrap, Figure, Sheet
from models.evaluation.metrics import UserSums
from pipeline.site import behaviour as site_behaviour
from pipeline.site import satisfaction as site_satisfaction
from pipeline.site import world as site_world

Columns = Mapping[str, np.ndarray]
REPLICATES = 2000
MAIN = "watch_min_per_user"
ADJUSTED = "adjusted_min_per_user"
# Name to what it is, in the order of tables.
METRICS: Mapping[str, str] = {
    MAIN: "watch time per user, minutes",
    ADJUSTED: "the same, adjusted for what each user watched before, minutes",
    "recommended_min_per_user": "of it from pages, minutes",
    "oracle_share": "share of the oracle's value of a home page",
    "page_value_s": "expected watch time of a home page by the truth, seconds",
    "visiting": "users who came",
    "coming": "users who have not stopped coming",
    "pages_per_user": "pages per user",
    "click_rate": "clicks per impression",
    "satisfaction": "satisfaction of a watch from a page",
    "clickbait": "clickbait of a watch from a page",
    "clickbait_shown": "clickbait of an impression",
    "fresh_shown": "share of impressions of videos younger than a day",
    "fresh_watched": "share of watches from pages of videos younger than a day",
    "fresh_clicks_per_user": "clicks of videos younger than a day per user",
    "shown_age_h": "age of what is shown, hours",
    "watched_age_h": "age of what is watched from pages, hours",
    "repeated": "share of impressions that their user had seen before",
}
# Of an arm as a whole, without an interval.
WHOLE: Mapping[str, str] = {
    "coverage": "distinct videos shown, part of all",
    "uploads_clicked": "videos younger than a day that somebody of it clicked, part of those shown",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Happened:
    """A day of a living site.

    Attributes:
        watches: ``user, video, time, watch_time_s, source`` and others, rows of the world.
        impressions: ``user, video, time, clicked, page, surface`` and others.
        looks: ``user, value, best``: home pages that were compared with the best, seconds.
        away: Users who had stopped coming at its end.
        videos: Number of videos there were.
    """

    watches: Columns
    impressions: Columns
    looks: Columns
    away: np.ndarray
    videos: int

    @classmethod
    def read(cls, directory: pathlib.Path, *, away: Sequence[int], videos: int) -> "Happened":
        """Reads what :func:`pipeline.living.course.write_happened` wrote."""
        return cls(
            watches=_read(directory / "watches.parquet"),
            impressions=_read(directory / "impressions.parquet"),
            looks=_read(directory / "looks.parquet"),
            away=np.asarray(away, np.int64),
            videos=videos,
        )


_EMPTY = {
    "watches": ("user", "video", "time", "watch_time_s", "source"),
    "impressions": ("user", "video", "time", "clicked", "page", "surface"),
    "looks": ("user", "time", "value", "best"),
}


def _read(path: pathlib.Path) -> Columns:
    if not path.exists():  # Nothing of the kind happened.
        return {name: np.zeros(0, np.int64) for name in _EMPTY[path.stem]}
    table = pq.read_table(path)
    return {name: table[name].to_numpy() for name in table.column_names}


def of_days(
    world: site_world.World,
    arms: np.ndarray,
    names: Sequence[str],
    days: Mapping[int, Happened],
    *,
    before: Mapping[int, Happened],
    against: Mapping[str, str] = types.MappingProxyType({}),
    seed: int = 0,
) -> dict[str, Figure]:
    """Returns figures by ``day/arm/metric``, and differences between arms.

    Those have the key ``day/arm-control/metric``; day ``all`` is all of them together. Adjusted
    watch time is y - theta (x - mean x), where x is what each user watched per day before the arms
    differed and theta = cov(x, y) / var(x): whom chance put into an arm counts for less.

    Args:
        world: World of the site.
        arms: int64 [N], place of each user's arm in ``names``.
        names: Names of the arms, the control first.
        days: What happened, by day.
        against: Arm to the one that it is compared with, where that is not the first.
        before: Days on which the arms did not differ yet, likewise; those that are among ``days``
            have no adjusted figure.
        seed: Seed of the resamples.

    Source: Deng et al., WSDM 2013, "Improving the Sensitivity of Online Controlled Experiments by
    Utilizing Pre-Experiment Data" (CUPED).
    """
    users = len(arms)
    sheet = _ArmSheet(arms, {name: against.get(name, names[0]) for name in names})
    seen: set[int] = set()
    total: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    watched_before = _minutes(users, before.values())
    for day, happened in days.items():
        sums = _sums(world, happened, users, seen)
        if day not in before:
            sums[ADJUSTED] = _adjusted(sums[MAIN], watched_before)
        for metric, (top, bottom) in sums.items():
            past = total.get(metric, (np.zeros(users), np.zeros(users)))
            total[metric] = past[0] + top, past[1] + bottom
        sheet.add_day(str(day), sums)
        sheet.add_whole(world, str(day), happened)
    sheet.add_day("all", total)
    return sheet.sheet.figures(Bootstrap(num_users=users, replicates=REPLICATES, seed=seed))


class _ArmSheet:
    """A sheet of figures of arms.

    Attributes:
        sheet: Figures by ``day/arm/metric``, differences by ``day/arm-control/metric``.
    """

    def __init__(self, arms: np.ndarray, against: Mapping[str, str]) -> None:
        self.sheet = Sheet()
        self._arms, self._against = arms, against

    def add_day(self, day: str, sums: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> None:
        for metric, (top, bottom) in sums.items():
            for number, (name, control) in enumerate(self._against.items()):
                mine = self._arms == number
                one = UserSums(numerator=top * mine, denominator=bottom * mine)
                self.sheet.add(f"{day}/{name}/{metric}", one, n=int(mine.sum()))
                if name != control:
                    first, second = f"{day}/{name}/{metric}", f"{day}/{control}/{metric}"
                    self.sheet.compare(f"{day}/{name}-{control}/{metric}", first, second)

    def add_whole(self, world: site_world.World, day: str, happened: Happened) -> None:
        shown = happened.impressions
        video, arm = shown["video"], self._arms[shown["user"]]
        is_fresh = shown["time"] - world.videos.upload_time[video] < DAY_S
        fresh = np.unique(video[is_fresh])
        for number, name in enumerate(self._against):
            mine = arm == number
            clicked = video[mine & is_fresh & shown["clicked"].astype(bool)]
            shares = {
                "coverage": (np.unique(video[mine]), happened.videos),
                "uploads_clicked": (np.unique(clicked), len(fresh)),
            }
            for metric, (some, every) in shares.items():
                share = len(some) / max(every, 1)
                self.sheet.state(f"{day}/{name}/{metric}", share, n=int(mine.sum()))


def _minutes(users: int, days: Iterable[Happened]) -> np.ndarray:
    """Returns the minutes that each user watched on an average day of some, float64 [N]."""
    count = _counter(users)
    watched = [count(day.watches["user"], day.watches["watch_time_s"] / 60) for day in days]
    return np.asarray(np.mean(watched or [np.zeros(users)], axis=0))


def _adjusted(
    sums: tuple[np.ndarray, np.ndarray], before: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    minutes, everyone = sums
    centred = before - before.mean()
    spread = float(centred @ centred)
    theta = float(centred @ minutes) / spread if spread else 0.0
    return minutes - theta * centred, everyone


def _sums(
    world: site_world.World, happened: Happened, users: int, seen: set[int]
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Returns numerator and denominator of each metric by user; ``seen`` takes what is shown."""
    watches, shown, looks = happened.watches, happened.impressions, happened.looks
    count = _counter(users)
    is_of_page = watches["source"] < len(site_behaviour.SURFACES)
    user, video, minutes = watches["user"], watches["video"], watches["watch_time_s"] / 60
    of_page = {"user": user[is_of_page], "video": video[is_of_page]}
    thought = site_satisfaction.satisfaction(world, of_page["user"], of_page["video"])
    upload = world.videos.upload_time
    watched_age = (watches["time"][is_of_page] - upload[of_page["video"]]) / HOUR_S
    shown_age = (shown["time"] - upload[shown["video"]]) / HOUR_S
    is_fresh = shown_age < DAY_S / HOUR_S
    _, first = np.unique(shown["page"], return_index=True)
    everyone = np.ones(users)
    impressions, page_watches = count(shown["user"]), count(of_page["user"])
    away = np.zeros(users)
    away[happened.away] = 1
    came = ((count(user) + impressions) > 0).astype(np.float64)
    bait = world.videos.clickbait
    return {
        MAIN: (count(user, minutes), everyone),
        "recommended_min_per_user": (count(of_page["user"], minutes[is_of_page]), everyone),
        "oracle_share": (count(looks["user"], looks["value"]), count(looks["user"], looks["best"])),
        "page_value_s": (count(looks["user"], looks["value"]), count(looks["user"])),
        "visiting": (came, everyone),
        "coming": (1 - away, everyone),
        "pages_per_user": (count(shown["user"][first]), everyone),
        "click_rate": (count(shown["user"], shown["clicked"]), impressions),
        "satisfaction": (count(of_page["user"], thought), page_watches),
        "clickbait": (count(of_page["user"], bait[of_page["video"]]), page_watches),
        "clickbait_shown": (count(shown["user"], bait[shown["video"]]), impressions),
        "fresh_shown": (count(shown["user"], is_fresh), impressions),
        "fresh_clicks_per_user": (count(shown["user"], is_fresh * shown["clicked"]), everyone),
        "fresh_watched": (count(of_page["user"], watched_age < DAY_S / HOUR_S), page_watches),
        "shown_age_h": (count(shown["user"], shown_age), impressions),
        "watched_age_h": (count(of_page["user"], watched_age), page_watches),
        "repeated": (count(shown["user"], _repeated(shown, seen)), impressions),
    }


def _counter(users: int) -> Callable[..., np.ndarray]:
    """Returns what counts rows by user, or sums their weights: float64 [N]."""

    def count(user: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
        told = None if weights is None else np.asarray(weights, np.float64)
        return np.bincount(user, weights=told, minlength=users).astype(np.float64)

    return count


def _repeated(shown: Columns, seen: set[int]) -> np.ndarray:
    """Returns whether each impression's user was shown its video before, bool [n]."""
    key = (shown["user"].astype(np.int64) << 32) | shown["video"].astype(np.int64)
    order = np.argsort(shown["time"], kind="stable")
    _, first = np.unique(key[order], return_index=True)
    is_first = np.zeros(len(key), bool)
    is_first[order[first]] = True
    is_known = np.fromiter((k in seen for k in key.tolist()), bool, len(key))
    seen.update(key.tolist())
    return is_known | ~is_first
