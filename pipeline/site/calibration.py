"""Finds the click bias that gives a simulated site the click rate that was asked for."""

import dataclasses

import numpy as np

from features.durations import DAY_S
from pipeline.site import behaviour as site_behaviour
from pipeline.site import choices as site_choices
from pipeline.site import hours as site_hours
from pipeline.site import pages as site_pages
from pipeline.site import state as site_state
from pipeline.site import visits as site_visits
from pipeline.site import world as site_world

_USERS = 600  # Some thousands of pages: the rate to about 2 percent.
_MAX_STEPS = 40
_TRIALS = 3
# What the trial leaves out (pages beside a watch, searches, subscriptions) tires users too and uses
# up what they like best: it takes away this part of the clicks, measured on the presets.
_LOST_BESIDE = 0.1
_FINISHED = 0.45  # Part of the clicked videos that are watched to the end, about.
_BOUNDS = (-20.0, 20.0)


def calibrated(world: site_world.World) -> site_world.World:
    """Returns the world with its click bias b.

    Over the impressions of a trial, b solves

    mean(sigmoid(b + logit) x attention) = click_rate / (1 - what the trial leaves out).

    The trial shows some users as many home pages as they will see, spread over the time of the
    logs, and lets them click by the b found so far, so that fatigue and finished videos take
    their part.
    """
    for _ in range(_TRIALS):
        logit, attention = _trial(world)
        if not len(logit):
            break  # A site so small that nobody comes in the trial.
        bias = _solve(logit, attention, rate=world.config.click_rate / (1 - _LOST_BESIDE))
        behaviour = dataclasses.replace(world.behaviour, click_bias=round(bias, 6))
        world = dataclasses.replace(world, behaviour=behaviour)
    return world


def _solve(logit: np.ndarray, attention: np.ndarray, *, rate: float) -> float:
    low, high = _BOUNDS
    for _ in range(60):
        middle = (low + high) / 2
        share = float(np.mean(site_behaviour.sigmoid(middle + logit) * attention))
        low, high = (middle, high) if share < rate else (low, middle)
    return low


def _trial(world: site_world.World) -> tuple[np.ndarray, np.ndarray]:
    """Returns click logits without bias and attention of home page impressions, float [n] each."""
    config = world.config
    rng = np.random.default_rng([config.seed, 7])
    users = rng.choice(config.users, size=min(_USERS, config.users), replace=False)
    pages = site_visits.home_pages_per_day(config) * config.days * world.users.activity[users]
    steps = int(np.clip(np.ceil(pages.max()), 3, _MAX_STEPS))
    state, hours = site_state.UserState(world, users), site_hours.Hours(world)
    parts = []
    for step in range(steps):
        time = config.start_s + int((step + 0.5) / steps * config.days * DAY_S)
        rows = np.flatnonzero(rng.random(len(users)) < np.minimum(pages / steps, 1))
        moment = site_choices.Moment(world, hours.at(time), state, rows, np.full(len(rows), time))
        page = site_pages.make_pages(moment, rng, policy=site_pages.HOME)
        showing = site_pages.showing(moment, page.videos, policy=site_pages.HOME)
        is_there = page.videos >= 0
        logit, attention = site_behaviour.click_parts(world, showing)
        parts.append((logit[is_there], attention[is_there]))
        chance = site_behaviour.sigmoid(world.behaviour.click_bias + logit) * attention
        clicked = is_there & (rng.random(chance.shape) < chance)
        state.add_impressions(rows, page.videos, clicked=clicked, time=moment.time)
        row, first = np.flatnonzero(clicked.any(axis=1)), clicked.argmax(axis=1)
        state.add_watches(
            rows[row],
            page.videos[row, first[row]],
            time=moment.time[row],
            completed=rng.random(len(row)) < _FINISHED,
        )
    logits, attentions = zip(*parts, strict=True)
    return np.concatenate(logits), np.concatenate(attentions)
