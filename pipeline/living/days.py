"""Days of a living site from nothing: people, a server, each night a retraining.

Day 1 has no release: the server shows what is watched and new. At the end of each day the clock
moves on by an hour, in which nobody visits, so that all that was served and reported is in the
tables; then ``pipeline.retrain`` learns from these tables, and from nothing else. Where its gates
let a release pass, the running server takes it over; where they do not, the old one serves on. A
part of the users, by hash, gets pages in the order of popularity all the time
(:data:`POPULARITY`), from the same server, so that the difference is that of the order alone.

A site may have a past: days that were simulated without a server, of which there are logs.
"""

import dataclasses
import functools
import json
import pathlib
import shutil
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from absl import logging

from features import command, files
from features.durations import DAY_S
from features.tables import logs
from pipeline.living import course as living_course
from pipeline.living import nights
from pipeline.living.course import Course
from pipeline.living.figures import Happened
from pipeline.living.presets import Preset
from pipeline.living.server import Server
from pipeline.living.snapshots import Snapshots
from pipeline.site import events as site_events
from pipeline.site import simulator
from pipeline.site import world as site_world
from serving.funnel import experiment as ab_experiment
from serving.process.clock import SharedClock
from serving.release import manifest as release

POPULARITY, OURS = "popularity", "ours"
VISITS, NIGHT = "visits", "night"
SITE, WORK = "site", "work"
HAPPENED = "happened"
VISITORS = "visitors.npz"
_RUN, _SNAPSHOTS, _SAID = "run.json", "snapshots", "said"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """What a run is of; another one does not go on from its snapshots.

    Attributes:
        preset: Site, people and retraining.
        days: Number of days that pass.
        share: Part of the users whose pages are in the order of popularity.
        past_days: Days before the first one, which pass without a server.
    """

    preset: Preset
    days: int
    share: float = 0.5
    past_days: int = 0

    @property
    def start_s(self) -> int:
        """First second of day 1, Unix."""
        return self.preset.site.start_s + self.past_days * DAY_S

    @property
    def experiment(self) -> dict[str, Any]:
        """The experiment that the server is given; popularity is its control."""
        control = {"name": POPULARITY, "share": self.share, "settings": {"order": "popular"}}
        return {
            "name": "living",
            "salt": f"living-{self.preset.site.seed}",
            "arms": [control, {"name": OURS, "share": 1 - self.share}],
        }

    def to_json(self) -> str:
        """Returns what tells runs apart."""
        told = {**dataclasses.asdict(self.preset), "days": self.days, "share": self.share}
        told |= {"past_days": self.past_days} if self.past_days else {}
        told["live"].pop("workers")  # It changes how fast things go.
        told["live"].pop("speedup")
        return json.dumps(told, indent=1, sort_keys=True) + "\n"


class LivingSite:
    """A run below a directory."""

    def __init__(
        self, output: pathlib.Path, run: Run, *, hear: Callable[[str], None] = lambda _: None
    ) -> None:
        """Looks at what is there.

        Args:
            output: Directory for everything.
            run: The run.
            hear: Function that is given each line that a retraining says.

        Raises:
            InputError: Another run is there.
        """
        self.output = output
        self.hear = hear
        self.run = run
        self.snapshots = Snapshots(output / _SNAPSHOTS)
        self.said = output / _SAID
        self.work = output / WORK
        self.parts = {name: output / SITE / name for name in ("logs", "serving_root")}
        if is_of_another(output, run):
            raise command.InputError(
                f"{output} has a living site with other settings, see {output / _RUN}. Give the "
                "same flags, or another --output."
            )
        files.atomic_write(output / _RUN, run.to_json())

    @property
    def logs(self) -> pathlib.Path:
        """Raw logs of the server."""
        return self.parts["logs"]

    @property
    def serving_root(self) -> pathlib.Path:
        """Directory of its releases."""
        return self.parts["serving_root"]

    def live(self) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """Lets the days pass that have not passed yet; yields each day and night when it is over.

        Yields:
            Name, such as ``visits-1``, and record of what is whole by then.
        """
        names = [
            name
            for day in range(1, self.run.days + 1)
            for name in (f"{VISITS}-{day}", *([f"{NIGHT}-{day}"] if day < self.run.days else []))
        ]
        done = len(self.snapshots.done())
        if done >= len(names):
            return
        if done:
            logging.info("Going on behind %s.", names[done - 1])
        with Site(self, self.snapshots.restore(self.parts), self.run.experiment) as site:
            for name in names[done:]:
                kind, _, day = name.partition("-")
                logging.info("Day %s of %d: %s.", day, self.run.days, kind)
                work = site.visits if kind == VISITS else site.night
                with self.snapshots.adding(name, self.parts) as (directory, record):
                    work(int(day), directory, record)
                yield name, record

    def arms(self, world: site_world.World, name: str) -> np.ndarray:
        """Returns the arm of each user by its place in an experiment, int64 [N]."""
        experiment = ab_experiment.load(self.output / f"{name}.json")
        place = {arm.name: number for number, arm in enumerate(experiment.arms)}
        arms = (experiment.arm_of(user_id) for user_id in site_events.user_ids(world))
        return np.array([place[arm.name] if arm else -1 for arm in arms])

    def happened(self, kind: str) -> dict[int, Happened]:
        """Returns what happened in the whole snapshots of a kind, by day."""
        return {
            day: Happened.read(
                self.snapshots.path(f"{kind}-{day}") / HAPPENED,
                away=record["away"],
                videos=record["videos"],
            )
            for day, record in records(self.snapshots, kind).items()
        }


