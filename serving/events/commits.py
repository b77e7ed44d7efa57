"""What a compaction changes, changed as a whole or not at all.

Everything is first prepared in ``staging-<id>/``; renaming that to ``commit-<id>/`` decides it.
Then each prepared Parquet file is renamed into its table, and the segments it came from are removed
or get other names. Each of these steps can be done again, so whoever finds a commit that a killed
process left finishes it, before anything else.
"""

import contextlib
import dataclasses
import json
import os
import pathlib
import shutil
import uuid
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from absl import logging

from features import files
from features.tables import logs
from serving.events import keys as event_keys
from serving.events.segments import DIRECTORY, HELD, PAGES, segment_name

_STAGING, _COMMIT, _TABLES, _PLAN = "staging-", "commit-", "tables", "plan.json"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Commit:
    """What a compaction changes.

    Attributes:
        tables: Rows to add, by table.
        held: Impressions that wait on, in a segment of their own.
        keys: Digests of what was moved.
        wall_s: Clock of the machine at the compaction, Unix seconds.
        renamed: Names of segments to their names afterwards.
        removed: Names of segments.
    """

    tables: Mapping[str, pa.Table]
    held: pa.Table
    keys: np.ndarray
    wall_s: float
    renamed: Mapping[str, str]
    removed: Sequence[str]

    def carry_out(self, root: pathlib.Path) -> None:
        """Changes the logs."""
        directory = root / DIRECTORY
        name = uuid.uuid4().hex
        staging = directory / f"{_STAGING}{name}"
        staging.mkdir()
        for table, rows in self.tables.items():
            if rows.num_rows:
                logs.append(staging / _TABLES, table, rows)
        if self.held.num_rows:
            start = int(pc.min(self.held["received"]).as_py())
            held = staging / segment_name(PAGES, start, HELD, name[:8])
            _write_records(held, self.held)
            os.utime(held, (self.wall_s, self.wall_s))
        event_keys.save(staging, self.keys, wall_s=self.wall_s)
        plan = {"rename": dict(self.renamed), "remove": list(self.removed)}
        (staging / _PLAN).write_text(json.dumps(plan))
        files.fsync_tree(staging)
        commit = directory / f"{_COMMIT}{name}"
        staging.rename(commit)
        files.fsync_directory(directory)
        _finish(root, commit)


def _write_records(path: pathlib.Path, records: pa.Table) -> None:
    with path.open("w") as file:
        for record in records.to_pylist():
            known = {key: value for key, value in record.items() if value is not None}
            file.write(json.dumps(known) + "\n")


def recover(root: pathlib.Path) -> None:
    """Finishes what was decided, and forgets what was only prepared."""
    for staging in (root / DIRECTORY).glob(f"{_STAGING}*"):
        shutil.rmtree(staging)
    for commit in sorted((root / DIRECTORY).glob(f"{_COMMIT}*")):
        logging.info("Finishing the compaction that was interrupted at %s.", commit)
        _finish(root, commit)


def _finish(root: pathlib.Path, commit: pathlib.Path) -> None:
    directory = root / DIRECTORY
    plan_file = commit / _PLAN
    if plan_file.exists():  # It goes last: without it everything is done.
        plan = json.loads(plan_file.read_text())
        for path in sorted((commit / _TABLES).glob("**/*.parquet")):
            target = root / path.relative_to(commit / _TABLES)
            _make_directories(target.parent)
            os.replace(path, target)
            files.fsync_directory(target.parent)
        for path in (*commit.glob("*.jsonl"), *commit.glob("*.npy")):
            os.replace(path, directory / path.name)
        files.fsync_directory(directory)
        for name, renamed in plan["rename"].items():
            with contextlib.suppress(FileNotFoundError):
                os.replace(directory / name, directory / renamed)
        for name in plan["remove"]:
            (directory / name).unlink(missing_ok=True)
        files.fsync_directory(directory)
        plan_file.unlink()
    shutil.rmtree(commit)


def _make_directories(path: pathlib.Path) -> None:
    """Creates a directory and makes its name durable."""
    if not path.is_dir():
        _make_directories(path.parent)
        path.mkdir(exist_ok=True)
        files.fsync_directory(path.parent)
