"""What the site offers in a given hour, and how popular it is.

A video v of age a (seconds, at the middle of the hour) has popularity

    w_v = q_v (1 - exp(-(a + 600) / rise_v)) (exp(-a / life_v) + evergreen)

so that it rises after upload and then decays. A video is there from the first full hour after its
upload on. Episodes past the first are offered by no source but ``external``: people come to
them by watching the series in order.
"""

import dataclasses

import numpy as np

from features.durations import DAY_S, HOUR_S
from pipeline.site import groups
from pipeline.site import world as site_world

FRESH_S = DAY_S
_FIRST_VIEWERS_S = 600  # Popularity does not start at exactly nothing.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Hour:
    """One hour of the site.

    Attributes:
        start_s: First second of the hour.
        num_videos: Number of videos that are there: the first ones of the catalogue.
        popularity: w, float64 [V], 0 for videos that are not there.
        interest: Popularity w by topic, language and niche.
        fresh: Popularity w of videos uploaded within a day, by topic, language and niche.
        popular: Popularity to the power 1.5 by language, which the big ones dominate.
        external: Popularity w by language, any episode.
        channel: Popularity w by channel, of what is not an episode.
    """

    start_s: int
    num_videos: int
    popularity: np.ndarray
    interest: groups.Stock
    fresh: groups.Stock
    popular: groups.Stock
    external: groups.Stock
    channel: groups.Stock


class Hours:
    """Gives the hours of a world; keeps the last one, so ask in the order of time."""

    def __init__(self, world: site_world.World) -> None:
        """Groups the videos for draws."""
        self._world = world
        videos, languages = world.videos, len(site_world.LANGUAGES)
        self._by_taste = groups.GroupedItems(
            (world.config.topics, languages, world.config.niches),
            (videos.topic, videos.language, videos.niche),
        )
        self._by_language = groups.GroupedItems((languages,), (videos.language,))
        self._by_channel = groups.GroupedItems((world.config.channels,), (videos.channel,))
        self._is_entry = videos.episode <= 1
        self._is_single = videos.episode == 0
        self._last: Hour | None = None

    def at(self, time_s: int) -> Hour:
        """Returns the hour that holds a time in Unix seconds."""
        start = int(time_s) // HOUR_S * HOUR_S
        if self._last is None or self._last.start_s != start:
            self._last = self._make(start)
        return self._last

    def _make(self, start_s: int) -> Hour:
        there = int(np.searchsorted(self._world.videos.upload_time, start_s, side="right"))
        popularity = np.zeros(len(self._is_entry))
        popularity[:there] = popularity_of(self._world, start_s, np.arange(there))
        entry = popularity * self._is_entry
        age = start_s + HOUR_S // 2 - self._world.videos.upload_time
        return Hour(
            start_s=start_s,
            num_videos=there,
            popularity=popularity,
            interest=self._by_taste.stock(entry),
            fresh=self._by_taste.stock(entry * (age < FRESH_S)),
            popular=self._by_language.stock(entry**1.5),
            external=self._by_language.stock(popularity),
            channel=self._by_channel.stock(popularity * self._is_single),
        )


def popularity_of(
    world: site_world.World, hour_start_s: int | np.ndarray, videos: np.ndarray
) -> np.ndarray:
    """Returns w of uploaded videos, float64 [...], in the hour that begins at ``hour_start_s``."""
    site = world.videos
    age = hour_start_s + HOUR_S // 2 - site.upload_time[videos]
    rise = 1 - np.exp(-(age + _FIRST_VIEWERS_S) / site.rise_s[videos])
    fade = np.exp(-age / site.life_s[videos]) + world.config.evergreen
    return np.asarray(site.pull[videos] * rise * fade)
