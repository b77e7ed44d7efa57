"""The course of a living site: hour by hour, uploads come, people visit, and the clock moves on.

All that reaches the server is what an operator's site would send: rows of the videos and users
tables in its logs directory, requests, and events. Time is that of a simulated clock that the
server follows (:mod:`serving.process.clock`): it stands still while a moment is worked on.
"""

import dataclasses
import io
import json
import pathlib
import time
from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from features import command, files, vectors
from features.durations import HOUR_S
from features.screen import progress
from features.tables import log_files, log_writer, logs
from pipeline.living.client import Client
from pipeline.living.config import LiveConfig
from pipeline.living.visitors import Columns, Visitors
from pipeline.site import config as site_config
from pipeline.site import events as site_events
from pipeline.site import simulator
from pipeline.site import truth as site_truth
from pipeline.site import world as site_world
from serving.events import segments
from serving.process.clock import SharedClock

# A server that needs seconds to put videos on its shelf, as on a busy machine, looks for the next
# ones after twenty times as long.
_WAIT_S = 300.0
_LOOK_EVERY_S = 0.05
# Impressions are ripe after half an hour, and a server with a simulated clock compacts each hour.
SETTLED_S = HOUR_S


@dataclasses.dataclass(frozen=True, kw_only=True)
class Passed:
    """What passed within some simulated time.

    Attributes:
        actions: Number of things that people did: pages, searches, visits of channels and links.
        events: Number of events that were reported.
        simulated_s: Simulated seconds.
        seconds: Seconds of the machine.
    """

    actions: int
    events: int
    simulated_s: int
    seconds: float

    @property
    def speedup(self) -> float:
        """Simulated seconds in one of the machine."""
        return self.simulated_s / max(self.seconds, 1e-9)


class Uploads:
    """Puts new videos into the videos table of a logs directory, and users into theirs, once."""

    def __init__(self, world: site_world.World, logs_dir: pathlib.Path) -> None:
        """Looks at what is there already."""
        self._world = world
        self._logs = logs_dir
        tables = site_events.Tables(world)
        self._videos = tables.videos()
        self._users = tables.users()
        self._there = _num_rows(logs_dir, "videos")

    def __len__(self) -> int:
        """Number of videos that were uploaded."""
        return self._there

    def until(self, now_s: int) -> int:
        """Writes what was uploaded up to a moment; returns the number of videos there are."""
        if not _num_rows(self._logs, "users"):
            if self._world.config.content_width:
                width = self._world.config.content_width
                text = json.dumps(vectors.declarations_of("content", width), indent=1) + "\n"
                files.atomic_write(self._logs / log_writer.FEATURES_FILE, text)
            logs.append(self._logs, "users", self._users)
        there = int(np.searchsorted(self._world.videos.upload_time, now_s, side="right"))
        if there > self._there:
            logs.append(self._logs, "videos", self._videos.slice(self._there, there - self._there))
            self._there = there
        return there


