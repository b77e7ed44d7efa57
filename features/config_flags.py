"""Flags that follow from the settings of a dataclass: declared there, defined and read here.

    _TRAINING = config_flags.define(TrainingConfig, config.RANKER_TRAINING)     # in a command
    settings = _TRAINING.build()                                # after flags are parsed

A command names the class or its defaults, and writes no flag of its own for what is declared.
"""

import collections.abc
import dataclasses
import pathlib
import typing
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Generic, TypeVar, cast

from absl import flags  # noqa: TID251 - on behalf of the command that calls

from features import command
from features.config import Bounds, OneOf, Place, RuleError, Setting, Time, declared

_Config = TypeVar("_Config")
_Turn = Callable[[Any], Any]

# What is defined here belongs to the command that asked for it, and stands in its --help.
flags.disclaim_key_flags()


@dataclasses.dataclass(frozen=True)
class _Defined:
    """A flag of a setting, and how its value becomes the value of the setting."""

    flag: flags.FlagHolder[Any]
    read: _Turn

    def value(self) -> Any:
        return None if self.flag.value is None else self.read(self.flag.value)


class Flags(Generic[_Config]):
    """The flags of a dataclass, as :func:`define` made them."""

    def __init__(
        self,
        kind: type[_Config],
        defaults: _Config | None,
        defined: Mapping[str, "_Defined | Flags[Any]"],
    ) -> None:
        self._kind, self._defaults, self._defined = kind, defaults, defined

    def build(self, **others: Any) -> _Config:
        """Returns the settings that the flags ask for.

        Args:
            others: Values of fields that are not flags, or in place of their flags.

        Raises:
            command.InputError: A value breaks a rule; the message names the flag.
        """
        flagged = {
            name: one.build() if isinstance(one, Flags) else one.value()
            for name, one in self._defined.items()
            if name not in others
        }
        return self._made({**flagged, **others})

    def given(self) -> dict[str, Any]:
        """Returns the values of the flags that were given, by field."""
        return {
            name: one.value()
            for name, one in self._defined.items()
            if isinstance(one, _Defined) and one.flag.present
        }

    def changed(self, settings: _Config, **others: Any) -> _Config:
        """Returns settings with the values of the flags that were given in place of their own.

        Raises:
            command.InputError: A value breaks a rule; the message names the flag.
        """
        own = {f.name: getattr(settings, f.name) for f in dataclasses.fields(settings)}  # type: ignore[arg-type]
        return self._made({**own, **self.given(), **others})

    def _made(self, values: Mapping[str, Any]) -> _Config:
        try:
            if self._defaults is None:
                return self._kind(**values)
            return dataclasses.replace(self._defaults, **values)  # type: ignore[type-var]
        except RuleError as error:
            one = self._defined.get(error.name)
            if isinstance(one, _Defined):
                name = one.flag.name
            elif error.name in flags.FLAGS:  # Declared by another dataclass of the command.
                name = error.name
            else:
                raise
            raise RuleError(f"--{name}", error.rule, error.value) from None


def path(
    name: str, use: command.Use, text: str, *, default: str | None = None, required: bool = False
) -> flags.FlagHolder[Any]:
    """Defines a flag that names a file or directory, which may be in an object store.

    ``main`` finds a local path in it, see :mod:`features.stores.door`.
    """
    command.PATHS[name] = use
    return flags.DEFINE_string(name, default, text, required=required)


def define(
    kind: type[_Config],
    defaults: _Config | None = None,
    *,
    without: Collection[str] = (),
    choices: Mapping[str, Sequence[str]] | None = None,
    unset: Mapping[str, str] | None = None,
    of: str = "",
) -> Flags[_Config]:
    """Defines a flag for each field of a dataclass, nested ones included.

    A flag has the name of its field, or that of its mark :class:`features.config.Flag`; a field
    of a nested dataclass is a flag like one of the outer one. Its help is what the docstring says
    of the field. A field without a default is a required flag.

    Args:
        kind: The dataclass.
        defaults: Instance whose values are the defaults; None for those of the class.
        without: Names of fields that are no flags here: they keep their default.
        choices: The values that a field may have in this command, where it says less by itself.
        unset: Fields whose flags have no value unless they are given, and what then stands for
            them, for the help: ``{"logs": "<serving_root>/logs"}``.
        of: What the flags are for, where a command has some that do not always count: said before
            what each means.
    """
    choices, unset = choices or {}, unset or {}
    defined: dict[str, _Defined | Flags[Any]] = {}
    for setting in declared(cast(Any, kind)):
        if setting.name in without:
            continue
        default = _default(setting, defaults)
        if isinstance(setting.kind, type) and dataclasses.is_dataclass(setting.kind):
            nested = None if default is dataclasses.MISSING else default
            defined[setting.name] = define(
                setting.kind, nested, without=without, choices=choices, unset=unset, of=of
            )
            continue
        if of:
            setting = dataclasses.replace(setting, text=f"{of}: {setting.text}")
        if setting.name in unset:
            text = f"{setting.text} Default: {unset[setting.name]}."
            setting, default = dataclasses.replace(setting, text=text), None
        defined[setting.name] = _defined(setting, default, choices.get(setting.name))
    return Flags(kind, defaults, defined)


