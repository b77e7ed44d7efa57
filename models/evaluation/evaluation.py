"""Both stages on the holdout beside their baselines: figures with intervals, ready for a report.

Every figure has a key ``<part>.<system>.<slice>.<metric>``, for example
``candidate.model.all.recall_at_100`` or ``ranker.model_minus_trees.all.weighted_per_user_loss``.
"""

import dataclasses
import json
import math
import pathlib
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow.dataset as ds
from absl import logging

from features import command, dataset, files, reports, spec
from features.catalogue import Catalogue
from features.screen import progress
from features.spec import ResolvedSpec
from models.baselines import boosted_trees, live_popularity, rank_factorisation
from models.baselines import implicit as implicit_baselines
from models.baselines import ranking as ranking_baselines
from models.baselines import retrieval as baselines
from models.evaluation import heads as head_evaluation
from models.evaluation import metrics, protocols
from models.evaluation import ranking as ranking_evaluation
from models.evaluation import retrieval as retrieval_evaluation
from models.evaluation.config import EvaluationConfig, RetrievalConfig
from models.evaluation.intervals import Bootstrap, Figure, Sheet
from models.evaluation.retrieval import MODEL, CandidateModel, Embeddings

METRICS_FILE = "metrics.json"
REPORT_FILE = "report.html"
# Learned ranking baselines train on at most this many examples, drawn at random.
MAX_BASELINE_EXAMPLES = 1_000_000


@dataclasses.dataclass(kw_only=True)
class Evaluation:
    """All that was measured.

    Attributes:
        settings: Settings of the evaluation.
        data: Counts of the holdout and of the corpus, and the end of training.
        figures: Figures by key.
        calibration: Names of the groups of impressions that calibration looks at, in order, by
            ``decile`` of the expectation, ``duration`` and ``position``.
        heads: Names of the deciles of the probability that each kind of feedback has.
        notes: Sentences that a reader must know: parts that could not be measured, inferred pages.
        training: Rounds of the training of ``candidate`` and ``ranker``, for learning curves.
    """

    settings: dict[str, Any]
    data: dict[str, Any] = dataclasses.field(default_factory=dict)
    figures: dict[str, Figure] = dataclasses.field(default_factory=dict)
    calibration: dict[str, list[str]] = dataclasses.field(default_factory=dict)
    heads: dict[str, list[str]] = dataclasses.field(default_factory=dict)
    notes: list[str] = dataclasses.field(default_factory=list)
    training: dict[str, list[dict[str, Any]]] = dataclasses.field(default_factory=dict)

    def systems(self, part: str) -> list[str]:
        """Returns the systems of ``candidate`` or ``ranker``, the model first, then best first."""
        metric = self.main_metric(part)
        costs = {}
        for key, figure in self.figures.items():
            of_part, system, slice_name, name = key.split(".")
            if (of_part, slice_name, name) == (part, "all", metric) and "_minus_" not in system:
                costs[system] = figure.value if part == "ranker" else -figure.value
        return sorted(costs, key=lambda system: (system != MODEL, costs[system], system))

    def main_metric(self, part: str) -> str:
        """Returns the metric that decides: recall at about 100, or the per-user loss."""
        if part == "ranker":
            return "weighted_per_user_loss"
        return f"recall_at_{RetrievalConfig(ks=tuple(self.settings['k'])).main_k}"

    def slices(self, part: str) -> list[str]:
        """Returns the slices of a part, ``all`` first."""
        names = {key.split(".")[2] for key in self.figures if key.startswith(f"{part}.")}
        groups = {name for of_system in self.calibration.values() for name in of_system}
        return sorted(names - groups, key=lambda name: (name != "all", name))

    def to_json(self) -> str:
        """Returns the text of metrics.json."""
        document = {
            "format": 1,
            "measured": reports.stamp(),
            "settings": self.settings,
            "data": self.data,
            "notes": self.notes,
            "training": self.training,
            "figures": {key: figure.to_json() for key, figure in self.figures.items()},
        }
        return json.dumps(document, indent=1, allow_nan=False) + "\n"