class Course:
    """One site, one server, and the clock between them."""

    def __init__(
        self,
        world: site_world.World,
        logs_dir: pathlib.Path,
        *,
        client: Client,
        clock: SharedClock,
        config: LiveConfig,
    ) -> None:
        """Puts the parts together.

        Args:
            world: World from :func:`pipeline.site.simulator.build`.
            logs_dir: Raw logs of the server.
            client: Client of the server.
            clock: Clock that the server follows.
            config: How people come and how fast time runs.
        """
        self.visitors = Visitors(world, client, config)
        self.uploads = Uploads(world, logs_dir)
        self.clock = clock
        self._client = client
        self._config = config
        self._logs = logs_dir

    def run(self, from_s: int, until_s: int, *, closed_until_s: int = 0) -> Passed:
        """Lets time pass.

        Args:
            from_s: First second, Unix; a full hour.
            until_s: First second that does not pass any more; a full hour.
            closed_until_s: Time before which nobody visits, though videos come, Unix seconds.

        Raises:
            InputError: The server refuses something, or does not answer.
        """
        started = time.monotonic()
        actions = events = 0
        with progress.shown("visits", total=(until_s - from_s) // HOUR_S, unit="hours") as bar:
            for hour in range(from_s, until_s, HOUR_S):
                bar.at(command.format_time(hour)[:13])
                self.clock.set(hour)
                self._bring_uploads(hour)
                self.visitors.begin_hour(hour)
                if hour >= closed_until_s:
                    for tick in range(hour, hour + HOUR_S, self._config.tick_s):
                        self.clock.set(tick)
                        events += self.visitors.report(tick)
                        actions += self.visitors.act(tick, tick + self._config.tick_s)
                        self._keep_pace(started, tick + self._config.tick_s - from_s)
                bar.add(1)
        self.clock.set(until_s)
        return Passed(
            actions=actions,
            events=events,
            simulated_s=until_s - from_s,
            seconds=time.monotonic() - started,
        )

    def settle(self, now_s: int) -> None:
        """Moves the clock on until the tables have all that was served and reported.

        But for clicks whose watch still goes on: they wait for it in the event log.

        Args:
            now_s: Moment up to which that happened, Unix seconds.

        Raises:
            InputError: The event log still holds something after five minutes.
        """
        self.clock.set(now_s + SETTLED_S)
        self.visitors.report(now_s + SETTLED_S)
        _wait(lambda: not _waiting(self._logs), f"{self._logs}: the event log is not compacted")

    def wait_for_release(self, version: str) -> None:
        """Waits until the server serves a version; InputError after five minutes."""
        _wait(
            lambda: self._client.get("/v1/release")["release_id"] == version,
            f"release {version} is not served",
        )

    def _bring_uploads(self, now_s: int) -> None:
        """Has the server know all videos that are there, so that nothing depends on when it looks.

        What is watched and stands in no table cannot be: all is uploaded before it is watched.
        """
        there = self.uploads.until(now_s)
        _wait(
            lambda: self._client.get("/v1/release")["videos"] >= there,
            f"the server does not have the {there} videos of {self._logs}",
        )

    def _keep_pace(self, started: float, simulated_s: int) -> None:
        if self._config.speedup:
            ahead = simulated_s / self._config.speedup - (time.monotonic() - started)
            if ahead > 0:
                time.sleep(ahead)


def _num_rows(logs_dir: pathlib.Path, table: str) -> int:
    return sum(
        pq.read_metadata(file.path).num_rows for file in log_files.find(logs_dir, table).files
    )


def _waiting(logs_dir: pathlib.Path) -> list[segments.Segment]:
    """Returns the segments that hold what the tables do not have yet."""
    present = segments.segments(logs_dir)
    waiting = [s for s in present if s.stream not in segments.IN_TABLES and s.size]
    return [s for s in waiting if s.store != segments.HELD]


def _wait(is_so: Callable[[], bool], otherwise: str) -> None:
    until = time.monotonic() + _WAIT_S
    while not is_so():
        if time.monotonic() > until:
            raise command.InputError(f"{otherwise} after {_WAIT_S:.0f} s.")
        time.sleep(_LOOK_EVERY_S)


def save(path: pathlib.Path, visitors: Visitors) -> None:
    """Writes what makes the next days of visitors."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **visitors.to_arrays())
    files.atomic_write(path, buffer.getvalue())


def until_of(path: pathlib.Path) -> int:
    """Returns the moment up to which the time of saved visitors has passed, Unix seconds."""
    with np.load(path, allow_pickle=False) as stored:
        return int(json.loads(str(stored["kept"]))["until_s"])


def load(path: pathlib.Path, visitors: Visitors) -> None:
    """Reads what :func:`save` wrote.

    Raises:
        InputError: It is not that.
    """
    try:
        with np.load(path, allow_pickle=False) as stored:
            visitors.go_on_from({name: stored[name] for name in stored.files})
    except (OSError, ValueError, KeyError) as error:
        raise command.InputError(
            f"{path} should hold visitors of a living site: {error}."
        ) from error


def write_happened(directory: pathlib.Path, happened: dict[str, Columns]) -> None:
    """Writes the tables of what happened, in rows of the world, one Parquet file each."""
    for name, columns in happened.items():
        table = pa.table({key: pa.array(values) for key, values in columns.items()})
        pq.write_table(table, directory / f"{name}.parquet", compression="zstd")


def world_of(config: site_config.SiteConfig, logs_dir: pathlib.Path) -> site_world.World:
    """Returns the world of a config, and keeps its truth beside the logs of its server.

    Raises:
        InputError: The logs are those of another site.
    """
    if not (logs_dir / site_truth.DIRECTORY).is_dir():
        world = simulator.build(config)
        site_truth.Truth(world).save(logs_dir)
        return world
    world = site_truth.Truth.load(logs_dir).world
    if world.config != config:
        raise command.InputError(
            f"{logs_dir} has the logs of another site ({world.config}); give the same flags again, "
            "or another directory."
        )
    return world
