"""Whether the loops of a page are compiled; see :mod:`features.loops`."""

import functools
import importlib.util
import types


@functools.cache
def loops() -> types.ModuleType | None:
    """Returns :mod:`features.loops`; None where Numba is not installed, and NumPy does its work.

    The first call of a process compiles them, or loads what an earlier process compiled.
    """
    if importlib.util.find_spec("numba") is None:
        return None
    from features import loops

    return loops
