import subprocess
import sys

import numpy as np
import tensorflow as tf
import tf_keras

from models import environment

_BROKEN_SCANN = """
import sys

class Broken:
    def find_spec(self, name, path=None, target=None):
        if name.startswith("scann."):
            raise ImportError("undefined symbol: planted")

sys.meta_path.insert(0, Broken())
from models.environment import SCANN_ERROR, scann, tfrs
assert scann is None
assert "undefined symbol: planted" in SCANN_ERROR, SCANN_ERROR
assert tfrs.tasks.Retrieval
"""


def test_keras_of_tensorflow_is_the_legacy_one():
    assert tf.keras.Model is tf_keras.Model
    assert issubclass(environment.tfrs.tasks.Retrieval, tf_keras.layers.Layer)


def test_scann_searches_in_the_process_of_tensorflow():
    assert not environment.SCANN_ERROR
    builder = environment.scann.scann_ops_pybind.builder(np.eye(16, dtype="f"), 1, "dot_product")
    searcher = builder.score_brute_force().build()
    neighbours, _ = searcher.search_batched(np.eye(16, dtype="f")[:3])
    np.testing.assert_array_equal(neighbours[:, 0], [0, 1, 2])


def test_missing_scann_leaves_the_rest_alive_and_says_why():
    done = subprocess.run(
        [sys.executable, "-c", _BROKEN_SCANN], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