class Site:
    """The running site: world, clock, server and people; a context."""

    def __init__(
        self, living: LivingSite, snapshot: pathlib.Path | None, experiment: Mapping[str, Any]
    ) -> None:
        """Prepares.

        Args:
            living: The run.
            snapshot: Directory of the snapshot that it goes on behind; None for the first day.
            experiment: Experiment that the server is given.
        """
        self._living = living
        self._snapshot = snapshot
        run, output = living.run, living.output
        for directory in (living.logs, living.serving_root, living.said):
            directory.mkdir(parents=True, exist_ok=True)
        self._world = living_course.world_of(run.preset.site, living.logs)
        self._start_s = run.start_s
        self._past = None
        if snapshot is None and run.past_days:
            sink = functools.partial(_append_past, living.logs)
            self._past = simulator.let_pass(self._world, sink, days=run.past_days)
        self._clock = SharedClock.create(output / "clock", self._start_s)
        if snapshot is not None:  # The server has to know the moment from the start.
            until_s = living_course.until_of(snapshot / VISITORS)
            self._clock.set(until_s + living_course.SETTLED_S)
        self._experiment = output / f"{experiment['name']}.json"
        files.atomic_write(self._experiment, json.dumps(experiment, indent=1) + "\n")
        # It is filled from the tables, which are what is kept of a day.
        for path in output.glob("history.sqlite*"):
            path.unlink()

    def __enter__(self) -> "Site":
        living, live = self._living, self._living.run.preset.live
        living_course.Uploads(self._world, living.logs).until(self._start_s)
        self._server = Server(
            [
                f"--serving_root={living.serving_root}",
                f"--logs={living.logs}",
                f"--history={living.output / 'history.sqlite'}",
                f"--clock={living.output / 'clock'}",
                f"--experiment={self._experiment}",
                "--before_release",
            ],
            said=living.said / "server.log",
            workers=live.workers,
        )
        self._course = Course(
            self._world, living.logs, client=self._server.client, clock=self._clock, config=live
        )
        if self._snapshot is not None:
            living_course.load(self._snapshot / VISITORS, self._course.visitors)
        elif self._past is not None:
            self._course.visitors.take_over(self._past)
        return self

    def __exit__(self, *error: object) -> None:
        self._server.stop()

    def visits(self, day: int, directory: pathlib.Path, record: dict[str, Any]) -> None:
        """Lets a day pass."""
        from_s = self._start_s + (day - 1) * DAY_S
        # The hour after midnight is the night's.
        closed_until_s = from_s + living_course.SETTLED_S if day > 1 else from_s
        passed = self._course.run(from_s, from_s + DAY_S, closed_until_s=closed_until_s)
        self._course.settle(from_s + DAY_S)
        visitors = self._course.visitors
        (directory / HAPPENED).mkdir()
        living_course.write_happened(directory / HAPPENED, visitors.drain())
        living_course.save(directory / VISITORS, visitors)
        record.update(
            passed=dataclasses.asdict(passed),
            answers=visitors.drain_answers(),
            release=self._server.client.get("/v1/release")["release_id"],
            videos=len(self._course.uploads),
            away=np.flatnonzero(visitors.returning.is_away).tolist(),
        )

    def night(self, day: int, directory: pathlib.Path, record: dict[str, Any]) -> None:
        """Retrains, and has the server take over what the gates let pass."""
        living = self._living
        until = command.format_time(self._start_s + day * DAY_S)
        night = nights.retrain(
            [*living.run.preset.retrain, f"--until={until}"],
            logs_dir=living.logs,
            serving_root=living.serving_root,
            work=living.work,
            said=living.said / f"night-{day}.log",
            hear=living.hear,
        )
        failed = [f"{g['rule']}: {g['value']}" for g in night.gates if g["verdict"] == "FAIL"]
        told = "; ".join([f"{night.outcome} in {night.wall_s:.0f} s", *failed])
        logging.info("Night %d: %s.", day, told)
        if night.release:
            self._course.wait_for_release(release.current(living.serving_root))
        living_course.save(directory / VISITORS, self._course.visitors)
        record.update(night.to_json())


def _append_past(directory: pathlib.Path, table: str, rows: pa.Table) -> None:
    """Adds what happened without our server: how its pages were scored is not known."""
    kept = [name for name in rows.column_names if name != "retrieval_score"]
    logs.append(directory, table, rows.select(kept))


def is_of_another(output: pathlib.Path, run: Run) -> bool:
    """Returns whether a directory has what another run left."""
    told = output / _RUN
    return told.exists() and told.read_text() != run.to_json()


def forget(output: pathlib.Path) -> None:
    """Removes what a run left below a directory, if one did."""
    for name in (SITE, WORK, _SNAPSHOTS, _SAID):
        shutil.rmtree(output / name, ignore_errors=True)
    (output / _RUN).unlink(missing_ok=True)


def records(snapshots: Snapshots, kind: str) -> dict[int, Mapping[str, Any]]:
    """Returns the records of the whole snapshots of a kind, by day."""
    named = ((name.partition("-"), record) for name, record in snapshots.done())
    return {int(day): record for (name, _, day), record in named if name == kind}
