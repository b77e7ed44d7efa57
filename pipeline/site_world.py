"""The simulated site before anything happens: its users, channels and videos.

taste of user u      theta_u ~ Dirichlet(taste_breadth x softmax(topic + region + gender + age))
niche of a topic     hidden thirds of each topic; users and channels have one, no log tells it
pull of video v      log q_v = 0.9 N(0, 1) + 0.6 N_channel + 0.8 (production_quality - 1/2)
                               + 0.4 clickbait
upload               back_catalogue of the videos before the start, the others in every hour
series               some channels number their videos; episodes are watched in order
"""

import dataclasses

import numpy as np

from pipeline import site_config, site_names, site_shelves

LANGUAGES = ("en", "es", "pt", "de", "hi", "ja")
_LANGUAGE_SHARES = np.array([0.52, 0.14, 0.12, 0.09, 0.07, 0.06])
# Region, its share of the users, its language, hours from UTC.
_REGIONS = (
    ("US", 0.28, "en", -6), ("GB", 0.10, "en", 0), ("MX", 0.12, "es", -6), ("ES", 0.06, "es", 1),
    ("BR", 0.13, "pt", -3), ("DE", 0.10, "de", 1), ("IN", 0.13, "hi", 5), ("JP", 0.08, "ja", 9),
)  # fmt: skip
REGIONS = tuple(row[0] for row in _REGIONS)
REGION_HOURS = np.array([row[3] for row in _REGIONS])
_REGION_LANGUAGE = np.array([LANGUAGES.index(row[2]) for row in _REGIONS])
GENDERS = ("female", "male", "")  # "" is not stated
DEVICES = ("phone", "desktop", "tv", "tablet")
_DEVICE_SHARES = (0.55, 0.25, 0.12, 0.08)
TIERS = ("free", "premium")
NICHES = 3

_AGE_BUCKETS = (0, 25, 35, 50, 200)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Users:
    """U users.

    Attributes:
        region: int8 [U], row of ``REGIONS``.
        languages: int8 [U, 2], rows of ``LANGUAGES``, the usual one first.
        gender: int8 [U], row of ``GENDERS``.
        age: float32 [U], years; NaN where not stated.
        signed_in: bool [U].
        device: int8 [U], the usual one, row of ``DEVICES``.
        premium: bool [U].
        taste: theta, float32 [U, K], rows sum to 1.
        niche: int8 [U, K], the preferred niche of each topic.
        follows: int32 [U, FOLLOWS], channels, -1 for a free slot.
        progress: int16 [U, FOLLOWS], episodes of those channels watched before the start.
        activity: float32 [U], mean 1.
    """

    region: np.ndarray
    languages: np.ndarray
    gender: np.ndarray
    age: np.ndarray
    signed_in: np.ndarray
    device: np.ndarray
    premium: np.ndarray
    taste: np.ndarray
    niche: np.ndarray
    follows: np.ndarray
    progress: np.ndarray
    activity: np.ndarray


@dataclasses.dataclass(frozen=True, kw_only=True)
class Channels:
    """C channels.

    Attributes:
        topic: int16 [C].
        second_topic: int16 [C], often the same.
        language: int8 [C], row of ``LANGUAGES``.
        niche: int8 [C].
        pull: float32 [C], N(0, 1).
        clickbait: float32 [C], in [0, 1].
        has_series: bool [C].
    """

    topic: np.ndarray
    second_topic: np.ndarray
    language: np.ndarray
    niche: np.ndarray
    pull: np.ndarray
    clickbait: np.ndarray
    has_series: np.ndarray


@dataclasses.dataclass(frozen=True, kw_only=True)
class Videos:
    """V videos in the order of their upload, so that those of a moment are the first ones.

    Attributes:
        upload_time: int64 [V], Unix seconds, ascending.
        channel: int32 [V].
        topic: int16 [V], the channel's.
        second_topic: int16 [V], the channel's.
        language: int8 [V], the channel's.
        niche: int8 [V], the channel's.
        duration_s: float32 [V].
        clickbait: float32 [V], in [0, 1].
        quality: production_quality, float32 [V], in [0, 1].
        pull: q, float32 [V], above 0.
        rise_s: float32 [V], time in which popularity rises after upload.
        life_s: float32 [V], time in which it fades.
        episode: int16 [V], from 1; 0 for a video outside a series.
    """

    upload_time: np.ndarray
    channel: np.ndarray
    topic: np.ndarray
    second_topic: np.ndarray
    language: np.ndarray
    niche: np.ndarray
    duration_s: np.ndarray
    clickbait: np.ndarray
    quality: np.ndarray
    pull: np.ndarray
    rise_s: np.ndarray
    life_s: np.ndarray
    episode: np.ndarray


