"""The choice between float32 and bfloat16 is made by trial, on the machine that serves."""

import threading
import time

import numpy as np
import pytest

from serving import errors, reduced_precision
from serving.reduced_precision import TURNS, FasterOf


class Fake:
    """A model that takes its time and adds something to the true logits."""

    def __init__(self, seconds, added=0.0):
        self.seconds, self.added, self.calls = seconds, added, 0

    def predict(self, inputs, *, deadline_s=None):
        del deadline_s
        self.calls += 1
        time.sleep(self.seconds)
        return {"logit": inputs["x"] + self.added}


X = {"x": np.array([1.0, 2.0], np.float32)}


def after_trial(exact, reduced):
    model = FasterOf(exact, reduced)
    for _ in range(TURNS):
        # Until the choice, what is answered is exact.
        assert model.predict(X)["logit"].tolist() == [1.0, 2.0]
    return model


def test_the_faster_one_that_agrees_is_chosen_and_alone_asked_from_then_on():
    exact, reduced = Fake(0.02), Fake(0.002, added=0.01)
    model = after_trial(exact, reduced)
    assert model.is_reduced
    assert model.predict(X)["logit"] == pytest.approx([1.01, 2.01])
    assert (exact.calls, reduced.calls) == (TURNS, TURNS + 1)


@pytest.mark.parametrize(
    ("seconds", "added"),
    [(0.02, 0.0), (0.002, 2 * reduced_precision.TOLERANCE), (0.002, np.nan)],
    ids=["not faster", "another answer", "no number"],
)
def test_otherwise_the_exact_one_stays(seconds, added):
    model = after_trial(Fake(0.02), Fake(seconds, added))
    assert not model.is_reduced
    assert model.predict(X)["logit"].tolist() == [1.0, 2.0]


def test_a_page_without_candidates_says_nothing_of_agreement():
    model = FasterOf(Fake(0.01), Fake(0.0))
    for _ in range(TURNS):
        model.predict({"x": np.zeros(0, np.float32)})
    assert model.is_reduced


def test_many_threads_decide_once():
    exact, reduced = Fake(0.01), Fake(0.0)
    model = FasterOf(exact, reduced)
    threads = [threading.Thread(target=model.predict, args=(X,)) for _ in range(3 * TURNS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (exact.calls, reduced.calls) == (TURNS, 3 * TURNS)


def test_a_failure_is_said():
    class Broken(Fake):
        def predict(self, inputs, *, deadline_s=None):
            raise errors.ModelError("no")

    with pytest.raises(errors.ModelError):
        FasterOf(Fake(0.0), Broken(0.0)).predict(X)
