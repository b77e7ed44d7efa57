r"""How often the guard of releases and the test of experiments are wrong, and how soon they see.

    python -m tests.serving.guard.error_rates DIRECTORY [RELEASES] [LIVE_RUNS]

Simulates releases that are watched look by look, and experiments without a difference; then runs
the test of a release whose scores are negated, under live traffic. Writes DIRECTORY/guard.json, of
which pipeline.record_results makes tables (--part=guard, looks, live).
"""

import dataclasses
import json
import math
import pathlib
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Iterator

import numpy as np

from features import reports
from models.paper.experiments import Experiment, Row
from serving.guard import judging
from serving.guard.config import GuardConfig
from tests.models.evaluation.test_sequential import looks
from tests.serving.guard.test_judging import CONFIG, Crowd

CHECKOUT = pathlib.Path(__file__).resolve().parents[3]
LIVE = "tests/serving/test_guard_release.py"
SEEDS = (1, 2, 3)


def watched(name: str, number: int, config: GuardConfig, **release: float) -> Iterator[Row]:
    """Yields how many of some releases were left, and after how many pages."""
    rng = np.random.default_rng(11)
    pages = []
    for _ in range(number):
        before = Crowd(rng).totals[-1]
        seen = (t for t in Crowd(rng, **release).totals if judging.breaches(t, before, config))
        pages.append(next((tally.requests for tally in seen), math.nan))
    left = np.isfinite(pages)
    yield Row(setting=name, metric="releases", value=float(number))
    yield Row(setting=name, metric="of them left", value=float(left.mean()))
    if left.mean() > 0.5:
        yield Row(setting=name, metric="median pages until then", value=float(np.median(pages)))


def live(run: int, directory: pathlib.Path) -> Iterator[Row]:
    """Yields what a release with negated scores cost under live traffic."""
    path = directory / f"live-{run}.xml"
    line = [sys.executable, "-m", "pytest", "-q", "-n", "0", f"--junitxml={path}", LIVE]
    subprocess.run([*line, "-k", "negated"], cwd=CHECKOUT, check=True)
    (told,) = ET.parse(path).getroot().iter("property")
    cost = json.loads(told.attrib["value"])
    for metric in ("seconds_since_publication", "pages that it cost"):
        yield Row(setting=f"run {run}", metric=metric.replace("_", " "), value=float(cost[metric]))


def main(root: str, releases: str = "1000", runs: str = "3") -> None:
    """Measures, and writes."""
    directory, number = pathlib.Path(root), int(releases)
    directory.mkdir(parents=True, exist_ok=True)
    kept = 1 - CONFIG.max_fall
    loose = dataclasses.replace(CONFIG, alpha=0.05)
    guard = [
        *watched("as good as before", number, CONFIG),
        *watched("clicks at the limit, alpha .05", number // 2, loose, rate=0.4 * kept),
        *watched("half the clicks", number // 10, CONFIG, rate=0.2),
        *watched("as many clicks, long watches a fifth as long", number // 10, CONFIG, long=0.2),
    ]
    peeked = []
    for seed in SEEDS:
        always, once = looks(seed)
        for name, rejects in (("any look", always), ("an interval for one look", once)):
            share = float(rejects.any(axis=1).mean())
            peeked.append(Row(setting=name, metric="says so wrongly", value=share, seed=seed))
    cost = [row for run in range(1, int(runs) + 1) for row in live(run, directory)]
    told = (
        ("guard", "Releases that are watched", guard, "3,000 simulated users in 256 groups whose "
         "activity and watch times have lognormal tails, 60 looks of 40 pages; watches of more "
         "than 30 s are reported 15 looks later"),
        ("looks", "Experiments without a difference", peeked, "1,000 simulated experiments of 600 "
         "users whose visits and watch times have lognormal tails, 14 daily looks at their totals"),
        ("live", "Negated scores", cost, "a release whose scores are negated, published under one "
         "viewer after the other, who click a first video of their topic; outcomes are known "
         "after 2 s"),
    )  # fmt: skip
    document = {
        "experiments": [
            json.loads(
                Experiment(
                    name=name, title=title, question=question, paper="", settings={}, rows=rows
                ).to_json()
            )
            for name, title, rows, question in told
        ],
        "settings": {"seeds": [11]},
        "measured": reports.stamp(),
    }
    (directory / "guard.json").write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
