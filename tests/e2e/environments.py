"""Virtual environments that hold a wheel and exactly what one of its extras asks for.

What is installed here (by requirements.lock) is linked in, following the requirements
of the wheel's own metadata: nothing is downloaded, and what an extra forgets is missing.
"""

import importlib.metadata
import pathlib
import subprocess
import sys
import sysconfig
import zipfile
from email import message_from_bytes

from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

_HERE = pathlib.Path(sysconfig.get_paths()["purelib"])


def metadata_of(wheel):
    """Returns the metadata of a wheel."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        return message_from_bytes(archive.read(name))


def distributions_of(wheel, extra):
    """Returns the names of all distributions that the wheel needs with an extra."""
    wanted = [(Requirement(text), extra) for text in metadata_of(wheel).get_all("Requires-Dist")]
    seen, names = set(), set()
    while wanted:
        requirement, of_extra = wanted.pop()
        environment = default_environment() | {"extra": of_extra}
        if requirement.marker is not None and not requirement.marker.evaluate(environment):
            continue
        name = canonicalize_name(requirement.name)
        names.add(name)
        for inner in ("", *requirement.extras):
            if (name, inner) not in seen:
                seen.add((name, inner))
                needs = importlib.metadata.distribution(name).requires or []
                wanted += [(Requirement(text), inner) for text in needs]
    return names


def make(directory, wheel, extra):
    """Makes an environment; returns its Python.

    Args:
        directory: Directory to make.
        wheel: Wheel that is installed.
        extra: Extra whose requirements are there.
    """
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", directory], check=True)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    packages = pathlib.Path(directory) / "lib" / version / "site-packages"
    owners = importlib.metadata.packages_distributions()
    for name in distributions_of(wheel, extra):
        for file in importlib.metadata.distribution(name).files or ():
            if ".." in file.parts or file.suffix == ".pyc":  # Scripts, and what Python compiled.
                continue
            # A namespace, such as google, is of many: of that, only this distribution's files.
            is_shared = len(set(owners.get(file.parts[0], ()))) > 1
            part = file if is_shared else file.parts[0]
            target = packages / part
            if not target.is_symlink():
                target.parent.mkdir(parents=True, exist_ok=True)
                target.symlink_to(_HERE / part)
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(packages)
    return pathlib.Path(directory) / "bin" / "python"