def _default(setting: Setting, defaults: Any) -> Any:
    if defaults is not None:
        return getattr(defaults, setting.name)
    if setting.field.default_factory is not dataclasses.MISSING:
        return setting.field.default_factory()
    return setting.field.default


def _defined(setting: Setting, default: Any, choices: Sequence[str] | None) -> _Defined:
    """Defines the flag of one setting."""
    one_of = setting.mark(OneOf)
    parser, shown, read = _form(setting, choices or (one_of.choices if one_of else None))
    is_required = default is dataclasses.MISSING
    place = setting.mark(Place)
    if place is not None:
        command.PATHS[setting.flag] = place.use
    arguments = {
        "name": setting.flag,
        "default": None if is_required or default is None else shown(default),
        "help": setting.text,
        "required": is_required,
    }
    if setting.kind is bool:
        return _Defined(flags.DEFINE_boolean(**arguments), read)
    if isinstance(parser, flags.EnumParser):
        return _Defined(flags.DEFINE_enum(enum_values=parser.enum_values, **arguments), read)
    serializer = flags.CsvListSerializer(",") if isinstance(parser, flags.ListParser) else None
    return _Defined(
        flags.DEFINE(parser, serializer=serializer or flags.ArgumentSerializer(), **arguments), read
    )


def _form(setting: Setting, choices: Sequence[str] | None) -> tuple[Any, _Turn, _Turn]:
    """Returns the parser of a flag, and what turns a value into its flag's and back."""
    name = f"--{setting.flag}"
    if setting.mark(Time) is not None:
        return flags.ArgumentParser(), command.format_time, lambda text: _time(text, name)
    if choices is not None:
        return flags.EnumParser(list(choices)), str, str
    if typing.get_origin(setting.kind) is tuple:
        member, _ = typing.get_args(setting.kind)
        read = tuple if member is str else lambda texts: _integers(texts, name)
        return flags.ListParser(), lambda values: [str(value) for value in values], read
    if typing.get_origin(setting.kind) is collections.abc.Mapping:
        return flags.ListParser(), _entries, lambda entries: numbers_by_name(entries, flag=name)
    if setting.kind is pathlib.Path:
        return flags.ArgumentParser(), str, _path if setting.is_optional else pathlib.Path
    if setting.mark(Bounds) is not None:
        bounded = {int: _BoundedInteger, float: _BoundedFloat}[setting.kind]
        return bounded(str(setting.mark(Bounds))), setting.kind, setting.kind
    parsers = {
        bool: flags.BooleanParser,
        int: flags.IntegerParser,
        float: flags.FloatParser,
        str: flags.ArgumentParser,
    }
    return parsers[setting.kind](), setting.kind, setting.kind


# The bounds are told here and checked by the settings, whose message is the same for all callers.
class _BoundedInteger(flags.IntegerParser):
    def __init__(self, bounds: str) -> None:
        super().__init__()
        self.syntactic_help = f"an integer {bounds}"


class _BoundedFloat(flags.FloatParser):
    def __init__(self, bounds: str) -> None:
        super().__init__()
        self.syntactic_help = f"a number {bounds}"


def _path(text: str) -> pathlib.Path | None:
    return pathlib.Path(text) if text else None


def _time(text: str, name: str) -> int | None:
    return command.parse_time(text, name=name)


def _integers(texts: Sequence[str], name: str) -> tuple[int, ...]:
    """Returns whole numbers of a list; ``none`` alone is an empty one."""
    words = [text.strip() for text in texts if text.strip()]
    if [word.lower() for word in words] == ["none"]:
        return ()
    if not all(word.isdecimal() for word in words):
        raise command.InputError(
            f"{name} must be whole numbers such as 512,256, got {','.join(texts)!r}."
        )
    return tuple(int(word) for word in words)


def _entries(numbers: Mapping[str, int]) -> list[str]:
    return [f"{name}={number}" for name, number in numbers.items()]


def numbers_by_name(entries: Sequence[str], *, flag: str) -> dict[str, int]:
    """Returns name -> number of entries ``name=number``.

    Args:
        entries: Entries of the flag, for example ``["video=1000000", "search_token=200000"]``.
        flag: Name of the flag in the error.

    Raises:
        command.InputError: An entry has another form, or a name comes twice.
    """
    numbers: dict[str, int] = {}
    for entry in entries:
        name, _, number = entry.partition("=")
        if not name or not number.isdecimal() or name in numbers:
            again = " (a name may come only once)" if name in numbers else ""
            raise command.InputError(
                f"{flag} must be a list such as video=1000000,search_token=200000, "
                f"got {entry!r}{again}."
            )
        numbers[name] = int(number)
    return numbers
