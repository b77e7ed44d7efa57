"""Configs that declare type, default, bounds and meaning once."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Annotated

import pytest

from features import command, config
from features.config import Bounds, Flag, OneOf, Time


@dataclasses.dataclass(frozen=True, kw_only=True)
class Oven:
    """Settings of an oven.

    Attributes:
        heat: Heat of the oven, degrees,
            see :mod:`ovens.heat` and ``--fan``.
        fan: Kind of fan.
        trays: Trays, from below.
        until_s: End of baking.

    Nothing else belongs to it.
    """

    heat: Annotated[float, Bounds(gt=0, le=300)] = 200.0
    fan: Annotated[str | None, OneOf("off", "on")] = None
    trays: Annotated[tuple[int, ...], Bounds(ge=1)] = (1,)
    until_s: Annotated[int | None, Time()] = None
    tags: Annotated[Mapping[str, int], Flag("tag")] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        config.check(self)


def test_what_is_declared_is_read_in_order_with_its_meaning():
    heat, fan, _, until, tags = config.declared(Oven)
    assert heat.text == "Heat of the oven, degrees, see ovens.heat and --fan."
    assert (heat.kind, heat.is_optional, heat.mark(Bounds)) == (float, False, Bounds(gt=0, le=300))
    assert (fan.kind, fan.is_optional, fan.text) == (str, True, "Kind of fan.")
    assert (until.kind, until.flag, until.text) == (int, "until", "End of baking.")
    assert (tags.flag, tags.text) == ("tag", "")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"heat": 0.0}, r"heat must be in \(0, 300\], got 0.0\."),
        ({"heat": 300.5}, r"heat must be in \(0, 300\], got 300.5\."),
        ({"heat": math.nan}, r"heat must be in \(0, 300\], got nan\."),
        ({"heat": math.inf}, r"heat must be finite and in \(0, 300\], got inf\."),
        ({"fan": "fast"}, "fan must be one of off, on, got 'fast'"),
        ({"trays": (2, 0)}, r"trays must each be 1 or more, got \(2, 0\)"),
    ],
)
def test_a_value_outside_of_what_is_declared_is_refused(changes, message):
    with pytest.raises(config.RuleError, match=message) as refused:
        Oven(**changes)
    assert isinstance(refused.value, command.InputError)
    assert isinstance(refused.value, ValueError)


def test_none_is_a_value_where_it_is_declared():
    assert Oven(fan=None).fan is None
    assert Oven(trays=()).trays == ()


@pytest.mark.parametrize(
    ("bounds", "words", "inside", "outside"),
    [
        (Bounds(ge=1), "1 or more", 1, 0.5),
        (Bounds(gt=0), "above 0", 0.1, 0),
        (Bounds(le=2), "2 or less", 2, 2.5),
        (Bounds(lt=2), "below 2", 1.9, 2),
        (Bounds(ge=0, lt=1), "in [0, 1)", 0, 1),
        (Bounds(ge=0, le=100_000_000), "in [0, 100000000]", 100_000_000, -1),
        (Bounds(ge=20_000_000), "20000000 or more", 20_000_000, math.inf),
    ],
)
def test_bounds_say_what_they_hold(bounds, words, inside, outside):
    assert str(bounds) == words
    assert inside in bounds
    assert outside not in bounds


def test_a_child_does_not_take_the_words_of_its_parent_for_its_own():
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Stove(Oven):
        plates: int = 4

    texts = {one.name: one.text for one in config.declared(Stove)}
    assert texts["plates"] == ""
