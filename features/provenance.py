"""When something was measured, and by which code."""

import datetime
import pathlib
import subprocess


def stamp() -> dict[str, str]:
    """Returns the date, UTC, as ``date``, and the commit of the checkout as ``commit``.

    The commit has a ``+`` behind it where tracked files differ from it, and is "" where the code is
    no git checkout.
    """
    date = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d")
    commit = _git("rev-parse", "--short=7", "HEAD")
    is_changed = bool(commit) and _git("status", "--porcelain", "--untracked-files=no") != ""
    return {"date": date, "commit": commit + ("+" if is_changed else "")}


def _git(*arguments: str) -> str:
    """Returns what git says of this checkout; "" where there is no git, or no checkout."""
    directory = pathlib.Path(__file__).resolve().parent.parent
    if not (directory / ".git").exists():  # Installed: any repository around it is another one.
        return ""
    try:
        said = subprocess.run(
            ["git", "-C", str(directory), *arguments], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return ""
    return said.stdout.strip()
