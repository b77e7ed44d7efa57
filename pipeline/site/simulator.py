r"""Simulates a video site with known truth: who watches what, and why, is a formula.

A public log lacks most of what a recommender must learn, and never says what the best answer would
have been. This site has all of it, and :class:`pipeline.site.truth.Truth` answers for any user,
video and time. K topics; v is a video, u a user, a its age, t a time within hour h. Coefficients
are fields of :class:`pipeline.site.config.Behaviour` (b.x below) and are saved with the truth.

World (:mod:`pipeline.site.builder`). Users have a taste theta_u over topics, sparse, drawn by
region, gender and age; a preferred niche of each topic, which no log names; two languages; followed
channels. Channels have a topic (and often a second one), a language, a niche, clickbait, and some
an episodic series. Uploads come in every hour.

Popularity (:mod:`pipeline.site.hours`) rises and decays, so that example age matters:

    w_v(h) = q_v (1 - exp(-(a + 600 s) / rise_v)) (exp(-a / life_v) + evergreen)

Interest (:mod:`pipeline.site.behaviour`) follows the last watch, so that the next watch is not any
watch of the user:

    P(topic k | u, t) = (1 - rho) theta_u[k] + rho [k = topic of the last watch]
    rho               = b.mood exp(-time since that watch / b.mood_fade_s)
    P(v | k, u, h)    = w_v / sum of w in (k, language, niche); language ~ (b.first_language, rest),
                        niche ~ (b.niche_loyalty, rest); an empty group gives way to the larger one

Actions (:mod:`pipeline.site.visits`). A session is 1 to 8 actions. Each is one of: see the home
page, see the page beside a watch (up_next), search, open a followed channel, follow an external
link. The chances depend on whether a watch began within the last hour.

    search    topic by interest; the query is one or two of its words; with b.search_follow a result
              of that topic is watched some seconds later: the order of searches leaks the label
    channel   a followed channel; the next episode of its series if there is one, else by w
    external  by w within the language, any episode
              who picks a watched video tries again, b.retries times in all

Series are watched in order: episodes past the first are met as "the next one" only, except from
outside. A completed first episode makes a follower.

Pages (:mod:`pipeline.site.pages`) come from a plausible production recommender: quotas of taste,
popular, fresh, subscriptions and random, ranked by a noisy score. The user looks at each place:

    P(click) = sigmoid(b.click_bias + b.click_affinity A(u, v) +- b.click_niche
                       + b.click_clickbait clickbait_v
                       + b.click_quality (production_quality_v - 1/2)
                       + b.click_fresh exp(-a / 24 h) + b.click_follow [u follows the channel]
                       - b.click_foreign [u does not speak the language]
                       + b.click_next_episode [next episode] + b.click_up_next [surface]
                       + situations S(u, v, t))
               x (position + 1)^-b.position_decay                       position bias
               x exp(-b.fatigue min(n, b.fatigue_limit))                churn
               x (b.click_already_watched if watched before)
    A(u, v)  = min(3, log(K (0.8 theta_u[topic_v] + 0.2 theta_u[second topic_v]) + 0.05))

S is what the situation adds (:mod:`pipeline.site.situations`); its weight is 0 by default. n
counts, among the user's last 96 impressions, those of this video within 7 days without a click.
b.click_bias is calibrated so that the home page gets ``click_rate``.

Watch time of a watch, log-normal and cut at the duration D (seconds):

    T = min(D_v, max(1, exp(m + b.watch_noise N(0, 1))))
    m = log D_v + b.watch_bias + b.watch_affinity A(u, v) - b.watch_clickbait clickbait_v
        + b.watch_quality (production_quality_v - 1/2) - b.watch_length log(D_v / 300)
        + b.watch_premium [subscription_tier_u = premium] - b.watch_phone [phone] + b.watch_tv [tv]
    completed = T >= b.completed_fraction D_v

Satisfaction (:mod:`pipeline.site.satisfaction`) is another thing than watch time, and people say
something of it, where ``feedback`` is above 0: likes, dislikes, shares, hides.

So clickbait has many clicks and short watches, and the extra columns ``production_quality`` of
videos and ``subscription_tier`` of users, which the log contract does not name, carry information.
"""