def evaluate(
    examples_dir: str | pathlib.Path,
    *,
    candidate_model: CandidateModel | None,
    ranker: ranking_evaluation.Ranker | None,
    config: EvaluationConfig,
) -> Evaluation:
    """Measures what is there; a part without holdout examples leaves a note instead.

    Args:
        examples_dir: Directory that pipeline.preprocess wrote.
        candidate_model: Candidate model; None measures the retrieval baselines alone.
        ranker: Ranker; None measures the ranking baselines alone.
        config: Settings of the evaluation.
    """
    info = dataset.info(examples_dir)
    notes = []
    if config.protocol:
        protocol = protocols.require_fit(config.protocol, info)
        config = dataclasses.replace(
            config, ks=protocol.ks, exclude_watched=protocol.exclude_watched, max_queries=0
        )
        notes.append(f"Protocol of {protocol.note}.")
    settings = dataclasses.asdict(config)
    settings["k"] = list(settings.pop("ks"))
    result = Evaluation(settings=settings, notes=notes)
    result.data.update(
        {name: info[name] for name in ("from_s", "until_s", "train_until_s") if name in info}
    )
    examples = _Examples(directory=pathlib.Path(examples_dir), info=info, config=config)
    with progress.shown("evaluate"):
        _evaluate_retrieval(examples, candidate_model, result)
        _evaluate_ranking(examples, ranker, result)
    for note in result.notes:
        logging.warning("%s", note)
    return result


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Examples:
    """Where the examples are, what preprocess recorded of them, and how to measure on them."""

    directory: pathlib.Path
    info: Mapping[str, Any]
    config: EvaluationConfig

    def drawn(self, queries: baselines.Queries) -> np.ndarray:
        """Returns the rows of the queries to measure on, ascending."""
        if self.config.protocol and protocols.PROTOCOLS[self.config.protocol].last_of_user:
            return last_of_users(queries)
        most = self.config.max_queries or len(queries)
        if len(queries) <= most:
            return np.arange(len(queries))
        rng = np.random.default_rng(self.config.seed)
        return np.sort(rng.choice(len(queries), most, replace=False))

    def bootstrap(self, user_codes: metrics.Ints) -> Bootstrap:
        return Bootstrap(
            num_users=int(user_codes.max(initial=-1)) + 1,
            replicates=self.config.replicates,
            seed=self.config.seed,
        )


def read_catalogue(examples_dir: pathlib.Path) -> Catalogue:
    """Reads examples/videos; row i is row i of every video array."""
    parts = [str(path) for path in sorted((examples_dir / "videos").glob("*.parquet"))]
    if not parts:
        raise command.InputError(
            f"{examples_dir}/videos has no Parquet file; run python -m pipeline.preprocess again."
        )
    return Catalogue(ds.dataset(parts, format="parquet").to_table())


# ---- candidate generation


def _evaluate_retrieval(
    examples: _Examples, model: CandidateModel | None, result: Evaluation
) -> None:
    config = examples.config
    catalogue = read_catalogue(examples.directory)
    queries = baselines.read_queries(examples.directory, "holdout", catalogue)
    train = baselines.read_queries(examples.directory, "train", catalogue)
    result.data |= {"videos": len(catalogue), "candidate_holdout_examples": len(queries)}
    if not len(queries):
        result.notes.append(
            "The holdout has no candidate examples, so candidate generation was not measured. "
            "Keep days out of training: python -m pipeline.preprocess --holdout_days=1"
        )
        return
    settings = RetrievalConfig(
        ks=config.ks, exclude_watched=config.exclude_watched, ndcg=bool(config.protocol)
    )
    progress.at("fitting the retrieval baselines")
    fitted = _retrieval_baselines(examples, train, queries, catalogue)
    embeddings = None
    if model is None:
        result.notes.append("No candidate model was given: retrieval shows the baselines alone.")
        queries = queries.take(examples.drawn(queries))
    else:
        embeddings, queries = _embed(examples, model, queries)
    ranked = retrieval_evaluation.rank_all(
        fitted, embeddings, queries, catalogue=catalogue, settings=settings
    )
    user_codes = metrics.codes_of(queries.user_ids)
    sheet = Sheet()
    retrieval_evaluation.measure(
        ranked,
        queries,
        retrieval_evaluation.slices(queries, train, catalogue),
        settings=settings,
        user_codes=user_codes,
        sheet=sheet,
    )
    result.data |= {
        "candidate_queries": len(queries),
        "candidate_users": int(user_codes.max()) + 1,
        "candidate_labels_outside_the_catalogue": int((queries.label_rows < 0).sum()),
        "candidate_training_examples": len(train),
    }
    if embeddings is not None and not embeddings.embeddable.all():
        result.notes.append(
            f"The model has no embedding for {int((~embeddings.embeddable).sum()):,} of "
            f"{len(catalogue):,} videos; they count as never recommended."
        )
    result.figures |= sheet.figures(examples.bootstrap(user_codes))


