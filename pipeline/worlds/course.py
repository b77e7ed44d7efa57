"""A site of courses: lessons are watched in their order, by few, for months.

A user who comes goes on with the course of the last visit, at the lesson after the last one, with
``forward``; looks again at one of its last lessons with ``review``; else begins a course that is
not begun, by its popularity and the user's taste. Who has ended a course begins another.
"""

import dataclasses

import numpy as np

from pipeline.worlds import happenings
from pipeline.worlds.happenings import Happenings, Ints

_LEARNERS = np.array(
    [8, 4, 2, 2, 2, 6, 16, 30, 44, 52, 56, 54, 46, 50, 56, 58, 56, 52, 56, 70, 76, 68, 44, 20],
    np.float64,
)
_LOOK_BACK = 3  # Lessons that a review may be of.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Course:
    """How large the site is and how its people choose.

    Attributes:
        seed: Seed of all draws.
        days: Length of the log, days.
        users: Number of users.
        lessons_per_user: Lessons that a user watches over all days, mean.
        courses: Number of courses.
        lessons: Shortest and longest course, lessons.
        forward: Chance of the next lesson.
        review: Chance of one of the last lessons.
        taste: Standard deviation of the log of a user's taste for a course.
    """

    seed: int = 1
    days: int = 90
    users: int = 800
    lessons_per_user: float = 40.0
    courses: int = 60
    lessons: tuple[int, int] = (8, 30)
    forward: float = 0.86
    review: float = 0.08
    taste: float = 1.0

    def happen(self, start_s: int) -> Happenings:
        """Returns what happens from ``start_s``, a midnight, on."""
        rng = np.random.default_rng([self.seed, 13])
        users, times = happenings.visits(
            rng,
            users=self.users,
            days=self.days,
            watches_per_user=self.lessons_per_user,
            per_visit=2.5,
            pause_s=900.0,
            by_hour=_LEARNERS,
            spread=2.5,
        )
        site = _Site(self, rng)
        videos, places = np.zeros(len(users), np.int64), np.zeros(len(users), np.int64)
        for rows in happenings.turns(users):
            videos[rows], places[rows] = site.choose(rng, users[rows])
        return Happenings(users=users, videos=videos, times=start_s + times, places=places)


class _Site:
    """Courses, and how far everybody is in each."""

    def __init__(self, config: Course, rng: np.random.Generator) -> None:
        self._config = config
        self._length = rng.integers(config.lessons[0], config.lessons[1] + 1, config.courses)
        self._first = np.cumsum(self._length) - self._length
        self._total = int(self._length.sum())
        popularity = np.exp(rng.standard_normal(config.courses))
        taste = config.taste * rng.standard_normal((config.users, config.courses))
        self._liking = popularity * np.exp(taste)
        self._done = np.zeros((config.users, config.courses), np.int64)
        self._course = np.full(config.users, -1)

    def choose(self, rng: np.random.Generator, users: Ints) -> tuple[Ints, Ints]:
        """Returns the lesson that each user watches, and its place in the true order."""
        config, chances = self._config, np.zeros((len(users), self._total))
        course, rows = self._course[users], np.arange(len(users))
        done = self._done[users, course]
        goes_on = (course >= 0) & (done < self._length[course])
        going = np.flatnonzero(goes_on)
        chances[going, (self._first[course] + done)[going]] += config.forward
        for back in range(1, _LOOK_BACK + 1):
            there = np.flatnonzero((course >= 0) & (done >= back))
            lesson = (self._first[course] + done - back)[there]
            chances[there, lesson] += config.review / np.minimum(done[there], _LOOK_BACK)
        rest = 1 - chances.sum(axis=1)
        fresh = self._liking[users] * (self._done[users] == 0)
        any_left = fresh.any(axis=1)
        fresh /= np.maximum(fresh.sum(axis=1, keepdims=True), 1e-12)
        chances[np.ix_(rows, self._first)] += np.where(any_left, rest, 0.0)[:, None] * fresh
        # Who has begun everything and ended the last course looks at it again.
        chances += 1e-9
        lessons, places = happenings.drawn(rng, chances)
        chosen = np.searchsorted(self._first, lessons, side="right") - 1
        reached = lessons - self._first[chosen] + 1
        self._done[users, chosen] = np.maximum(self._done[users, chosen], reached)
        self._course[users] = chosen
        return lessons, places
