"""``watchnext COMMAND``: starts a command by its name.

Exit codes are those of the command; see :data:`features.command.EXIT_CODES`.
"""

import difflib
import importlib.metadata
import runpy
import sys
import textwrap
from collections.abc import Sequence

from pipeline.entry import completion, table

_USAGE = """\
usage: watchnext COMMAND [--flag=value ...]
       watchnext COMMAND --help
       watchnext completion bash|zsh
       watchnext --version

A two-stage video recommender: logs to a release that serves.
"""
_EXAMPLES = """\
For example:
  watchnext simulate --logs=logs --preset=tiny
  watchnext retrain --logs=logs --serving_root=serving_root
  watchnext serve --serving_root=serving_root --logs=logs

`python -m PACKAGE.COMMAND` is the same, for example `python -m pipeline.simulate`.
Completion: eval "$(watchnext completion bash)", or zsh, in your shell's start-up file.
"""
_WIDTH = 100


def main() -> None:
    """Runs what the command line names.

    Raises:
        SystemExit: Code 0 after --help, 2 where there is no such command; else the command's own.
    """
    arguments = sys.argv[1:]
    if not arguments:
        sys.stderr.write(_help())
        raise SystemExit(2)
    name, *rest = arguments
    if name in {"--help", "-h", "help"}:
        sys.stdout.write(_help())
    elif name == "--version":
        sys.stdout.write(f"watchnext {importlib.metadata.version('watchnext')}\n")
    elif name == "completion":
        sys.stdout.write(_completion(rest))
    else:
        _run(name, rest)


def _run(name: str, arguments: Sequence[str]) -> None:
    commands = table.commands()
    if name not in commands:
        near = difflib.get_close_matches(name.replace("-", "_"), commands, n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        _refuse(f"there is no command {name!r}.{hint} See watchnext --help.")
    sys.argv = [sys.argv[0], *arguments]
    # As `python -m` does: the module is the program, which processes that it starts find again.
    runpy.run_module(commands[name].module, run_name="__main__", alter_sys=True)


def _completion(arguments: Sequence[str]) -> str:
    if len(arguments) != 1 or arguments[0] not in completion.SHELLS:
        _refuse(f"give one of {', '.join(completion.SHELLS)}: watchnext completion bash")
    return completion.script(arguments[0])


def _refuse(message: str) -> None:
    sys.stderr.write(f"error: {message}\n")
    raise SystemExit(2)


def _help() -> str:
    commands = table.commands()
    width = max(len(name) for name in commands) + 2
    lines = [_USAGE]
    for package, title in table.PACKAGES.items():
        lines.append(f"{title}:")
        for one in commands.values():
            if one.module.partition(".")[0] == package:
                told = textwrap.shorten(one.summary, _WIDTH - width - 2, placeholder=" ...")
                lines.append(f"  {one.name:<{width}}{told}")
        lines.append("")
    return "\n".join([*lines, _EXAMPLES])


if __name__ == "__main__":
    main()