@dataclasses.dataclass(frozen=True, kw_only=True)
class World:
    """The site: who is there, what is there and how they behave.

    Attributes:
        config: Its settings.
        behaviour: Coefficients of the generative model.
        users: U users.
        channels: C channels.
        videos: V videos.
        series_start: int64 [C], first row of the channel's episodes in ``series_videos``.
        series_length: int32 [C], number of its episodes, uploaded or yet to come.
        series_videos: int32 [sum of lengths], episodes in order, channel after channel.
    """

    config: site_config.SiteConfig
    behaviour: site_config.Behaviour
    users: Users
    channels: Channels
    videos: Videos
    series_start: np.ndarray
    series_length: np.ndarray
    series_videos: np.ndarray

    @classmethod
    def of(
        cls,
        config: site_config.SiteConfig,
        behaviour: site_config.Behaviour,
        *,
        users: Users,
        channels: Channels,
        videos: Videos,
    ) -> "World":
        """Puts the parts together and lists the episodes of each series."""
        episodes = np.flatnonzero(videos.episode > 0)
        order = np.argsort(videos.channel[episodes], kind="stable")
        length = np.bincount(videos.channel[episodes], minlength=len(channels.topic))
        return cls(
            config=config,
            behaviour=behaviour,
            users=users,
            channels=channels,
            videos=videos,
            series_start=np.concatenate([[0], np.cumsum(length)[:-1]]),
            series_length=length.astype(np.int32),
            series_videos=episodes[order].astype(np.int32),
        )


def build(config: site_config.SiteConfig) -> World:
    """Makes the site of ``config.seed``; the click bias is not calibrated yet."""
    channels = _channels(config, np.random.default_rng([config.seed, 1]))
    videos = _videos(config, channels, np.random.default_rng([config.seed, 2]))
    users = _users(config, np.random.default_rng([config.seed, 3]))
    world = World.of(config, site_config.Behaviour(), users=users, channels=channels, videos=videos)
    return _with_follows(world, np.random.default_rng([config.seed, 4]))


def _channels(config: site_config.SiteConfig, rng: np.random.Generator) -> Channels:
    number, topics = config.channels, config.topics
    # One channel per topic first, then by the popularity of the topics.
    drawn = rng.choice(topics, size=number - topics, p=_softmax(0.4 * rng.standard_normal(topics)))
    topic = np.concatenate([np.arange(topics), drawn])
    second = np.where(rng.random(number) < 0.5, rng.integers(0, topics, number), topic)
    misleading = rng.random(number) < 0.25
    # A topic's first channel is in English, so that everybody finds something.
    language = rng.choice(len(LANGUAGES), size=number, p=_LANGUAGE_SHARES)
    language[:topics] = 0
    return Channels(
        topic=topic.astype(np.int16),
        second_topic=second.astype(np.int16),
        language=language.astype(np.int8),
        niche=rng.integers(0, NICHES, number).astype(np.int8),
        pull=rng.standard_normal(number).astype(np.float32),
        clickbait=np.where(misleading, rng.beta(6, 3, number), rng.beta(1, 9, number)).astype(
            np.float32
        ),
        has_series=rng.random(number) < config.series_share,
    )


def _videos(config: site_config.SiteConfig, channels: Channels, rng: np.random.Generator) -> Videos:
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
    age_s = rng.random(num_old) ** 1.5 * config.back_catalogue_days * site_config.DAY_S
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
    duration = np.clip(typical_s * np.exp(0.6 * rng.standard_normal(number)), 15, 2 * 3600)
    return Videos(
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
        rise_s=(0.05 * life * site_config.HOUR_S * rng.uniform(0.5, 2, number)).astype(np.float32),
        life_s=(life * site_config.HOUR_S * rng.uniform(0.6, 1.6, number)).astype(np.float32),
        episode=_episode_numbers(channel, is_episode),
    )


def _new_uploads(
    config: site_config.SiteConfig, number: int, rng: np.random.Generator
) -> np.ndarray:
    """Returns upload times float64 [number] inside the logs: an even stream, fuller by day."""
    hour = np.arange(config.days * 24)
    weight = 1.0 + 0.4 * np.sin(2 * np.pi * (hour % 24 - 9) / 24)
    chosen = rng.choice(hour, size=number, p=weight / weight.sum())
    return config.start_s + (chosen + rng.random(number)) * site_config.HOUR_S


