"""The truth of a simulated site: exact probabilities, for any user, video and time.

    truth = Truth.load("logs")
    truth.click_probability(["u000001"], ["v000042"], times=[t], position=[0],
                            recent_unclicked_impressions=[2])
    truth.watch_probability(["u000001"], [t], watches=watches)       # over all videos

It lies beside the tables, in ``logs/truth/site.json`` and ``logs/truth/site.npz``; nothing in it
is pickled. No model may read it; evaluation may, to know what the best possible answer is.
"""

import dataclasses
import io
import json
import os
import pathlib
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import pyarrow as pa

from features import command, files
from features.durations import HOUR_S
from pipeline.site import behaviour as site_behaviour
from pipeline.site import config as site_config
from pipeline.site import events as site_events
from pipeline.site import oracle as site_oracle
from pipeline.site import satisfaction as site_satisfaction
from pipeline.site import world as site_world

DIRECTORY = "truth"
FORMAT = 1
_SETTINGS, _ARRAYS = "site.json", "site.npz"
_PARTS = {
    "users": site_world.Users,
    "channels": site_world.Channels,
    "videos": site_world.Videos,
}

Ids: TypeAlias = Sequence[str] | np.ndarray | pa.Array | pa.ChunkedArray
Numbers = Sequence[float] | np.ndarray | float


