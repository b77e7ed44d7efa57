"""Videos that training has never seen, with and without vectors of what they are like.

Both models are trained on the very same examples, as models.train_candidate would train them; the
one leaves out every vector of videos, also of those that a user watched.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from features import spec
from features.catalogue import UPLOAD_TIME
from features.charts import Plot
from features.spec import Kind, ResolvedSpec
from models.config import MAP, RECALL
from models.evaluation import metrics, retrieval
from models.evaluation.retrieval import Ranked
from models.paper import experiments
from models.paper.experiments import Experiment, Make, Row, Setting
from models.paper.retrieval_lab import Lab, Trained, sentences, values_of

_WITH, _WITHOUT = "with vectors", "without vectors"
_ALIKE = "without vectors, ids dropped as often"
_AGELESS = "with vectors, without the bias by age"
_SLICES = {"new videos": True, "other videos": False}


def content_vectors(setting: Setting) -> Experiment:
    """Recall of new and of other videos."""
    lab = Lab(setting)
    features = ResolvedSpec.load(lab.examples).of(spec.CANDIDATE)
    names = tuple(feature.name for feature in features if feature.kind is Kind.VECTOR)
    if not names:
        raise experiments.NotApplicableError("the logs declare no vector, see docs/features.md.")
    is_new = lab.masks.get("videos_new_since_training")
    if is_new is None:
        raise experiments.NotApplicableError("no holdout watch is of a video new since training.")
    masks = {name: is_new == new for name, new in _SLICES.items()}
    models: Mapping[str, Mapping[str, Any]] = {
        _WITHOUT: {"exclude": names},
        _ALIKE: {"exclude": names, "id_dropout": 0.4},
        _WITH: {},
    }
    rows: list[Row] = []
    changes: list[Row] = []
    for seed in setting.seeds:
        trained = {n: lab.train(seed=seed, as_shipped=True, **f) for n, f in models.items()}
        ranked = {name: lab.rank(one) for name, one in trained.items()}
        trained[_AGELESS] = trained[_WITH]
        ranked[_AGELESS] = _without_age(lab, trained[_WITH])
        for name, one in ranked.items():
            rows += lab.rows(name, one, trained=trained[name], slices=masks)
        changes += _changes(lab, ranked, masks, seed=seed)
    shown = {s: f"{RECALL}:{s}" for s in masks}
    return Experiment(
        name="content_vectors",
        title="Videos that training has never seen, with and without vectors",
        question="What do vectors of videos bring, above all for videos that no training example "
        "has, and do they cost anything for the others? Beside what metadata say already: channel, "
        "topics, language, duration.",
        paper="uses id rows; fresh videos come in by retraining often.",
        settings=lab.settings(vectors=names, models={n: dict(f) for n, f in models.items()}),
        rows=[*rows, *changes],
        plots=[Plot.bars(rows, [*models, _AGELESS], shown, y_label="recall@100 on the next day")],
        # A ratio is told apart from 1, not from 0.
        conclusion=sentences([row for row in changes if " minus " in row.setting]),
    )


def _without_age(lab: Lab, trained: Trained) -> Ranked:
    """Ranks with the model that was trained last, the one with vectors, but for what age adds."""
    timeless = {name: array for name, array in lab.videos.items() if name != UPLOAD_TIME}
    embeddings = retrieval.embed(
        lab.open(trained),
        ResolvedSpec.load(lab.examples),
        query_features=lab.features,
        video_features=timeless,
    )
    return lab.rank_embeddings(embeddings)


def _changes(
    lab: Lab,
    ranked: Mapping[str, Ranked],
    masks: Mapping[str, npt.NDArray[np.bool_]],
    *,
    seed: int,
) -> list[Row]:
    """Returns what vectors change: differences, and of recall how many times it is."""
    rows = []
    for other in (_WITHOUT, _ALIKE, _AGELESS):
        for name, mask in masks.items():
            for metric in (MAP, RECALL):
                rows.append(
                    lab.difference(
                        f"{_WITH} minus {other}",
                        ranked[_WITH],
                        ranked[other],
                        metric=metric,
                        where=mask,
                        label=name,
                        seed=seed,
                    )
                )
            rows.append(_ratio(lab, ranked, other, mask, label=name, seed=seed))
    return rows


def _ratio(
    lab: Lab,
    ranked: Mapping[str, Ranked],
    other: str,
    mask: npt.NDArray[np.bool_],
    *,
    label: str,
    seed: int,
) -> Row:
    sums = [
        metrics.sums_by_user(
            values_of(ranked[name])[RECALL], lab.user_codes, lab.num_users, where=mask
        )
        for name in (_WITH, other)
    ]
    bootstrap = lab.bootstrap()
    draws = bootstrap.replicates_of(sums)
    with np.errstate(divide="ignore", invalid="ignore"):
        value = np.divide(sums[0].value, sums[1].value)
        interval = bootstrap.summary(float(value), draws[:, 0] / draws[:, 1])
    n = int(mask.sum())
    return Row.of(f"{_WITH} over {other}", f"{RECALL}:{label}", interval, seed=seed, n=n)


EXPERIMENTS: Mapping[str, Make] = {"content_vectors": content_vectors}
