"""Where the videos that a user meets come from: draws, and the exact chances of each draw.

Each source is a pair of functions of a moment, ``draw_x`` and ``x_chances``: the first takes
videos at random, the second says with which probability it takes each. What the simulator does
and what the truth knows thus stand side by side.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping

import numpy as np

from pipeline.site import behaviour as site_behaviour
from pipeline.site import groups
from pipeline.site import hours as site_hours
from pipeline.site import state as site_state
from pipeline.site import world as site_world

# How often each followed channel is opened, the oldest subscription first; the last two slots are
# series that the user discovered. A series that has a next episode is opened more often.
_SLOT_WEIGHTS = np.array([1.0, 0.7, 0.5, 0.35, 0.25, 0.2, 0.5, 0.5])
_NEXT_EPISODE_PULL = 2.5


@dataclasses.dataclass(frozen=True)
class Moment:
    """N users, each at a time within one hour.

    Attributes:
        world: The site that users belong to.
        hour: Hour with what is offered in it.
        state: Memory of users.
        rows: int64 [N], rows of ``state``.
        time: int64 [N], time of each, Unix seconds.
    """

    world: site_world.World
    hour: site_hours.Hour
    state: site_state.UserState
    rows: np.ndarray
    time: np.ndarray

    @functools.cached_property
    def users(self) -> np.ndarray:
        """Returns int64 [N], rows of the world."""
        return np.asarray(self.state.users[self.rows])

    @functools.cached_property
    def wanted(self) -> np.ndarray:
        """Returns the topics that the users want now, float [N, K]."""
        return site_behaviour.interest(
            self.world,
            self.users,
            mood_topic=self.state.mood_topic[self.rows],
            mood_age_s=self.state.mood_age_s(self.rows, self.time),
        )

    @functools.cached_property
    def next_episodes(self) -> np.ndarray:
        """Returns int64 [N, FOLLOWS], -1 where a channel has no next episode yet."""
        return self.state.next_episodes(self.rows, num_videos=self.hour.num_videos)

    def take(self, chosen: np.ndarray) -> "Moment":
        """Returns the moment of some of the users, int or bool [...]."""
        return Moment(self.world, self.hour, self.state, self.rows[chosen], self.time[chosen])


def draw_topics(moment: Moment, rng: np.random.Generator, number: int) -> np.ndarray:
    """Draws topics by current interest, int64 [N, number]."""
    uniform = rng.random((len(moment.rows), number))
    return groups.draw_columns(np.cumsum(moment.wanted, axis=1), uniform)


def draw_of_topic(moment: Moment, rng: np.random.Generator, topic: np.ndarray) -> np.ndarray:
    """Draws a video for each topic, int64 [N, m], by the user's niche and language."""
    niche, language = site_behaviour.niche_and_language(moment.world, rng, moment.users, topic)
    return moment.hour.interest.draw(rng, (topic, language, niche))


def draw_taste(moment: Moment, rng: np.random.Generator, number: int) -> np.ndarray:
    """Draws what the users want now, int64 [N, number]."""
    return draw_of_topic(moment, rng, draw_topics(moment, rng, number))


def taste_chances(moment: Moment) -> np.ndarray:
    """Returns the chances of ``draw_taste``, float64 [N, V]."""
    return moment.hour.interest.spread(
        site_behaviour.wishes(moment.world, moment.users, moment.wanted)
    )


def draw_fresh(moment: Moment, rng: np.random.Generator, number: int) -> np.ndarray:
    """Draws uploads of the last day by interest, int64 [N, number]; -1 for none."""
    topic = draw_topics(moment, rng, number)
    niche, language = site_behaviour.niche_and_language(moment.world, rng, moment.users, topic)
    return moment.hour.fresh.draw(rng, (topic, language, niche))


def fresh_chances(moment: Moment) -> np.ndarray:
    """Returns the chances of ``draw_fresh``, float64 [N, V]."""
    return moment.hour.fresh.spread(
        site_behaviour.wishes(moment.world, moment.users, moment.wanted)
    )


def _draw_language(moment: Moment, rng: np.random.Generator, number: int) -> np.ndarray:
    shape = (len(moment.rows), number)
    is_second = rng.random(shape) >= moment.world.behaviour.first_language
    return moment.world.users.languages[moment.users[:, None], is_second.astype(np.int64)]


def draw_popular(moment: Moment, rng: np.random.Generator, number: int) -> np.ndarray:
    """Draws the big hits of the users' languages, int64 [N, number]."""
    return moment.hour.popular.draw(rng, (_draw_language(moment, rng, number),))


