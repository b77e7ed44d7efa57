"""One cycle between nights: what was logged since, learnt, gated and published.

    work/follow/
      night/       links to what the night made, as of which release
      examples/    the night's examples and those since
      judged/      gates of the hours since
      candidate_model/   the model that serves       measured/, model/   the one that goes on

A cycle is whole or was not there: its release is published by one rename, and the model that goes
on learning becomes the next one's start after that. One that was killed in between is done again
from the same start. The night has the last word: a cycle holds the lock of the work directory,
which a night waits for; while a night runs there is none; and what the night publishes is where the
next one starts. Whatever else serves, as after a rollback, is left alone until then.
"""

import contextlib
import dataclasses
import hashlib
import json
import pathlib
import time
from collections.abc import Callable, Iterator
from typing import Any

from absl import logging

from features import command, dataset, files
from features.durations import HOUR_S
from pipeline.following import examples
from pipeline.steps import declared, work_lock
from serving.building.config import BuildConfig, HourLimits, Inputs
from serving.events import compaction
from serving.release import manifest as release
from serving.release import publication, stored_root

DIRECTORY, REPORT = "follow", "follow.json"
_NIGHT = {
    "examples": declared.FINAL_EXAMPLES,
    "model": "final_candidate_model",
    "ranker": "ranker_model",
    "page_order": "page_order",
    "metrics": "evaluation",
}
_OPTIONAL = ("ranker", "page_order", "metrics")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Follower:
    """Goes on where a night of ``pipeline.retrain`` ended.

    Attributes:
        logs: Directory of the raw logs.
        serving_root: Directory, or place in a store, in which releases are published.
        work: Work directory of pipeline.retrain.
        limits: Limits of an hour.
        build: How a release is made.
        say: Function that is told each gate.
    """

    logs: pathlib.Path
    serving_root: str
    work: pathlib.Path
    limits: HourLimits
    build: BuildConfig
    say: Callable[[str], None]

    def cycle(self, until_s: int) -> dict[str, Any]:
        """Learns what is known before a moment and publishes; returns what came of it.

        Args:
            until_s: The moment, Unix seconds.

        Raises:
            command.RefusedError: A gate failed; the release that serves goes on.
            command.InUseError: A night, or another follower, is at work.
            command.InputError: There is no night to go on from, or something else serves.
        """
        seconds: dict[str, float] = {}
        report: dict[str, Any] = {"until": command.format_time(until_s), "seconds": seconds}
        with work_lock.held(self.work, gives_way=True):
            try:
                told = self._cycle(until_s, seconds)
                report |= {"outcome": "done", **told}
            except BaseException as error:
                refused = isinstance(error, command.RefusedError)
                report |= {"outcome": "refused" if refused else "failed", "reason": str(error)}
                raise
            finally:
                self._place("").mkdir(exist_ok=True)
                files.atomic_write(self._place(REPORT), json.dumps(report, indent=1) + "\n")
        return report

    def _cycle(self, until_s: int, seconds: dict[str, float]) -> dict[str, Any]:
        from models.candidate import following
        from serving.building import assembly

        with _timed(seconds, "compaction"):
            compaction.compact(self.logs, wall_s=time.time())
        with _timed(seconds, "night"), stored_root.changed(self.serving_root) as root:
            night = self._night(root)
        with _timed(seconds, "hours"):
            self._judge_hours(until_s)
        night_s = int(str(dataset.info(self._place("night/examples"))["until_s"]))
        with _timed(seconds, "examples"):
            examples.make(
                self.logs,
                self._place("night/examples"),
                self._place("examples"),
                until_s=until_s,
                held_out_from_s=max(night_s, until_s - HOUR_S),
            )
        with _timed(seconds, "model"):
            facts = following.follow(
                *(self._place(n) for n in ("examples", "model", "candidate_model", "measured")),
                night=night,
            )
        with _timed(seconds, "release"), stored_root.changed(self.serving_root) as root:
            manifest = assembly.publish(
                self._inputs(), root, self.build, report=lambda g: self.say(str(g))
            )
        with files.atomic_directory(self._place("model")) as model:
            model.rmdir()
            files.link_tree(self._place("measured"), model)
        return {"release": manifest.version, **facts}

    def _place(self, name: str) -> pathlib.Path:
        return self.work / DIRECTORY / name

    def _night(self, root: pathlib.Path) -> str:
        """Makes sure that what serves is the night's or a follower's of it; returns its name.

        What the night made is linked, since the next one replaces it while this goes on.
        """
        from models.candidate import following

        made = self.work / declared.FINAL_EXAMPLES
        info = files.require_complete(
            made, what="what a night learnt", made_by="python -m pipeline.retrain"
        )
        name = hashlib.sha256((made / files.COMPLETE).read_bytes()).hexdigest()[:16]
        version = release.current(root)
        lineage = release.load_manifest(root, version).lineage
        taken = files.read_complete(self._place("night")) or {}
        is_nights = lineage["examples"]["info"] == info
        is_ours = "of" in taken and _followed(lineage) == taken["of"]
        if version != release.versions(root)[-1] or not (is_nights or is_ours):
            raise command.InputError(
                f"release {version} serves, which is neither the newest night's nor one that "
                "followed it, as after a rollback: it serves on until the next night."
            )
        if not is_nights or name == taken.get("of"):
            return str(taken["of"])
        with files.atomic_directory(self._place("night")) as night:
            for part, artefact in _NIGHT.items():
                if part not in _OPTIONAL or files.read_complete(self.work / artefact) is not None:
                    files.link_tree(self.work / artefact, night / part)
            following.take_up(night / "model", night / "examples", self._place("model"))
            files.mark_complete(night, {"of": name, "release": version})
        publication.pin(root, DIRECTORY, [version])
        logging.info("Following release %s, which the night published.", version)
        return name

    def _judge_hours(self, until_s: int) -> None:
        """Writes the gates of what the model has not learnt.

        Raises:
            command.RefusedError: One of them failed.
        """
        from models.training import saved
        from serving.building import gates, hour_gates

        since_s = int(saved.read_lineage(self._place("model"))["train_until_s"])
        if until_s <= since_s:
            raise command.InputError(
                f"the model has learnt all up to {command.format_time(since_s)}, so there is "
                f"nothing to follow up to {command.format_time(until_s)}."
            )
        judged = hour_gates.of_logs(
            self.logs, self.limits, since_s=since_s, until_s=until_s, now_s=time.time()
        )
        for gate in judged:
            self.say(str(gate))
        failing = gates.failed(judged)
        causes = "; ".join(f"{gate.rule}: {gate.value}" for gate in failing)
        if failing and self.build.force_publish:
            logging.warning("Going on although %s: %s", causes, self.build.force_publish)
        elif failing:
            raise command.RefusedError(
                f"these hours are not learnt: {causes}. The release that serves goes on; the next "
                "night judges the whole day."
            )
        with files.atomic_directory(self._place("judged")) as output:
            files.mark_complete(output, {"gates": [dataclasses.asdict(gate) for gate in judged]})

    def _inputs(self) -> Inputs:
        parts = {n: self._place("night") / n for n in _OPTIONAL}
        return Inputs(
            examples=self._place("examples"),
            candidate_model=self._place("candidate_model"),
            judged_examples=self._place("judged"),
            ranker_model=parts["ranker"] if parts["ranker"].is_dir() else None,
            page_order=parts["page_order"] if parts["page_order"].is_dir() else None,
            metrics=parts["metrics"] if parts["metrics"].is_dir() else None,
        )


def _followed(lineage: Any) -> str | None:
    """Returns the name of the night that a release follows; None of a night's own."""
    model = (lineage.get("candidate_model") or {}).get("info") or {}
    name: str | None = model.get("lineage", {}).get("follow", {}).get("night")
    return name


@contextlib.contextmanager
def _timed(seconds: dict[str, float], part: str) -> Iterator[None]:
    started = time.monotonic()
    yield
    seconds[part] = round(time.monotonic() - started, 2)
