"""What the impressions of simulated logs were worth: the expected watch time that a ranker seeks.

Every circumstance that the truth asks for is replayed from the logs: what the user saw, watched and
followed before, the place on the page, the hour and the device.
"""

import dataclasses
import os

import numpy as np
import pyarrow as pa

from features.durations import HOUR_S
from features.tables import logs
from pipeline.site import behaviour as site_behaviour
from pipeline.site import state as site_state
from pipeline.site import truth as site_truth
from pipeline.site import world as site_world

Array = np.ndarray


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Pages:
    """Pages of a log; P of them, S places.

    Attributes:
        user: int64 [P], row in the world.
        time: int64 [P], moment of the page, Unix seconds.
        is_up_next: bool [P], whether it is the page beside a watch.
        videos: int64 [P, S], row in the world; -1 behind the last one.
        clicked: bool [P, S], whether it was clicked.
    """

    user: Array
    time: Array
    is_up_next: Array
    videos: Array
    clicked: Array


def expected_watch_times(truth: site_truth.Truth, logs_dir: str | os.PathLike[str]) -> pa.Table:
    """Returns P(click) x E[T of a watch] of every impression, before it was known if it is clicked.

    Returns:
        Columns page_id, video_id, click_probability and expected_watch_time_s (seconds), in the
        order of the impressions table.
    """
    shown, watched = (logs.read_table(logs_dir, name) for name in ("impressions", "watches"))
    page_ids = shown["page_id"].combine_chunks().dictionary_encode()
    page, place = page_ids.indices.to_numpy(), shown["position"].to_numpy()
    shape = len(page_ids.dictionary), int(place.max(initial=0)) + 1
    pages = _Pages(
        user=np.zeros(shape[0], np.int64),
        time=np.zeros(shape[0], np.int64),
        is_up_next=np.zeros(shape[0], bool),
        videos=np.full(shape, -1, np.int64),
        clicked=np.zeros(shape, bool),
    )
    pages.user[page] = truth.user_rows(shown["user_id"])
    pages.time[page] = shown["time"].to_numpy()
    pages.is_up_next[page] = shown["surface"].to_numpy() == "up_next"
    pages.videos[page, place] = truth.video_rows(shown["video_id"])
    pages.clicked[page, place] = shown["clicked"].to_numpy()
    clicks = _replayed_clicks(truth, pages, watched)[page, place]
    seconds = truth.expected_watch_time_s(
        shown["user_id"], shown["video_id"], devices=shown["device"].to_pylist()
    )
    return pa.table(
        {
            "page_id": shown["page_id"],
            "video_id": shown["video_id"],
            "click_probability": clicks,
            "expected_watch_time_s": clicks * seconds,
        }
    )


def _replayed_clicks(truth: site_truth.Truth, pages: _Pages, watched: pa.Table) -> Array:
    """Returns the click probability of each place, float64 [P, S]; 0 where there is no video."""
    number = len(truth.user_ids)
    state = site_state.UserState(truth.world, np.arange(number))
    users = truth.user_rows(watched["user_id"])
    videos, times = truth.video_rows(watched["video_id"]), watched["time"].to_numpy()
    completed = watched["completed"].to_numpy()
    # Both kinds of events by user and time: a page's number, or the number of pages and a watch's.
    user, time = np.append(pages.user, users), np.append(pages.time, times)
    events = np.lexsort((time, user))
    start = np.searchsorted(user[events], np.arange(number))
    end = np.append(start[1:], len(events))
    chances = np.zeros(pages.videos.shape)
    for turn in range(int((end - start).max(initial=0))):
        rows = np.flatnonzero(start + turn < end)
        event = events[start[rows] + turn]
        is_page = event < len(pages.user)
        seen, page = rows[is_page], event[is_page]
        chances[page] = _chances(truth.world, state, pages, rows=seen, page=page)
        state.add_impressions(
            seen, pages.videos[page], clicked=pages.clicked[page], time=pages.time[page]
        )
        watch = event[~is_page] - len(pages.user)
        state.add_watches(
            rows[~is_page], videos[watch], time=times[watch], completed=completed[watch]
        )
    return chances


def _chances(
    world: site_world.World,
    state: site_state.UserState,
    pages: _Pages,
    *,
    rows: Array,
    page: Array,
) -> Array:
    """Returns the click probability of pages that users are about to see, float64 [n, S]."""
    videos, time = pages.videos[page], pages.time[page]
    following = state.next_episodes(rows, num_videos=len(world.videos.topic))
    showing = site_behaviour.Showing(
        users=np.broadcast_to(pages.user[page][:, None], videos.shape),
        videos=np.maximum(videos, 0),
        hour_start_s=np.broadcast_to((time // HOUR_S * HOUR_S)[:, None], videos.shape),
        position=np.broadcast_to(np.arange(videos.shape[1]), videos.shape),
        recent_unclicked=state.recent_unclicked(rows, videos, time=time),
        is_up_next=np.broadcast_to(pages.is_up_next[page][:, None], videos.shape),
        already_watched=state.has_watched(rows, videos),
        is_next_episode=(videos[:, :, None] == following[:, None, :]).any(axis=2),
    )
    return np.where(videos >= 0, site_behaviour.click_probability(world, showing), 0.0)