def popular_chances(moment: Moment) -> np.ndarray:
    """Returns the chances of ``draw_popular``, float64 [N, V]."""
    return moment.hour.popular.spread(site_behaviour.language_chances(moment.world, moment.users))


def draw_external(moment: Moment, rng: np.random.Generator, number: int) -> np.ndarray:
    """Draws what a link from elsewhere leads to, int64 [N, number]: by popularity alone."""
    return moment.hour.external.draw(rng, (_draw_language(moment, rng, number),))


def external_chances(moment: Moment) -> np.ndarray:
    """Returns the chances of ``draw_external``, float64 [N, V]."""
    return moment.hour.external.spread(site_behaviour.language_chances(moment.world, moment.users))


def draw_random(moment: Moment, rng: np.random.Generator, number: int) -> np.ndarray:
    """Draws any videos, int64 [N, number]: exploration."""
    return rng.integers(0, moment.hour.num_videos, (len(moment.rows), number))


def random_chances(moment: Moment) -> np.ndarray:
    """Returns the chances of ``draw_random``, float64 [N, V]."""
    is_there = np.arange(len(moment.hour.popularity)) < moment.hour.num_videos
    return np.tile(is_there / moment.hour.num_videos, (len(moment.rows), 1))


def _slot_weights(moment: Moment) -> np.ndarray:
    """Returns which followed channel is opened, float [N, FOLLOWS], not normalised."""
    follows = moment.state.follows[moment.rows]
    pull = np.where(moment.next_episodes >= 0, _NEXT_EPISODE_PULL, 1.0)
    return np.where(follows >= 0, _SLOT_WEIGHTS * pull, 0.0)


def draw_subscriptions(moment: Moment, rng: np.random.Generator, number: int) -> np.ndarray:
    """Draws from followed channels, int64 [N, number]; -1 for none.

    The next episode where the channel has one for this user, else one of its other videos.
    """
    cumulative = np.cumsum(_slot_weights(moment), axis=1)
    slot = groups.draw_columns(cumulative, rng.random((len(moment.rows), number)))
    episode = np.take_along_axis(moment.next_episodes, slot, axis=1)
    channel = np.take_along_axis(moment.state.follows[moment.rows], slot, axis=1)
    single = moment.hour.channel.draw(rng, (np.maximum(channel, 0),), strict=True)
    video = np.where(episode >= 0, episode, single)
    return np.where((cumulative[:, -1:] > 0) & (channel >= 0), video, -1)


def subscriptions_chances(moment: Moment) -> np.ndarray:
    """Returns the chances of ``draw_subscriptions``, float64 [N, V]; rows may sum to less."""
    weights = _slot_weights(moment)
    total = weights.sum(axis=1, keepdims=True)
    share = np.where(total > 0, weights / np.where(total > 0, total, 1), 0)
    has_next = moment.next_episodes >= 0
    channels = np.zeros((len(moment.rows), moment.world.config.channels))
    follows = np.maximum(moment.state.follows[moment.rows], 0)
    row = np.arange(len(moment.rows))[:, None]
    np.add.at(channels, (row, follows), np.where(has_next, 0, share))
    chances = moment.hour.channel.spread(channels, strict=True)
    np.add.at(chances, (row, np.maximum(moment.next_episodes, 0)), np.where(has_next, share, 0))
    return chances


def _next_of_last(moment: Moment) -> np.ndarray:
    """Returns the episode after the last watched one, int64 [N], -1 where there is none."""
    last = moment.state.last_video(moment.rows)
    channel = moment.world.videos.channel[last]
    is_its_channel = moment.state.follows[moment.rows] == channel[:, None]
    fits = is_its_channel & (last >= 0)[:, None] & (moment.world.videos.episode[last] > 0)[:, None]
    return np.where(fits, moment.next_episodes, -1).max(axis=1)


def draw_next_episode(moment: Moment, rng: np.random.Generator, number: int) -> np.ndarray:
    """Gives the episode after the one just watched, int64 [N, number]; -1 for none."""
    del rng  # Nothing about it is random.
    return np.repeat(_next_of_last(moment)[:, None], number, axis=1)


def next_episode_chances(moment: Moment) -> np.ndarray:
    """Returns 1 for the next episode, float64 [N, V]; a row of 0 where there is none."""
    video = _next_of_last(moment)
    chances = np.zeros((len(video), len(moment.hour.popularity)))
    chances[np.arange(len(video)), video] = video >= 0
    return chances


