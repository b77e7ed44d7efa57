r"""Trains the candidate model on preprocessed examples.

    python -m models.train_candidate --examples=EXAMPLES --model=MODEL

A training that was killed continues when the same command is given again. TensorBoard
summaries are in MODEL.training/tensorboard.

    python -m models.train_candidate --examples=EXAMPLES --model=MODEL --follow=OLDER

takes a model further, as pipeline.follow does every few minutes: it learns what is newer in its
examples, is measured on their last hour (MODEL.measured), and then learns that, too (MODEL).
"""

from features import command, config_flags, declarations
from features.spec import ResolvedSpec
from models import config
from models.training import huge_pages

_EXAMPLES = config_flags.path("examples", "reads", "What pipeline.preprocess wrote.", required=True)
_MODEL = config_flags.path("model", "writes", "Directory to create or replace.", required=True)
_MODEL_FLAGS = config_flags.define(config.CandidateConfig, config.CANDIDATE_MODEL)
_TRAINING_FLAGS = config_flags.define(
    config.TrainingConfig,
    config.CANDIDATE_TRAINING,
    choices={"stop_metric": ("", *config.CANDIDATE_STOP_METRICS)},
)
_WARM_START = config_flags.define(config.WarmStart)

_FOLLOW = config_flags.path(
    "follow",
    "reads",
    "A model that is taken further, by its own settings, on examples of pipeline.follow: what it "
    "was before is --model.measured of the last time.",
)


def main() -> None:
    """Turns flags into settings, trains, and says what to run next."""
    model_config, settings = _MODEL_FLAGS.build(), _TRAINING_FLAGS.build()
    if model_config.exclude:
        resolved = ResolvedSpec.load(_EXAMPLES.value)
        declarations.require_known(model_config.exclude, resolved, flag="--exclude")
    if _FOLLOW.value:
        _follow()
        return
    from models.candidate import training as candidate_training

    result = candidate_training.train(
        _EXAMPLES.value,
        _MODEL.value,
        model_config,
        settings,
        warm=_WARM_START.build(),
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


def _follow() -> None:
    from models.candidate import following

    measured = f"{_MODEL.value.rstrip('/')}.measured"
    facts = following.follow(_EXAMPLES.value, _FOLLOW.value, _MODEL.value, measured)
    print(
        f"Wrote {_MODEL.value}, which serves, and {measured}, which goes on: {facts['steps']} and "
        f"{facts['serving_steps']} steps; recall@100 of the last hour {facts['recall']:.4f}."
    )


if __name__ == "__main__":
    huge_pages.restart()
    command.run(main)
