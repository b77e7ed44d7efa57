"""What people of the simulated site think of what they watched, and how often they say so.

    s(u, v)       = b.satisfied_affinity A(u, v) + b.satisfied_quality (production_quality_v - 1/2)
                    - b.satisfied_clickbait clickbait_v +- b.satisfied_niche + b.satisfied_bias
    satisfaction  = tanh(s / 2) in (-1, 1): what a watch was worth to the user, whatever its length
    P(kind | watch) = feedback x most_kind x sigmoid(slope_kind s + bias_kind)

Watch time follows length first, satisfaction does not: a page by watch time alone is not the most
satisfying one. Nobody but the truth sees satisfaction; likes, dislikes, hides and shares are its
traces.
"""

from collections.abc import Mapping

import numpy as np

from features import feedback
from pipeline.site import behaviour as site_behaviour
from pipeline.site import world as site_world

# Kind to the most that a watch gets of it, and slope and bias of the logit.
CHANCES: Mapping[str, tuple[float, float, float]] = {
    feedback.LIKE: (0.40, 1.5, -1.0),
    feedback.DISLIKE: (0.25, -1.5, -1.5),
    feedback.SHARE: (0.10, 1.5, -1.5),
    feedback.HIDE: (0.20, -1.5, -1.5),
}
KINDS = tuple(CHANCES)
OF_CHANNEL = 0.25  # Part of the hides that are of the whole channel.


def score(world: site_world.World, users: np.ndarray, videos: np.ndarray) -> np.ndarray:
    """Returns s, float64 [...], for rows of users and videos that broadcast."""
    site, people, b = world.videos, world.users, world.behaviour
    is_niche = people.niche[users, site.topic[videos]] == site.niche[videos]
    return np.asarray(
        b.satisfied_affinity * site_behaviour.affinity(world, users, videos)
        + b.satisfied_quality * (site.quality[videos] - 0.5)
        - b.satisfied_clickbait * site.clickbait[videos]
        + b.satisfied_niche * np.where(is_niche, 1.0, -1.0)
        + b.satisfied_bias
    )


def satisfaction(world: site_world.World, users: np.ndarray, videos: np.ndarray) -> np.ndarray:
    """Returns what a watch is worth to its user, float64 [...] in (-1, 1)."""
    return np.tanh(score(world, users, videos) / 2)


def probability(
    world: site_world.World, kind: str, users: np.ndarray, videos: np.ndarray
) -> np.ndarray:
    """Returns the probability that a watch gets a kind of feedback, float64 [...]."""
    most, slope, bias = CHANCES[kind]
    chance = site_behaviour.sigmoid(slope * score(world, users, videos) + bias)
    return np.asarray(np.minimum(world.config.feedback * most, 1.0) * chance)


def draw(
    world: site_world.World, rng: np.random.Generator, users: np.ndarray, videos: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draws what is said of n watches.

    Returns:
        Which watch, int64 [m]; place of the kind in :data:`KINDS`, int8 [m]; and whether it is of
        the whole channel, bool [m].
    """
    chances = np.stack([probability(world, kind, users, videos) for kind in KINDS], axis=1)
    row, kind = np.nonzero(rng.random(chances.shape) < chances)
    of_channel = (kind == KINDS.index(feedback.HIDE)) & (rng.random(len(row)) < OF_CHANNEL)
    return row, kind.astype(np.int8), of_channel
