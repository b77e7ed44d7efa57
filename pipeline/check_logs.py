r"""Raw logs -> all that is wrong with them, at once: missing columns, wrong types, bad rows.

    python -m pipeline.check_logs --logs=logs

Each problem comes with examples and with what to write instead. Problems are what preprocessing
refuses, and end in exit code 2; warnings say what is left out or switched off. With the flags of
preprocessing it checks for the same window and the same limits.
"""

import pathlib
import sys
from collections.abc import Sequence

from absl import flags

from features import command
from pipeline.preprocessing import config as preprocessing_config
from pipeline.preprocessing import log_checks

_DEFAULT = preprocessing_config.PreprocessConfig()
_LOGS = flags.DEFINE_string("logs", None, "Directory of the raw logs.", required=True)
_REJECTED = flags.DEFINE_string(
    "rejected", None, "Directory to write the rows to that are set aside, with their reasons."
)
_FROM = flags.DEFINE_string("from", None, "Checks events from this ISO 8601 time on, UTC.")
_UNTIL = flags.DEFINE_string("until", None, "Checks events before this ISO 8601 time, UTC.")
_HOLDOUT_DAYS = flags.DEFINE_float(
    "holdout_days", _DEFAULT.holdout_days, "Last days that will be kept out of training."
)
_COMPLETED_ONLY = flags.DEFINE_bool(
    "completed_only", _DEFAULT.completed_only, "Whether only completed watches will be labels."
)
_MAX_REJECTED = flags.DEFINE_float(
    "max_rejected_fraction",
    _DEFAULT.max_rejected_fraction,
    "It is a problem when a table loses more of its rows than this, duplicates not counted.",
)


def main(argv: Sequence[str]) -> None:
    """Prints the report; exits with 2 where there is a problem."""
    del argv
    config = preprocessing_config.PreprocessConfig(
        from_s=command.parse_time(_FROM.value, name="--from"),
        until_s=command.parse_time(_UNTIL.value, name="--until"),
        holdout_days=_HOLDOUT_DAYS.value,
        completed_only=_COMPLETED_ONLY.value,
        max_rejected_fraction=_MAX_REJECTED.value,
    )
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
    command.run(main, reads=("logs",), writes=("rejected",))