def last_of_users(queries: baselines.Queries) -> np.ndarray:
    """Returns the rows of the last query of each user, ascending."""
    order = np.lexsort((queries.times, queries.user_ids))
    users = queries.user_ids[order]
    return np.sort(order[np.append(users[1:] != users[:-1], True)])


def _retrieval_baselines(
    examples: _Examples,
    train: baselines.Queries,
    holdout: baselines.Queries,
    catalogue: Catalogue,
) -> list[baselines.Baseline]:
    config = examples.config
    until_s = int(examples.info["train_until_s"])
    fitted = baselines.fit_all(train, catalogue, train_until_s=until_s)
    order = baselines.popularity_order(train, catalogue)
    if config.factorisation:
        settings = rank_factorisation.WarpConfig(seed=config.seed)
        fitted.append(rank_factorisation.fit(train, order, settings))
        fitted += implicit_baselines.fit_all(train, order, seed=config.seed)
    if config.live:
        fitted += live_popularity.fit_all(train, holdout, order)
    return fitted


def _embed(
    examples: _Examples, model: CandidateModel, queries: baselines.Queries
) -> tuple[Embeddings, baselines.Queries]:
    """Returns both towers' embeddings, and the drawn queries in the order of theirs."""
    progress.at("reading the holdout")
    started = time.monotonic()
    arrays = dataset.load(examples.directory, spec.CANDIDATE, "holdout")
    queries = retrieval_evaluation.aligned(queries, arrays)
    rows = examples.drawn(queries)
    embeddings = retrieval_evaluation.embed(
        model,
        ResolvedSpec.load(examples.directory),
        query_features={name: values[rows] for name, values in arrays.items()},
        video_features=dataset.videos(examples.directory),
    )
    logging.info(
        "embedded %d queries and %d videos in %.1f s",
        len(embeddings.queries),
        len(embeddings.videos),
        time.monotonic() - started,
    )
    return embeddings, queries.take(rows)


# ---- ranking


def _evaluate_ranking(
    examples: _Examples, model: ranking_evaluation.Ranker | None, result: Evaluation
) -> None:
    if not examples.info.get("has_ranking"):
        cause = examples.info.get("no_ranking") or "the logs have no impressions"
        result.notes.append(f"There is no ranker to measure: {cause}.")
        return
    resolved = ResolvedSpec.load(examples.directory)
    arrays = dataset.load(examples.directory, spec.RANKER, "holdout")
    result.data["ranker_impressions"] = len(arrays["clicked"])
    if not len(arrays["clicked"]):
        result.notes.append(
            "The holdout has no ranking examples, so ranking was not measured. "
            "Keep days out of training: python -m pipeline.preprocess --holdout_days=1"
        )
        return
    impressions = ranking_evaluation.Impressions.of(arrays)
    systems = []
    if model is None:
        result.notes.append("No ranker was given: ranking shows the baselines alone.")
    else:
        systems.append(ranking_evaluation.score_with_ranker(model, resolved, impressions))
    systems += _ranking_baselines(examples, resolved, arrays, result)
    sheet = Sheet()
    categories = []
    if any(f.space == "category" for f in resolved.of(spec.RANKER)):
        categories = dataset.vocabulary(examples.directory, spec.RANKER, "category")
    masks = ranking_evaluation.slices(resolved, impressions, categories)
    ranking_evaluation.measure(systems, impressions, masks, sheet)
    if model is not None:
        result.calibration = ranking_evaluation.calibrate(systems[0], resolved, impressions, sheet)
    if resolved.feedback and isinstance(model, head_evaluation.Ranker):
        probabilities = head_evaluation.predict(model, resolved, impressions)
        result.heads = head_evaluation.measure(probabilities, impressions, sheet)
    result.figures |= sheet.figures(examples.bootstrap(impressions.user_codes))
    _describe_impressions(impressions, result)


