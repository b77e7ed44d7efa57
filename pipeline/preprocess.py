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

from absl import flags

from features import command, id_spaces
from features.as_of import replay
from features.id_spaces import VocabularyConfig
from pipeline.preprocessing import config as preprocessing_config
from pipeline.preprocessing import log_checks

_DEFAULT = preprocessing_config.PreprocessConfig()
_LOGS = flags.DEFINE_string("logs", None, "Directory of the raw logs.", required=True)
_EXAMPLES = flags.DEFINE_string("examples", None, "Directory to write.", required=True)
_FROM = flags.DEFINE_string(
    "from",
    None,
    "Reads events from this ISO 8601 time on, UTC. Servers count no earlier ones.",
)
_UNTIL = flags.DEFINE_string("until", None, "Reads events before this ISO 8601 time, UTC.")
_HOLDOUT_DAYS = flags.DEFINE_float(
    "holdout_days", _DEFAULT.holdout_days, "Last days to keep out of training; 0 trains on all."
)
_EXAMPLES_PER_USER = flags.DEFINE_integer(
    "examples_per_user", _DEFAULT.examples_per_user, "Most candidate examples a user; 0 for all."
)
_COMPLETED_ONLY = flags.DEFINE_bool(
    "completed_only", _DEFAULT.completed_only, "Whether only completed watches are labels."
)
_SEED = flags.DEFINE_integer("seed", _DEFAULT.seed, "Chooses a user's examples.")
_LABEL = flags.DEFINE_enum(
    "label",
    _DEFAULT.label,
    replay.LABELS,
    "What candidate examples predict: the next watch; held_out, from all other watches, leaks the "
    "future into training and is for experiments.",
)
_MAX_SIZE = flags.DEFINE_list(
    "vocabulary_max_size",
    [],
    "Most ids of a vocabulary, by ID space: video=1000000,search_token=200000. The most frequent "
    "ones are kept.",
)
_MIN_COUNT = flags.DEFINE_list(
    "vocabulary_min_count",
    [],
    "Ids seen less often are out of vocabulary, by ID space: search_token=2.",
)
_APPROXIMATE = flags.DEFINE_list(
    "approximate_vocabularies",
    [],
    "ID spaces with so many ids that their frequencies are estimated, in bounded memory, and not "
    "counted: video,search_token.",
)
_MAX_REJECTED = flags.DEFINE_float(
    "max_rejected_fraction",
    _DEFAULT.max_rejected_fraction,
    "Fails when a table loses more of its rows than this, duplicates not counted.",
)
_CACHE = flags.DEFINE_string(
    "cache",
    None,
    "Directory that keeps raw examples by day: a later run replays only the days that are new or "
    "have changed. Needs --until.",
)


def main(beam_args: Sequence[str]) -> None:
    """Turns flags into a config and hands over."""
    config = preprocessing_config.PreprocessConfig(
        from_s=command.parse_time(_FROM.value, name="--from"),
        until_s=command.parse_time(_UNTIL.value, name="--until"),
        holdout_days=_HOLDOUT_DAYS.value,
        examples_per_user=_EXAMPLES_PER_USER.value,
        completed_only=_COMPLETED_ONLY.value,
        seed=_SEED.value,
        label=_LABEL.value,
        vocabularies=VocabularyConfig(
            max_size=id_spaces.parse_numbers(_MAX_SIZE.value, flag="--vocabulary_max_size"),
            min_count=id_spaces.parse_numbers(_MIN_COUNT.value, flag="--vocabulary_min_count"),
            approximate=tuple(_APPROXIMATE.value),
        ),
        max_rejected_fraction=_MAX_REJECTED.value,
        cache=_CACHE.value,
    )
    command.quiet_tensorflow()
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
