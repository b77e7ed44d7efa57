"""Settings of the simulated site: its size, and the coefficients of how its people behave."""

import dataclasses
import types
from collections.abc import Mapping
from typing import Annotated

from features.config import Bounds, Time, check, require
from features.durations import DAY_S, HOUR_S
from pipeline.site import names as site_names

# 2022-05-01, a Sunday. A fixed past day: logs of today would hold times after the clock.
DEFAULT_START_S = 1_651_363_200

# Slots of the per-user memory of the site. A follow slot holds a channel; the last ones take the
# series that a user discovers.
FIRST_FOLLOWS = 6
DISCOVERED_FOLLOWS = 2
FOLLOWS = FIRST_FOLLOWS + DISCOVERED_FOLLOWS
WATCHES_REMEMBERED = 128
IMPRESSIONS_REMEMBERED = 96


@dataclasses.dataclass(frozen=True, kw_only=True)
class SiteConfig:
    """How large the site is and how fast it turns over.

    Attributes:
        seed: Seed of all draws: same seed and settings, same site and same logs.
        start_s: First day of the logs, an ISO 8601 time, UTC; a midnight.
        days: Length of the logs, days.
        users: Number of users, all of whom exist from the start.
        videos: Number of videos at the end of the logs.
        channels: Number of channels, which grows with ``--videos`` where it is not given.
        topics: Number of topics.
        events_per_user_day: Impressions, watches and searches of an average user, per day.
        click_rate: Part of the impressions on the home page that are clicked, in (0, 1).
        life_hours: Typical hours in which a video's popularity falls to 1 / e after its rise.
        evergreen: Part of a video's first popularity that never fades, in [0, 1].
        back_catalogue: Part of the videos that were uploaded before the start, in (0, 1).
        back_catalogue_days: Time from the first upload to the start, days.
        series_share: Part of the channels that run an episodic series, in [0, 1].
        taste_breadth: Sum of the Dirichlet parameters of tastes: 1 is one topic per user, about.
        situations: How much clicks depend on local hour, weekday, age, topic and length together:
            standard deviation of that part of the click logit (:mod:`pipeline.site.situations`);
            0 for none.
        feedback: How often people say what they think of a watch: likes, dislikes, shares and hides
            (:mod:`pipeline.site.satisfaction`); 0 for never, 1 for something after each third
            watch, about.
        niches: Number of hidden kinds of each topic, of which every channel makes one and every
            user prefers one; no table tells them.
        content_width: Width of vectors that say what a video is like from its upload on; 0 for
            none.
    """

    seed: Annotated[int, Bounds(ge=0)] = 1
    start_s: Annotated[int, Time(), Bounds(ge=DAY_S)] = DEFAULT_START_S
    days: Annotated[int, Bounds(ge=1)] = 14
    users: Annotated[int, Bounds(ge=1)] = 2_000
    videos: Annotated[int, Bounds(ge=20)] = 2_500
    channels: Annotated[int, Bounds(ge=2)] = 150
    topics: Annotated[int, Bounds(ge=2, le=site_names.MAX_TOPICS)] = 24
    events_per_user_day: Annotated[float, Bounds(gt=0, le=500)] = 10.0
    click_rate: Annotated[float, Bounds(gt=0, lt=1)] = 0.10
    life_hours: Annotated[float, Bounds(gt=0)] = 60.0
    evergreen: Annotated[float, Bounds(ge=0, le=1)] = 0.03
    back_catalogue: Annotated[float, Bounds(gt=0, lt=1)] = 0.5
    back_catalogue_days: Annotated[int, Bounds(ge=1)] = 60
    series_share: Annotated[float, Bounds(ge=0, le=1)] = 0.35
    taste_breadth: Annotated[float, Bounds(gt=0)] = 2.0
    situations: Annotated[float, Bounds(ge=0)] = 0.0
    feedback: Annotated[float, Bounds(ge=0)] = 0.0
    niches: Annotated[int, Bounds(ge=2, le=100)] = 3
    content_width: Annotated[int, Bounds(ge=0)] = 0

    def __post_init__(self) -> None:
        check(self)
        require(
            self.channels >= self.topics,
            "channels",
            f"be at least topics ({self.topics}), so that each topic has one",
            self.channels,
        )
        require(
            self.videos * self.back_catalogue >= self.topics,
            "videos",
            f"be enough for one old video per topic ({self.topics} topics, "
            f"{self.back_catalogue:.0%} old)",
            self.videos,
        )
        require(self.start_s % DAY_S == 0, "start_s", "be a midnight UTC", self.start_s)

    @property
    def end_s(self) -> int:
        """First second after the logs, Unix seconds."""
        return self.start_s + self.days * DAY_S


