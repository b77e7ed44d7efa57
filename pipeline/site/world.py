"""The parts of a simulated site: users, channels, videos, and how they hang together."""

import dataclasses

import numpy as np

from pipeline.site import config as site_config
from pipeline.site import names as site_names

LANGUAGES = ("en", "es", "pt", "de", "hi", "ja")
# Region, its share of the users, its language, hours from UTC.
REGION_TABLE = (
    ("US", 0.28, "en", -6), ("GB", 0.10, "en", 0), ("MX", 0.12, "es", -6), ("ES", 0.06, "es", 1),
    ("BR", 0.13, "pt", -3), ("DE", 0.10, "de", 1), ("IN", 0.13, "hi", 5), ("JP", 0.08, "ja", 9),
)  # fmt: skip
REGIONS = tuple(row[0] for row in REGION_TABLE)
REGION_HOURS = np.array([row[3] for row in REGION_TABLE])
REGION_LANGUAGE = np.array([LANGUAGES.index(row[2]) for row in REGION_TABLE])
GENDERS = ("female", "male", "")  # "" is not stated
DEVICES = ("phone", "desktop", "tv", "tablet")
TIERS = ("free", "premium")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Users:
    """U users.

    Attributes:
        region: int8 [U], row of ``REGIONS``.
        languages: int8 [U, 2], rows of ``LANGUAGES``, the usual one first.
        gender: int8 [U], row of ``GENDERS``.
        age: float32 [U], years; NaN where not stated.
        signed_in: bool [U], whether the user is signed in.
        device: int8 [U], the usual one, row of ``DEVICES``.
        premium: bool [U], whether the user has a premium subscription.
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
        topic: int16 [C], row of the topics.
        second_topic: int16 [C], row of the topics, often the same.
        language: int8 [C], row of ``LANGUAGES``.
        niche: int8 [C], niche of its videos.
        pull: float32 [C], N(0, 1).
        clickbait: float32 [C], habit of misleading titles, in [0, 1].
        has_series: bool [C], whether it runs an episodic series.
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
        channel: int32 [V], row of the channel.
        topic: int16 [V], that of the channel.
        second_topic: int16 [V], that of the channel.
        language: int8 [V], that of the channel.
        niche: int8 [V], that of the channel.
        duration_s: float32 [V], seconds.
        clickbait: float32 [V], degree to which the title misleads, in [0, 1].
        quality: production_quality, float32 [V], in [0, 1].
        pull: q, float32 [V], above 0.
        rise_s: float32 [V], time in which popularity rises after upload, seconds.
        life_s: float32 [V], time in which it fades, seconds.
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
        config: Settings of the site.
        behaviour: Coefficients of the generative model.
        users: The U users.
        channels: The C channels.
        videos: The V videos.
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


def names(world: World) -> tuple[list[str], list[tuple[str, ...]], list[str], list[str]]:
    """Returns names of topics, their search words, channel ids and channel titles."""
    topic_names, topic_words = site_names.topics(world.config.topics)
    channel_ids, channel_titles = site_names.channels(world.channels.topic, topic_names)
    return topic_names, topic_words, channel_ids, channel_titles
