"""Users come, see pages, search, watch and leave: the course of a simulated site, hour by hour.

All users of an hour move at once. A session is a number of actions, each of which begins when the
watches of the one before have ended; a session that is not over goes on in the next hour.
"""

import math

import numpy as np

from features.durations import HOUR_S
from pipeline.site import behaviour as site_behaviour
from pipeline.site import choices as site_choices
from pipeline.site import config as site_config
from pipeline.site import events as site_events
from pipeline.site import hours as site_hours
from pipeline.site import pages as site_pages
from pipeline.site import satisfaction as site_satisfaction
from pipeline.site import state as site_state
from pipeline.site import world as site_world

ACTIONS = site_events.WATCH_SOURCES
# What is done first in a session, and what once something was watched.
FIRST_ACTIONS = np.array([0.52, 0.0, 0.14, 0.22, 0.12])
LATER_ACTIONS = np.array([0.36, 0.24, 0.10, 0.24, 0.06])
MAX_ACTIONS = 8
_MORE_ACTIONS = 0.62  # Chance of one more action.
_HABIT = 0.8  # Chance that a session is on the usual device.
_PEAK_HOUR = 20  # Local time.
_CHUNK_ROWS = 8192  # Users moved in one step; bounds the memory of a step.
_BROWSE_S, _SEARCH_TO_WATCH_S = (3, 16), (5, 41)
_WORDS = 8  # Of each topic; see site_names.


