"""Live experiments on a living site: what the paper says is better, tried on users split by hash.

The site has lived for some days (:mod:`pipeline.living.days`). From its logs, as they stand then, a
release is trained for each arm with the flags of the site but for what the arm changes; then one
server serves them side by side, each user by the release and settings of one arm. Gates
do not decide: an arm that is worse is what an experiment is for, so each release is published with
that reason.

With a thousand videos nearly all that is worth watching reaches the ranker, whatever candidate
generation proposes. So what the paper says of candidate generation is tried on pages in its order,
against the arm ``retrieval``.
"""

import dataclasses
import shutil
from collections.abc import Mapping, Sequence
from typing import Any

from absl import logging

from features import command, spec
from features.durations import DAY_S
from pipeline.living import course as living_course
from pipeline.living import days as living_days
from pipeline.living import nights
from pipeline.living.days import LivingSite, Site

NAME = "claims"
TRAINING, VISITS = "arms", "experiment"
_CHURN = [
    name
    for name in spec.grid_names("video")
    if "impression" in name  # How often a video was shown to the user, and when last.
]
_BY_RANKER: Mapping[str, Any] = {"order": "watch_time"}
_BY_RETRIEVAL: Mapping[str, Any] = {"order": "retrieval"}
# Of all arms. After some days hardly anybody has the 64 examples that a user has by default.
_FLAGS: Mapping[str, str] = {"preprocess_flags": "--examples_per_user=12"}
# Of the control, where an arm has pages in the learned order of its release.
_WITH_ORDER = ["--learn_order"]
_KEEP = 32


@dataclasses.dataclass(frozen=True, kw_only=True)
class Claim:
    """An arm, and what the paper says of it.

    Attributes:
        name: Name of the arm.
        text: What it does otherwise than the control, in words.
        flags: Flag of ``pipeline.retrain`` to what is added to it; none where the release of the
            control serves.
        settings: Settings of its pages.
        against: Name of the arm that it is compared with.
    """

    name: str
    text: str
    flags: Mapping[str, str] = dataclasses.field(default_factory=dict)
    settings: Mapping[str, Any] = dataclasses.field(default_factory=lambda: dict(_BY_RANKER))
    against: str = "control"


CONTROL = Claim(name="control", text="ranked by expected watch time, as in the paper")
RETRIEVAL = Claim(
    name="retrieval",
    text="pages in the order of candidate generation, without the ranker",
    settings=_BY_RETRIEVAL,
)
# The claims of sections 3.3, 3.4, 4.1, 4.2, and exploration, which the paper leaves out.
CLAIMS: Mapping[str, Claim] = {
    claim.name: claim
    for claim in (
        Claim(
            name="clicks",
            text="the ranker learns clicks, not watch time (section 4.2)",
            flags={"ranker_flags": "--loss=logistic"},
        ),
        Claim(
            name="no_churn",
            text="the ranker does not know what was shown before (section 4.1)",
            flags={"ranker_flags": f"--exclude={','.join(_CHURN)}"},
        ),
        RETRIEVAL,
        Claim(
            name="no_age",
            text="candidate generation without the example age (section 3.3)",
            flags={"candidate_flags": "--exclude=example_age_s --age_pieces=0"},
            settings=_BY_RETRIEVAL,
            against=RETRIEVAL.name,
        ),
        Claim(
            name="held_out",
            text="learns held-out watches, not the next one (section 3.4)",
            flags={"preprocess_flags": "--label=held_out"},
            settings=_BY_RETRIEVAL,
            against=RETRIEVAL.name,
        ),
        Claim(
            name="all_examples",
            text="every watch of a user is an example, not 12 at most (section 3.4)",
            flags={"preprocess_flags": "--examples_per_user=0"},
            settings=_BY_RETRIEVAL,
            against=RETRIEVAL.name,
        ),
        Claim(
            name="explored",
            text="a tenth of the places for fresh videos of which little is known",
            settings={**_BY_RANKER, "explored": 0.1},
        ),
        Claim(
            name="learned",
            text="pages in the order that was learnt from watches, not of expected watch time",
            settings={"order": "learned"},
        ),
    )
}


