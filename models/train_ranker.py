r"""Trains the ranker on preprocessed examples.

    python -m models.train_ranker --examples=EXAMPLES --model=MODEL

A training that was killed continues when the same command is given again. TensorBoard
summaries are in MODEL.training/tensorboard.
"""

from collections.abc import Sequence

from absl import flags

from features import command, declarations
from features.spec import ResolvedSpec
from models import config

_MODEL_DEFAULT = config.RankerConfig()
_DEFAULT = config.RANKER_TRAINING

_EXAMPLES = flags.DEFINE_string("examples", None, "What pipeline.preprocess wrote.", required=True)
_MODEL = flags.DEFINE_string("model", None, "Directory to create or replace.", required=True)
_HIDDEN = flags.DEFINE_list(
    "hidden",
    [str(width) for width in _MODEL_DEFAULT.hidden],
    "Widths of the ReLU layers, bottom first; none: a linear model.",
)
_TOWERS = flags.DEFINE_integer(
    "towers", _MODEL_DEFAULT.towers, "Towers whose expected watch times are averaged."
)
_LOSS = flags.DEFINE_enum(
    "loss",
    _MODEL_DEFAULT.loss,
    config.RANKER_LOSSES,
    "exact: exp(x) is expected watch time at any click rate. weighted: the paper's, for click "
    "rates near 0. logistic: clicks alone.",
)
_TARGET = flags.DEFINE_enum(
    "target",
    _MODEL_DEFAULT.target,
    config.RANKER_TARGETS,
    "What a click weighs. seconds: watched. relative: watched in relation to videos of like "
    "duration, so that long videos do not win by length; expected seconds are mapped back.",
)
_WATCH_CAP_S = flags.DEFINE_float(
    "watch_cap_s", _MODEL_DEFAULT.watch_cap_s, "Watch seconds above it count as it; 0: no cap."
)
_POWERS = flags.DEFINE_boolean("powers", _MODEL_DEFAULT.powers, "Feed x^2 and sqrt(x) too.")
_PAIRWISE = flags.DEFINE_float(
    "pairwise",
    _MODEL_DEFAULT.pairwise,
    "Weight of the loss of pairs of a user's impressions; 0: single impressions alone, as in the "
    "paper.",
)
_WIDE = flags.DEFINE_boolean(
    "wide",
    _MODEL_DEFAULT.wide,
    "One weight per id of the video, its channel, ... beside the tower.",
)
_DROPOUT = flags.DEFINE_float("dropout", _MODEL_DEFAULT.dropout, "Of hidden units, in [0, 1).")
_EXCLUDE = flags.DEFINE_list("exclude", [], "Names of features not to read, for ablations.")
_EPOCHS = flags.DEFINE_integer("epochs", _DEFAULT.epochs, "Passes over the examples, at most.")
_BATCH_SIZE = flags.DEFINE_integer(
    "batch_size", _DEFAULT.batch_size, "Examples per step; 0: by their number, 64 to 1024."
)
_LEARNING_RATE = flags.DEFINE_float("learning_rate", _DEFAULT.learning_rate, "Of dense weights.")
_EMBEDDING_LEARNING_RATE = flags.DEFINE_float(
    "embedding_learning_rate",
    _DEFAULT.embedding_learning_rate,
    "Of embedding tables; 0: as of dense weights.",
)
_DECAY = flags.DEFINE_boolean(
    "decay", _DEFAULT.decay, "Learning rates fall to 0 in a straight line over --epochs."
)
_OPTIMIZER = flags.DEFINE_enum("optimizer", _DEFAULT.optimizer, config.OPTIMIZERS, "Optimizer.")
_EMBEDDING_OPTIMIZER = flags.DEFINE_enum(
    "embedding_optimizer",
    _DEFAULT.embedding_optimizer,
    ["", *config.OPTIMIZERS],
    "Of embedding tables; empty: as of dense weights. adagrad needs two thirds of the memory.",
)
_CLIP_NORM = flags.DEFINE_float(
    "clip_norm", _DEFAULT.clip_norm, "Gradients of a greater global norm are scaled to it; 0: none."
)
_SEED = flags.DEFINE_integer("seed", _DEFAULT.seed, "Of everything random.")
_ROUNDS = flags.DEFINE_integer(
    "evaluations_per_epoch", _DEFAULT.evaluations_per_epoch, "Looks at the holdout per epoch."
)
_PATIENCE = flags.DEFINE_integer(
    "patience", _DEFAULT.patience, "Looks at the holdout without a better one before stopping."
)
_STOP_METRIC = flags.DEFINE_enum(
    "stop_metric",
    "objective",
    ["objective", "log_loss", "per_user_loss"],
    "Decides which weights are best; objective is the training loss, pairs included.",
)
_HOLDOUT_EXAMPLES = flags.DEFINE_integer(
    "holdout_examples", _DEFAULT.holdout_examples, "Holdout examples per look; 0: all."
)
_MEMORY_GB = flags.DEFINE_float(
    "memory_gb", _DEFAULT.memory_gb, "Hold training examples of up to this size in memory."
)


def _configs() -> tuple[config.RankerConfig, config.TrainingConfig]:
    model = config.RankerConfig(
        hidden=config.parse_widths(_HIDDEN.value),
        towers=_TOWERS.value,
        loss=_LOSS.value,
        target=_TARGET.value,
        watch_cap_s=_WATCH_CAP_S.value,
        powers=_POWERS.value,
        pairwise=_PAIRWISE.value,
        wide=_WIDE.value,
        dropout=_DROPOUT.value,
        exclude=tuple(_EXCLUDE.value),
    )
    settings = config.TrainingConfig(
        epochs=_EPOCHS.value,
        batch_size=_BATCH_SIZE.value,
        learning_rate=_LEARNING_RATE.value,
        embedding_learning_rate=_EMBEDDING_LEARNING_RATE.value,
        decay=_DECAY.value,
        optimizer=_OPTIMIZER.value,
        embedding_optimizer=_EMBEDDING_OPTIMIZER.value,
        clip_norm=_CLIP_NORM.value,
        seed=_SEED.value,
        evaluations_per_epoch=_ROUNDS.value,
        patience=_PATIENCE.value,
        stop_metric=_STOP_METRIC.value,
        holdout_examples=_HOLDOUT_EXAMPLES.value,
        memory_gb=_MEMORY_GB.value,
    )
    return model, settings


def main(argv: Sequence[str]) -> None:
    """Turns flags into settings, trains, and says what to run next."""
    del argv
    try:
        model_config, settings = _configs()
    except ValueError as error:
        raise command.InputError(str(error)) from None
    if _EXCLUDE.value:
        resolved = ResolvedSpec.load(_EXAMPLES.value)
        declarations.require_known(_EXCLUDE.value, resolved, flag="--exclude")
    command.quiet_tensorflow()
    from models.ranking import training as ranker_training

    result = ranker_training.train(_EXAMPLES.value, _MODEL.value, model_config, settings)
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
    command.run(main, reads=("examples",), writes=("model",))
