"""Cycles between nights on a copy of the tiny world, one of them killed where it publishes."""

import dataclasses
import json
import os
import pathlib
import subprocess
import sys
import uuid

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from features import command, dataset, files, spec
from features.durations import HOUR_S
from features.tables import logs
from models.training import saved
from pipeline.following.cycle import Follower
from pipeline.steps import work_lock
from serving.building.config import BuildConfig, HourLimits
from serving.release import manifest as release
from serving.release import publication
from tests.pipeline.living import killing

NEW, WATCHES = "brand-new", 300


@dataclasses.dataclass(frozen=True)
class Site:
    """A night, what was watched in the hour and a half after it, and the follower."""

    root: pathlib.Path
    night_s: int
    night: str

    @property
    def until_s(self):
        return self.night_s + 3 * HOUR_S // 2

    @property
    def serving_root(self):
        return self.root / "serving_root"

    @property
    def flags(self):
        return (f"--logs={self.root / 'logs'}", f"--serving_root={self.serving_root}")

    def follower(self, logs_dir=None):
        return Follower(
            logs=logs_dir or self.root / "logs",
            serving_root=str(self.serving_root),
            work=self.root / "work",
            limits=HourLimits(),
            build=BuildConfig(),
            say=lambda _: None,
        )

    def run(self, point=None):
        """Runs the command, which is killed at a point; returns its exit code."""
        (self.root / "hook").mkdir(exist_ok=True)
        (self.root / "hook" / "sitecustomize.py").write_text(killing.HOOK)
        told = {"run": uuid.uuid4().hex, "output": str(self.root), "trace": ""}
        told |= {"modules": ["pipeline.follow"], "mark": str(self.root / "mark")}
        told["point"] = point and {"module": "pipeline.follow", "reads": False, **point}
        checkout = str(pathlib.Path(__file__).resolve().parents[3])
        path = os.pathsep.join([str(self.root / "hook"), checkout])
        # So few people may teach it so little that a gate refuses; gates have their own tests.
        forced = "--force_publish=a tiny world for tests"
        line = [sys.executable, "-m", "pipeline.follow", *self.flags, forced]
        return subprocess.run(
            [*line, f"--until={command.format_time(self.until_s)}"],
            cwd=checkout,
            check=False,
            env={**os.environ, "PYTHONPATH": path, "KILL": json.dumps(told)},
        ).returncode


