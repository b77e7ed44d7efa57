"""The formula of a page's value: what it gives, and what is refused."""

import numpy as np
import pytest

from features import command
from serving.ordering import page_value

SAID = {
    "watch_time_s": np.array([60.0, 40.0, 0.0]),
    "like": np.array([0.0, 1.0, 0.5]),
    "hide": np.array([0.5, 0.0, 0.0]),
}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("watch_time_s", [60, 40, 0]),
        ("watch_time_s + 30*like - 120*hide", [0, 70, 15]),
        (" ( watch_time_s ) / 2 ", [30, 20, 0]),
        ("-like + +2", [2, 1, 1.5]),
        ("min(watch_time_s, 50) + max(like, hide)", [50.5, 41, 0.5]),
        ("sqrt(4*like)", [0, 2, np.sqrt(2)]),
        ("log1p(watch_time_s)", np.log1p([60, 40, 0])),
        ("1e1 * like", [0, 10, 5]),
        ("like / hide", [0, np.inf, np.inf]),
        ("like / like", [-np.inf, 1, 1]),
        ("sqrt(like - 0.6)", [-np.inf, np.sqrt(0.4), -np.inf]),
    ],
)
def test_formula_gives_what_it_says(text, expected):
    np.testing.assert_allclose(page_value.parse(text).of(SAID), expected)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("watch_time_s +", "invalid syntax"),
        ("", "invalid syntax"),
        ("7", "reads nothing"),
        ("applause", "there is no 'applause'"),
        ("__import__('os')", "no function '__import__'"),
        ("like.real", "'like.real' is no part of a formula"),
        ("like if hide else 1", "is no part"),
        ("like and hide", "is no part"),
        ("[like]", "is no part"),
        ("like ** 2", "is no part"),
        ("like @ hide", "is no part"),
        ("min(like)", "min takes 2, got 1"),
        ("max(like, hide, 1)", "max takes 2, got 3"),
        ("min(a=like)", "is no part"),
        ("(lambda: like)()", "is no part"),
        ("'like'", "'like' is no number"),
        ("True * like", "True is no number"),
        ("1e999 * like", "inf is no number"),
        ("1" + "0" * 400 + " * like", "10000000000000000000 is no number"),
        ("like / 0", "no finite number"),
        ("sqrt(0 - like)", "no finite number"),
        ("like" + " + like" * 200, "longer than 500"),
        ("(" * 300 + "like" + ")" * 300, "longer than 500"),
    ],
)
def test_what_is_no_formula_is_refused_in_one_message(text, says):
    with pytest.raises(command.InputError) as raised:
        page_value.parse(text)
    message = str(raised.value)
    assert says in message
    assert "watch_time_s + 30*like - 120*hide" in message
    assert "\n" not in message


def test_ranker_that_does_not_say_what_is_read_is_refused():
    formula = page_value.parse("watch_time_s + 30*like - 120*hide")
    formula.require(("like", "hide"), where="release 1")
    with pytest.raises(command.InputError, match=r"reads hide, but the ranker of release 1 says"):
        formula.require(("like",), where="release 1")


def test_names_and_default():
    assert page_value.parse("watch_time_s").is_default
    formula = page_value.parse("2*like + watch_time_s")
    assert not formula.is_default
    assert formula.names == {"like", "watch_time_s"}
