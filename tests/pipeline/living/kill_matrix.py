r"""Kills a living site at 30 points of its days; compares its end with that of an undisturbed run.

    python -m tests.pipeline.living.kill_matrix DIRECTORY [DAYS] [SEED]

Writes DIRECTORY/kill_matrix.json, of which pipeline.record_results makes a table (--part=kills).
"""

import dataclasses
import json
import pathlib
import sys
import time
from collections.abc import Iterator

from features import reports
from models.paper.experiments import Experiment, Row
from tests.pipeline.living.killing import RETRAIN, RUNNER, SERVER, STEPS, LivingSite, Point

_BUILD = "serving.build_release"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Kill:
    """A point, in words, and what the next start is given.

    Attributes:
        what: Words.
        point: The point.
        as_left: Whether the next start takes logs and serving root as they were left.
        publishes: Whether CURRENT names another release by then; None where it is not looked at.
    """

    what: str
    point: Point
    as_left: bool = False
    publishes: bool | None = None


def kills(quiet: LivingSite) -> Iterator[Kill]:
    """Yields where a run is killed, in the order in which it comes by.

    Args:
        quiet: An undisturbed run with traces: they tell how many files a step writes.
    """
    yield from _visits("visits 1")
    for step in filter(quiet.traced, STEPS):  # Some are skipped where there is a ranker.
        yield from _step(step, quiet, "night 1")
    yield from _end_of_night("night 1", "*/01-night-1")
    yield Kill(
        what="compaction, with a release",
        point=Point(during="visits 2", module=SERVER, path="*/commit-*", count=2),
    )
    # From one release to the next.
    night = "night 2"
    yield from _publication(STEPS[-1], night)
    yield _recorded(STEPS[-1], night)
    yield from _end_of_night(night, "*/03-night-2")


def _visits(day: str) -> Iterator[Kill]:
    tables = "*/site/logs/[isw]*/*.parquet"
    for what, module, path, count in (
        ("server, first page is logged", SERVER, "*/.event_log/*", 1),
        ("compaction, before it is decided", SERVER, "*/commit-*", 1),
        ("compaction, between two tables", SERVER, tables, 2),
        ("snapshot, before it is whole", RUNNER, "*/00-visits-1", 1),
    ):
        yield Kill(what=what, point=Point(during=day, module=module, path=path, count=count))


def _step(step: str, quiet: LivingSite, night: str) -> Iterator[Kill]:
    name = step.partition(".")[2]
    half = max(1, len(quiet.traced(step)[0]) // 2)
    yield Kill(
        what=f"{name}, inside",
        point=Point(during=night, module=step, count=half),
        as_left=True,
    )
    yield _recorded(step, night)


def _recorded(step: str, night: str) -> Kill:
    name = step.partition(".")[2]
    return Kill(
        what=f"{name}, before it is recorded",
        point=Point(during=night, module=RETRAIN, path=f"*/steps/{name}.json", count=2),
        as_left=True,
    )


def _publication(build: str, night: str) -> Iterator[Kill]:
    for what, path, count in (
        ("before its parts have names", "*/index/2*", 1),
        ("before its manifest", "*/releases/2*.json", 1),
        ("before CURRENT", "*/serving_root/CURRENT", 1),
        # The marker of the build before is removed first, its own is made and removed.
        ("after CURRENT", "*/releases/.building*", 3),
    ):
        yield Kill(
            what=f"publication, {what}",
            point=Point(during=night, module=build, path=path, count=count),
            as_left=True,
            publishes=what == "after CURRENT",
        )


def _end_of_night(night: str, snapshot: str) -> Iterator[Kill]:
    for what, module, path, reads in (
        ("retraining, before its report", RETRAIN, "*/runs/*.json", False),
        ("server, while it loads the release", SERVER, "*/query_tower/2*", True),
        ("snapshot, before it is whole", RUNNER, snapshot, False),
    ):
        point = Point(during=night, module=module, path=path, reads=reads)
        yield Kill(what=what, point=point)


def main(root: str, days: str = "3", seed: str = "3") -> None:
    """Runs both, and writes what came of each kill."""
    directory = pathlib.Path(root)
    quiet = LivingSite(directory / "quiet", days=int(days), seed=int(seed), forced=True)
    began = time.monotonic()
    assert not quiet.run(trace=True)
    print(f"undisturbed: {time.monotonic() - began:.0f} s", flush=True)
    killed = LivingSite(directory / "killed", days=int(days), seed=int(seed), forced=True)
    rows: list[Row] = []
    as_left = False
    for number, kill in enumerate(kills(quiet), start=1):
        began, asked, before = time.monotonic(), killed.asked, killed.current()
        assert killed.run(kill.point, as_left=as_left), f"the run ended before {kill}"
        assert kill.publishes in {None, killed.current() != before}, kill
        acknowledged, lost, twice = killed.acknowledged()
        told = {
            "acknowledged": acknowledged,
            "of it lost": lost,
            "of it twice": twice,
            "times asked what is served": killed.asked - asked,
            "pages of a release that is not whole": killed.pages_of_unknown_releases(),
        }
        print(number, kill.point.during, kill.what, told, repr(killed.current()), killed.broken,
              f"{time.monotonic() - began:.0f} s", flush=True)  # fmt: skip
        setting = f"{kill.point.during}: {kill.what}"
        rows += [Row(setting=setting, metric=m, value=float(v)) for m, v in told.items()]
        as_left = kill.as_left
    assert not killed.run()
    expected, end = quiet.end(), killed.end()
    differing = {key: [end[key], expected[key]] for key in end if end[key] != expected[key]}
    print("broken:", killed.broken, "differing:", json.dumps(differing)[:3000], flush=True)
    experiment = Experiment(
        name="kills",
        title="Killed at any moment",
        question=f"a living site of {days} days (tiny), of which all processes are killed at "
        "once (SIGKILL) at a point, started again, killed at the next, and so on to its end",
        paper="",
        settings={"differing": sorted(differing), "broken": killed.broken},
        rows=rows,
    )
    document = {
        "experiments": [json.loads(experiment.to_json())],
        "settings": {"seeds": [int(seed)]},
        "measured": reports.stamp(),
    }
    (directory / "kill_matrix.json").write_text(json.dumps(document, indent=1) + "\n")
    assert not differing
    assert not killed.broken


if __name__ == "__main__":
    main(*sys.argv[1:])
