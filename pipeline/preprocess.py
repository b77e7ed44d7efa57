r"""Raw logs -> examples/: candidate and ranking examples, transform graphs, catalogue, statistics.

    python -m pipeline.preprocess --logs=logs --examples=examples

Every flag that is not listed here goes to Beam, in either of its forms, for example
``--runner=FlinkRunner --flink_master=HOST:8081`` or
``--direct_running_mode multi_processing --direct_num_workers 2``.

The logs are checked first, as by ``pipeline.check_logs``.
"""

import pathlib
import shutil
import sys
from collections.abc import Sequence

from features import command, config_flags
from pipeline.preprocessing import config as preprocessing_config
from pipeline.preprocessing import log_checks

_LOGS = config_flags.path("logs", "reads", "Directory of the raw logs.", required=True)
_EXAMPLES = config_flags.path("examples", "writes", "Directory to write.", required=True)
_SETTINGS = config_flags.define(preprocessing_config.PreprocessConfig)


def main(beam_args: Sequence[str]) -> None:
    """Turns flags into a config and hands over."""
    config = _SETTINGS.build()
    if beam_args[1:]:
        # A mistyped flag is told before the logs are read.
        from pipeline.preprocessing import beam_options

        beam_options.parse(beam_args[1:])
    _check_logs(config)
    # Late: what is wrong with logs is said in a second.
    from pipeline.preprocessing import job as preprocessing_job

    info = preprocessing_job.run(_LOGS.value, _EXAMPLES.value, config, beam_args[1:])
    out = _EXAMPLES.value
    following = command.shell_line("models.train_candidate", examples=out, model="CANDIDATE_MODEL")
    sys.stdout.write(f"Wrote {out}: {info['counts']}\nNext: {following}\n")


def _check_logs(config: preprocessing_config.PreprocessConfig) -> None:
    """Refuses logs with all that is wrong with them, and leaves the rows that are to blame."""
    rejected = preprocessing_config.rejected_dir(_EXAMPLES.value)
    shutil.rmtree(rejected, ignore_errors=True)
    report = log_checks.check(pathlib.Path(_LOGS.value), config, rejected_dir=rejected)
    if report.problems:
        where = f"\nThe rows that were set aside are in {rejected}." if rejected.exists() else ""
        raise command.InputError(f"{_LOGS.value} cannot be learned from.\n{report}{where}")
    shutil.rmtree(rejected, ignore_errors=True)


if __name__ == "__main__":
    command.run(main, passes_unknown_flags=True)