def chosen(names: Sequence[str]) -> list[Claim]:
    """Returns the control and the claims of these names; ``all`` names every one.

    Raises:
        InputError: There is no such claim.
    """
    wanted = list(CLAIMS) if list(names) == ["all"] else list(names)
    unknown = [name for name in wanted if name not in CLAIMS]
    if unknown or not wanted:
        raise command.InputError(
            f"--experiments must be among all, {', '.join(CLAIMS)}, got {','.join(names)!r}."
        )
    claims = [CLAIMS[name] for name in wanted]
    if RETRIEVAL not in claims and any(claim.against == RETRIEVAL.name for claim in claims):
        claims.insert(0, RETRIEVAL)
    return [CONTROL, *claims]


def run(living: LivingSite, claims: Sequence[Claim], *, days: int) -> None:
    """Trains the arms on a site that has lived its days, and lets more days pass with them.

    Args:
        living: A site whose days have passed.
        claims: Arms, the control first.
        days: Days of the experiment.
    """
    names = [f"{TRAINING}-1", *(f"{VISITS}-{day}" for day in range(1, days + 1))]
    before = 2 * living.run.days - 1
    done = len(living.snapshots.done()) - before
    if done >= len(names):
        return
    snapshot = living.snapshots.restore(living.parts)
    assert snapshot is not None
    if not done:
        with living.snapshots.adding(names[0], living.parts) as (directory, record):
            record.update(_trained(living, claims))
            shutil.copy(snapshot / living_days.VISITORS, directory / living_days.VISITORS)
        done = 1
        snapshot = living.snapshots.path(names[0])
    trained = dict(living.snapshots.done())[names[0]]
    experiment = _experiment(living, claims, trained["releases"])
    with Site(living, snapshot, experiment) as site:
        for number, name in enumerate(names[done:], start=done):
            logging.info("Experiment, day %d of %d.", number, days)
            with living.snapshots.adding(name, living.parts) as (directory, record):
                site.visits(living.run.days + number, directory, record)


def _experiment(
    living: LivingSite, claims: Sequence[Claim], releases: Mapping[str, str]
) -> dict[str, Any]:
    share = 1 / len(claims)
    return {
        "name": NAME,
        "salt": f"{NAME}-{living.run.preset.site.seed}",
        "arms": [
            {
                "name": claim.name,
                "share": share,
                "release": releases[claim.name],
                "settings": dict(claim.settings),
            }
            for claim in claims
        ],
    }


def _trained(living: LivingSite, claims: Sequence[Claim]) -> dict[str, Any]:
    """Publishes a release for each arm that needs its own."""
    releases: dict[str, str] = {}
    records: dict[str, Any] = {}
    until_s = living_course.until_of(
        living.snapshots.path(f"{living_days.VISITS}-{living.run.days}") / living_days.VISITORS
    )
    assert until_s == living.run.preset.site.start_s + living.run.days * DAY_S
    for claim in claims:
        if claim is not CONTROL and not claim.flags:
            releases[claim.name] = releases[CONTROL.name]
            continue
        logging.info("Arm %s: %s.", claim.name, claim.text)
        with_order = claim is CONTROL and CLAIMS["learned"] in claims
        night = nights.retrain(
            _flags(living, claim, until_s) + (_WITH_ORDER if with_order else []),
            logs_dir=living.logs,
            serving_root=living.serving_root,
            work=living.work,
            said=living.said / f"arm-{claim.name}.log",
        )
        if night.outcome != nights.PUBLISHED:
            raise command.InputError(
                f"the arm {claim.name} has no release: see {living.said / f'arm-{claim.name}.log'}"
            )
        releases[claim.name] = night.release
        records[claim.name] = night.to_json()
    return {"releases": releases, "trained": records}


def _flags(living: LivingSite, claim: Claim, until_s: int) -> list[str]:
    """Returns the flags of the site's retraining with what the arm adds."""
    flags = dict(flag.removeprefix("--").split("=", 1) for flag in living.run.preset.retrain)
    for name, more in (*_FLAGS.items(), *claim.flags.items()):
        flags[name] = f"{flags.get(name, '')} {more}".strip()  # The last of a flag counts.
    flags["release_flags"] = f"{flags.get('release_flags', '')} --keep={_KEEP}".strip()
    flags["until"] = command.format_time(until_s)
    flags["force_publish"] = f"arm {claim.name} of an experiment"
    return [f"--{name}={value}" for name, value in flags.items()]
