"""Flags that follow from settings."""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Annotated

import pytest
from absl import flags

from features import command, config, config_flags
from features.config import Bounds, Flag, OneOf, Time


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fan:
    """A fan.

    Attributes:
        speed: Turns a second.
        width: Width, metres.
    """

    speed: Annotated[float, Bounds(ge=0, lt=90)] = 5.0
    width: Annotated[float, Bounds(gt=0)] = 1.0

    def __post_init__(self):
        config.check(self)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Oven:
    """An oven.

    Attributes:
        kitchen: Directory of the kitchen.
        manual: Manual, a file.
        degrees: Heat.
        mode: Kind of heat.
        timer: Whether it rings.
        trays: Heights of trays.
        names: Names of trays.
        until_s: End of baking.
        recipes: Number of recipes by kind.
        fan: Its fan.
    """

    kitchen: pathlib.Path
    manual: pathlib.Path | None = None
    degrees: Annotated[int, Flag("heat"), Bounds(ge=20, le=300)] = 200
    mode: Annotated[str, OneOf("top", "bottom")] = "top"
    timer: bool = True
    trays: Annotated[tuple[int, ...], Bounds(ge=1)] = (1, 3)
    names: tuple[str, ...] = ()
    until_s: Annotated[int | None, Time()] = None
    recipes: Mapping[str, int] = dataclasses.field(default_factory=dict)
    fan: Fan = dataclasses.field(default_factory=Fan)

    def __post_init__(self):
        config.check(self)
        config.require(self.mode == "top" or self.timer, "mode", "be top untimed", self.mode)


@dataclasses.dataclass(frozen=True, kw_only=True)
class QuietFan(Fan):
    """A fan.

    Attributes:
        hum: Loudness of the hum.
    """

    hum: int = 3


@pytest.fixture
def values(monkeypatch):
    """An empty set of flags in the place of that of the process."""
    empty = flags.FlagValues()
    for name in ("DEFINE", "DEFINE_boolean", "DEFINE_enum"):
        definer = getattr(flags, name)

        def define(*args, _definer=definer, **kwargs):
            return _definer(*args, flag_values=empty, **kwargs)

        monkeypatch.setattr(flags, name, define)
    return empty


def parsed(values, *arguments):
    values(["command", *arguments])


def test_settings_are_built_from_flags_of_each_kind(values):
    defined = config_flags.define(Oven)
    parsed(
        values,
        *("--kitchen=k", "--manual=m.pdf", "--heat=90", "--mode=bottom"),
        *("--trays=2,4", "--names=a,b", "--until=2022-05-01", "--recipes=cake=3,pie=2"),
        "--speed=2.5",
    )
    assert defined.build() == Oven(
        kitchen=pathlib.Path("k"),
        manual=pathlib.Path("m.pdf"),
        degrees=90,
        mode="bottom",
        trays=(2, 4),
        names=("a", "b"),
        until_s=1_651_363_200,
        recipes={"cake": 3, "pie": 2},
        fan=Fan(speed=2.5),
    )


def test_what_is_not_given_is_as_declared(values):
    defined = config_flags.define(Oven)
    parsed(values, "--kitchen=k")
    assert defined.build() == Oven(kitchen=pathlib.Path("k"))
    assert defined.given() == {"kitchen": pathlib.Path("k")}


def test_defaults_may_be_those_of_an_instance(values):
    given = Oven(kitchen=pathlib.Path("k"), degrees=50, fan=Fan(speed=1.0), trays=())
    defined = config_flags.define(Oven, given)
    parsed(values)
    assert defined.build() == given
    assert defined.build(degrees=70).degrees == 70


def test_a_field_without_default_is_a_flag_that_must_be_given(values):
    config_flags.define(Oven)
    with pytest.raises(flags.IllegalFlagValueError, match="kitchen"):
        parsed(values)


def test_none_is_an_empty_list_of_numbers(values):
    defined = config_flags.define(Oven)
    parsed(values, "--kitchen=k", "--trays=none")
    assert defined.build().trays == ()


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--heat=10", r"^--heat must be in \[20, 300\], got 10\.$"),
        ("--speed=90", r"^--speed must be in \[0, 90\), got 90\.0\.$"),
        ("--trays=1,0", r"^--trays must each be 1 or more, got \(1, 0\)\.$"),
        ("--trays=1,b", r"^--trays must be whole numbers such as 512,256, got '1,b'\.$"),
        ("--until=soon", "^--until must be an ISO 8601 time.*got 'soon'"),
        ("--recipes=cake", "^--recipes must be a list such as .*, got 'cake'"),
        ("--mode=bottom --notimer", "^--mode must be top untimed, got 'bottom'"),
    ],
)
def test_a_bad_value_is_one_message_that_names_the_flag(values, argument, message):
    defined = config_flags.define(Oven)
    parsed(values, "--kitchen=k", *argument.split())
    with pytest.raises(command.InputError, match=message):
        defined.build()


def test_only_the_flags_that_are_given_change_a_preset(values):
    preset = Oven(kitchen=pathlib.Path("p"), degrees=80, mode="bottom")
    defined = config_flags.define(Oven, unset={"kitchen": "none", "degrees": "that of --preset"})
    parsed(values, "--mode=top")
    assert defined.changed(preset) == dataclasses.replace(preset, mode="top")
    assert defined.changed(preset, timer=False).timer is False
    assert values["heat"].default is None
    assert values["heat"].help == "Heat. Default: that of --preset."


def test_help_tells_meaning_default_and_range(values):
    config_flags.define(Oven, without={"manual"}, choices={"mode": ("top", "all")})
    text = values.get_help()
    assert "Directory of the kitchen." in text
    assert "manual" not in text
    assert "<top|all>: Kind of heat." in " ".join(text.split())
    assert "an integer in [20, 300]" in text
    assert "a number in [0, 90)" in text
    assert "a number above 0" in text
    assert "(default: '1,3')" in text


@pytest.mark.parametrize("entry", ["video", "video=", "=5", "video=-1", "video=1e6", "video=5=5"])
def test_an_entry_that_is_no_number_by_name_is_named(entry):
    with pytest.raises(command.InputError, match=f"--x must be a list.*got '{entry}'"):
        config_flags.numbers_by_name([entry], flag="--x")


def test_a_name_given_twice_is_refused():
    with pytest.raises(command.InputError, match="only once"):
        config_flags.numbers_by_name(["a=1", "a=2"], flag="--x")


def test_a_dataclass_has_the_flags_of_its_parents_and_says_what_they_are_for(values):
    defined = config_flags.define(QuietFan, without={"width"}, of="summer")
    assert values["speed"].help == "summer: Turns a second."
    assert values["hum"].help == "summer: Loudness of the hum."
    assert "width" not in values
    parsed(values, "--speed=7")
    assert defined.build(width=2.0) == QuietFan(speed=7.0, width=2.0)
