"""Jars that a ``pom.xml`` names, fetched once by Maven and checked against pinned digests.

``SHA256SUMS`` beside the ``pom.xml`` holds the digest of every jar.
"""

import dataclasses
import hashlib
import os
import pathlib
import shutil
import subprocess

from features import command, files


@dataclasses.dataclass(frozen=True, kw_only=True)
class Jars:
    """The jars of one program.

    Attributes:
        name: Name of the program, as in messages.
        pinned: Directory of ``pom.xml`` and ``SHA256SUMS``.
        variable: Environment variable that names another directory of the jars.
        fetch_command: The command that fetches them.
        megabytes: About how much that is.
        java: What it needs of Java, as in messages.
    """

    name: str
    pinned: pathlib.Path
    variable: str
    fetch_command: str
    megabytes: int
    java: str

    def home(self) -> pathlib.Path:
        """Returns where the jars lie: the variable's value or ~/.cache/watchnext/name-<digest>."""
        named = os.environ.get(self.variable)
        if named:
            return pathlib.Path(named)
        digest = hashlib.sha256((self.pinned / "SHA256SUMS").read_bytes()).hexdigest()[:12]
        return pathlib.Path.home() / ".cache" / "watchnext" / f"{self.name.lower()}-{digest}"

    def digests(self) -> dict[str, str]:
        """Returns file name -> SHA-256, for all jars."""
        lines = (self.pinned / "SHA256SUMS").read_text().splitlines()
        return {name: digest for digest, name in (line.split() for line in lines)}

    def missing(self) -> str:
        """Says what is missing to run the program and how to get it; "" where nothing is."""
        if shutil.which("java") is None:
            return f"no java on PATH: install {self.java}"
        if files.read_complete(self.home()) is None:
            return (
                f"no {self.name} in {self.home()}: run {self.fetch_command} "
                f"(fetches {self.megabytes} MB)"
            )
        return ""

    def jars(self) -> list[str]:
        """Returns the class path, sorted: with ``dir/*`` each process could have another.

        Raises:
            command.InputError: Java or the jars are missing.
        """
        lacking = self.missing()
        if lacking:
            raise command.InputError(f"{self.name} cannot be started: {lacking}.")
        return sorted(str(path) for path in self.home().glob("*.jar"))

    def fetch(self) -> pathlib.Path:
        """Gets the jars unless they are there, and returns where they are.

        Raises:
            command.InputError: Maven is missing or failed, or a jar is not the pinned one; nothing
                is left behind.
        """
        target = self.home()
        if files.read_complete(target) is not None:
            return target
        maven = shutil.which("mvn")
        if maven is None:
            raise command.InputError(
                f"no mvn on PATH, which fetches {self.name}'s jars: install Maven."
            )
        with files.atomic_directory(target) as directory:
            pom = str(self.pinned / "pom.xml")
            run = subprocess.run(
                [
                    *(maven, "-B", "-ntp", "-q", "--strict-checksums", "-f", pom),
                    *("dependency:copy-dependencies", "-DincludeScope=runtime"),
                    f"-DoutputDirectory={directory}",
                ],
                capture_output=True,
                text=True,
                check=False,
            )
            if run.returncode:
                raise command.InputError(
                    f"Maven could not fetch {self.name}:\n{run.stdout[-2000:]}"
                )
            self.verify(directory)
            files.mark_complete(directory, {"jars": len(self.digests())})
        return target

    def verify(self, directory: pathlib.Path) -> None:
        """Compares a directory of jars with the pinned digests.

        Raises:
            command.InputError: A jar is missing, unknown or different.
        """
        present = {
            path.name: hashlib.sha256(path.read_bytes()).hexdigest()
            for path in directory.glob("*.jar")
        }
        differing = sorted(set(present.items()) ^ set(self.digests().items()))
        if differing:
            names = sorted({name for name, _ in differing})
            raise command.InputError(
                f"jars in {directory} are not those of {self.pinned / 'SHA256SUMS'}: {names[:5]}. "
                f"Remove the directory and fetch again: {self.fetch_command}"
            )
