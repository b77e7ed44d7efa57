r"""Raw logs -> all that is wrong with them, at once: missing columns, wrong types, bad rows.

    python -m pipeline.check_logs --logs=logs

Each problem comes with examples and with what to write instead. Problems are what preprocessing
refuses, and end in exit code 2; warnings say what is left out or switched off. With the flags of
preprocessing it checks for the same window and the same limits.
"""

import pathlib
import sys

from features import command, config_flags
from pipeline.preprocessing import config as preprocessing_config
from pipeline.preprocessing import log_checks

_LOGS = config_flags.path("logs", "reads", "Directory of the raw logs.", required=True)
_REJECTED = config_flags.path(
    "rejected", "writes", "Directory to write the rows to that are set aside, with their reasons."
)
_SETTINGS = config_flags.define(
    preprocessing_config.PreprocessConfig,
    without={"examples_per_user", "seed", "label", "vocabularies", "cache"},
)


def main() -> None:
    """Prints the report; exits with 2 where there is a problem."""
    config = _SETTINGS.build()
    rejected = pathlib.Path(_REJECTED.value) if _REJECTED.value else None
    report = log_checks.check(pathlib.Path(_LOGS.value), config, rejected_dir=rejected)
    print(report)
    if report.problems:
        sys.stdout.flush()
        raise SystemExit(2)
    following = command.shell_line(
        "pipeline.retrain", logs=_LOGS.value, serving_root="SERVING_ROOT"
    )
    print(f"Next: {following}")


if __name__ == "__main__":
    command.run(main)
