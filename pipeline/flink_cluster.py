r"""Starts a small Flink cluster on this machine, to try preprocessing on one.

    python -m pipeline.flink_cluster --fetch
    python -m pipeline.flink_cluster --directory=/tmp/flink --task_managers=2

It says which command runs preprocessing there, and stops everything when it is interrupted.
``--fetch`` needs Maven, everything else a Java 11 or 17 runtime.
"""

import pathlib
import shlex
import signal
import sys
import time

from absl import flags

from features import command
from pipeline.flink import processes

_FETCH = flags.DEFINE_bool("fetch", False, "Fetches Flink and Beam's runner for it, then ends.")
_DIRECTORY = flags.DEFINE_string("directory", None, "For configuration, logs, temporary files.")
_TASK_MANAGERS = flags.DEFINE_integer("task_managers", 2, "Task managers.", lower_bound=1)
_SLOTS = flags.DEFINE_integer("slots", 2, "Task slots of each.", lower_bound=1)
_WORKER_PYTHON = flags.DEFINE_string(
    "worker_python", sys.executable, "Python with this package; the workers run in it."
)


def main() -> None:
    """Fetches, or starts and waits."""
    if _FETCH.value:
        sys.stdout.write(f"Flink is in {processes.FLINK.fetch()}\n")
        return
    if not _DIRECTORY.value:
        raise command.InputError("give --directory=DIR, where the cluster keeps its files.")
    signal.signal(signal.SIGTERM, _interrupt)
    cluster = processes.Cluster(
        pathlib.Path(_DIRECTORY.value),
        task_managers=_TASK_MANAGERS.value,
        slots=_SLOTS.value,
        worker_python=_WORKER_PYTHON.value,
    )
    try:
        with cluster:
            following = command.shell_line("pipeline.preprocess", logs="logs", examples="examples")
            sys.stdout.write(
                f"Flink is ready: {cluster.rest_url}\n"
                f"Next: {following} {shlex.join(cluster.beam_flags())}\n"
            )
            sys.stdout.flush()
            while True:
                cluster.check()
                time.sleep(1)
    except KeyboardInterrupt:
        sys.stdout.write("Stopped.\n")


def _interrupt(_number: int, _frame: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    command.run(main)