def _episode_numbers(channel: np.ndarray, is_episode: np.ndarray) -> np.ndarray:
    """Returns int16 [V]: 1, 2, ... in the order of upload within each channel, 0 elsewhere."""
    rows = np.flatnonzero(is_episode)
    rows = rows[np.argsort(channel[rows], kind="stable")]
    counts = np.bincount(channel[rows])
    first = np.cumsum(counts) - counts
    episode = np.zeros(len(channel), np.int16)
    episode[rows] = np.arange(len(rows)) - first[channel[rows]] + 1
    return episode


def _users(config: site_config.SiteConfig, rng: np.random.Generator) -> Users:
    number, topics = config.users, config.topics
    region = rng.choice(len(REGIONS), size=number, p=[row[1] for row in _REGIONS])
    gender = rng.choice(3, size=number, p=[0.46, 0.48, 0.06])
    age = np.clip(np.round(13 + rng.gamma(2.4, 9.5, number)), 13, 90)
    signed_in = rng.random(number) < 0.85
    bucket = np.digitize(age, _AGE_BUCKETS) - 1
    logits = (
        0.3 * rng.standard_normal(topics)
        + 0.5 * rng.standard_normal((len(REGIONS), topics))[region]
        + 0.8 * rng.standard_normal((3, topics))[gender]
        + 0.8 * rng.standard_normal((len(_AGE_BUCKETS) - 1, topics))[bucket]
    )
    taste = rng.standard_gamma(config.taste_breadth * _softmax(logits)) + 1e-4
    first = _REGION_LANGUAGE[region]
    second = np.where(first == 0, rng.integers(1, len(LANGUAGES), number), 0)
    activity = np.exp(0.7 * rng.standard_normal(number) - 0.245)
    slots = (number, site_config.FOLLOWS)
    return Users(
        region=region.astype(np.int8),
        languages=np.stack([first, second], axis=1).astype(np.int8),
        # Who is not signed in has told nothing, but has a gender and an age all the same.
        gender=np.where(signed_in, gender, 2).astype(np.int8),
        age=np.where(signed_in, age, np.nan).astype(np.float32),
        signed_in=signed_in,
        device=rng.choice(len(DEVICES), size=number, p=_DEVICE_SHARES).astype(np.int8),
        premium=rng.random(number) < 0.2,
        taste=(taste / taste.sum(axis=1, keepdims=True)).astype(np.float32),
        niche=rng.integers(0, NICHES, (number, topics)).astype(np.int8),
        follows=np.full(slots, -1, np.int32),
        progress=np.zeros(slots, np.int16),
        activity=activity.astype(np.float32),
    )


def _with_follows(world: World, rng: np.random.Generator) -> World:
    """Lets each user follow two to six channels of the own topics, niches and languages."""
    users, channels, topics = world.users, world.channels, world.config.topics
    number, slots = world.config.users, site_config.FIRST_FOLLOWS
    shelf = site_shelves.Shelf(
        (topics, len(LANGUAGES), NICHES), (channels.topic, channels.language, channels.niche)
    )
    stock = shelf.stock(np.exp(channels.pull))
    topic = site_shelves.draw_columns(np.cumsum(users.taste, axis=1), rng.random((number, slots)))
    niche = np.take_along_axis(users.niche, topic, axis=1)
    language = np.broadcast_to(users.languages[:, :1], topic.shape)
    found = stock.draw(rng, (topic, language, niche))
    repeats = (found[:, :, None] == found[:, None, :]) & np.tri(slots, k=-1, dtype=bool)
    wanted = np.arange(slots) < rng.integers(2, slots + 1, number)[:, None]
    follows = users.follows.copy()
    follows[:, :slots] = np.where(wanted & ~repeats.any(axis=2), found, -1)
    # Viewers of a series are mostly near its end, some are far behind.
    old = np.searchsorted(world.videos.upload_time, world.config.start_s)
    uploaded = np.bincount(
        world.videos.channel[:old], world.videos.episode[:old] > 0, minlength=len(channels.topic)
    )
    progress = np.where(follows >= 0, uploaded[follows] * np.sqrt(rng.random(follows.shape)), 0)
    changed = dataclasses.replace(users, follows=follows, progress=progress.astype(np.int16))
    return dataclasses.replace(world, users=changed)


def names(world: World) -> tuple[list[str], list[tuple[str, ...]], list[str], list[str]]:
    """Returns names of topics, their search words, channel ids and channel titles."""
    topic_names, topic_words = site_names.topics(world.config.topics)
    channel_ids, channel_titles = site_names.channels(world.channels.topic, topic_names)
    return topic_names, topic_words, channel_ids, channel_titles


def _softmax(logits: np.ndarray) -> np.ndarray:
    weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True)
