"""The recommender that is in production on the simulated site, whose pages are in the logs.

It is plausible and not good: it knows the tastes by topic and the popularity, but not the niches;
it ranks by a noisy score, never tires of showing a video again, and keeps some places for hits,
fresh uploads and exploration.
"""

import dataclasses
from collections.abc import Mapping

import numpy as np

from pipeline.site import behaviour as site_behaviour
from pipeline.site import choices as site_choices

_SCORE_NOISE = 0.3
# Gumbel noise on the score, so that positions are not a function of the score alone.
_ORDER_NOISE = 0.7
_FOLLOWS_SCORE = 1.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Policy:
    """How a page is filled.

    Attributes:
        surface: Name in the logs.
        slots: Number of draws from each source; their sum is the size of the page.
        spares: Number of further draws by taste that replace repeats and finished videos.
    """

    surface: str
    slots: Mapping[str, int]
    spares: int

    @property
    def page_size(self) -> int:
        """Most impressions of a page."""
        return sum(self.slots.values())


HOME = Policy(
    surface="home",
    slots={"taste": 5, "popular": 2, "fresh": 2, "subscriptions": 2, "random": 1},
    spares=4,
)
UP_NEXT = Policy(surface="up_next", slots={"next_episode": 1, "taste": 4, "popular": 1}, spares=2)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Page:
    """Pages of N users.

    Attributes:
        videos: int64 [N, S] by position, -1 after the last impression.
        sources: uint8 [N, S], bits in the order of ``site_choices.SOURCES``.
        scores: float64 [N, S], the retrieval score that is logged.
    """

    videos: np.ndarray
    sources: np.ndarray
    scores: np.ndarray


def make_pages(moment: site_choices.Moment, rng: np.random.Generator, *, policy: Policy) -> Page:
    """Fills a page for each user of a moment."""
    videos, bits = _draws(moment, rng, policy)
    finished = moment.state.has_watched(moment.rows, videos, is_completed=True)
    videos = np.where(finished, -1, videos)
    same = videos[:, :, None] == videos[:, None, :]
    sources = np.bitwise_or.reduce(np.where(same, bits, np.uint8(0)), axis=2)
    is_first = same.argmax(axis=2) == np.arange(videos.shape[1])
    is_kept = is_first & (videos >= 0)
    is_kept &= np.cumsum(is_kept, axis=1) <= policy.page_size
    scores = _scores(moment, rng, np.maximum(videos, 0))
    key = np.where(is_kept, scores + _ORDER_NOISE * rng.gumbel(size=scores.shape), -np.inf)
    order = np.argsort(-key, axis=1, kind="stable")[:, : policy.page_size]
    kept = np.take_along_axis(is_kept, order, axis=1)
    return Page(
        videos=np.where(kept, np.take_along_axis(videos, order, axis=1), -1),
        sources=np.take_along_axis(sources, order, axis=1),
        scores=np.take_along_axis(scores, order, axis=1),
    )


def _draws(
    moment: site_choices.Moment, rng: np.random.Generator, policy: Policy
) -> tuple[np.ndarray, np.ndarray]:
    """Returns draws int64 [N, D], the spares last, and the source bit uint8 [D] of each."""
    names = list(site_choices.SOURCES)
    columns, bits = [], []
    for name, number in [*policy.slots.items(), ("taste", policy.spares)]:
        columns.append(site_choices.SOURCES[name][0](moment, rng, number))
        bits += [1 << names.index(name)] * number
    return np.concatenate(columns, axis=1), np.array(bits, np.uint8)


def _scores(
    moment: site_choices.Moment, rng: np.random.Generator, videos: np.ndarray
) -> np.ndarray:
    users = moment.users[:, None]
    follows = moment.state.follows[moment.rows]
    is_followed = follows[:, None, :] == moment.world.videos.channel[videos][:, :, None]
    return np.asarray(
        site_behaviour.affinity(moment.world, users, videos)
        + 0.5 * np.log(moment.hour.popularity[videos] + 1e-6)
        + _FOLLOWS_SCORE * is_followed.any(axis=2)
        + _SCORE_NOISE * rng.standard_normal(videos.shape)
    )


def shown_chances(moment: site_choices.Moment, *, policy: Policy) -> np.ndarray:
    """Returns the chance of each video to be on the page, float64 [N, V].

    1 - prod over sources of (1 - p_source)^slots. To first order: the spares are left out.
    """
    missed = np.ones((len(moment.rows), len(moment.hour.popularity)))
    for name, number in policy.slots.items():
        missed *= (1 - np.minimum(site_choices.SOURCES[name][1](moment), 1)) ** number
    return np.where(site_choices.watched_mask(moment, is_completed=True), 0, 1 - missed)


def showing(
    moment: site_choices.Moment, videos: np.ndarray, *, policy: Policy
) -> site_behaviour.Showing:
    """Returns pages as impressions, with what the users' memory says of each.

    Args:
        moment: N users, each at a time.
        videos: int64 [N, S], by position; -1 reads as video 0, to be masked by the caller.
        policy: Policy of the surface.
    """
    shown = np.maximum(videos, 0)
    return site_behaviour.Showing(
        users=np.broadcast_to(moment.users[:, None], videos.shape),
        videos=shown,
        hour_start_s=np.full(videos.shape, moment.hour.start_s),
        position=np.broadcast_to(np.arange(videos.shape[1]), videos.shape),
        recent_unclicked=moment.state.recent_unclicked(moment.rows, videos, time=moment.time),
        is_up_next=np.full(videos.shape, policy.surface == UP_NEXT.surface),
        already_watched=moment.state.has_watched(moment.rows, videos),
        is_next_episode=(shown[:, :, None] == moment.next_episodes[:, None, :]).any(axis=2),
    )