PRESETS: Mapping[str, SiteConfig] = types.MappingProxyType(
    {
        "tiny": SiteConfig(
            users=200, videos=300, channels=30, topics=8, days=8, events_per_user_day=14.0
        ),
        "small": SiteConfig(),
        "medium": SiteConfig(
            users=20_000, videos=20_000, channels=1_000, topics=32, days=28,
            events_per_user_day=21.0,
        ),
        "news": SiteConfig(
            videos=10_000, channels=100, topics=12, life_hours=2.0, evergreen=0.0005,
            back_catalogue=0.1, back_catalogue_days=7, series_share=0.05,
        ),
    }
)  # fmt: skip


def channels_for(preset: SiteConfig, videos: int, topics: int) -> int:
    """Returns how many channels fit a number of videos: larger sites have larger channels."""
    grown = preset.channels * (max(videos, 1) / preset.videos) ** 0.8
    return max(topics, 2, round(grown))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Behaviour:
    """Coefficients of the generative model; :mod:`pipeline.site.simulator` has the formulas.

    Attributes:
        click_bias: Logit b, set by calibration so that the home page gets ``click_rate``.
        click_affinity: Logit per unit of affinity.
        click_niche: Logit for a niche that the user prefers; subtracted for the others.
        click_clickbait: Logit for a fully misleading title and thumbnail.
        click_quality: Logit per unit of production quality above 1/2.
        click_fresh: Logit for a video of age 0; fades with e-fold 24 h.
        click_follow: Logit for a channel that the user follows.
        click_next_episode: Logit for the episode that comes next for this user.
        click_foreign: Logit subtracted for a language that the user does not speak.
        click_up_next: Logit for the page beside a watch, where the user is watching already.
        click_already_watched: Factor on the click probability of a video watched before.
        fatigue: Rate at which each recent unclicked impression lowers the click probability.
        fatigue_limit: Number of impressions beyond which further ones do not tire.
        fatigue_window_s: Age up to which an impression is recent, seconds.
        position_decay: Exponent of position + 1, surface home.
        position_decay_up_next: Exponent of position + 1, surface up_next.
        watch_bias: Log of the part of the video that is watched, all else 0.
        watch_affinity: Addition to the log of the watch time per unit of affinity.
        watch_clickbait: Subtraction from that log for a fully misleading title.
        watch_quality: Addition to that log per unit of production quality above 1/2.
        watch_length: Subtraction from that log per unit of log(duration / 300 s).
        watch_premium: Addition to that log for a user with a premium subscription.
        watch_phone: Subtraction from that log on a phone.
        watch_tv: Addition to that log on a television.
        watch_noise: Standard deviation of the log of the watch time.
        completed_fraction: Part of a video from which on a watch counts as completed.
        mood: Weight of the last watch's topic in what the user wants, right after it.
        mood_fade_s: e-fold time of that weight, seconds.
        niche_loyalty: Chance that the user takes the preferred niche of a topic, in [0, 1].
        first_language: Chance that the user takes the first of two languages, in [0, 1].
        search_follow: Chance that a search is followed at once by a watch of a result, in [0, 1].
        retries: Number of draws of a user who comes upon watched videos, 1 or more.
        satisfied_affinity: Satisfaction per unit of affinity.
        satisfied_quality: Satisfaction per unit of production quality above 1/2.
        satisfied_clickbait: Satisfaction that a fully misleading title takes away.
        satisfied_niche: Satisfaction of a niche that the user prefers; subtracted for the others.
        satisfied_bias: Satisfaction, all else 0.
        session_gap_s: Age below which a watch means that a session is on, seconds.
    """

    click_bias: float = -2.0
    click_affinity: float = 0.75
    click_niche: float = 0.5
    click_clickbait: float = 1.8
    click_quality: float = 1.0
    click_fresh: float = 0.5
    click_follow: float = 1.0
    click_next_episode: float = 1.5
    click_foreign: float = 2.0
    click_up_next: float = 0.3
    click_already_watched: float = 0.35
    fatigue: float = 0.35
    fatigue_limit: int = 6
    fatigue_window_s: int = 7 * DAY_S
    position_decay: float = 0.35
    position_decay_up_next: float = 0.5
    watch_bias: float = -0.10
    watch_affinity: float = 0.20
    watch_clickbait: float = 2.2
    watch_quality: float = 0.6
    watch_length: float = 0.15
    watch_premium: float = 0.2
    watch_phone: float = 0.15
    watch_tv: float = 0.2
    watch_noise: float = 0.7
    completed_fraction: float = 0.7
    mood: float = 0.5
    mood_fade_s: float = 6 * HOUR_S
    niche_loyalty: float = 0.8
    first_language: float = 0.9
    search_follow: float = 0.7
    retries: int = 4
    satisfied_affinity: float = 0.5
    satisfied_quality: float = 2.0
    satisfied_clickbait: float = 3.5
    satisfied_niche: float = 0.8
    satisfied_bias: float = 0.5
    session_gap_s: int = HOUR_S
