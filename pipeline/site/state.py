"""What the site and its users remember: watches, impressions, progress in series, mood.

Rows are users, any users: the simulator keeps a row for each, the truth replays the few it is
asked about. All of it follows from the logs, beside ``World.users.progress`` at the start.
"""

import numpy as np

from pipeline.site import config as site_config
from pipeline.site import world as site_world

_LONG_AGO = -(1 << 40)


class UserState:
    """Memory of N users.

    Attributes:
        users: int64 [N], row of each in the world.
        watched: int32 [N, WATCHES_REMEMBERED], the last watches, -1 where there is none.
        completed: bool, the same shape.
        shown: int32 [N, IMPRESSIONS_REMEMBERED], the last impressions; -1 where clicked or none.
        shown_time: int32, the same shape, seconds since the start of the logs.
        follows: int32 [N, FOLLOWS], channels; the last slots hold discovered series.
        progress: int32 [N, FOLLOWS], last watched episode of each.
        mood_topic: int16 [N], topic of the last watch, -1 before the first.
        last_watch_time: int64 [N], Unix seconds; long ago before the first watch.
    """

    def __init__(self, world: site_world.World, users: np.ndarray) -> None:
        """Starts with what is known before the logs."""
        number = len(users)
        self.users = users
        self.watched = np.full((number, site_config.WATCHES_REMEMBERED), -1, np.int32)
        self.completed = np.zeros(self.watched.shape, bool)
        self.shown = np.full((number, site_config.IMPRESSIONS_REMEMBERED), -1, np.int32)
        self.shown_time = np.zeros(self.shown.shape, np.int32)
        self.follows = world.users.follows[users].copy()
        self.progress = world.users.progress[users].astype(np.int32)
        self.mood_topic = np.full(number, -1, np.int16)
        self.last_watch_time = np.full(number, _LONG_AGO, np.int64)
        self._world = world
        self._num_watched = np.zeros(number, np.int64)
        self._num_shown = np.zeros(number, np.int64)
        self._num_discovered = np.zeros(number, np.int64)

    def add_watches(
        self, rows: np.ndarray, videos: np.ndarray, *, time: np.ndarray, completed: np.ndarray
    ) -> None:
        """Remembers one watch for each of ``rows``, which must not repeat.

        Args:
            rows: int [n], rows of this state.
            videos: int [n], rows of the world's videos.
            time: int64 [n], Unix seconds.
            completed: bool [n], whether the watch counts as completed.
        """
        place = self._num_watched[rows] % self.watched.shape[1]
        self.watched[rows, place] = videos
        self.completed[rows, place] = completed
        self._num_watched[rows] += 1
        self.mood_topic[rows] = self._world.videos.topic[videos]
        self.last_watch_time[rows] = time
        episode = self._world.videos.episode[videos]
        is_episode = episode > 0
        self._advance(rows[is_episode], videos[is_episode], completed=completed[is_episode])

    def _advance(self, rows: np.ndarray, videos: np.ndarray, *, completed: np.ndarray) -> None:
        """Moves the users on in series; a completed first episode makes a follower."""
        channel = self._world.videos.channel[videos]
        episode = self._world.videos.episode[videos].astype(np.int32)
        matches = self.follows[rows] == channel[:, None]
        row, slot = np.nonzero(matches)
        self.progress[rows[row], slot] = np.maximum(self.progress[rows[row], slot], episode[row])
        starts = ~matches.any(axis=1) & (episode == 1) & completed
        new = rows[starts]
        places = site_config.DISCOVERED_FOLLOWS
        slot = site_config.FIRST_FOLLOWS + self._num_discovered[new] % places
        self.follows[new, slot] = channel[starts]
        self.progress[new, slot] = 1
        self._num_discovered[new] += 1

    def add_impressions(
        self, rows: np.ndarray, videos: np.ndarray, *, clicked: np.ndarray, time: np.ndarray
    ) -> None:
        """Remembers one page for each of ``rows``, which must not repeat.

        Args:
            rows: int [n], rows of this state.
            videos: int [n, S], -1 after the last impression of a page.
            clicked: bool [n, S], whether it was clicked.
            time: int64 [n], moment of each page, Unix seconds.
        """
        is_there = videos >= 0
        row, column = np.nonzero(is_there)
        place = (self._num_shown[rows][row] + column) % self.shown.shape[1]
        self.shown[rows[row], place] = np.where(clicked, -1, videos)[row, column]
        self.shown_time[rows[row], place] = time[row] - self._world.config.start_s
        self._num_shown[rows] += is_there.sum(axis=1)

    def recent_unclicked(
        self, rows: np.ndarray, videos: np.ndarray, *, time: np.ndarray
    ) -> np.ndarray:
        """Counts the unclicked impressions of videos, int64 [n, S], at ``time`` int64 [n]."""
        since = time - self._world.behaviour.fatigue_window_s - self._world.config.start_s
        recent = np.where(self.shown_time[rows] >= since[:, None], self.shown[rows], -1)
        counts = (videos[:, :, None] == recent[:, None, :]).sum(axis=2)
        return np.where(videos >= 0, counts, 0)

    def has_watched(
        self, rows: np.ndarray, videos: np.ndarray, *, is_completed: bool = False
    ) -> np.ndarray:
        """Returns whether videos are among the last watches, or completed ones, bool [n, S]."""
        watched = self.watched[rows]
        if is_completed:
            watched = np.where(self.completed[rows], watched, -1)
        return np.asarray((videos[:, :, None] == watched[:, None, :]).any(axis=2) & (videos >= 0))

    def next_episodes(self, rows: np.ndarray, *, num_videos: int) -> np.ndarray:
        """Returns the next episode of each followed series, int64 [n, FOLLOWS], -1 where none.

        Args:
            rows: int [n], rows of this state.
            num_videos: Number of videos that are there by now.
        """
        follows, progress = self.follows[rows], self.progress[rows]
        exists = (follows >= 0) & (progress < self._world.series_length[follows])
        place = np.where(exists, self._world.series_start[follows] + progress, 0)
        if not len(self._world.series_videos):
            return np.full(follows.shape, -1, np.int64)
        video = self._world.series_videos[place].astype(np.int64)
        return np.where(exists & (video < num_videos), video, -1)

    def last_video(self, rows: np.ndarray) -> np.ndarray:
        """Returns int64 [n], the video of the last watch, -1 before the first."""
        place = (self._num_watched[rows] - 1) % self.watched.shape[1]
        return np.where(self._num_watched[rows] > 0, self.watched[rows, place], -1).astype(np.int64)

    def mood_age_s(self, rows: np.ndarray, time: np.ndarray) -> np.ndarray:
        """Returns int64 [n], seconds since the last watch began."""
        return np.asarray(time - self.last_watch_time[rows])

    def is_in_session(self, rows: np.ndarray, time: np.ndarray) -> np.ndarray:
        """Returns bool [n], whether the last watch began a short while ago."""
        return self.mood_age_s(rows, time) < self._world.behaviour.session_gap_s
