"""Whether the loops of a page are compiled; see :mod:`features.loops.of_pages`."""

import functools
import importlib
import importlib.util
import types

from absl import logging


@functools.cache
def loops(module: str = "features.loops.of_pages") -> types.ModuleType | None:
    """Returns a module of loops; None where Numba is not installed, and NumPy does their work.

    The first call of a process compiles them, or loads what an earlier process compiled. A Numba
    that cannot, such as one for another NumPy, is said once and done without.
    """
    if importlib.util.find_spec("numba") is None:
        return None
    try:
        return importlib.import_module(module)
    except Exception:
        logging.exception("Numba cannot compile %s: NumPy does its work, in more time.", module)
        return None