class Visits:
    """The course of events for some users of a world.

    Attributes:
        state: Memory of the users and the site.
        log: Log of the events.
    """

    def __init__(self, world: site_world.World, users: np.ndarray) -> None:
        """Starts before the first hour.

        Args:
            world: The site that users belong to.
            users: int64 [N], the users who take part.
        """
        self.state = site_state.UserState(world, users)
        self.log = site_events.EventLog()
        self._world = world
        self._hours = site_hours.Hours(world)
        self._next_time = np.full(len(users), world.config.start_s, np.int64)
        self._actions_left = np.zeros(len(users), np.int8)
        self._device = world.users.device[users].copy()
        self._num_pages = 0
        # Of their own: what is said changes nothing of what is done.
        self._opinions = np.random.default_rng([world.config.seed, 9])
        self._visits_per_day = visits_per_day(world.config)

    def run_hour(self, hour_start_s: int) -> None:
        """Lets an hour pass."""
        rng = np.random.default_rng([self._world.config.seed, 6, hour_start_s])
        hour = self._hours.at(hour_start_s)
        self._start_sessions(rng, hour_start_s)
        end = hour_start_s + HOUR_S
        active = np.flatnonzero((self._actions_left > 0) & (self._next_time < end))
        while len(active):
            for first in range(0, len(active), _CHUNK_ROWS):
                self._act(rng, hour, active[first : first + _CHUNK_ROWS])
            active = active[(self._actions_left[active] > 0) & (self._next_time[active] < end)]

    def _start_sessions(self, rng: np.random.Generator, hour_start_s: int) -> None:
        """Begins sessions, at a rate that follows the user's activity and the local clock."""
        users = self._world.users
        local = hour_start_s // HOUR_S + site_world.REGION_HOURS
        clock = 1 + 0.7 * np.cos(2 * np.pi * (local - _PEAK_HOUR) / 24)
        rate = self._visits_per_day / 24 * users.activity[self.state.users]
        rate = rate * clock[users.region[self.state.users]] * self._eagerness()
        comes = rng.random(len(rate)) < 1 - np.exp(-rate)
        rows = np.flatnonzero(comes & (self._actions_left == 0))
        actions = rng.geometric(1 - _MORE_ACTIONS, len(rows))
        self._actions_left[rows] = np.minimum(actions, MAX_ACTIONS)
        arrival = hour_start_s + rng.integers(0, HOUR_S, len(rows))
        self._next_time[rows] = np.maximum(arrival, self._next_time[rows])
        other = rng.integers(0, len(site_world.DEVICES), len(rows))
        usual = users.device[self.state.users[rows]]
        self._device[rows] = np.where(rng.random(len(rows)) < _HABIT, usual, other)

    def _eagerness(self) -> np.ndarray | float:
        """Returns by how much more each user comes than usual, float [N]."""
        return 1.0

    def _act(self, rng: np.random.Generator, hour: site_hours.Hour, rows: np.ndarray) -> None:
        """Lets each of ``rows`` do one thing."""
        time = self._next_time[rows]
        moment = site_choices.Moment(self._world, hour, self.state, rows, time)
        chances = action_chances(moment)
        action = (rng.random(len(rows))[:, None] >= np.cumsum(chances, axis=1)).sum(axis=1)
        end = time.copy()
        for number, name in enumerate(ACTIONS):
            chosen = np.flatnonzero(action == number)
            if not len(chosen):
                continue
            if name in site_behaviour.SURFACES:
                end[chosen] = self._browse(rng, moment.take(chosen), name)
            else:
                end[chosen] = self._go(rng, moment.take(chosen), name)
        pause = np.ceil(rng.exponential(45, len(rows))).astype(np.int64)
        self._next_time[rows] = end + pause
        self._actions_left[rows] -= 1

    def _browse(
        self, rng: np.random.Generator, moment: site_choices.Moment, surface: str
    ) -> np.ndarray:
        """Shows a page to each user; returns when they are through with it, int64 [N]."""
        policy = site_pages.HOME if surface == "home" else site_pages.UP_NEXT
        page = self._page(rng, moment, policy)
        showing = site_pages.showing(moment, page.videos, policy=policy)
        chance = site_behaviour.click_probability(self._world, showing)
        is_there = page.videos >= 0
        clicked = (rng.random(chance.shape) < chance) & is_there
        self.state.add_impressions(moment.rows, page.videos, clicked=clicked, time=moment.time)
        watch_time = np.zeros(chance.shape)
        end = self._watch_clicked(
            rng,
            moment,
            videos=page.videos,
            clicked=clicked,
            watch_time=watch_time,
            surface=surface,
        )
        row, position = np.nonzero(is_there)
        self.log.add(
            "impressions",
            user=moment.users[row],
            video=page.videos[row, position],
            time=moment.time[row],
            clicked=clicked[row, position],
            watch_time_s=watch_time[row, position],
            page=self._num_pages + row,
            position=position,
            surface=np.full(len(row), site_behaviour.SURFACES.index(surface), np.int8),
            device=self._device[moment.rows][row],
            sources=page.sources[row, position],
            score=page.scores[row, position],
        )
        self._num_pages += len(moment.rows)
        return end

    def _page(
        self, rng: np.random.Generator, moment: site_choices.Moment, policy: site_pages.Policy
    ) -> site_pages.Page:
        """Returns what each user is shown: here, pages of the recommender of the site."""
        return site_pages.make_pages(moment, rng, policy=policy)

    def _watch_clicked(
        self,
        rng: np.random.Generator,
        moment: site_choices.Moment,
        *,
        videos: np.ndarray,
        clicked: np.ndarray,
        watch_time: np.ndarray,
        surface: str,
    ) -> np.ndarray:
        """Plays the clicked videos of each page one after the other, filling ``watch_time``."""
        row, position = np.nonzero(clicked)
        video = videos[row, position]
        device = self._device[moment.rows]
        watch_time[row, position] = self._watch_times(rng, moment.users[row], video, device[row])
        pause = rng.integers(*_BROWSE_S, clicked.shape) * clicked
        ends = moment.time[:, None] + np.cumsum(np.ceil(watch_time) + pause, axis=1).astype(
            np.int64
        )
        start = ends - np.ceil(watch_time).astype(np.int64)
        order = (np.cumsum(clicked, axis=1) - 1)[row, position]
        for turn in range(order.max(initial=-1) + 1):
            now = order == turn
            self._record(
                moment.take(row[now]),
                video[now],
                time=start[row[now], position[now]],
                watch_time=watch_time[row[now], position[now]],
                source=surface,
            )
        idle = moment.time + rng.integers(*_BROWSE_S, len(moment.time))
        return np.maximum(ends[:, -1], idle)

    def _go(self, rng: np.random.Generator, moment: site_choices.Moment, action: str) -> np.ndarray:
        """Lets users find a video by themselves; returns when they are through, int64 [N]."""
        retries = self._world.behaviour.retries
        start = moment.time + 1
        watches = np.ones(len(moment.rows), bool)
        if action == "search":
            topic = site_choices.draw_topics(moment, rng, 1)
            drawn = site_choices.draw_of_topic(moment, rng, np.repeat(topic, retries, axis=1))
            video = site_choices.first_unwatched(moment, drawn)
            watches = rng.random(len(start)) < self._world.behaviour.search_follow
            start = moment.time + rng.integers(*_SEARCH_TO_WATCH_S, len(start))
            self._search(rng, moment, topic[:, 0])
        elif action == "channel":
            video = site_choices.draw_channel_watch(moment, rng)
        else:
            drawn = site_choices.draw_external(moment, rng, retries)
            video = site_choices.first_unwatched(moment, drawn)
        device = self._device[moment.rows]
        watch_time = self._watch_times(rng, moment.users, video, device) * watches
        self._record(
            moment.take(watches),
            video[watches],
            time=start[watches],
            watch_time=watch_time[watches],
            source=action,
        )
        return start + np.ceil(watch_time).astype(np.int64)

    def _search(
        self, rng: np.random.Generator, moment: site_choices.Moment, topic: np.ndarray
    ) -> None:
        word = rng.integers(0, _WORDS, len(topic))
        second = (word + rng.integers(1, _WORDS, len(topic))) % _WORDS
        self.log.add(
            "searches",
            user=moment.users,
            time=moment.time,
            topic=topic,
            word=word,
            second_word=np.where(rng.random(len(topic)) < 0.5, second, -1),
            device=self._device[moment.rows],
        )

    def _watch_times(
        self,
        rng: np.random.Generator,
        users: np.ndarray,
        videos: np.ndarray,
        devices: np.ndarray,
    ) -> np.ndarray:
        """Draws watch times in seconds, float64 [n], to a tenth of a second."""
        m = site_behaviour.watch_location(self._world, users, videos, devices=devices)
        raw = np.exp(m + self._world.behaviour.watch_noise * rng.standard_normal(len(users)))
        return np.round(np.clip(raw, 1, self._world.videos.duration_s[videos]), 1)

    def _record(
        self,
        moment: site_choices.Moment,
        videos: np.ndarray,
        *,
        time: np.ndarray,
        watch_time: np.ndarray,
        source: str,
    ) -> None:
        """Logs and remembers one watch for each user."""
        duration = self._world.videos.duration_s[videos]
        completed = watch_time >= self._world.behaviour.completed_fraction * duration
        # The logs end; who is still watching page by page then is cut off there.
        time = np.minimum(time, self._world.config.end_s - 1)
        self.state.add_watches(moment.rows, videos, time=time, completed=completed)
        self.log.add(
            "watches",
            user=moment.users,
            video=videos,
            time=time,
            watch_time_s=watch_time,
            completed=completed,
            source=np.full(len(videos), ACTIONS.index(source), np.int8),
            device=self._device[moment.rows],
        )
        if self._world.config.feedback and len(videos):
            self._say(moment.users, videos, time + np.ceil(watch_time).astype(np.int64))

    def _say(self, users: np.ndarray, videos: np.ndarray, ends: np.ndarray) -> None:
        """Logs what the users of watches that end at ``ends`` say of them."""
        row, kind, of_channel = site_satisfaction.draw(self._world, self._opinions, users, videos)
        self.log.add(
            "feedback",
            user=users[row],
            video=videos[row],
            time=np.minimum(ends[row], self._world.config.end_s - 1),
            kind=kind,
            of_channel=of_channel,
        )