def _describe_impressions(impressions: ranking_evaluation.Impressions, result: Evaluation) -> None:
    result.data |= {
        "ranker_users": int(impressions.user_codes.max()) + 1,
        "ranker_pages": int(impressions.pages.max()) + 1,
        "ranker_click_rate": float(impressions.clicked.mean()),
        "ranker_mean_watch_time_s": float(impressions.watch_time_s.mean()),
    }
    if impressions.pages_are_inferred:
        result.notes.append(
            "Some impressions have no page_id: their pages end at pauses of 30 minutes."
        )
    if math.isnan(result.figures["ranker.chance.all.weighted_per_user_loss"].value):
        result.notes.append(
            "No page has both a clicked and an unclicked impression, so the weighted, per-user "
            "loss could not be measured."
        )


def _ranking_baselines(
    examples: _Examples, resolved: ResolvedSpec, holdout: Mapping[str, Any], result: Evaluation
) -> list[ranking_baselines.Scores]:
    config = examples.config
    fits = [ranking_baselines.linear] if config.linear else []
    if config.gbdt and boosted_trees.available():
        fits.append(boosted_trees.fit)
    elif config.gbdt:
        result.notes.append(
            "Boosted trees were asked for but NOT measured: lightgbm is not installed. "
            f"{boosted_trees.INSTALL}"
        )
    columns = None if fits else ("label_video_id", "clicked", "watch_time_s", "time")
    rows = int(examples.info.get("counts", {}).get("ranker_train", 0))
    train = _sample(examples.directory, rows, columns, seed=config.seed)
    systems = [ranking_baselines.chance(holdout)]
    systems += ranking_baselines.video_averages(train, holdout)
    for fit in fits:
        progress.at("training a ranking baseline")
        started = time.monotonic()
        systems.append(fit(resolved, train, holdout, seed=config.seed))
        logging.info("trained %s in %.1f s", systems[-1].name, time.monotonic() - started)
    return systems


def _sample(
    examples_dir: pathlib.Path, rows: int, columns: tuple[str, ...] | None, *, seed: int
) -> dict[str, np.ndarray]:
    """Reads the ranker's training examples, a random share of a split that is large."""
    if rows <= MAX_BASELINE_EXAMPLES:
        return dataset.load(examples_dir, spec.RANKER, "train", columns)
    rng = np.random.default_rng(seed)
    parts: dict[str, list[np.ndarray]] = {}
    data = dataset.batches(examples_dir, spec.RANKER, "train", batch_size=4096, columns=columns)
    for batch in data.as_numpy_iterator():
        kept = rng.random(len(batch["clicked"])) < MAX_BASELINE_EXAMPLES / rows
        for name, values in batch.items():
            parts.setdefault(name, []).append(values[kept])
    return {name: np.concatenate(values) for name, values in parts.items()}


def write(result: Evaluation, output_dir: str | pathlib.Path, report: str) -> None:
    """Writes metrics.json and report.html, whole or not at all, and marks them complete."""
    with files.atomic_directory(output_dir) as directory:
        files.atomic_write(directory / METRICS_FILE, result.to_json())
        files.atomic_write(directory / REPORT_FILE, report)
        files.mark_complete(directory, {"settings": result.settings, "data": result.data})
