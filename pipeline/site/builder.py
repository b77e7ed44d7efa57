"""The simulated site before anything happens: its users, channels and videos.

taste of user u      theta_u ~ Dirichlet(taste_breadth x softmax(topic + region + gender + age))
niche of a topic     hidden kinds of each topic; users and channels have one, no log tells it
pull of video v      log q_v = 0.9 N(0, 1) + 0.6 N_channel + 0.8 (production_quality - 1/2)
                               + 0.4 clickbait
upload               back_catalogue of the videos before the start, the others in every hour
series               some channels number their videos; episodes are watched in order
"""

import dataclasses

import numpy as np

from features.durations import DAY_S, HOUR_S
from pipeline.site import config as site_config
from pipeline.site import groups
from pipeline.site import world as site_world

_LANGUAGE_SHARES = np.array([0.52, 0.14, 0.12, 0.09, 0.07, 0.06])
_DEVICE_SHARES = (0.55, 0.25, 0.12, 0.08)
_AGE_BUCKETS = (0, 25, 35, 50, 200)


def build(config: site_config.SiteConfig) -> site_world.World:
    """Makes the site of ``config.seed``; the click bias is not calibrated yet."""
    channels = _channels(config, np.random.default_rng([config.seed, 1]))
    videos = _videos(config, channels, np.random.default_rng([config.seed, 2]))
    users = _users(config, np.random.default_rng([config.seed, 3]))
    world = site_world.World.of(
        config, site_config.Behaviour(), users=users, channels=channels, videos=videos
    )
    return _with_follows(world, np.random.default_rng([config.seed, 4]))


def _channels(config: site_config.SiteConfig, rng: np.random.Generator) -> site_world.Channels:
    number, topics = config.channels, config.topics
    # One channel per topic first, then by the popularity of the topics.
    drawn = rng.choice(topics, size=number - topics, p=_softmax(0.4 * rng.standard_normal(topics)))
    topic = np.concatenate([np.arange(topics), drawn])
    second = np.where(rng.random(number) < 0.5, rng.integers(0, topics, number), topic)
    misleading = rng.random(number) < 0.25
    # A topic's first channel is in English, so that everybody finds something.
    language = rng.choice(len(site_world.LANGUAGES), size=number, p=_LANGUAGE_SHARES)
    language[:topics] = 0
    return site_world.Channels(
        topic=topic.astype(np.int16),
        second_topic=second.astype(np.int16),
        language=language.astype(np.int8),
        niche=rng.integers(0, config.niches, number).astype(np.int8),
        pull=rng.standard_normal(number).astype(np.float32),
        clickbait=np.where(misleading, rng.beta(6, 3, number), rng.beta(1, 9, number)).astype(
            np.float32
        ),
        has_series=rng.random(number) < config.series_share,
    )


def _videos(
    config: site_config.SiteConfig, channels: site_world.Channels, rng: np.random.Generator
) -> site_world.Videos:
    number = config.videos
    # Topic t's first video is of its first channel and old: no topic is ever empty.
    channel = np.concatenate(
        [
            np.arange(config.topics),
            rng.choice(
                config.channels, size=number - config.topics, p=_softmax(0.5 * channels.pull)
            ),
        ]
    )
    num_old = max(config.topics, round(config.back_catalogue * number))
    age_s = rng.random(num_old) ** 1.5 * config.back_catalogue_days * DAY_S
    upload = np.concatenate(
        [config.start_s - 1 - age_s, _new_uploads(config, number - num_old, rng)]
    )
    order = np.argsort(upload, kind="stable")
    channel, upload = channel[order], upload[order]
    topic = channels.topic[channel]
    quality = rng.beta(3, 3, number)
    clickbait = np.clip(channels.clickbait[channel] + 0.1 * rng.standard_normal(number), 0, 1)
    log_pull = (
        0.9 * rng.standard_normal(number)
        + 0.6 * channels.pull[channel]
        + 0.8 * (quality - 0.5)
        + 0.4 * clickbait
    )
    life = config.life_hours * np.exp(0.5 * rng.standard_normal(config.topics))[topic]
    is_episode = channels.has_series[channel] & (rng.random(number) < 0.6)
    typical_s = 420 * np.exp(0.5 * rng.standard_normal(config.topics))[topic]
    duration = np.clip(typical_s * np.exp(0.6 * rng.standard_normal(number)), 15, 2 * HOUR_S)
    return site_world.Videos(
        upload_time=upload.astype(np.int64),
        channel=channel.astype(np.int32),
        topic=topic,
        second_topic=channels.second_topic[channel],
        language=channels.language[channel],
        niche=channels.niche[channel],
        duration_s=np.round(duration).astype(np.float32),
        clickbait=clickbait.astype(np.float32),
        quality=np.round(quality, 3).astype(np.float32),
        pull=np.exp(log_pull).astype(np.float32),
        rise_s=(0.1 * life * HOUR_S * rng.uniform(0.5, 2, number)).astype(np.float32),
        life_s=(life * HOUR_S * rng.uniform(0.6, 1.6, number)).astype(np.float32),
        episode=_episode_numbers(channel, is_episode),
    )