def action_chances(moment: site_choices.Moment) -> np.ndarray:
    """Returns which action comes next, float64 [N, actions]."""
    in_session = moment.state.is_in_session(moment.rows, moment.time)
    return np.where(in_session[:, None], LATER_ACTIONS, FIRST_ACTIONS)


def _actions_per_session() -> np.ndarray:
    """Returns how often each action is done in a session, float [actions]."""
    more = sum(_MORE_ACTIONS**number for number in range(1, MAX_ACTIONS))
    return FIRST_ACTIONS + more * LATER_ACTIONS


def home_pages_per_day(config: site_config.SiteConfig) -> float:
    """Returns about how many home pages an average user sees in a day."""
    return float(visits_per_day(config) * _actions_per_session()[ACTIONS.index("home")])


def visits_per_day(config: site_config.SiteConfig) -> float:
    """Returns how often an average user comes in a day."""
    return config.events_per_user_day / _events_per_session(config.click_rate)


def _events_per_session(click_rate: float) -> float:
    """Returns about how many impressions, watches and searches a session has."""
    home, up_next = site_pages.HOME.page_size, site_pages.UP_NEXT.page_size
    events = np.array([home * (1 + click_rate), up_next * (1 + 1.5 * click_rate), 1.7, 1.0, 1.0])
    return math.fsum(_actions_per_session() * events)
