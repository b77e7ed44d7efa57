"""How the people of the simulated site choose, click and watch: formulas on arrays of rows.

Users and videos are row numbers of the world here; every array may have any shape, all the same
or broadcast. :mod:`pipeline.site.simulator` shows the formulas together.
"""

import dataclasses
import math

import numpy as np

from features.durations import HOUR_S
from pipeline.site import situations as site_situations
from pipeline.site import world as site_world

SURFACES = ("home", "up_next")
FRESH_FADE_S = 24 * HOUR_S
_AFFINITY_FLOOR = 0.05  # Of a topic that the user has no taste for; log(0.05) is about -3.
_OFTEN = 3.0  # Affinity beyond this adds no more.


def affinity(world: site_world.World, users: np.ndarray, videos: np.ndarray) -> np.ndarray:
    """Returns A, about how many times more than an average user, as a logarithm in [-3, 3].

    A = log(K (0.8 theta_u[topic_v] + 0.2 theta_u[second_topic_v]) + 0.05), at most 3.
    """
    taste, site = world.users.taste, world.videos
    liking = 0.8 * taste[users, site.topic[videos]] + 0.2 * taste[users, site.second_topic[videos]]
    return np.minimum(np.log(liking * world.config.topics + _AFFINITY_FLOOR), _OFTEN)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Showing:
    """Impressions; all arrays have one shape or broadcast to it.

    Attributes:
        users: int [...], rows of the world's users.
        videos: int [...], rows of the world's videos.
        hour_start_s: int [...], start of the hour of the page, Unix seconds.
        position: int [...], from 0.
        recent_unclicked: int [...], see ``UserState.recent_unclicked``.
        is_up_next: bool [...], the page beside a watch rather than the home page.
        already_watched: bool [...], among the user's last watches.
        is_next_episode: bool [...], the episode that comes next for this user.
    """

    users: np.ndarray
    videos: np.ndarray
    hour_start_s: np.ndarray
    position: np.ndarray
    recent_unclicked: np.ndarray
    is_up_next: np.ndarray
    already_watched: np.ndarray
    is_next_episode: np.ndarray


def click_parts(world: site_world.World, showing: Showing) -> tuple[np.ndarray, np.ndarray]:
    """Returns the click logit without its bias, and the factor of attention, float [...] each."""
    site, people, b = world.videos, world.users, world.behaviour
    users, videos = showing.users, showing.videos
    topic, language = site.topic[videos], site.language[videos]
    is_niche = people.niche[users, topic] == site.niche[videos]
    speaks = (people.languages[users] == language[..., None]).any(axis=-1)
    follows = (people.follows[users] == site.channel[videos][..., None]).any(axis=-1)
    age = showing.hour_start_s + HOUR_S // 2 - site.upload_time[videos]
    logit = (
        b.click_affinity * affinity(world, users, videos)
        + b.click_niche * np.where(is_niche, 1.0, -1.0)
        + b.click_clickbait * site.clickbait[videos]
        + b.click_quality * (site.quality[videos] - 0.5)
        + b.click_fresh * np.exp(-np.maximum(age, 0) / FRESH_FADE_S)
        + b.click_follow * follows
        - b.click_foreign * ~speaks
        + b.click_next_episode * showing.is_next_episode
        + b.click_up_next * showing.is_up_next
    )
    if world.config.situations:
        logit = logit + world.config.situations * site_situations.appeal(
            world, users, videos, hour_start_s=showing.hour_start_s
        )
    decay = np.where(showing.is_up_next, b.position_decay_up_next, b.position_decay)
    tired = b.fatigue * np.minimum(showing.recent_unclicked, b.fatigue_limit)
    bored = np.where(showing.already_watched, b.click_already_watched, 1.0)
    return logit, np.asarray((showing.position + 1.0) ** -decay * np.exp(-tired) * bored)


def click_probability(world: site_world.World, showing: Showing) -> np.ndarray:
    """Returns the true click probability, float [...]: sigmoid(logit) x attention."""
    logit, attention = click_parts(world, showing)
    return sigmoid(world.behaviour.click_bias + logit) * attention


def sigmoid(logit: np.ndarray) -> np.ndarray:
    """Returns 1 / (1 + exp(-logit))."""
    return np.asarray(1 / (1 + np.exp(-logit)))


