"""The Java side of running on Flink: fetched once, by Maven, checked against pinned digests.

``flink/pom.xml`` names Beam's Flink runner; Flink's own job manager and task manager come with
it, so one class path starts them all. ``flink/SHA256SUMS`` holds the digest of every jar.
"""

import hashlib
import os
import pathlib
import shutil
import subprocess

from features import command, files

HOME_VARIABLE = "WATCHNEXT_FLINK"
_PINNED = pathlib.Path(__file__).parent
_FETCH = "python -m pipeline.flink_cluster --fetch"


def home() -> pathlib.Path:
    """Returns where the jars lie: $WATCHNEXT_FLINK or ~/.cache/watchnext/flink-<digest>."""
    named = os.environ.get(HOME_VARIABLE)
    if named:
        return pathlib.Path(named)
    digest = hashlib.sha256((_PINNED / "SHA256SUMS").read_bytes()).hexdigest()[:12]
    return pathlib.Path.home() / ".cache" / "watchnext" / f"flink-{digest}"


def digests() -> dict[str, str]:
    """Returns file name -> SHA-256, for all jars."""
    lines = (_PINNED / "SHA256SUMS").read_text().splitlines()
    return {name: digest for digest, name in (line.split() for line in lines)}


def missing() -> str:
    """Says what is missing to run a cluster and how to get it; "" where nothing is."""
    if shutil.which("java") is None:
        return "no java on PATH: install a Java 11 or 17 runtime"
    if files.read_complete(home()) is None:
        return f"no Flink in {home()}: run {_FETCH} (fetches 160 MB)"
    return ""


def jars() -> list[str]:
    """Returns the class path of all processes, sorted: with ``dir/*`` each could have another.

    Raises:
        command.InputError: Java or the jars are missing.
    """
    lacking = missing()
    if lacking:
        raise command.InputError(f"Flink cannot be started: {lacking}.")
    return sorted(str(path) for path in home().glob("*.jar"))


def fetch() -> pathlib.Path:
    """Gets the jars unless they are there, and returns where they are.

    Raises:
        command.InputError: Maven is missing or failed, or a jar is not the pinned one; nothing
            is left behind.
    """
    target = home()
    if files.read_complete(target) is not None:
        return target
    maven = shutil.which("mvn")
    if maven is None:
        raise command.InputError("no mvn on PATH, which fetches Flink's jars: install Maven.")
    with files.atomic_directory(target) as directory:
        run = subprocess.run(
            [
                *(maven, "-B", "-ntp", "-q", "--strict-checksums", "-f", str(_PINNED / "pom.xml")),
                *("dependency:copy-dependencies", "-DincludeScope=runtime"),
                f"-DoutputDirectory={directory}",
            ],
            capture_output=True,
            text=True,
            check=False,
        )
        if run.returncode:
            raise command.InputError(f"Maven could not fetch Flink:\n{run.stdout[-2000:]}")
        verify(directory)
        files.mark_complete(directory, {"jars": len(digests())})
    return target


def verify(directory: pathlib.Path) -> None:
    """Compares a directory of jars with the pinned digests.

    Raises:
        command.InputError: A jar is missing, unknown or different.
    """
    found = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in directory.glob("*.jar")
    }
    differing = sorted(set(found.items()) ^ set(digests().items()))
    if differing:
        names = sorted({name for name, _ in differing})
        raise command.InputError(
            f"jars in {directory} are not those of {_PINNED / 'SHA256SUMS'}: {names[:5]}. "
            f"Remove the directory and fetch again: {_FETCH}"
        )
