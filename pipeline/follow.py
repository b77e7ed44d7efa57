r"""Between nights: learns what the event log gained, and publishes, every few minutes.

    python -m pipeline.follow --logs=logs --serving_root=serving_root --every=10m

It goes on where pipeline.retrain ended, in the same --work directory. Each cycle moves events into
the tables, takes steps on what was watched since, keeps the last hour aside to measure on, and
offers a new query tower and index beside the night's ranker to the gates of a release. A bad hour
is refused; while a night runs there is no cycle, and the next one starts from what it published.
"""

import os
import pathlib
import signal
import sys
import time
import types

from absl import flags

from features import command, config_flags
from features.screen import progress
from features.stores import locations
from pipeline.steps import schedule
from serving.building.config import BuildConfig, HourLimits
from serving.release.publication import KEEP

_LOGS = config_flags.path(
    "logs", "itself", "Directory of the raw logs, on this machine.", required=True
)
_SERVING_ROOT = config_flags.path(
    "serving_root", "itself", "Directory in which the night's release was published.", required=True
)
_WORK = config_flags.path(
    "work", "itself", "Work directory of pipeline.retrain; default: work beside --serving_root."
)
_EVERY = flags.DEFINE_string(
    "every", None, "Time between the starts of two cycles, such as 10m; default: one cycle."
)
_UNTIL = flags.DEFINE_string(
    "until", None, "One cycle, of what was known at this ISO 8601 time, UTC."
)
_KEEP = flags.DEFINE_integer("keep", KEEP, "Newest releases to keep, besides the night's.")
_FORCE_PUBLISH = flags.DEFINE_string(
    "force_publish", "", "Publishes although a gate fails; the reason, which is recorded."
)
_LIMITS = config_flags.define(HourLimits)


def main() -> None:
    """Runs one cycle, or one after the other until it is stopped."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)
    if _EVERY.value and _UNTIL.value:
        raise command.InputError("give either --every or --until.")
    root = _SERVING_ROOT.value
    work = _WORK.value or os.path.join(os.path.dirname(root.rstrip("/")), "work")
    for name, place in (("logs", _LOGS.value), ("work", work)):
        if locations.is_remote(place):
            raise command.InputError(
                f"--{name} must be a directory of this machine, got {place}: what servers logged "
                "minutes ago is read there, and a night's work gone on with."
            )
    from pipeline.following import cycle

    follower = cycle.Follower(
        logs=pathlib.Path(_LOGS.value),
        serving_root=root,
        work=pathlib.Path(work),
        limits=_LIMITS.build(),
        build=BuildConfig(keep=_KEEP.value, force_publish=_FORCE_PUBLISH.value),
        say=progress.write,
    )
    until_s = command.parse_time(_UNTIL.value, name="--until") if _UNTIL.value else None

    def run() -> int:
        report = follower.cycle(until_s or int(time.time()))
        parts = ", ".join(f"{part} {s:.0f} s" for part, s in report["seconds"].items())
        sys.stdout.write(
            f"Published release {report['release']}, which has learnt all up to "
            f"{report['until']} ({parts}).\n"
        )
        sys.stdout.flush()
        return 0

    if _EVERY.value:
        schedule.repeat(run, schedule.parse(_EVERY.value))
    run()


def _stop(number: int, frame: types.FrameType | None) -> None:
    """Leaves through the ``finally`` blocks, which let go of the locks."""
    del frame
    raise SystemExit(128 + number)


if __name__ == "__main__":
    command.run(main)
