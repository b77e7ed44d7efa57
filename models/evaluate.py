r"""Both models on the holdout, beside their baselines, with intervals.

    python -m models.evaluate --examples=examples --candidate_model=candidate_model \
        --ranker_model=ranker --output=evaluation

Writes metrics.json (every figure with value, low, high, n) and report.html. A model that is not
given is left out; its baselines are measured all the same.
"""

from collections.abc import Sequence

from absl import flags, logging

from features import command
from models.evaluation import config as evaluation_config
from models.evaluation import protocols

_DEFAULT = evaluation_config.EvaluationConfig()
_EXAMPLES = flags.DEFINE_string("examples", None, "What pipeline.preprocess wrote.", required=True)
_CANDIDATE_MODEL = flags.DEFINE_string(
    "candidate_model", None, "What models.train_candidate wrote."
)
_RANKER_MODEL = flags.DEFINE_string("ranker_model", None, "What models.train_ranker wrote.")
_OUTPUT = flags.DEFINE_string("output", None, "Directory to write.", required=True)
_K = flags.DEFINE_list("k", [str(k) for k in _DEFAULT.ks], "Cut-offs of recall.")
_EXCLUDE_WATCHED = flags.DEFINE_bool(
    "exclude_watched",
    _DEFAULT.exclude_watched,
    "Never recommend what the user watched; a holdout watch of such a video is then a miss.",
)
_MAX_QUERIES = flags.DEFINE_integer(
    "max_queries",
    _DEFAULT.max_queries,
    "Holdout watches to measure retrieval on, drawn at random; 0 for all.",
    lower_bound=0,
)
_SEED = flags.DEFINE_integer("seed", _DEFAULT.seed, "Of draws, resamples and learned baselines.")
_BOOTSTRAP = flags.DEFINE_integer(
    "bootstrap", _DEFAULT.replicates, "Resamples of users behind an interval.", lower_bound=1
)
_FACTORISATION = flags.DEFINE_bool(
    "factorisation",
    _DEFAULT.factorisation,
    "Fits matrix factorisations too: WARP, and ALS and BPR (the extra factorisation).",
)
_LIVE = flags.DEFINE_bool(
    "live", _DEFAULT.live, "Measures popularity as of each query too, which sees the holdout."
)
_LINEAR = flags.DEFINE_bool(
    "linear", _DEFAULT.linear, "Trains linear ranking baselines, on watch time and on clicks."
)
_PROTOCOL = flags.DEFINE_enum(
    "protocol",
    _DEFAULT.protocol,
    ["", *protocols.PROTOCOLS],
    "Measures as figures of a public data set are published; decides --k, --exclude_watched and "
    "--max_queries.",
)
_GBDT = flags.DEFINE_bool(
    "gbdt", _DEFAULT.gbdt, "Trains boosted trees, on watch time and clicks (the extra gbdt)."
)


def main(argv: Sequence[str]) -> None:
    """Turns flags into a config, loads the models, measures and writes."""
    del argv
    config = _config()
    command.quiet_tensorflow()
    from models.evaluation import evaluation, report

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


def _config() -> evaluation_config.EvaluationConfig:
    try:
        return evaluation_config.EvaluationConfig(
            ks=tuple(int(k) for k in _K.value),
            exclude_watched=_EXCLUDE_WATCHED.value,
            max_queries=_MAX_QUERIES.value,
            replicates=_BOOTSTRAP.value,
            seed=_SEED.value,
            factorisation=_FACTORISATION.value,
            live=_LIVE.value,
            linear=_LINEAR.value,
            gbdt=_GBDT.value,
            protocol=_PROTOCOL.value,
        )
    except ValueError as error:
        raise command.InputError(f"cannot evaluate with these flags: {error}") from None


if __name__ == "__main__":
    command.run(main)
