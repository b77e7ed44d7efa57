"""Beam's options as a command line gives them, checked before anything is read.

The runner that is meant where none is named is the embedded one, FnApiRunner. Beam's DirectRunner,
under any of its names, means it too: that is a switch which first tries to download the Prism
binary at run time, and the embedded runner behind it needs nothing.
"""

import contextlib
import io
import os
from collections.abc import Sequence
from typing import Any

import apache_beam as beam
from apache_beam.options.pipeline_options import (
    DirectOptions,
    PipelineOptions,
    StandardOptions,
)

from features import command

EMBEDDED = "FnApiRunner"
_DIRECT = ("direct", "switchingdirect")


def parse(arguments: Sequence[str]) -> PipelineOptions:
    """Returns the options of a command line, read by Beam's own parser, with a runner.

    Args:
        arguments: Without our flags, for example ``["--runner", "FlinkRunner"]``.

    Raises:
        command.InputError: Beam cannot read them, or they name no runner that can be loaded; the
            embedded runner gets options that Beam does not know, or any gets what is no option.
    """
    options = PipelineOptions(list(arguments))
    unknown = _unknown(options, arguments)
    standard = options.view_as(StandardOptions)
    name = (standard.runner or "direct").rpartition(".")[2].lower().removesuffix("runner")
    if name in _DIRECT:
        standard.runner = EMBEDDED
    if standard.runner != EMBEDDED:
        unknown = _not_of_a_job_server(unknown)
    if unknown:
        raise command.InputError(
            f"neither this command nor Beam knows {unknown}; write flags as --name=value, see "
            "--help."
        )
    try:
        checked = beam.Pipeline(options=options)
    except (AttributeError, ImportError, TypeError, ValueError) as error:
        raise command.InputError(f"Beam refuses {list(arguments)}: {error}") from None
    os.rmdir(checked.local_tempdir)  # Beam removes it where a pipeline is run.
    return options


def runs_here(options: PipelineOptions) -> bool:
    """Says whether a pipeline runs in this very process, where progress can be counted."""
    mode = options.view_as(DirectOptions).direct_running_mode
    return options.view_as(StandardOptions).runner == EMBEDDED and mode != "multi_processing"


def _unknown(options: PipelineOptions, arguments: Sequence[str]) -> list[str]:
    """Returns the arguments that no option of Beam takes."""
    parsers: list[Any] = []
    with contextlib.redirect_stderr(io.StringIO()) as said:
        try:
            options.get_all_options(add_extra_args_fn=parsers.append)
        except SystemExit:
            reason = said.getvalue().strip().rpartition("error: ")[2]
            raise command.InputError(f"Beam cannot read its options: {reason}.") from None
    return list(parsers[0].parse_known_args(list(arguments))[1])


def _not_of_a_job_server(unknown: Sequence[str]) -> list[str]:
    """Leaves out flags, and values behind them: other runners have some that Beam does not know."""
    pairs = zip(["", *unknown], unknown, strict=False)
    return [a for before, a in pairs if not a.startswith("--") and not before.startswith("--")]
