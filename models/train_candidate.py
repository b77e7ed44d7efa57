r"""Trains the candidate model on preprocessed examples.

    python -m models.train_candidate --examples=EXAMPLES --model=MODEL

A training that was killed continues when the same command is given again. TensorBoard
summaries are in MODEL.training/tensorboard.
"""

from collections.abc import Sequence

from absl import flags

from features import command, declarations
from features.spec import ResolvedSpec
from models import config
from models.training import huge_pages

_MODEL_DEFAULT = config.CANDIDATE_MODEL
_DEFAULT = config.CANDIDATE_TRAINING

_EXAMPLES = flags.DEFINE_string("examples", None, "What pipeline.preprocess wrote.", required=True)
_MODEL = flags.DEFINE_string("model", None, "Directory to create or replace.", required=True)
_EMBEDDING_DIM = flags.DEFINE_integer(
    "embedding_dim", _MODEL_DEFAULT.embedding_dim, "D, width of query and video embeddings."
)
_DEPTH = flags.DEFINE_integer(
    "depth", _MODEL_DEFAULT.depth, "Hidden ReLU layers, 0 to 4; each twice as wide as the next."
)
_LINEAR_OUTPUT = flags.DEFINE_boolean(
    "linear_output",
    _MODEL_DEFAULT.linear_output,
    "A linear layer on top of the ReLU layers; without it as in the paper.",
)
_ITEM_TO_ITEM = flags.DEFINE_boolean(
    "item_to_item",
    _MODEL_DEFAULT.item_to_item,
    "Add the watched videos' own embeddings to the query's, newest first, with learned weights.",
)
_SPECTRAL_START = flags.DEFINE_boolean(
    "spectral_start",
    _MODEL_DEFAULT.spectral_start,
    "Start embeddings from the factors of how often one video follows another.",
)
_AGE_PIECES = flags.DEFINE_integer(
    "age_pieces",
    _MODEL_DEFAULT.age_pieces,
    "Feed the example age as a piecewise-linear function of so many pieces too; 0: do not.",
)
_VIDEO_CONTENT = flags.DEFINE_boolean(
    "video_content",
    _MODEL_DEFAULT.video_content,
    "Embed videos by id and content, so that new ones have an embedding; without it by id only.",
)
_CONTENT_HIDDEN = flags.DEFINE_integer(
    "content_hidden", _MODEL_DEFAULT.content_hidden, "Hidden units over content; 0: linear."
)
_ID_DROPOUT = flags.DEFINE_float(
    "id_dropout",
    _MODEL_DEFAULT.id_dropout,
    "Chance to train on a video's content alone, as new videos are served.",
)
_SHARE = flags.DEFINE_boolean(
    "share_video_embedding",
    _MODEL_DEFAULT.share_video_embedding,
    "One table for watched videos and softmax rows.",
)
_POPULARITY_BIAS = flags.DEFINE_boolean(
    "popularity_bias", _MODEL_DEFAULT.popularity_bias, "Start biases at the log of label counts."
)
_RECENT_BIASES = flags.DEFINE_boolean(
    "recent_biases",
    _MODEL_DEFAULT.recent_biases,
    "Move biases, after the training, by what was watched of late, as far as the holdout says.",
)
_NORMALISE = flags.DEFINE_boolean(
    "normalise", _MODEL_DEFAULT.normalise, "L2-normalise both embeddings."
)
_TEMPERATURE = flags.DEFINE_float(
    "temperature", _MODEL_DEFAULT.temperature, "Divides the inner products."
)
_POWERS = flags.DEFINE_boolean("powers", _MODEL_DEFAULT.powers, "Feed x^2 and sqrt(x) too.")
_DROPOUT = flags.DEFINE_float("dropout", _MODEL_DEFAULT.dropout, "Of hidden units, in [0, 1).")
_BAG_DROPOUT = flags.DEFINE_float(
    "bag_dropout",
    _MODEL_DEFAULT.bag_dropout,
    "Of the values of a query's bags (watches, searches, ...), in [0, 1).",
)
_EXCLUDE = flags.DEFINE_list("exclude", [], "Names of features not to read, for ablations.")
_LOSS = flags.DEFINE_enum(
    "loss",
    _MODEL_DEFAULT.loss,
    config.CANDIDATE_LOSSES,
    "Softmax over what. hierarchical: a tree, for comparisons; it cannot be released.",
)
_NEGATIVES = flags.DEFINE_integer(
    "negatives", _MODEL_DEFAULT.negatives, "Sampled negatives per step, shared by the batch."
)
_SAMPLER_POWER = flags.DEFINE_float(
    "sampler_power",
    _MODEL_DEFAULT.sampler_power,
    "Negatives follow label counts to this power: 1 background, 0 uniform.",
)
_EPOCHS = flags.DEFINE_integer(
    "epochs", _DEFAULT.epochs, "Passes over the examples, at most; 0: 4 to 20."
)
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
    "patience",
    _DEFAULT.patience,
    "Looks at the holdout without a better one before stopping; 0: by --epochs.",
)
_STOP_METRIC = flags.DEFINE_enum(
    "stop_metric",
    None,
    ["map_at_100", "recall_at_100"],
    "Decides which weights are best. Default: recall; MAP where there are up to 200 videos.",
)
_HOLDOUT_EXAMPLES = flags.DEFINE_integer(
    "holdout_examples", _DEFAULT.holdout_examples, "Holdout examples per look; 0: all."
)
_MEMORY_GB = flags.DEFINE_float(
    "memory_gb", _DEFAULT.memory_gb, "Hold training examples of up to this size in memory."
)
_MIXED_PRECISION = flags.DEFINE_boolean(
    "mixed_precision",
    _DEFAULT.mixed_precision,
    "Multiply in bfloat16 while training; weights, loss and softmax stay in float32.",
)
_WARM_START = flags.DEFINE_string(
    "warm_start",
    None,
    "An older model: ids that its vocabularies have keep their rows, new ones start as new.",
)


