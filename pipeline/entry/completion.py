"""Completion of commands and flags in bash and zsh, written out of the table of commands."""

import shlex
from collections.abc import Sequence

from pipeline.entry import table

SHELLS = ("bash", "zsh")
# Bash cuts words at "=": a value is a word of its own, behind the flag and the sign.
_BASH = """\
# Completion of watchnext for {shell}.
_watchnext() {{
  local word=${{COMP_WORDS[COMP_CWORD]}} before=${{COMP_WORDS[COMP_CWORD-1]}} flag=""
  COMPREPLY=()
  if [ "$COMP_CWORD" -eq 1 ]; then
    COMPREPLY=($(compgen -W {commands} -- "$word"))
    return
  fi
  case "$word" in
    =) flag=$before; word="" ;;
    --*=*) flag=${{word%%=*}}; word=${{word#*=}} ;;
  esac
  if [ "$before" = "=" ]; then flag=${{COMP_WORDS[COMP_CWORD-2]}}; fi
  local flags="" values=""
  case "${{COMP_WORDS[1]}}" in
{cases}
  esac
  if [ -n "$flag" ]; then
    if [ -n "$values" ]; then
      COMPREPLY=($(compgen -W "$values" -- "$word"))
    else
      COMPREPLY=($(compgen -f -- "$word"))
    fi
  else
    COMPREPLY=($(compgen -W "$flags" -- "$word"))
    case "${{COMPREPLY[0]}}" in *=) compopt -o nospace 2>/dev/null ;; esac
  fi
}}
complete -o filenames -F _watchnext watchnext
"""
_ZSH = """\
(( $+functions[compdef] )) || { autoload -U +X compinit && compinit -u }
autoload -U +X bashcompinit && bashcompinit
"""


def script(shell: str) -> str:
    """Returns what a shell reads to complete ``watchnext``.

    Args:
        shell: One of :data:`SHELLS`. Zsh reads that of bash through its own ``bashcompinit``.
    """
    commands = table.commands().values()
    flags = {one.name: table.flags_of(one) for one in commands}
    text = _BASH.format(
        shell=shell,
        commands=shlex.quote(" ".join([*flags, "completion"])),
        cases="\n".join(_case(name, of_one) for name, of_one in flags.items()),
    )
    return (_ZSH if shell == "zsh" else "") + text


def _case(name: str, flags: Sequence[table.Flag]) -> str:
    """Returns the branch of a command: its flags, and the values of those that have few."""
    words = " ".join(word for flag in flags for word in _words(flag))
    values = [
        f"        --{flag.name}) values={shlex.quote(' '.join(filter(None, flag.choices)))} ;;"
        for flag in flags
        if flag.choices
    ]
    chosen = ["      case $flag in", *values, "      esac"] if values else []
    return "\n".join([f"    {name})", f"      flags={shlex.quote(words)}", *chosen, "      ;;"])


def _words(flag: table.Flag) -> list[str]:
    if flag.kind == "boolean":
        return [f"--{flag.name}", f"--no{flag.name}"]
    return [f"--{flag.name}="]
