r"""Kills a living site at 30 points of its days; compares its end with that of an undisturbed run.

    python -m tests.pipeline.living.kill_matrix DIRECTORY [DAYS] [SEED]

Writes DIRECTORY/kill_matrix.json, of which pipeline.record_results makes a table (--part=kills).
"""

import json
import pathlib
import sys
import time
from collections.abc import Iterator

from features import reports
from models.paper.experiments import Experiment, Row
from tests.pipeline.living.killing import RETRAIN, RUNNER, SERVER, STEPS, LivingSite, Point

_BUILD = "serving.build_release"


def points(quiet: LivingSite) -> Iterator[tuple[str, Point]]:
    """Yields what is killed, in words, and where: in the order in which a run comes by.

    Args:
        quiet: An undisturbed run with traces: they tell how many files a step writes.
    """
    day, night = "visits 1", "night 1"
    yield "server, first page is logged", Point(stage=day, module=SERVER, path="*/.event_log/*")
    yield "compaction, before it is decided", Point(stage=day, module=SERVER, path="*/commit-*")
    tables = "*/site/logs/[isw]*/*.parquet"
    yield (
        "compaction, between two tables",
        Point(stage=day, module=SERVER, path=tables, count=2),
    )
    yield "stage, before it is whole", Point(stage=day, module=RUNNER, path="*/00-visits-1")
    for step in STEPS:
        name = step.partition(".")[2]
        half = max(1, len(quiet.traced(step)[0]) // 2)
        yield f"{name}, inside", Point(stage=night, module=step, count=half)
        if step == _BUILD:
            yield from _publication(night)
        yield (
            f"{name}, before it is recorded",
            Point(stage=night, module=RETRAIN, path=f"*/steps/{name}.json", count=2),
        )
    yield "retraining, before its report", Point(stage=night, module=RETRAIN, path="*/runs/*.json")
    yield (
        "server, while it loads the release",
        Point(stage=night, module=SERVER, path="*/query_tower/2*", reads=True),
    )
    yield "stage, before it is whole", Point(stage=night, module=RUNNER, path="*/01-night-1")
    yield (
        "compaction, with a release",
        Point(stage="visits 2", module=SERVER, path="*/commit-*", count=2),
    )


def _publication(night: str) -> Iterator[tuple[str, Point]]:
    for what, path, count in (
        ("before its parts have names", "*/index/2*", 1),
        ("before its manifest", "*/releases/2*.json", 1),
        ("before CURRENT", "*/serving_root/CURRENT", 1),
        ("after CURRENT", "*/releases/.building*", 2),  # It is made first, and removed last.
    ):
        yield f"publication, {what}", Point(stage=night, module=_BUILD, path=path, count=count)


def main(root: str, days: str = "2", seed: str = "3") -> None:
    """Runs both, and writes what came of each kill."""
    directory = pathlib.Path(root)
    quiet = LivingSite(directory / "quiet", days=int(days), seed=int(seed), forced=True)
    began = time.monotonic()
    assert not quiet.run(trace=True)
    print(f"undisturbed: {time.monotonic() - began:.0f} s", flush=True)
    killed = LivingSite(directory / "killed", days=int(days), seed=int(seed), forced=True)
    rows: list[Row] = []
    for number, (what, point) in enumerate(points(quiet), start=1):
        began = time.monotonic()
        assert killed.run(point), f"the run ended before {point}"
        acknowledged, lost = killed.acknowledged()
        told = {
            "acknowledged events": acknowledged,
            "of them lost": lost,
            "pages of a release that is not whole": killed.pages_of_unknown_releases(),
        }
        print(number, point.stage, what, told, repr(killed.current()), killed.broken,
              f"{time.monotonic() - began:.0f} s", flush=True)  # fmt: skip
        setting = f"{point.stage}: {what}"
        rows += [Row(setting=setting, metric=m, value=float(v)) for m, v in told.items()]
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
