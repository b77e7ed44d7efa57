"""The choice between float32 and bfloat16 is made by trial, on the machine that serves."""

import threading
import time

import numpy as np
import pytest

from serving import errors
from serving.servables import reduced_precision
from serving.servables.reduced_precision import BFLOAT16, FLOAT32, TURNS, Choice, Choices, FasterOf


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
    assert model.precision == BFLOAT16
    assert model.predict(X)["logit"] == pytest.approx([1.01, 2.01])
    assert (exact.calls, reduced.calls) == (TURNS, TURNS + 1)


@pytest.mark.parametrize(
    ("seconds", "added"),
    [(0.02, 0.0), (0.002, 2 * reduced_precision.TOLERANCE), (0.002, np.nan)],
    ids=["not faster", "another answer", "no number"],
)
def test_otherwise_the_exact_one_stays(seconds, added):
    model = after_trial(Fake(0.02), Fake(seconds, added))
    assert model.precision == FLOAT32
    assert model.predict(X)["logit"].tolist() == [1.0, 2.0]


def paced(seconds):
    """A model whose calls take these times, one after the other."""
    model = Fake(0.0)
    times = iter(seconds)

    def predict(inputs, *, deadline_s=None):
        model.seconds = next(times, 0.0)
        return Fake.predict(model, inputs, deadline_s=deadline_s)

    model.predict = predict
    return model


@pytest.mark.parametrize(
    ("reduced", "expected"),
    [
        ([0.5] + [0.01] * 6, BFLOAT16),  # The first turn plans.
        ([0.01] * 6 + [0.2], BFLOAT16),  # One turn may be disturbed.
        ([0.01] * 5 + [0.2] * 2, FLOAT32),  # Two say that load decides.
        ([0.04] * 7, FLOAT32),  # As fast is not faster.
    ],
)
def test_bfloat16_is_chosen_by_a_margin_in_all_turns_but_one(reduced, expected):
    assert len(reduced) == TURNS
    assert after_trial(Fake(0.04), paced(reduced)).precision == expected


def test_a_choice_is_remembered_for_the_release_on_this_kind_of_processor(tmp_path, caplog):
    caplog.set_level("INFO", logger="absl")
    model = FasterOf(Fake(0.02), Fake(0.0), version="7", choices=Choices(tmp_path / "new"))
    for _ in range(TURNS):
        model.predict(X)
    assert "The ranker of release 7 runs in bfloat16, as was tried now on " in caplog.text
    slow, exact = Fake(0.2), Fake(0.0)
    again = FasterOf(exact, slow, version="7", choices=Choices(tmp_path / "new"))
    assert again.precision == BFLOAT16  # Load cannot change it, nor is anything tried.
    assert again.predict(X)["logit"].tolist() == [1.0, 2.0]
    assert (exact.calls, slow.calls) == (0, 1)
    assert "The ranker of release 7 runs in bfloat16, as was found before on " in caplog.text
    other = Choices(tmp_path / "new")
    other.cpu = "another processor"
    assert other.known("7") is None
    assert other.known("8") is None


def choice(precision=FLOAT32, **more):
    return Choice(
        **{
            "precision": precision,
            "exact_ms": 1.0,
            "reduced_ms": 2.0,
            "gap": 0.0,
            "cpu": "c",
            **more,
        }
    )


def test_the_first_of_two_servers_decides_for_both(tmp_path):
    first, second = choice(FLOAT32), choice(BFLOAT16)
    assert Choices(tmp_path).settle("7", first) == first
    assert Choices(tmp_path).settle("7", second) == first
    model = FasterOf(Fake(0.02), Fake(0.0), version="8", choices=Choices(tmp_path))
    for _ in range(TURNS - 1):
        model.predict(X)
    Choices(tmp_path).settle("8", choice(FLOAT32))
    model.predict(X)
    assert model.precision == FLOAT32
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("content", ["", "{", "[]", '{"precision": "float8"}', "\x00"])
def test_a_choice_that_cannot_be_read_is_made_anew(tmp_path, content):
    choices = Choices(tmp_path)
    choices.settle("7", choice())
    (file,) = tmp_path.iterdir()
    file.write_text(content)
    assert choices.known("7") is None
    assert choices.settle("7", choice(BFLOAT16)) == choice(BFLOAT16)
    assert choices.known("7") == choice(BFLOAT16)


def test_a_choice_that_cannot_be_written_holds_until_the_end(tmp_path, caplog):
    (tmp_path / "file").write_text("")
    model = FasterOf(Fake(0.02), Fake(0.0), version="7", choices=Choices(tmp_path / "file"))
    for _ in range(TURNS):
        model.predict(X)
    assert model.precision == BFLOAT16
    assert "is not remembered" in caplog.text


def test_choices_of_long_ago_are_removed(tmp_path):
    choices = Choices(tmp_path)
    for version in range(1000, 1210):
        choices.settle(str(version), choice())
    assert 200 <= len(list(tmp_path.iterdir())) <= 201
    assert choices.known("1209") == choice()
    assert choices.known("1000") is None


def test_a_page_without_candidates_says_nothing_of_agreement():
    model = FasterOf(Fake(0.01), Fake(0.0))
    for _ in range(TURNS):
        model.predict({"x": np.zeros(0, np.float32)})
    assert model.precision == BFLOAT16


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
