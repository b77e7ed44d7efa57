"""Both backends answer alike: embedded, and over TensorFlow Serving."""

import concurrent.futures
import os
import subprocess
import sys

import numpy as np
import pytest

from features.screen import quiet
from serving import errors
from serving.servables.embedded import EmbeddedModel
from tests.serving.servables.stub_server import INPUTS


def test_both_backends_give_the_same_answer(model):
    outputs = model.predict(INPUTS)
    # (1 + 2) * 2 + 4 characters, (3 + 4) * 2 + 3 characters.
    np.testing.assert_array_equal(outputs["score"], np.array([10, 17], np.float32))
    assert outputs["name"].tolist() == [b"cats", "ünï".encode()]


def test_both_backends_refuse_missing_inputs(model):
    with pytest.raises(errors.ModelError):
        model.predict({"numbers": INPUTS["numbers"]})


def test_embedded_model_refuses_wrong_shapes(saved_model):
    with pytest.raises(errors.ModelError, match=r"'numbers' .* shape \(None, 2\), got \(2, 7\)"):
        EmbeddedModel(saved_model).predict({**INPUTS, "numbers": np.zeros((2, 7), np.float32)})


def test_both_backends_answer_many_threads(model):
    def ask(number):
        inputs = {**INPUTS, "numbers": np.full((2, 2), number, np.float32)}
        return float(model.predict(inputs)["score"][0])

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert list(pool.map(ask, range(50))) == [4.0 * n + 4 for n in range(50)]


def test_embedded_model_names_what_is_missing_and_unknown(saved_model):
    loaded = EmbeddedModel(saved_model)
    with pytest.raises(errors.ModelError, match=r"missing \['name'\], unknown \['nmae'\]"):
        loaded.predict({"numbers": INPUTS["numbers"], "nmae": INPUTS["name"]})


def test_signature_that_is_not_there_is_refused(saved_model):
    with pytest.raises(errors.ModelError, match="has no signature 'classify'"):
        EmbeddedModel(saved_model, "classify")


HALF_PRECISION = """
from serving.servables import embedded
embedded.hush_half_precision()
import tensorflow as tf
v1 = tf.compat.v1
with tf.Graph().as_default() as graph, v1.Session(graph=graph) as session:
    number = v1.placeholder(tf.float16, [])
    session.run(tf.cast(number, tf.float32) * 2.0, {number: 1.0})
"""


def test_the_first_half_precision_numbers_of_a_process_are_met_in_silence():
    quietly = {**os.environ, quiet.VARIABLE: quiet.QUIET}
    quietly.pop("TF_CPP_MIN_LOG_LEVEL", None)  # That of a command, which lets errors pass.
    done = subprocess.run(
        [sys.executable, "-c", HALF_PRECISION],
        env=quietly,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