import dataclasses
import pathlib
import time
from collections.abc import Callable

import numpy as np
import pyarrow as pa
from absl import logging

from features import command, vectors
from features.durations import HOUR_S
from features.screen import progress
from features.tables import logs
from pipeline.site import builder as site_builder
from pipeline.site import calibration as site_calibration
from pipeline.site import config as site_config
from pipeline.site import events as site_events
from pipeline.site import truth as site_truth
from pipeline.site import visits as site_visits
from pipeline.site import world as site_world

# Events held in memory before they are written.
MAX_PENDING_EVENTS = 1_000_000

Sink = Callable[[str, pa.Table], object]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Summary:
    """What a simulation wrote.

    Attributes:
        rows: Rows of each table.
        seconds: Wall time, seconds.
        truth: The truth of the site.
    """

    rows: dict[str, int]
    seconds: float
    truth: site_truth.Truth

    @property
    def num_events(self) -> int:
        """Impressions, watches, searches and feedback."""
        names = ("impressions", "watches", "searches", "feedback")
        return sum(self.rows.get(name, 0) for name in names)


def build(config: site_config.SiteConfig) -> site_world.World:
    """Returns the world of a seed, with the click rate that was asked for."""
    return site_calibration.calibrated(site_builder.build(config))


def run(world: site_world.World, sink: Sink) -> None:
    """Lets the days of a world pass.

    Args:
        world: World from ``build``.
        sink: Function that takes a table name and rows of the raw logs, many times; the order of
            times within a table holds inside one call, and up to the length of a visit across
            calls.
    """
    tables = site_events.Tables(world)
    sink("videos", tables.videos())
    sink("users", tables.users())
    let_pass(world, sink, days=world.config.days)


def let_pass(world: site_world.World, sink: Sink, *, days: int) -> site_visits.Visits:
    """Lets the first days of a world pass; returns the people as they are then.

    Args:
        world: World from ``build``.
        sink: Function as :func:`run` takes it; it gets what happened, not who and what there is.
        days: Number of days.
    """
    tables = site_events.Tables(world)
    visits = site_visits.Visits(world, np.arange(world.config.users))
    with progress.shown("simulate", total=24 * days, unit="hours of the site") as bar:
        for hour in range(24 * days):
            hour_start_s = world.config.start_s + hour * HOUR_S
            bar.at(command.format_time(hour_start_s)[:10])
            visits.run_hour(hour_start_s)
            if hour % 24 == 23 or visits.log.num_pending >= MAX_PENDING_EVENTS:
                _drain(visits.log, tables, sink)
            bar.add(1)
    return visits


def _drain(log: site_events.EventLog, tables: site_events.Tables, sink: Sink) -> None:
    for name, columns in log.drain().items():
        sink(name, tables.events(name, columns))


def write_logs(
    config: site_config.SiteConfig, logs_dir: str | pathlib.Path, *, overwrite: bool = False
) -> Summary:
    """Simulates a site and writes its logs, and its truth under ``truth/`` in them.

    Args:
        config: Settings of the site.
        logs_dir: Directory to create; it appears whole or not at all.
        overwrite: Whether to replace what it holds.

    Raises:
        InputError: The directory has content and ``overwrite`` is not given, or the site is so
            small that nothing happens.
    """
    start_s = time.monotonic()
    with logs.LogWriter(logs_dir, overwrite=overwrite) as writer:
        world = build(config)
        logging.info(
            "Site of %s users, %s videos, %s channels, %s topics, seed %d.",
            f"{config.users:,}",
            f"{config.videos:,}",
            f"{config.channels:,}",
            f"{config.topics:,}",
            config.seed,
        )
        run(world, writer.write)
        if config.content_width:
            writer.write_features(vectors.declarations_of("content", config.content_width))
        if not writer.rows.get("watches"):
            raise command.InputError(
                f"nobody watched anything: {config.users} users x {config.days} days x "
                f"{config.events_per_user_day} events are too few. Give more of them."
            )
    truth = site_truth.Truth(world)
    truth.save(logs_dir)
    return Summary(rows=dict(writer.rows), seconds=time.monotonic() - start_s, truth=truth)