def _new_uploads(
    config: site_config.SiteConfig, number: int, rng: np.random.Generator
) -> np.ndarray:
    """Returns upload times float64 [number] inside the logs: an even stream, fuller by day."""
    hour = np.arange(config.days * 24)
    weight = 1.0 + 0.4 * np.sin(2 * np.pi * (hour % 24 - 9) / 24)
    chosen = rng.choice(hour, size=number, p=weight / weight.sum())
    return config.start_s + (chosen + rng.random(number)) * HOUR_S


def _episode_numbers(channel: np.ndarray, is_episode: np.ndarray) -> np.ndarray:
    """Returns int16 [V]: 1, 2, ... in the order of upload within each channel, 0 elsewhere."""
    rows = np.flatnonzero(is_episode)
    rows = rows[np.argsort(channel[rows], kind="stable")]
    counts = np.bincount(channel[rows])
    first = np.cumsum(counts) - counts
    episode = np.zeros(len(channel), np.int16)
    episode[rows] = np.arange(len(rows)) - first[channel[rows]] + 1
    return episode


def _users(config: site_config.SiteConfig, rng: np.random.Generator) -> site_world.Users:
    number, topics = config.users, config.topics
    region = rng.choice(
        len(site_world.REGIONS), size=number, p=[row[1] for row in site_world.REGION_TABLE]
    )
    gender = rng.choice(3, size=number, p=[0.46, 0.48, 0.06])
    age = np.clip(np.round(13 + rng.gamma(2.4, 9.5, number)), 13, 90)
    signed_in = rng.random(number) < 0.85
    bucket = np.digitize(age, _AGE_BUCKETS) - 1
    logits = (
        0.3 * rng.standard_normal(topics)
        + 0.5 * rng.standard_normal((len(site_world.REGIONS), topics))[region]
        + 0.8 * rng.standard_normal((3, topics))[gender]
        + 0.8 * rng.standard_normal((len(_AGE_BUCKETS) - 1, topics))[bucket]
    )
    taste = rng.standard_gamma(config.taste_breadth * _softmax(logits)) + 1e-4
    first = site_world.REGION_LANGUAGE[region]
    second = np.where(first == 0, rng.integers(1, len(site_world.LANGUAGES), number), 0)
    activity = np.exp(0.7 * rng.standard_normal(number) - 0.245)
    slots = (number, site_config.FOLLOWS)
    return site_world.Users(
        region=region.astype(np.int8),
        languages=np.stack([first, second], axis=1).astype(np.int8),
        # Who is not signed in has told nothing, but has a gender and an age all the same.
        gender=np.where(signed_in, gender, 2).astype(np.int8),
        age=np.where(signed_in, age, np.nan).astype(np.float32),
        signed_in=signed_in,
        device=rng.choice(len(site_world.DEVICES), size=number, p=_DEVICE_SHARES).astype(np.int8),
        premium=rng.random(number) < 0.2,
        taste=(taste / taste.sum(axis=1, keepdims=True)).astype(np.float32),
        niche=rng.integers(0, config.niches, (number, topics)).astype(np.int8),
        follows=np.full(slots, -1, np.int32),
        progress=np.zeros(slots, np.int16),
        activity=activity.astype(np.float32),
    )


def _with_follows(world: site_world.World, rng: np.random.Generator) -> site_world.World:
    """Lets each user follow two to six channels of the own topics, niches and languages."""
    users, channels, topics = world.users, world.channels, world.config.topics
    number, slots = world.config.users, site_config.FIRST_FOLLOWS
    items = groups.GroupedItems(
        (topics, len(site_world.LANGUAGES), world.config.niches),
        (channels.topic, channels.language, channels.niche),
    )
    stock = items.stock(np.exp(channels.pull))
    topic = groups.draw_columns(np.cumsum(users.taste, axis=1), rng.random((number, slots)))
    niche = np.take_along_axis(users.niche, topic, axis=1)
    language = np.broadcast_to(users.languages[:, :1], topic.shape)
    drawn = stock.draw(rng, (topic, language, niche))
    repeats = (drawn[:, :, None] == drawn[:, None, :]) & np.tri(slots, k=-1, dtype=bool)
    wanted = np.arange(slots) < rng.integers(2, slots + 1, number)[:, None]
    follows = users.follows.copy()
    follows[:, :slots] = np.where(wanted & ~repeats.any(axis=2), drawn, -1)
    # Viewers of a series are mostly near its end, some are far behind.
    old = np.searchsorted(world.videos.upload_time, world.config.start_s)
    uploaded = np.bincount(
        world.videos.channel[:old], world.videos.episode[:old] > 0, minlength=len(channels.topic)
    )
    progress = np.where(follows >= 0, uploaded[follows] * np.sqrt(rng.random(follows.shape)), 0)
    changed = dataclasses.replace(users, follows=follows, progress=progress.astype(np.int16))
    return dataclasses.replace(world, users=changed)


def _softmax(logits: np.ndarray) -> np.ndarray:
    weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True)
