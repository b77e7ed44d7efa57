"""Configs: dataclasses that declare each value once, its type, default, bounds and meaning.

    class TrainingConfig(Config):
        epochs: Annotated[int, Bounds(ge=1)] = 3
        optimizer: Annotated[str, OneOf("adam", "adagrad")] = "adam"

What a field means stands in the part ``Attributes:`` of the class's docstring. Whatever reads such
a class has all of it: :func:`check` the bounds, :mod:`features.config_flags` the flags of a command
and their help.
"""

import dataclasses
import functools
import inspect
import math
import re
import types
import typing
from typing import Any

from features import command


class RuleError(command.InputError, ValueError):
    """A setting breaks a rule.

    Attributes:
        name: Name of the setting.
        rule: What it must do, as ``be above 0``.
        value: What it is.
    """

    def __init__(self, name: str, rule: str, value: object) -> None:
        super().__init__(f"{name} must {rule}, got {value!r}.")
        self.name, self.rule, self.value = name, rule, value


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bounds:
    """Range of a number, or of each number of a tuple; what is not finite is in no range.

    Attributes:
        ge: Least value that is allowed.
        gt: Greatest value that is too small.
        le: Greatest value that is allowed.
        lt: Least value that is too large.
    """

    ge: float | None = None
    gt: float | None = None
    le: float | None = None
    lt: float | None = None

    def __contains__(self, value: float) -> bool:
        return (
            math.isfinite(value)
            and (self.ge is None or value >= self.ge)
            and (self.gt is None or value > self.gt)
            and (self.le is None or value <= self.le)
            and (self.lt is None or value < self.lt)
        )

    def __str__(self) -> str:
        if self.le is None and self.lt is None:
            return f"above {_number(self.gt)}" if self.ge is None else f"{_number(self.ge)} or more"
        if self.ge is None and self.gt is None:
            return f"below {_number(self.lt)}" if self.le is None else f"{_number(self.le)} or less"
        low = f"({_number(self.gt)}" if self.ge is None else f"[{_number(self.ge)}"
        high = f"{_number(self.lt)})" if self.le is None else f"{_number(self.le)}]"
        return f"in {low}, {high}"


class OneOf:
    """The values that a text may have."""

    def __init__(self, *choices: str) -> None:
        self.choices = choices

    def __contains__(self, value: object) -> bool:
        return value in self.choices

    def __str__(self) -> str:
        return f"one of {', '.join(choice or repr(choice) for choice in self.choices)}"


@dataclasses.dataclass(frozen=True)
class Flag:
    """Name of the flag of a setting, where it is not the name of the field."""

    name: str


@dataclasses.dataclass(frozen=True)
class Time:
    """Mark of a moment in Unix seconds, which people give as an ISO 8601 time.

    A field ``until_s`` is a flag ``--until``.
    """


@dataclasses.dataclass(frozen=True)
class Place:
    """Mark of a path that may be in an object store, and what a command does with it."""

    use: command.Use


@dataclasses.dataclass(frozen=True, kw_only=True)
class Setting:
    """One field of a dataclass, as it is declared.

    Attributes:
        name: Name of the field.
        kind: Type of the value where it is not None: ``int``, ``tuple[str, ...]``, ...
        is_optional: Whether it may be None.
        marks: What stands beside the type: :class:`Bounds`, :class:`OneOf`, ...
        text: What the docstring of the class says of it, on one line, without markup.
        field: The field itself.
    """

    name: str
    kind: Any
    is_optional: bool
    marks: tuple[Any, ...]
    text: str
    field: "dataclasses.Field[Any]"

    def mark(self, kind: type) -> Any:
        """Returns the mark of a type; None where there is none."""
        return next((mark for mark in self.marks if isinstance(mark, kind)), None)

    @property
    def flag(self) -> str:
        """Name of the flag, without dashes."""
        named = self.mark(Flag)
        if named is not None:
            return str(named.name)
        return self.name.removesuffix("_s") if self.mark(Time) else self.name


@functools.cache
def declared(settings: Any) -> tuple[Setting, ...]:
    """Returns what a dataclass, given as the class, declares, in its order."""
    hints = typing.get_type_hints(settings, include_extras=True)
    texts: dict[str, str] = {}
    for parent in reversed(settings.__mro__):
        texts |= _texts(parent)
    declarations = []
    for field in dataclasses.fields(settings):
        kind, marks, is_optional = _taken_apart(hints[field.name])
        declarations.append(
            Setting(
                name=field.name,
                kind=kind,
                is_optional=is_optional,
                marks=marks,
                text=texts.get(field.name, ""),
                field=field,
            )
        )
    return tuple(declarations)


class Config:
    """A base of dataclasses whose instances check themselves, see :func:`check`."""

    def __post_init__(self) -> None:
        check(self)


def check(settings: Any) -> None:
    """Refuses a value outside what is declared for it; None is a value where it is allowed.

    Raises:
        RuleError: A number is out of bounds, or a text is none of those that it may be.
    """
    kind: Any = type(settings)
    for setting in declared(kind):
        value = getattr(settings, setting.name)
        if value is None and setting.is_optional:
            continue
        for mark in setting.marks:
            if not isinstance(mark, Bounds | OneOf):
                continue
            if isinstance(value, float) and math.isinf(value):
                raise RuleError(setting.name, f"be finite and {mark}", value)
            if not isinstance(value, tuple):
                require(value in mark, setting.name, f"be {mark}", value)
            else:
                require(all(v in mark for v in value), setting.name, f"each be {mark}", value)


def require(condition: bool, name: str, rule: str, value: object) -> None:  # noqa: FBT001
    """Refuses a setting unless a condition holds, for rules that name more than one setting.

    Raises:
        RuleError: The condition does not hold.
    """
    if not condition:
        raise RuleError(name, rule, value)


def _taken_apart(hint: Any) -> tuple[Any, tuple[Any, ...], bool]:
    """Returns type, marks and whether None is allowed, of ``Annotated[int | None, ...]``."""
    marks: tuple[Any, ...] = ()
    if typing.get_origin(hint) is typing.Annotated:
        hint, *given = typing.get_args(hint)
        marks = tuple(given)
    if typing.get_origin(hint) not in {types.UnionType, typing.Union}:
        return hint, marks, False
    others = [kind for kind in typing.get_args(hint) if kind is not types.NoneType]
    is_optional = len(others) < len(typing.get_args(hint))
    return (others[0] if len(others) == 1 else hint), marks, is_optional


def _texts(settings: type) -> dict[str, str]:
    """Returns field -> text of the part ``Attributes:`` of a docstring."""
    # Not inspect.getdoc, which would take that of a parent class where there is none.
    docstring = inspect.cleandoc(settings.__doc__ or "")
    part = re.search(r"^Attributes:\n((?:[ ].*\n?|\n)*)", docstring, re.MULTILINE)
    entries = re.split(r"^ {4}(\w+): ", part[1] if part else "", flags=re.MULTILINE)
    return {
        name: _plain(" ".join(text.split()))
        for name, text in zip(entries[1::2], entries[2::2], strict=True)
    }


def _plain(text: str) -> str:
    """Returns a text without the markup of references and code."""
    return re.sub(r":\w+:`~?([^`]+)`", r"\1", text).replace("``", "")


def _number(value: float | None) -> str:
    return f"{value:.15g}"
