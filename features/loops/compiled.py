"""Whether the loops of a page are compiled; see :mod:`features.loops.of_pages`."""

import functools
import importlib
import importlib.util
import types


@functools.cache
def loops(module: str = "features.loops.of_pages") -> types.ModuleType | None:
    """Returns a module of loops; None where Numba is not installed, and NumPy does their work.

    The first call of a process compiles them, or loads what an earlier process compiled.
    """
    if importlib.util.find_spec("numba") is None:
        return None
    return importlib.import_module(module)