def _configs() -> tuple[config.CandidateConfig, config.TrainingConfig]:
    model = config.CandidateConfig(
        embedding_dim=_EMBEDDING_DIM.value,
        depth=_DEPTH.value,
        linear_output=_LINEAR_OUTPUT.value,
        item_to_item=_ITEM_TO_ITEM.value,
        spectral_start=_SPECTRAL_START.value,
        age_pieces=_AGE_PIECES.value,
        video_content=_VIDEO_CONTENT.value,
        content_hidden=_CONTENT_HIDDEN.value,
        id_dropout=_ID_DROPOUT.value,
        share_video_embedding=_SHARE.value,
        popularity_bias=_POPULARITY_BIAS.value,
        recent_biases=_RECENT_BIASES.value,
        normalise=_NORMALISE.value,
        temperature=_TEMPERATURE.value,
        powers=_POWERS.value,
        dropout=_DROPOUT.value,
        bag_dropout=_BAG_DROPOUT.value,
        exclude=tuple(_EXCLUDE.value),
        loss=_LOSS.value,
        negatives=_NEGATIVES.value,
        sampler_power=_SAMPLER_POWER.value,
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
        stop_metric=_STOP_METRIC.value or "",
        holdout_examples=_HOLDOUT_EXAMPLES.value,
        memory_gb=_MEMORY_GB.value,
        mixed_precision=_MIXED_PRECISION.value,
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
    from models.candidate import training as candidate_training

    result = candidate_training.train(
        _EXAMPLES.value,
        _MODEL.value,
        model_config,
        settings,
        warm_start_from=_WARM_START.value,
    )
    print(f"Wrote the candidate model {_MODEL.value}: {result.summary()}.")
    ranker = command.shell_line(
        "models.train_ranker", examples=_EXAMPLES.value, model="RANKER_MODEL"
    )
    evaluation = command.shell_line(
        "models.evaluate",
        examples=_EXAMPLES.value,
        candidate_model=_MODEL.value,
        output="EVALUATION",
    )
    print(f"Next: {ranker}\n  or, of logs without impressions: {evaluation}")


if __name__ == "__main__":
    huge_pages.restart()
    command.run(main)
