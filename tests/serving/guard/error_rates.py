r"""How often the guard of releases and the test of experiments are wrong, and how soon they see.

    python -m tests.serving.guard.error_rates DIRECTORY [RELEASES] [LIVE_RUNS]

Runs the test of a release whose scores are negated, under live traffic; then simulates releases
that a guard watches look by look, and experiments without a difference. Writes
DIRECTORY/guard.json, of which pipeline.record_results makes tables (--part=guard, looks, live).
"""

import dataclasses
import json
import math
import os
import pathlib
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Iterator

import numpy as np
from scipy import stats

from features import reports
from models.paper.experiments import Experiment, Row
from serving.guard import watching
from serving.guard.config import GuardConfig
from serving.guard.tallies import Tally
from serving.release import manifest as release
from tests.models.evaluation.test_sequential import looks
from tests.serving.guard.test_judging import CONFIG, Crowd
from tests.serving.release.releases import publish

CHECKOUT = pathlib.Path(__file__).resolve().parents[3]
LIVE = "tests/serving/test_guard_release.py"
SEEDS = (1, 2, 3)
LOOKS = 60  # At a release, and at the one before.


@dataclasses.dataclass
class Site:
    """A serving root with two releases, of which a guard sees the second one being published."""

    root: pathlib.Path
    old: str
    new: str

    def pages_until_left(self, before: Crowd, after: Crowd, config: GuardConfig) -> float:
        """Returns the pages of the new release until the guard leaves it; NaN if it never does."""
        left: list[watching.Decision] = []
        look, current = 0, self.root / release.CURRENT
        guard = watching.Guard(
            self.root,
            config,
            totals=lambda: {self.old: at(before, look), self.new: at(after, look - LOOKS)},
            roll_back=left.append,
            clock=lambda: look * config.period_s,
        )
        for look in range(2 * LOOKS):
            if look in {0, LOOKS}:
                current.write_text(self.new if look else self.old)
                os.utime(current, (look * config.period_s,) * 2)
            guard.look()
            if left:
                return float(left[0].evidence["pages"])
        return math.nan


def at(crowd: Crowd, look: int) -> Tally:
    """Returns what is counted of a crowd by a look; nothing before the first."""
    return crowd.totals[min(look, len(crowd.totals) - 1)] if look >= 0 else Tally()


def watched(site: Site, name: str, number: int, config: GuardConfig, **ill: float) -> Iterator[Row]:
    """Yields how many of some releases were left, and after how many pages."""
    rng = np.random.default_rng(11)
    pages = [site.pages_until_left(Crowd(rng), Crowd(rng, **ill), config) for _ in range(number)]
    left = np.isfinite(pages)
    yield Row(setting=name, metric="releases", value=float(number))
    yield share_of(name, "of them left", left)
    if left.mean() > 0.5:
        median = float(np.median(np.where(left, pages, math.inf)))
        yield Row(setting=name, metric="median pages until then", value=median)


def share_of(name: str, metric: str, said: np.ndarray, seed: int | None = None) -> Row:
    """Returns a share with its exact binomial interval."""
    ends = stats.binomtest(int(said.sum()), said.size).proportion_ci(0.95, method="exact")
    value = float(said.mean())
    return Row(setting=name, metric=metric, value=value, low=ends.low, high=ends.high, seed=seed)


def live(run: int, directory: pathlib.Path) -> Iterator[Row]:
    """Yields what a release with negated scores cost under live traffic."""
    path = directory / f"live-{run}.xml"
    line = [sys.executable, "-m", "pytest", "-q", "-n", "0", f"--junitxml={path}", LIVE]
    line += ["-o", "junit_family=xunit1"]  # The one that has properties of a test.
    subprocess.run([*line, "-k", "negated"], cwd=CHECKOUT, check=True)
    (told,) = ET.parse(path).getroot().iter("property")
    cost = json.loads(told.attrib["value"])
    for metric in ("seconds_since_publication", "pages that it cost"):
        yield Row(setting=f"run {run}", metric=metric.replace("_", " "), value=float(cost[metric]))


def main(root: str, releases: str = "1000", runs: str = "3") -> None:
    """Measures, and writes."""
    directory, number = pathlib.Path(root), int(releases)
    directory.mkdir(parents=True, exist_ok=True)
    cost = [row for run in range(1, int(runs) + 1) for row in live(run, directory)]
    kept = 1 - CONFIG.max_fall
    loose = dataclasses.replace(CONFIG, alpha=0.05)
    site = Site(directory / "root", *(publish(directory / "root") for _ in range(2)))
    few = number // 5
    guard = [
        *watched(site, "as good as before", number, CONFIG),
        *watched(site, "30 % fewer clicks, the limit, alpha .05", number, loose, rate=0.4 * kept),
        *watched(site, "40 % fewer clicks", few, CONFIG, rate=0.24),
        *watched(site, "50 % fewer clicks", few, CONFIG, rate=0.2),
        *watched(site, "75 % fewer clicks", few, CONFIG, rate=0.1),
        *watched(site, "as many clicks, long watches a fifth as long", few, CONFIG, long=0.2),
        *watched(site, "one request in thirty fails", few, CONFIG, failing=1 / 30),
    ]
    peeked = []
    for seed in SEEDS:
        always, once = looks(seed)
        for name, rejects in (("any look", always), ("an interval for one look", once)):
            peeked.append(share_of(name, "says so wrongly", rejects.any(axis=1), seed))
    told = (
        ("guard", "Releases that are watched", guard, "3,000 simulated users in 256 groups whose "
         "activity and watch times have lognormal tails; the guard looks 60 times at the release "
         "before and 60 times at the new one, after 40 pages each; watches of more than 30 s are "
         "reported 15 looks later"),
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
