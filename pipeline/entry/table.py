"""The table of commands and their flags, derived from the packages: nothing is typed twice.

A command is a file that stands directly in a package and ends with ``command.run(main)``. Its name
is that of the file, what it does is the first line of its docstring.
"""

import ast
import dataclasses
import importlib
import importlib.util
import pathlib
import re
from collections.abc import Iterator

from absl import flags  # noqa: TID251 - reads them, defines none

# Package to what its commands are about.
PACKAGES = {
    "pipeline": "Data, the whole chain, measuring",
    "models": "Models",
    "serving": "Releases and serving",
}
_IS_COMMAND = re.compile(r"^    command\.run\(", re.MULTILINE)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Command:
    """One command.

    Attributes:
        name: Name that follows ``watchnext``, for example ``train_ranker``.
        module: Module that ``python -m`` runs, for example ``models.train_ranker``.
        summary: What it does, in one line.
    """

    name: str
    module: str
    summary: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Flag:
    """One flag of a command.

    Attributes:
        name: Name without dashes.
        text: What it means.
        kind: ``boolean``, ``enum``, ``list``, ``int``, ``float``, ``string``.
        default: Default as it is shown; None where there is none.
        choices: Values that it may have, where they are few.
        is_required: Whether the command refuses to run without it.
    """

    name: str
    text: str
    kind: str
    default: str | None
    choices: tuple[str, ...]
    is_required: bool


def commands() -> dict[str, Command]:
    """Returns name -> command, in the order of the packages; imports none of them."""
    return {one.name: one for package in PACKAGES for one in _commands_of(package)}


def _commands_of(package: str) -> Iterator[Command]:
    spec = importlib.util.find_spec(package)
    for directory in (spec.submodule_search_locations or ()) if spec is not None else ():
        for path in sorted(pathlib.Path(directory).glob("*.py")):
            source = path.read_text(encoding="utf-8")
            if _IS_COMMAND.search(source):
                docstring = ast.get_docstring(ast.parse(source)) or ""
                yield Command(
                    name=path.stem,
                    module=f"{package}.{path.stem}",
                    summary=docstring.partition("\n")[0].rstrip("."),
                )


def flags_of(command: Command) -> tuple[Flag, ...]:
    """Returns the flags of a command in the order of their names, those of libraries left out.

    It is imported for that, in a process that has not imported it before; the flags are forgotten
    again, since those of several commands cannot be defined at once.
    """
    importlib.import_module(command.module)
    defined = flags.FLAGS.flags_by_module_dict().get(command.module, [])
    ours = tuple(_flag(one) for one in sorted(defined, key=lambda one: str(one.name)))
    for one in ours:
        delattr(flags.FLAGS, one.name)
    return ours


def _flag(flag: "flags.Flag[object]") -> Flag:
    kind = flag.flag_type().rpartition(" ")[2]
    return Flag(
        name=flag.name,
        text=" ".join((flag.help or "").split()),
        kind={"strings": "list", "bool": "boolean"}.get(kind, kind),
        default=None if flag.default is None else (flag.default_as_str or "").strip("'"),
        choices=tuple(getattr(flag.parser, "enum_values", ())),
        is_required=any("must have a value" in (v.message or "") for v in flag.validators),
    )
