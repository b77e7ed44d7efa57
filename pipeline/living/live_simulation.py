"""Days of simulated people at a server that somebody else runs: ``pipeline.simulate --live``."""

import dataclasses
import pathlib
import time

from absl import logging

from features import command
from features.durations import DAY_S
from pipeline.living import course as living_course
from pipeline.living.client import Client
from pipeline.living.config import LiveConfig
from pipeline.living.course import Course, Passed
from pipeline.site import config as site_config
from pipeline.site import truth as site_truth
from serving.process.clock import SharedClock

_VISITORS = "visitors.npz"
_READY_WITHIN_S = 300.0
_KEPT_UP = 0.98  # Of --speedup; less is said.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Lived:
    """What came of a call.

    Attributes:
        passed: What passed.
        until_s: Moment at which the next call goes on, Unix seconds.
        answers: How often the server answered from which release and rung.
        coming: Part of the users who have not stopped coming, in [0, 1].
    """

    passed: Passed
    until_s: int
    answers: dict[str, int]
    coming: float


def run(
    site: site_config.SiteConfig,
    live: LiveConfig,
    *,
    address: str,
    logs_dir: pathlib.Path,
    clock_path: pathlib.Path,
    days: int,
) -> Lived:
    """Lets some days pass at a server, from where the last call stopped.

    Args:
        site: The site, the same in each call.
        live: How people come, and how fast time runs.
        address: ``http://HOST:PORT`` of a server with ``--clock`` of this file.
        logs_dir: Raw logs of that server.
        clock_path: File of the simulated clock; made where there is none.
        days: Number of days.

    Raises:
        InputError: The logs are those of another site, or the server does not answer.
    """
    world = living_course.world_of(site, logs_dir)
    kept = logs_dir / site_truth.DIRECTORY / _VISITORS
    clock = SharedClock.create(clock_path, site.start_s)
    client = Client(address, workers=live.workers)
    course = Course(world, logs_dir, client=client, clock=clock, config=live)
    from_s = site.start_s
    if kept.exists():
        living_course.load(kept, course.visitors)
        from_s = course.visitors.until_s
    if from_s + days * DAY_S > site.end_s:
        left = (site.end_s - from_s) // DAY_S
        raise command.InputError(
            f"the site of {logs_dir} has {left} days left of its {site.days}, got {days}. Begin "
            "another one with more --days."
        )
    clock.set(from_s)
    course.uploads.until(from_s)
    _wait_for_server(client, logs_dir, clock_path)
    passed = course.run(from_s, from_s + days * DAY_S)
    living_course.save(kept, course.visitors)
    client.close()
    if passed.speedup < _KEPT_UP * live.speedup:
        logging.warning(
            "The server and the simulation keep up with %.0f simulated seconds in one, not with "
            "--speedup=%g.",
            passed.speedup,
            live.speedup,
        )
    return Lived(
        passed=passed,
        until_s=course.visitors.until_s,
        answers=dict(course.visitors.answers),
        coming=1 - float(course.visitors.returning.is_away.mean()),
    )


def _wait_for_server(client: Client, logs_dir: pathlib.Path, clock_path: pathlib.Path) -> None:
    """Says how to start the server where it does not run yet, and waits for it."""
    line = command.shell_line(
        "serving.serve",
        serving_root="SERVING_ROOT",
        logs=logs_dir,
        clock=clock_path,
        port=client.address.rpartition(":")[2],
    )
    until = time.monotonic() + _READY_WITHIN_S
    is_told = False
    while not client.answers():
        if not is_told:
            logging.info("Waiting for the server; start it with: %s --before_release", line)
            is_told = True
        if time.monotonic() > until:
            raise command.InputError(
                f"{client.address} is not ready after {_READY_WITHIN_S:.0f} s. Start: {line}"
            )
        time.sleep(0.2)
