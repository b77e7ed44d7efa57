r"""Reports how the recommender did on the last days, and how what it serves drifted from training.

    python -m serving.report_health --serving_root=serving_root --logs=logs --output=health.html \
        --prometheus=/var/lib/node_exporter/watchnext.prom

Scores every impression of those days as of its own moment, by the release that serves. Writes a
page, the same figures as JSON beside it, and a file for Prometheus' textfile collector: coverage,
Gini coefficient, share of fresh videos, repetition between pages, watched over expected seconds,
and the distance of each number that the ranker reads from what it was trained on; with --servers
also the share of the pages on each rung, which servers alone know. Give it days
that the release has not learnt: by default those from the end of what its ranker has learnt on.
"""

import dataclasses
import json
import pathlib
import sys
import time

from absl import flags

from features import command, config_flags, files
from features.durations import DAY_S
from serving.release import manifest as release
from serving.release import stored_root

_SERVING_ROOT = config_flags.path("serving_root", "itself", "Directory of releases.", required=True)
_LOGS = config_flags.path("logs", "reads", "Directory of raw logs.", required=True)
_OUTPUT = config_flags.path("output", "writes", "HTML file to write.", required=True)
_PROMETHEUS = config_flags.path("prometheus", "writes", "File of Prometheus metrics to write.")
_SERVERS = flags.DEFINE_list(
    "servers", [], "http://HOST:PORT of servers, whose pages are counted by rung; default: none."
)
_RELEASE = flags.DEFINE_string("release", None, "Version; default: the current one.")
_UNTIL = flags.DEFINE_string(
    "until", None, "First time not to look at, ISO 8601, UTC; default: now."
)
_DAYS = flags.DEFINE_integer(
    "days", 0, "Days before --until; 0: since the end of what the ranker has learnt.", 0
)


def main() -> None:
    """Measures, writes, and says what is not as it should be."""
    from serving.batch import health

    rungs = health.rungs(_SERVERS.value)  # What cannot be asked is said before the work.
    chosen = release.load(stored_root.read(_SERVING_ROOT.value, _RELEASE.value), _RELEASE.value)
    until_s = command.parse_time(_UNTIL.value, name="--until") or int(time.time())
    measured = health.measure(
        chosen, pathlib.Path(_LOGS.value), from_s=_from_s(chosen, until_s), until_s=until_s
    )
    measured = dataclasses.replace(measured, rungs=rungs)
    output = pathlib.Path(_OUTPUT.value)
    files.atomic_write(output, health.page(measured))
    text = json.dumps(measured.to_json(), indent=1) + "\n"
    files.atomic_write(output.with_suffix(".json"), text)
    if _PROMETHEUS.value:
        files.atomic_write(_PROMETHEUS.value, health.prometheus(measured))
    for warning in health.warnings(measured):
        sys.stdout.write(f"{warning}\n")
    sys.stdout.write(f"Wrote {output} and {output.with_suffix('.json').name}.\n")


def _from_s(chosen: release.Release, until_s: int) -> int:
    if _DAYS.value:
        return until_s - _DAYS.value * DAY_S
    learnt_until_s = chosen.ranker_learnt_until_s
    if learnt_until_s is None:
        raise command.InputError(
            f"release {chosen.version} does not say until when its ranker has learnt: give --days."
        )
    return learnt_until_s


if __name__ == "__main__":
    command.run(main)
