"""The snapshots of a run that may be killed at any moment: each whole on disk, or not there.

``snapshots/<number>-<name>/`` holds the site as it stood then (hard links, so it costs no room),
the people, and a record of what happened. A run goes on behind the last whole snapshot.
"""

import contextlib
import pathlib
import shutil
from collections.abc import Iterator, Mapping
from typing import Any

from features import files
from serving.events import compaction, segments

_SITE = "site"


class Snapshots:
    """Snapshots below a directory, in order."""

    def __init__(self, directory: pathlib.Path) -> None:
        """Looks at what is there."""
        self._directory = directory

    def done(self) -> list[tuple[str, Mapping[str, Any]]]:
        """Returns name and record of each whole snapshot, in order."""
        return [(p.name.partition("-")[2], files.read_complete(p) or {}) for p in self._paths()]

    def path(self, name: str) -> pathlib.Path:
        """Returns the directory of a whole snapshot; ``KeyError`` where there is none."""
        for path in self._paths():
            if path.name.partition("-")[2] == name:
                return path
        raise KeyError(name)

    @contextlib.contextmanager
    def adding(
        self, name: str, site: Mapping[str, pathlib.Path]
    ) -> Iterator[tuple[pathlib.Path, dict[str, Any]]]:
        """Gives a directory and a record to fill; the snapshot is there when the block succeeds.

        Args:
            name: Name of the snapshot.
            site: Directories of the site by their names; kept as they stand when it succeeds.
        """
        number = len(self._paths())
        target = self._directory / f"{number:02d}-{name}"
        with files.atomic_directory(target) as directory:
            record: dict[str, Any] = {}
            yield directory, record
            (directory / _SITE).mkdir()
            for part, path in site.items():
                if path.exists():
                    _keep(path, directory / _SITE / part)
            files.mark_complete(directory, record)

    def restore(self, site: Mapping[str, pathlib.Path]) -> pathlib.Path | None:
        """Puts the site back to where the last whole snapshot left it.

        Returns:
            The directory of that snapshot; None where there is none, and the site is then empty.
        """
        paths = self._paths()
        for part, path in site.items():
            shutil.rmtree(path, ignore_errors=True)
            kept = paths[-1] / _SITE / part if paths else None
            if kept is not None and kept.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                _keep(kept, path)
        return paths[-1] if paths else None

    def _paths(self) -> list[pathlib.Path]:
        paths = sorted(self._directory.glob("[0-9]*-*"))
        return [path for path in paths if files.read_complete(path) is not None]


def _keep(path: pathlib.Path, target: pathlib.Path) -> None:
    """Makes a part of the site appear a second time, with what waits in its event log."""
    waiting = path / segments.DIRECTORY
    if not waiting.is_dir():
        files.link_tree(path, target)
        return
    with compaction.paused(path):  # It moves rows from the log into the tables.
        files.link_tree(path, target)
        # Its files may grow, so they are copied; their times count.
        shutil.copytree(waiting, target / segments.DIRECTORY)