Draw = Callable[[Moment, np.random.Generator, int], np.ndarray]
Chances = Callable[[Moment], np.ndarray]

# In the order of their bits in the log of a page.
SOURCES: Mapping[str, tuple[Draw, Chances]] = {
    "taste": (draw_taste, taste_chances),
    "popular": (draw_popular, popular_chances),
    "fresh": (draw_fresh, fresh_chances),
    "subscriptions": (draw_subscriptions, subscriptions_chances),
    "random": (draw_random, random_chances),
    "next_episode": (draw_next_episode, next_episode_chances),
}


def first_unwatched(moment: Moment, drawn: np.ndarray) -> np.ndarray:
    """Returns the first drawn video that the user has not watched, else the last drawn.

    Args:
        moment: N users, each at a time.
        drawn: int64 [N, retries], rows of the world's videos.

    Returns:
        int64 [N], rows of the world's videos.
    """
    fits = ~moment.state.has_watched(moment.rows, drawn)
    column = np.where(fits.any(axis=1), fits.argmax(axis=1), drawn.shape[1] - 1)
    return np.take_along_axis(drawn, column[:, None], axis=1)[:, 0]


def watched_mask(moment: Moment, *, is_completed: bool = False) -> np.ndarray:
    """Returns bool [N, V], the videos among the users' last watches, or completed ones."""
    mask = np.zeros((len(moment.rows), len(moment.hour.popularity)), bool)
    watched = moment.state.watched[moment.rows]
    if is_completed:
        watched = np.where(moment.state.completed[moment.rows], watched, -1)
    row, column = np.nonzero(watched >= 0)
    mask[row, watched[row, column]] = True
    return mask


def first_unwatched_chances(
    chances: np.ndarray, watched: np.ndarray, *, retries: int, mass: np.ndarray | None = None
) -> np.ndarray:
    """Returns the chances of ``first_unwatched`` on independent draws.

    With m the chance that a draw is a watched video: an unwatched video has
    p (1 + m + ... + m^(retries - 1)), a watched one p m^(retries - 1).

    Args:
        chances: p, float [N, V].
        watched: bool [N, V], whether the user watched the video.
        retries: Number of draws.
        mass: m, float [N, V], where it is not the same for all videos of a row.
    """
    if mass is None:
        mass = np.minimum((chances * watched).sum(axis=1, keepdims=True), 1)
    tries = sum(mass**power for power in range(retries))
    return np.asarray(chances * np.where(watched, mass ** (retries - 1), tries))


def search_chances(moment: Moment, topic: np.ndarray | None = None) -> np.ndarray:
    """Returns what is watched after a search that is followed, float64 [N, V].

    The topic is drawn by interest, then results are tried until one is new.

    Args:
        moment: N users, each at a time.
        topic: int64 [N], the topic of the query, where it is known.
    """
    wanted = moment.wanted
    if topic is not None:
        wanted = np.equal(topic[:, None], np.arange(wanted.shape[1])).astype(np.float64)
    chances = moment.hour.interest.spread(site_behaviour.wishes(moment.world, moment.users, wanted))
    watched = watched_mask(moment)
    topics = moment.world.videos.topic
    seen = np.zeros_like(wanted)
    row, video = np.nonzero(watched)
    np.add.at(seen, (row, topics[video]), chances[row, video])
    mass = np.minimum(np.where(wanted > 0, seen / np.where(wanted > 0, wanted, 1), 0), 1)
    retries = moment.world.behaviour.retries
    return first_unwatched_chances(chances, watched, retries=retries, mass=mass[:, topics])


def draw_channel_watch(moment: Moment, rng: np.random.Generator) -> np.ndarray:
    """Draws what a visit of a followed channel leads to, int64 [N]; else what the user wants."""
    drawn = draw_subscriptions(moment, rng, moment.world.behaviour.retries)
    instead = draw_taste(moment, rng, drawn.shape[1])
    return first_unwatched(moment, np.where(drawn >= 0, drawn, instead))


def channel_watch_chances(moment: Moment) -> np.ndarray:
    """Returns the chances of ``draw_channel_watch``, float64 [N, V]."""
    chances = subscriptions_chances(moment)
    missing = np.maximum(1 - chances.sum(axis=1, keepdims=True), 0)
    chances += missing * taste_chances(moment)
    retries = moment.world.behaviour.retries
    return first_unwatched_chances(chances, watched_mask(moment), retries=retries)
