r"""Both models on the holdout, beside their baselines, with intervals.

    python -m models.evaluate --examples=examples --candidate_model=candidate_model \
        --ranker_model=ranker --output=evaluation

Writes metrics.json (every figure with value, low, high, n) and report.html. A model that is not
given is left out; its baselines are measured all the same.
"""

from absl import logging

from features import command, config_flags
from models.evaluation import config as evaluation_config

_EXAMPLES = config_flags.path("examples", "reads", "What pipeline.preprocess wrote.", required=True)
_CANDIDATE_MODEL = config_flags.path(
    "candidate_model", "reads", "What models.train_candidate wrote."
)
_RANKER_MODEL = config_flags.path("ranker_model", "reads", "What models.train_ranker wrote.")
_OUTPUT = config_flags.path("output", "writes", "Directory to write.", required=True)
_SETTINGS = config_flags.define(evaluation_config.EvaluationConfig)


def main() -> None:
    """Turns flags into a config, loads the models, measures and writes."""
    config = _SETTINGS.build()
    from models.evaluation import evaluation, report
    from models.training import saved

    candidate_model = ranker = None
    if _CANDIDATE_MODEL.value:
        from models.candidate import model as candidate_models

        candidate_model = candidate_models.load(_CANDIDATE_MODEL.value, _EXAMPLES.value)
    if _RANKER_MODEL.value:
        from models.ranking import model as rankers

        ranker = rankers.load(_RANKER_MODEL.value, _EXAMPLES.value)
    result = evaluation.evaluate(
        _EXAMPLES.value, candidate_model=candidate_model, ranker=ranker, config=config
    )
    given = {
        "examples": _EXAMPLES.value,
        "candidate_model": _CANDIDATE_MODEL.value,
        "ranker_model": _RANKER_MODEL.value,
    }
    result.settings = {**given, **result.settings}
    models = {"candidate": _CANDIDATE_MODEL.value, "ranker": _RANKER_MODEL.value}
    result.training = {part: saved.read_history(path) for part, path in models.items() if path}
    evaluation.write(result, _OUTPUT.value, report.html_page(result))
    logging.flush()
    print(f"\n{report.text(result)}\n")
    print(f"Wrote {_OUTPUT.value}: {evaluation.METRICS_FILE}, {evaluation.REPORT_FILE}")
    with_ranker = {"ranker_model": _RANKER_MODEL.value} if _RANKER_MODEL.value else {}
    following = command.shell_line(
        "serving.build_release",
        examples=_EXAMPLES.value,
        candidate_model=_CANDIDATE_MODEL.value or "CANDIDATE_MODEL",
        **with_ranker,
        metrics=_OUTPUT.value,
        serving_root="SERVING_ROOT",
    )
    print(f"Next: {following}")


if __name__ == "__main__":
    command.run(main)
