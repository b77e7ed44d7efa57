"""A retraining whose work directory or serving root is in an object store.

Steps work on a copy on this machine. At the start of a run the copy gets what the store has; after
each step the store gets what the step made, whole, before the step is recorded as done there. So
any machine can go on where another one stopped. What could not be written, as the store was out of
reach, is written first by the next run on this machine.
"""

import contextlib
import pathlib
import shutil
from collections.abc import Iterator, Sequence

from absl import logging

from features import files
from features.stores import cache, directories, door, leases, locations, objects
from features.stores.locations import Location
from pipeline.steps import declared, step_records
from serving.release import stored_root

_LEASE = ".lease"
_UNSENT = ".unsent"


class Places:
    """Where a retraining works, and what it keeps elsewhere.

    Attributes:
        url: The work directory as it was given.
        work: Directory on this machine.
        serving_root: Directory on this machine in which releases are looked up.
        serving_root_given: The serving root as the steps are to be given it.
    """

    def __init__(self, work: str, serving_root: str, chain: Sequence[declared.Step]) -> None:
        """Finds the places; nothing is read yet."""
        self._chain = chain
        self.url = work
        self._location = locations.parse(work) if locations.is_remote(work) else None
        self.work = pathlib.Path(work)
        if self._location is not None:
            self.work = cache.place("mirrors/work", self._location)
            door.stands_for(self.work, work.rstrip("/"))
        self.serving_root_given = serving_root
        self.serving_root = pathlib.Path(serving_root)
        if locations.is_remote(serving_root):
            self.serving_root = stored_root.mirror(serving_root)

    def keep(self, name: str) -> None:
        """Writes an artefact, the records or the report to the store, if that is where they live.

        Raises:
            InputError: The store does not take it.
        """
        if name == declared.SERVING_ROOT:
            stored_root.read(self.serving_root_given)  # The step itself has published it.
        elif self._location is not None and name == step_records.DIRECTORY:
            self._write_records(self._location)
        elif self._location is not None:
            unsent = self.work / _UNSENT / name
            unsent.parent.mkdir(parents=True, exist_ok=True)
            unsent.touch()
            directories.publish(self.work / name, self._location / name)
            unsent.unlink()

    @contextlib.contextmanager
    def opened(self) -> Iterator[None]:
        """Holds the work directory in the store, and makes the copies what the store has."""
        with contextlib.ExitStack() as stack:
            if self._location is not None:
                what = str(self._location)
                stack.enter_context(leases.hold(self._location / _LEASE, what=what))
                self._read(self._location)
            if locations.is_remote(self.serving_root_given):
                stored_root.read(self.serving_root_given)
            yield

    def _read(self, location: Location) -> None:
        self.work.mkdir(parents=True, exist_ok=True)
        names = {step.writes[1]: step for step in self._chain}
        names.pop(declared.SERVING_ROOT, None)
        unsent = {n for n in names if (self.work / _UNSENT / n).exists()}
        for name in names:
            if name in unsent and files.read_complete(self.work / name) is not None:
                logging.info("%s was not written to %s by the last run.", name, location)
                self.keep(name)
            elif directories.is_complete(location / name):
                self._read_artefact(location / name, self.work / name)
            else:
                shutil.rmtree(self.work / name, ignore_errors=True)
        ours = {names[name].name for name in unsent}
        bucket = objects.at(location)
        for meta in bucket.list(f"{(location / step_records.DIRECTORY).key}/"):
            path = self.work / step_records.DIRECTORY / meta.key.rpartition("/")[2]
            if path.stem not in ours and (stored := bucket.read(meta.key)) is not None:
                files.atomic_write(path, stored[0])

    def _read_artefact(self, location: Location, target: pathlib.Path) -> None:
        fetched = directories.fetch(location)
        marker, there = fetched / files.COMPLETE, target / files.COMPLETE
        if (
            there.is_file()
            and there.read_bytes() == marker.read_bytes()
            and there.stat().st_mtime_ns == marker.stat().st_mtime_ns
        ):
            return
        with files.atomic_directory(target) as new:
            for path in fetched.iterdir():
                files.link_tree(path, new / path.name)

    def _write_records(self, location: Location) -> None:
        records = {path.name: path for path in (self.work / step_records.DIRECTORY).glob("*.json")}
        bucket = objects.at(location)
        place = location / step_records.DIRECTORY
        there = {meta.key.rpartition("/")[2]: meta for meta in bucket.list(f"{place.key}/")}
        for name, path in records.items():
            bucket.write((place / name).key, path.read_bytes())
        bucket.delete([meta.key for name, meta in there.items() if name not in records])
