"""What a page is worth by the truth, and what the best page at that moment would have been worth.

The value of a page is the expected watch time of one look at it, with the click probability that
the user really has there (place on the page, fatigue, what was watched before):

    value = sum over places i of P(click of video i at place i) E[T of a watch of it]

Attention falls with the place whatever stands there, so the best page has the videos of largest
P E[T] in their order. It is the best for this look, not for the years to come.
"""

import numpy as np

from pipeline.site import behaviour as site_behaviour
from pipeline.site import choices as site_choices
from pipeline.site import pages as site_pages


def values(
    moment: site_choices.Moment, videos: np.ndarray, *, policy: site_pages.Policy
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the values of pages and of the best ones, seconds, float64 [N] each.

    Args:
        moment: N users before they see the pages.
        videos: int64 [N, S], by position; -1 where nothing is shown.
        policy: Policy of the surface.
    """
    worth, attention = _worth(moment, videos, policy), _attention(moment, videos.shape[1], policy)
    shown = (np.where(videos >= 0, worth, 0.0) * attention).sum(axis=1)
    there = np.arange(moment.hour.num_videos)
    every = np.broadcast_to(there, (len(moment.rows), len(there)))
    finished = moment.state.has_watched(moment.rows, every, is_completed=True)
    best = np.where(finished, 0.0, _worth(moment, every, policy))
    best = -np.sort(-best, axis=1)[:, : videos.shape[1]]
    return shown, (best * attention[:, : best.shape[1]]).sum(axis=1)


def _worth(
    moment: site_choices.Moment, videos: np.ndarray, policy: site_pages.Policy
) -> np.ndarray:
    """Returns P(click at the first place) E[T], float64 [N, S]."""
    showing = site_pages.showing(moment, videos, policy=policy)
    logit, attention = site_behaviour.click_parts(moment.world, showing)
    place = _attention(moment, videos.shape[1], policy)
    chance = site_behaviour.sigmoid(moment.world.behaviour.click_bias + logit)
    devices = moment.world.users.device[moment.users][:, None]
    m = site_behaviour.watch_location(
        moment.world, moment.users[:, None], showing.videos, devices=devices
    )
    seconds = site_behaviour.expected_clipped_lognormal(
        m, moment.world.behaviour.watch_noise, moment.world.videos.duration_s[showing.videos]
    )
    return np.asarray(chance * attention / place * seconds)


def _attention(moment: site_choices.Moment, places: int, policy: site_pages.Policy) -> np.ndarray:
    """Returns the part of attention that falls with the place alone, float64 [1, S]."""
    b = moment.world.behaviour
    is_home = policy.surface == site_pages.HOME.surface
    decay = b.position_decay if is_home else b.position_decay_up_next
    return np.asarray((np.arange(places) + 1.0)[None, :] ** -decay)