def watched_since(world, logs_dir, night_s):
    """Appends watches of the hour and a half after the night, a third of a video that is new."""
    videos = logs.read_table(world.logs, "videos").slice(0, 1)
    for name, value in (("video_id", NEW), ("upload_time", night_s + 60)):
        column = pa.array([value], videos.schema.field(name).type)
        videos = videos.set_column(videos.column_names.index(name), name, column)
    logs.append(logs_dir, "videos", videos)
    rows = logs.read_table(world.logs, "watches", until_s=night_s).sort_by("time")
    rows = rows.slice(rows.num_rows - WATCHES)
    times = night_s + 60 + np.arange(WATCHES) * (3 * HOUR_S // 2 - 120) // WATCHES
    ids = [NEW if n % 3 == 0 else v for n, v in enumerate(rows["video_id"].to_pylist())]
    for name, values in (("time", times), ("video_id", ids), ("completed", [True] * WATCHES)):
        column = pa.array(values, rows.schema.field(name).type)
        rows = rows.set_column(rows.column_names.index(name), name, column)
    logs.append(logs_dir, "watches", rows)


@pytest.fixture(scope="module")
def site(world, tmp_path_factory):
    root = tmp_path_factory.mktemp("site")
    for name in ("logs", "work", "serving_root"):
        files.link_tree(getattr(world, name), root / name)
    night_s = int(dataset.info(world.work / "final_examples")["until_s"])
    watched_since(world, root / "logs", night_s)
    return Site(root, night_s, release.current(root / "serving_root"))


@pytest.fixture(scope="module")
def followed(site):
    """The site after a cycle that was killed before CURRENT was replaced, and a whole one."""
    assert site.run({"path": "*/serving_root/CURRENT", "count": 1}) == -9
    assert release.load(site.serving_root).version == site.night
    assert release.versions(site.serving_root) == [site.night]
    assert site.run() == 0
    return site


def test_a_cycle_publishes_what_was_watched_since(followed):
    served = release.load(followed.serving_root)
    assert served.version != followed.night
    assert served.learnt_until_s == followed.until_s
    assert (
        served.ranker_learnt_until_s
        == dataset.info(followed.root / "work/examples")["train_until_s"]
    )
    before = release.load(followed.serving_root, followed.night)
    rows = [
        pq.read_table(one.videos / "videos.parquet")["video_id"].to_pylist()
        for one in (before, served)
    ]
    assert [NEW in ids for ids in rows] == [False, True]
    step = served.manifest.lineage["candidate_model"]["info"]["lineage"]["follow"]
    assert step["steps"] > 0 < step["serving_steps"]
    rules = {gate["rule"]: gate["verdict"] for gate in served.manifest.gates}
    assert rules["watches that are stamped later than now"] == "pass"
    assert "recall@100 of the last hour's watches, after the steps against before" in rules
    assert served.manifest.metrics == before.manifest.metrics


def test_the_night_can_be_gone_back_to_however_many_cycles_came_after_it(followed):
    assert release.pins(followed.serving_root)["follow"] == [followed.night]


def test_the_last_hour_is_asked_about_as_users_asked_and_all_of_it_is_learnt(followed):
    examples = followed.root / "work/follow/examples"
    info = dataset.info(examples)
    assert info["held_out_from_s"] == followed.until_s - HOUR_S
    holdout = dataset.load(examples, spec.CANDIDATE, "holdout", ["time"])["time"]
    train = dataset.load(examples, spec.CANDIDATE, "train", ["time"])["time"]
    assert 0 < len(holdout) == (train >= info["held_out_from_s"]).sum() < WATCHES
    night = dataset.info(followed.root / "work/final_examples")["counts"]["candidate_train"]
    assert night < len(train) == info["counts"]["candidate_train"] <= night + WATCHES
    prints = [
        saved.transform_fingerprint(directory, spec.RANKER)
        for directory in (examples, followed.root / "work/final_examples")
    ]
    assert prints[0] == prints[1]


def test_what_goes_on_learning_has_not_learnt_the_hour(followed):
    follow = followed.root / "work/follow"
    lineages = [saved.read_lineage(follow / name) for name in ("model", "candidate_model")]
    hour_s = followed.until_s - HOUR_S
    assert [lineage["train_until_s"] for lineage in lineages] == [hour_s, followed.until_s]


def test_a_bad_hour_changes_nothing(followed, tmp_path):
    serving = release.current(followed.serving_root)
    files.link_tree(followed.root / "logs", tmp_path / "logs")
    rows = logs.read_table(followed.root / "logs", "watches").slice(0, 60)
    place = rows.column_names.index("time")
    ahead = pa.array([4_000_000_000] * 60, rows.schema.field(place).type)
    logs.append(tmp_path / "logs", "watches", rows.set_column(place, "time", ahead))
    with pytest.raises(command.RefusedError, match=r"are not learnt.*a clock is ahead"):
        followed.follower(tmp_path / "logs").cycle(followed.until_s)
    assert release.current(followed.serving_root) == serving
    report = json.loads((followed.root / "work/follow/follow.json").read_text())
    assert report["outcome"] == "refused"


def test_while_a_night_runs_there_is_no_cycle(followed):
    with work_lock.held(followed.root / "work"), pytest.raises(command.InUseError):
        followed.follower().cycle(followed.until_s)


def test_after_a_rollback_the_follower_waits_for_the_next_night(followed):
    serving = release.current(followed.serving_root)
    publication.rollback(followed.serving_root)
    with pytest.raises(command.InputError, match="serves on until the next night"):
        followed.follower().cycle(followed.until_s)
    publication.rollback(followed.serving_root, serving)
