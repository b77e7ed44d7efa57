"""The one place that makes TensorFlow, Keras 2, TensorFlow Recommenders and ScaNN live together.

ScaNN's TensorFlow ops are built for another TensorFlow than ours, so a plain ``import scann`` dies
with an undefined symbol, and ``import tensorflow_recommenders`` with it, since it tries that
import. ScaNN's pybind interface needs no TensorFlow at all: with TensorFlow hidden during the
import, ScaNN leaves its ops away and everything runs in one process.

TensorFlow Recommenders uses ``tf.keras``, which must be Keras 2 (``tf_keras``): the switch has to
be set before anything touches ``tf.keras``.

    from models.environment import tfrs        # always there
    from models.environment import scann       # None where it cannot load: SCANN_ERROR says why
"""

import importlib
import os
import sys
import types
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import tensorflow_recommenders as tfrs

os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")

_TENSORFLOW = "tensorflow"


def _import_scann() -> tuple[types.ModuleType | None, str]:
    """Returns the ScaNN module and "", or None and the reason.

    Any failure to load counts: a wheel may be missing, or its binary may need processor
    features or system libraries that are not here.
    """
    hidden = sys.modules.get(_TENSORFLOW)
    sys.modules[_TENSORFLOW] = None  # type: ignore[assignment]
    try:
        return importlib.import_module("scann"), ""
    except (ImportError, OSError, RuntimeError) as error:
        return None, f"{type(error).__name__}: {error}"
    finally:
        if hidden is None:
            del sys.modules[_TENSORFLOW]
        else:
            sys.modules[_TENSORFLOW] = hidden


scann, SCANN_ERROR = _import_scann()
if scann is None:
    # A half-imported ScaNN would break TensorFlow Recommenders; a clean absence does not.
    for _name in [name for name in sys.modules if name.split(".")[0] == "scann"]:
        del sys.modules[_name]
    sys.modules["scann"] = None  # type: ignore[assignment]


def __getattr__(name: str) -> types.ModuleType:
    """Imports ``tfrs`` when it is first asked for: an index needs ScaNN and no TensorFlow."""
    if name != "tfrs":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module("tensorflow_recommenders")
    globals()[name] = module
    return module


__all__ = ["SCANN_ERROR", "scann", "tfrs"]
