"""What users of a simulated site watch next, as a distribution over all videos."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from features.durations import HOUR_S
from pipeline.site import behaviour as site_behaviour
from pipeline.site import choices as site_choices
from pipeline.site import hours as site_hours
from pipeline.site import names as site_names
from pipeline.site import pages as site_pages
from pipeline.site import state as site_state
from pipeline.site import visits as site_visits
from pipeline.site import world as site_world


@dataclasses.dataclass(frozen=True, kw_only=True)
class Watches:
    """Watches ordered by user, then time.

    Attributes:
        user: int64 [n], rows of the world's users.
        video: int64 [n], rows of the world's videos.
        time: int64 [n], Unix seconds.
        completed: bool [n], whether the watch counts as completed.
    """

    user: np.ndarray
    video: np.ndarray
    time: np.ndarray
    completed: np.ndarray

    @classmethod
    def of(
        cls, user: np.ndarray, video: np.ndarray, *, time: np.ndarray, completed: np.ndarray
    ) -> "Watches":
        """Orders watches; those of one user and second keep their order."""
        order = np.lexsort((time, user))
        return cls(
            user=user[order], video=video[order], time=time[order], completed=completed[order]
        )

    def state_before(
        self, world: site_world.World, users: np.ndarray, times: np.ndarray
    ) -> site_state.UserState:
        """Returns the memory of users [B] at times [B], from watches strictly before."""
        state = site_state.UserState(world, users)
        base = int(self.time.min(initial=0))
        span = int(max(self.time.max(initial=0), times.max())) - base + 2
        key = self.user * span + (self.time - base)
        start = np.searchsorted(key, users * span)
        end = np.searchsorted(key, users * span + np.maximum(times - base, 0))
        for turn in range(int((end - start).max(initial=0))):
            rows = np.flatnonzero(start + turn < end)
            event = start[rows] + turn
            state.add_watches(
                rows,
                self.video[event],
                time=self.time[event],
                completed=self.completed[event],
            )
        return state


class Oracle:
    """Knows what is watched next."""

    def __init__(self, world: site_world.World) -> None:
        """Prepares the offers of a world."""
        self._world = world
        self._hours = site_hours.Hours(world)
        _, words = site_names.topics(world.config.topics)
        self._topic_of_word = {
            word: topic for topic, of_topic in enumerate(words) for word in of_topic
        }

    def next_watch(
        self,
        users: np.ndarray,
        times: np.ndarray,
        *,
        history: Watches | None,
        queries: Sequence[str | None] | None,
        is_completed: bool,
    ) -> np.ndarray:
        """Returns ``Truth.watch_probability``, float64 [B, V]; users are rows of the world."""
        if history is None:
            state = site_state.UserState(self._world, users)
        else:
            state = history.state_before(self._world, users, times)
        chances = np.zeros((len(users), self._world.config.videos))
        topics = np.array([self._topic(query) for query in queries or [None] * len(users)])
        hours = times // HOUR_S
        for hour in np.unique(hours):
            rows = np.flatnonzero(hours == hour)
            moment = site_choices.Moment(
                self._world,
                self._hours.at(int(hour) * HOUR_S),
                state,
                rows,
                times[rows],
            )
            chances[rows] = self._next_of(moment, topics[rows])
        if is_completed:
            chances *= self._completed(users)
        return chances / chances.sum(axis=1, keepdims=True)

    def _topic(self, query: str | None) -> int:
        """Returns the topic that a query names, -1 for none."""
        words = (query or "").split()
        topics = (self._topic_of_word.get(" ".join(words[:length])) for length in (2, 1))
        return next((topic for topic in topics if topic is not None), -1)

    def _next_of(self, moment: site_choices.Moment, topics: np.ndarray) -> np.ndarray:
        """Returns expected watches in the next action, float64 [N, V]; after a search, of it."""
        expected = _expected_watches(moment)
        searched = np.flatnonzero(topics >= 0)
        if len(searched):
            followed = site_choices.search_chances(moment.take(searched), topics[searched])
            rest = expected[searched] / expected[searched].sum(axis=1, keepdims=True)
            follow = self._world.behaviour.search_follow
            expected[searched] = follow * followed + (1 - follow) * rest
        return expected

    def _completed(self, users: np.ndarray) -> np.ndarray:
        """Returns the chance that a watch is completed, float64 [B, V], on the usual device."""
        videos = np.arange(self._world.config.videos)[None, :]
        device = self._world.users.device[users][:, None]
        m = site_behaviour.watch_location(self._world, users[:, None], videos, devices=device)
        return site_behaviour.completed_probability(self._world, m, videos)


def _expected_watches(moment: site_choices.Moment) -> np.ndarray:
    """Returns how often each video is watched in the next action, float64 [N, V]."""
    b = moment.world.behaviour
    share = dict(zip(site_visits.ACTIONS, site_visits.action_chances(moment).T, strict=True))
    watched = site_choices.watched_mask(moment)
    external = site_choices.first_unwatched_chances(
        site_choices.external_chances(moment), watched, retries=b.retries
    )
    return np.asarray(
        share["home"][:, None] * _expected_clicks(moment, site_pages.HOME, watched)
        + share["up_next"][:, None] * _expected_clicks(moment, site_pages.UP_NEXT, watched)
        + share["search"][:, None] * b.search_follow * site_choices.search_chances(moment)
        + share["channel"][:, None] * site_choices.channel_watch_chances(moment)
        + share["external"][:, None] * external
    )


def _expected_clicks(
    moment: site_choices.Moment, policy: site_pages.Policy, watched: np.ndarray
) -> np.ndarray:
    """Returns the chance that each video is on the page and clicked, float64 [N, V].

    Positions count by their mean: the production recommender's order is noisy.
    """
    world, shape = moment.world, watched.shape
    is_next = np.zeros(shape, bool)
    row, slot = np.nonzero(moment.next_episodes >= 0)
    is_next[row, moment.next_episodes[row, slot]] = True
    is_up_next = policy is site_pages.UP_NEXT
    showing = site_behaviour.Showing(
        users=moment.users[:, None],
        videos=np.arange(shape[1])[None, :],
        hour_start_s=np.asarray(moment.hour.start_s),
        position=np.zeros((1, 1)),
        recent_unclicked=np.zeros((1, 1)),
        is_up_next=np.full((1, 1), is_up_next),
        already_watched=watched,
        is_next_episode=is_next,
    )
    decay = world.behaviour.position_decay_up_next if is_up_next else world.behaviour.position_decay
    mean_place = np.mean((np.arange(policy.page_size) + 1.0) ** -decay)
    shown = site_pages.shown_chances(moment, policy=policy)
    return np.asarray(shown * site_behaviour.click_probability(world, showing) * mean_place)
