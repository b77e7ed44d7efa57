r"""Trains the ranker on preprocessed examples.

    python -m models.train_ranker --examples=EXAMPLES --model=MODEL

A training that was killed continues when the same command is given again. TensorBoard
summaries are in MODEL.training/tensorboard.
"""

from features import command, config_flags, declarations
from features.spec import ResolvedSpec
from models import config

_EXAMPLES = config_flags.path("examples", "reads", "What pipeline.preprocess wrote.", required=True)
_MODEL = config_flags.path("model", "writes", "Directory to create or replace.", required=True)
_MODEL_FLAGS = config_flags.define(config.RankerConfig)
_TRAINING_FLAGS = config_flags.define(
    config.TrainingConfig,
    config.RANKER_TRAINING,
    choices={"stop_metric": config.RANKER_STOP_METRICS},
)
_WARM_START = config_flags.define(config.WarmStart)


def main() -> None:
    """Turns flags into settings, trains, and says what to run next."""
    model_config, settings = _MODEL_FLAGS.build(), _TRAINING_FLAGS.build()
    if model_config.exclude:
        resolved = ResolvedSpec.load(_EXAMPLES.value)
        declarations.require_known(model_config.exclude, resolved, flag="--exclude")
    from models.ranking import training as ranker_training

    warm = _WARM_START.build()
    result = ranker_training.train(_EXAMPLES.value, _MODEL.value, model_config, settings, warm=warm)
    print(f"Wrote the ranker {_MODEL.value}: {result.summary()}.")
    following = command.shell_line(
        "models.evaluate",
        examples=_EXAMPLES.value,
        candidate_model="CANDIDATE_MODEL",
        ranker_model=_MODEL.value,
        output="EVALUATION",
    )
    print(f"Next: {following}")


if __name__ == "__main__":
    command.run(main)
