"""Watches a release after its publication, and goes back to the one before when it does worse.

A release is on probation when it is the newest, has one before it that is still there, was never
left by a rollback, and became current less than ``probation_s`` ago. So nothing flaps: what was
gone back to is not the newest and is not judged; what was left is not judged when somebody makes
it current again, for somebody wanted it; where there is nothing to go back to, nothing is done.
"""

import collections
import dataclasses
import pathlib
import time
from collections.abc import Callable, Mapping
from typing import Any

from absl import logging

from features import command
from serving.guard import judging
from serving.guard.config import GuardConfig
from serving.guard.tallies import Tally
from serving.release import manifest as release
from serving.release import rollbacks

# How much of the new release's traffic the one before must still have to be its control.
_CONTROL = 0.1
_RETRY_S = 30.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Decision:
    """A rollback that was decided.

    Attributes:
        old: Release that is left.
        new: Release that is gone back to.
        reason: What it did worse, in words.
        evidence: Figures behind it, plain values.
    """

    old: str
    new: str
    reason: str
    evidence: Mapping[str, Any]


@dataclasses.dataclass
class _Probation:
    """A release that is watched.

    ``at_swap`` is what had been counted of the release before when this one became current, and
    ``at_first`` what had been counted of it before the time that stands for it.
    """

    version: str
    previous: str
    since: float
    at_swap: Tally
    at_first: Tally


class Guard:
    """Looks at the counts of all servers, time and again, and decides.

    Attributes:
        on_probation: Release that is watched; "" for none.
        decided: Number of rollbacks that were decided and carried out.
    """

    def __init__(
        self,
        root: pathlib.Path,
        config: GuardConfig,
        *,
        totals: Callable[[], Mapping[str, Tally]],
        roll_back: Callable[[Decision], None],
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Prepares; :meth:`look` looks once.

        Args:
            root: Serving root, or a copy of it that is kept up to date.
            config: Limits.
            totals: Function that returns what all servers have counted so far, by release.
            roll_back: Function that carries a decision out, and raises InputError where it cannot.
            clock: Clock, Unix seconds.
        """
        self._root = root
        self._config = config
        self._totals = totals
        self._roll_back = roll_back
        self._clock = clock
        self._past: collections.deque[tuple[float, Mapping[str, Tally]]] = collections.deque()
        self._probation: _Probation | None = None
        self._judged = ""  # The release of which it was told last that nothing is to be done.
        self._retry_at = 0.0
        self.decided = 0

    @property
    def on_probation(self) -> str:
        """Release that is watched; "" for none."""
        return self._probation.version if self._probation else ""

    def look(self) -> Decision | None:
        """Looks once; returns what was decided and carried out."""
        now = self._clock()
        totals = dict(self._totals())
        self._remember(now, totals)
        self._begin(now, totals)
        probation = self._probation
        if probation is None or now < self._retry_at:
            return None
        new = totals.get(probation.version, Tally())
        breaches = judging.breaches(new, self._before(probation, new, totals), self._config)
        if not breaches:
            return None
        decision = _decision(probation, breaches, new, now)
        logging.error(
            "Release %s does worse than %s: %s. Going back.",
            *(decision.old, decision.new, decision.reason),
        )
        try:
            self._roll_back(decision)
        except (command.InputError, OSError) as error:
            self._retry_at = now + _RETRY_S
            logging.error("Release %s stays, as going back failed: %s", decision.old, error)
            return None
        self._probation = None
        self.decided += 1
        return decision

    def _remember(self, now: float, totals: Mapping[str, Tally]) -> None:
        """Keeps what was counted lately: a publication is noticed after it happened."""
        self._past.append((now, totals))
        while len(self._past) > 1 and self._past[1][0] <= now - self._config.before_s:
            self._past.popleft()

    def _begin(self, now: float, totals: Mapping[str, Tally]) -> None:
        """Begins or ends a probation, as things stand in the serving root."""
        version = release.stated_current(self._root) or ""
        current = self._probation
        if current is not None and current.version == version:
            if now - current.since <= self._config.probation_s:
                return
            logging.info("Release %s has passed its probation.", version)
            self._judged = version
        self._probation = None
        if version == self._judged or not release.is_version(version):
            return
        since = (self._root / release.CURRENT).stat().st_mtime
        previous, why_not = _way_back(self._root, version)
        if not why_not and now - since > self._config.probation_s:
            why_not = "it has served for longer than its probation"
        if why_not:
            self._judged = version
            logging.info("Release %s is not on probation: %s.", version, why_not)
            return
        logging.info("Release %s is on probation, against %s.", version, previous)
        self._judged = ""
        # Servers take a moment to follow: what was counted until now is of the time before.
        counted = totals.get(previous, Tally())
        # Of a guard that started lately: all that servers had counted before.
        at, past = self._past[0]
        first = past.get(previous, Tally()) if at <= now - self._config.before_s else Tally()
        self._probation = _Probation(version, previous, since, counted, first)

    def _before(self, probation: _Probation, new: Tally, totals: Mapping[str, Tally]) -> Tally:
        """Returns what is known of the release before: beside the new one, else lately.

        What came of its last pages before the swap is known after it only: of the time before both
        count, and it serves beside the new one only where it answers requests, too.
        """
        counted = totals.get(probation.previous, Tally())
        beside = counted - probation.at_swap
        enough = max(_CONTROL * new.requests, self._config.least_outcomes)
        serves_on = min(beside.requests, beside.known_outcomes) >= enough
        return beside if serves_on else counted - probation.at_first


def _way_back(root: pathlib.Path, version: str) -> tuple[str, str]:
    """Returns the release to go back to, and why a release is not judged, "" where it is."""
    try:
        previous = release.load_manifest(root, version).previous or ""
    except release.ReleaseRefusedError as error:
        return "", f"its manifest cannot be read ({error})"
    there = release.versions(root)
    if not previous or previous not in there:
        return "", "there is none before it to go back to"
    if version != there[-1]:
        return "", "it is not the newest, so somebody went back to it"
    if version in {one.old for one in rollbacks.read(root)}:
        return "", "it was left once, and somebody made it current again"
    return previous, ""


def _decision(
    probation: _Probation, breaches: list[judging.Breach], new: Tally, now: float
) -> Decision:
    return Decision(
        old=probation.version,
        new=probation.previous,
        reason="; ".join(map(str, breaches)),
        evidence={
            "seconds_since_publication": round(now - probation.since, 1),
            "pages": new.requests,
            "outcomes_known": new.known_outcomes,
            "breaches": [dataclasses.asdict(breach) for breach in breaches],
        },
    )