class Truth:
    """Answers what the simulated people would do.

    Attributes:
        world: The site that logs come from.
        user_ids: U ids, in the order of the world.
        video_ids: V ids, in the order of the world: column j of ``watch_probability`` is video j.
    """

    def __init__(self, world: site_world.World) -> None:
        """Wraps a world."""
        self.world = world
        self.user_ids = site_events.user_ids(world)
        self.video_ids = site_events.video_ids(world)
        self._oracle = site_oracle.Oracle(world)

    def save(self, logs_dir: str | os.PathLike[str]) -> pathlib.Path:
        """Writes ``logs_dir``/truth; returns that directory."""
        settings = {
            "format": FORMAT,
            "config": dataclasses.asdict(self.world.config),
            "behaviour": dataclasses.asdict(self.world.behaviour),
        }
        buffer = io.BytesIO()
        arrays = {
            f"{part}.{field.name}": getattr(getattr(self.world, part), field.name)
            for part, kind in _PARTS.items()
            for field in dataclasses.fields(kind)
        }
        np.savez(buffer, allow_pickle=False, **arrays)
        target = pathlib.Path(logs_dir) / DIRECTORY
        with files.atomic_directory(target) as directory:
            (directory / _ARRAYS).write_bytes(buffer.getvalue())
            text = json.dumps(settings, indent=1, sort_keys=True, allow_nan=False)
            (directory / _SETTINGS).write_text(text + "\n")
        return target

    @classmethod
    def load(cls, logs_dir: str | os.PathLike[str]) -> "Truth":
        """Reads the truth of simulated logs.

        Raises:
            InputError: There is none, or it was written by another version.
        """
        directory = pathlib.Path(logs_dir) / DIRECTORY
        remedy = f"Make it with: python -m pipeline.simulate --logs={logs_dir}"
        try:
            settings = json.loads((directory / _SETTINGS).read_text())
            with np.load(directory / _ARRAYS, allow_pickle=False) as stored:
                arrays = {name: stored[name] for name in stored.files}
        except (OSError, ValueError) as error:
            raise command.InputError(
                f"{directory} should hold the truth of simulated logs: {error}. {remedy}"
            ) from error
        if settings.get("format") != FORMAT:
            raise command.InputError(
                f"{directory} has format {settings.get('format')}, expected {FORMAT}. {remedy}"
            )
        parts = {
            part: kind(**{f.name: arrays[f"{part}.{f.name}"] for f in dataclasses.fields(kind)})
            for part, kind in _PARTS.items()
        }
        world = site_world.World.of(
            site_config.SiteConfig(**settings["config"]),
            site_config.Behaviour(**settings["behaviour"]),
            **parts,
        )
        return cls(world)

    def user_rows(self, user_ids: Ids) -> np.ndarray:
        """Returns the rows of users in the world, int64 [n]; ``ValueError`` for unknown ids."""
        return _rows(user_ids, letter="u", number=len(self.user_ids))

    def video_rows(self, video_ids: Ids) -> np.ndarray:
        """Returns the rows of videos in the world, int64 [n]; ``ValueError`` for unknown ids."""
        return _rows(video_ids, letter="v", number=len(self.video_ids))

    def click_probability(
        self,
        user_ids: Ids,
        video_ids: Ids,
        *,
        times: Numbers,
        position: Numbers,
        recent_unclicked_impressions: Numbers,
        surface: str | Sequence[str] = "home",
        already_watched: bool | Sequence[bool] | np.ndarray = False,
        next_episode: bool | Sequence[bool] | np.ndarray = False,
    ) -> np.ndarray:
        """Returns the probability that impressions are clicked; all arguments [n] or scalar.

        Args:
            user_ids: Users who see them.
            video_ids: Videos that are seen.
            times: Moments of the impressions, Unix seconds.
            position: Places on the page, from 0.
            recent_unclicked_impressions: Number of impressions of this video to this user that were
                not clicked, among the user's last 96 impressions, none older than 7 days.
            surface: ``home`` or ``up_next``.
            already_watched: Whether the video is among the user's last 128 watches.
            next_episode: Whether it is the next episode of a series that the user follows.

        Returns:
            float64 [n], in [0, 1].
        """
        users, videos = self.user_rows(user_ids), self.video_rows(video_ids)
        surfaces = np.asarray(surface)
        unknown = set(surfaces.ravel().tolist()) - set(site_behaviour.SURFACES)
        if unknown:
            raise ValueError(f"surface must be out of {site_behaviour.SURFACES}, got {unknown}.")
        hours = np.asarray(times, np.int64) // HOUR_S * HOUR_S
        showing = site_behaviour.Showing(
            users=users,
            videos=videos,
            hour_start_s=hours,
            position=np.asarray(position),
            recent_unclicked=np.asarray(recent_unclicked_impressions),
            is_up_next=surfaces == "up_next",
            already_watched=np.asarray(already_watched),
            is_next_episode=np.asarray(next_episode),
        )
        return site_behaviour.click_probability(self.world, showing)

    def expected_watch_time_s(
        self, user_ids: Ids, video_ids: Ids, *, devices: str | Sequence[str] | None = None
    ) -> np.ndarray:
        """Returns E[T] of a watch that has begun, seconds, float64 [n].

        Args:
            user_ids: Users who watch, [n].
            video_ids: Videos that are watched, [n].
            devices: [n] or one for all; None for each user's usual device.
        """
        users, videos = self.user_rows(user_ids), self.video_rows(video_ids)
        m = self._watch_location(users, videos, devices)
        return site_behaviour.expected_clipped_lognormal(
            m, self.world.behaviour.watch_noise, self.world.videos.duration_s[videos]
        )

    def completed_probability(
        self, user_ids: Ids, video_ids: Ids, *, devices: str | Sequence[str] | None = None
    ) -> np.ndarray:
        """Returns the probability that a watch is completed, float64 [n]."""
        users, videos = self.user_rows(user_ids), self.video_rows(video_ids)
        m = self._watch_location(users, videos, devices)
        return site_behaviour.completed_probability(self.world, m, videos)

    def satisfaction(self, user_ids: Ids, video_ids: Ids) -> np.ndarray:
        """Returns what a watch is worth to its user, float64 [n] in (-1, 1)."""
        users, videos = self.user_rows(user_ids), self.video_rows(video_ids)
        return site_satisfaction.satisfaction(self.world, users, videos)

    def feedback_probability(self, kind: str, user_ids: Ids, video_ids: Ids) -> np.ndarray:
        """Returns the probability that a watch gets a kind of feedback, float64 [n].

        Args:
            kind: One of :data:`pipeline.site.satisfaction.KINDS`.
            user_ids: Users who watch, [n].
            video_ids: Videos that are watched, [n].
        """
        users, videos = self.user_rows(user_ids), self.video_rows(video_ids)
        return site_satisfaction.probability(self.world, kind, users, videos)

    def watch_probability(
        self,
        user_ids: Ids,
        times: Sequence[int] | np.ndarray,
        *,
        watches: pa.Table | None = None,
        queries: Sequence[str | None] | None = None,
        is_completed: bool = False,
    ) -> np.ndarray:
        """Returns which video each user watches next, over all videos: the oracle of retrieval.

        The expected number of watches of each video in the user's next action, normalised. Exact
        up to repeats within a page, and for rested users: recent impressions are not asked for.

        Args:
            user_ids: Users who are asked about, [B].
            times: B moments, Unix seconds.
            watches: Rows of the raw logs, from their beginning on. Those strictly before the time
                of a question are the user's history: series, mood and what is new follow from it.
            queries: [B], a search that the user has just made and not followed yet, or None.
            is_completed: Whether only a completed watch counts.

        Returns:
            float64 [B, V], rows sum to 1. V may be large: ask for few users at once.
        """
        moments = np.asarray(times, np.int64)
        history = None if watches is None else self._history(watches)
        return self._oracle.next_watch(
            self.user_rows(user_ids),
            moments,
            history=history,
            queries=queries,
            is_completed=is_completed,
        )

    def _history(self, watches: pa.Table) -> site_oracle.Watches:
        completed = watches["completed"].fill_null(False).to_numpy()
        return site_oracle.Watches.of(
            self.user_rows(watches["user_id"]),
            self.video_rows(watches["video_id"]),
            time=watches["time"].to_numpy(),
            completed=completed,
        )

    def _watch_location(
        self, users: np.ndarray, videos: np.ndarray, devices: str | Sequence[str] | None
    ) -> np.ndarray:
        if devices is None:
            numbers = self.world.users.device[users]
        else:
            names = list(site_world.DEVICES)
            given = [devices] if isinstance(devices, str) else list(devices)
            numbers = np.array([names.index(name) for name in given])
        return site_behaviour.watch_location(self.world, users, videos, devices=numbers)


def _rows(ids: Ids, *, letter: str, number: int) -> np.ndarray:
    """Returns the numbers in ids such as ``u000012``."""
    texts = ids if isinstance(ids, pa.Array | pa.ChunkedArray) else pa.array(ids, pa.string())
    if isinstance(texts, pa.ChunkedArray):
        texts = texts.combine_chunks()
    encoded = texts.cast(pa.string()).dictionary_encode()
    distinct = encoded.dictionary.to_pylist()
    bad = [text for text in distinct if text[:1] != letter or not text[1:].isdigit()]
    rows = np.array([int(text[1:]) for text in distinct if text not in bad], np.int64)
    if bad or (rows >= number).any():
        example = bad[0] if bad else distinct[int(rows.argmax())]
        raise ValueError(f"ids must be of this site, such as {letter}000000, got {example!r}.")
    return rows[encoded.indices.to_numpy()]
