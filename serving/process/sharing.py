"""What processes that serve side by side count, kept in one directory: any of them tells it of all.

Prometheus' own client keeps counters and histograms in files of that directory, one set a process,
and adds them up when it is asked; those of a process that ended stay, so that no counter falls.
"""

import contextlib
import os
import pathlib
import tempfile
from collections.abc import Iterator, Mapping

_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"


@contextlib.contextmanager
def directory(processes: int) -> Iterator[pathlib.Path | None]:
    """Yields a directory of this server's own, removed in the end; None for a single process."""
    if processes == 1:
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="watchnext-", ignore_cleanup_errors=True) as made:
        yield pathlib.Path(made)


def environment(shared: pathlib.Path | None) -> Mapping[str, str]:
    """Returns what a process must have in its environment before it loads Prometheus' client."""
    return {_VARIABLE: str(shared)} if shared else {}


def joined() -> pathlib.Path | None:
    """Returns the directory in which this process counts together with others; None alone."""
    return pathlib.Path(os.environ[_VARIABLE]) if _VARIABLE in os.environ else None


def forget(shared: pathlib.Path | None, pid: int) -> None:
    """Takes a process that ended out of what is true now; what it counted stays."""
    if shared:
        for path in shared.glob(f"gauge_live*_{pid}.db"):
            path.unlink(missing_ok=True)
