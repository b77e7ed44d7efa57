"""What a cluster may leave beside its output when it lost a machine and tried again.

Beam's file sinks write into a temporary directory of one attempt and rename at the end. A second
attempt has a directory of its own, so that of the first stays; and files of two attempts that cut
the output into different numbers of parts could stand side by side. Files that we write ourselves
have a hidden name until they are whole, which a killed worker leaves.
"""

import pathlib
import re
import shutil

_PART = re.compile(r"(part-)\d{5}-of-(\d{5})(\.\w+)")


def settle(directory: pathlib.Path) -> None:
    """Removes what lost attempts left unfinished, and looks whether the parts are of one.

    Args:
        directory: Directory of all that a pipeline wrote, at any depth; no pipeline is writing
            there.

    Raises:
        RuntimeError: Parts are missing or of two attempts. The job must not publish them.
    """
    for leftover in list(directory.rglob("beam-temp-*")):
        shutil.rmtree(leftover)
    for leftover in list(directory.rglob(".part-*")):
        leftover.unlink()
    for path in directory.rglob("part-*-of-*"):
        part = _PART.fullmatch(path.name)
        if part is None:
            continue
        name, number, suffix = part.groups()
        expected = {f"{name}{i:05d}-of-{number}{suffix}" for i in range(int(number))}
        # What did not come from a sink, such as examples of cached days, is no part of an attempt.
        names = {other.name for other in path.parent.glob("part-*-of-*")}
        if names != expected:
            raise RuntimeError(
                f"{path.parent} should hold the parts of one attempt, {sorted(expected)[:3]}..., "
                f"and no others, but {sorted(names ^ expected)[:3]}... differ: run it again."
            )