def interest(
    world: site_world.World,
    users: np.ndarray,
    *,
    mood_topic: np.ndarray,
    mood_age_s: np.ndarray,
) -> np.ndarray:
    """Returns which topic the users want now, float64 [B, K], rows sum to 1.

    (1 - rho) theta_u + rho [topic of the last watch], rho = mood exp(-age of that watch / fade).

    Args:
        world: The site that users belong to.
        users: int [B], rows of the world's users.
        mood_topic: int [B], -1 before the first watch.
        mood_age_s: int [B], seconds since that watch.
    """
    b = world.behaviour
    rho = np.where(mood_topic >= 0, b.mood * np.exp(-mood_age_s / b.mood_fade_s), 0.0)
    wanted = world.users.taste[users] * (1 - rho)[:, None]
    wanted[np.arange(len(users)), mood_topic] += rho
    return wanted


def niche_and_language(
    world: site_world.World, rng: np.random.Generator, users: np.ndarray, topic: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Draws a language and a niche for wishes; users int [n], topic int [n, m]."""
    b, people = world.behaviour, world.users
    niche = people.niche[users[:, None], topic]
    other = (niche + rng.integers(1, world.config.niches, topic.shape)) % world.config.niches
    niche = np.where(rng.random(topic.shape) < b.niche_loyalty, niche, other)
    is_second = rng.random(topic.shape) >= b.first_language
    return niche, people.languages[users[:, None], is_second.astype(np.int64)]


def wishes(world: site_world.World, users: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Returns the chances of what ``niche_and_language`` draws, float64 [B, K, L, niches].

    Args:
        world: The site that users belong to.
        users: int [B], rows of the world's users.
        wanted: float [B, K], from ``interest``.
    """
    loyal = world.behaviour.niche_loyalty
    is_own = world.users.niche[users][:, :, None] == np.arange(world.config.niches)
    niche = np.where(is_own, loyal, (1 - loyal) / (world.config.niches - 1))
    language = language_chances(world, users)
    return np.asarray(wanted[:, :, None, None] * language[:, None, :, None] * niche[:, :, None, :])


def language_chances(world: site_world.World, users: np.ndarray) -> np.ndarray:
    """Returns float64 [B, L], which language the users choose."""
    first = world.behaviour.first_language
    pair = world.users.languages[users]
    numbers = np.arange(len(site_world.LANGUAGES))
    return first * (pair[:, :1] == numbers) + (1 - first) * (pair[:, 1:] == numbers)


def watch_location(
    world: site_world.World, users: np.ndarray, videos: np.ndarray, *, devices: np.ndarray
) -> np.ndarray:
    """Returns m, the mean of log(watch time in seconds) before it is cut at the duration."""
    b, site = world.behaviour, world.videos
    duration = site.duration_s[videos]
    return np.asarray(
        np.log(duration)
        + b.watch_bias
        + b.watch_affinity * affinity(world, users, videos)
        - b.watch_clickbait * site.clickbait[videos]
        + b.watch_quality * (site.quality[videos] - 0.5)
        - b.watch_length * np.log(duration / 300)
        + b.watch_premium * world.users.premium[users]
        - b.watch_phone * (devices == site_world.DEVICES.index("phone"))
        + b.watch_tv * (devices == site_world.DEVICES.index("tv"))
    )


def completed_probability(world: site_world.World, m: np.ndarray, videos: np.ndarray) -> np.ndarray:
    """Returns P(T >= completed_fraction D), float [...]; m from ``watch_location``."""
    b = world.behaviour
    # Half the grain of the logged tenths of a second is far below the noise.
    threshold = np.log(b.completed_fraction * world.videos.duration_s[videos])
    return normal_cdf((m - threshold) / b.watch_noise)


def expected_clipped_lognormal(m: np.ndarray, s: float, upper: np.ndarray) -> np.ndarray:
    """Returns E[max(1, min(X, upper))] of log X ~ N(m, s^2).

    1 Phi(-m/s) + exp(m + s^2/2) (Phi(b - s) - Phi(a - s)) + upper (1 - Phi(b)), where
    a = -m / s and b = (log upper - m) / s.
    """
    a, b = -m / s, (np.log(upper) - m) / s
    between = np.exp(m + s * s / 2) * (normal_cdf(b - s) - normal_cdf(a - s))
    return np.asarray(normal_cdf(a) + between + upper * (1 - normal_cdf(b)))


def normal_cdf(x: np.ndarray) -> np.ndarray:
    """Returns Phi(x), to 1e-7.

    Source: Abramowitz and Stegun, Handbook of Mathematical Functions, 7.1.26.
    """
    z = np.abs(x) / math.sqrt(2)
    t = 1 / (1 + 0.3275911 * z)
    series = t * (
        0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429)))
    )
    upper_half = 1 - 0.5 * series * np.exp(-z * z)
    return np.asarray(np.where(x >= 0, upper_half, 1 - upper_half))
