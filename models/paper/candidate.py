"""Section 3 of the paper again: Figures 4, 5 and 6, and the choices that the text argues for."""

import json
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.dataset as ds

from features import spec
from features.charts import BARS, LINES, Plot, Series
from features.spec import ResolvedSpec, Side
from models.config import MAP, RECALL
from models.evaluation import metrics
from models.paper import choices, experiments, freshness, references
from models.paper.experiments import Experiment, Make, NotApplicableError, Row, Setting
from models.paper.retrieval_lab import (
    PAPER,
    Lab,
    Trained,
    find,
    sentences,
    values_of,
    verdict,
)

_WATCHES = ("watched_video_ids",)
# The sets of Figure 6, each with what it adds; the last one has every query feature.
_FEATURE_SETS: Mapping[str, Sequence[str]] = {
    "watches only": _WATCHES,
    "watches, searches": (*_WATCHES, "search_tokens"),
    "watches, searches, example age": (*_WATCHES, "search_tokens", "example_age_s"),
    "all features": (),
}
_DEPTHS = {experiments.SHORT: (0, 1), experiments.FULL: (0, 1, 2, 3, 4)}
_PER_USER_K = {experiments.SHORT: 4, experiments.FULL: 8}
_LAST_SEARCH = json.dumps(
    [
        {
            "name": "ordered_search_tokens",
            "kind": "multivalent",
            "side": "query",
            "models": ["candidate"],
            "source": "history.last_search_tokens",
            "space": "search_token",
            "max_length": 8,
        }
    ]
)


# ---- Figure 6


def figure_6(setting: Setting) -> Experiment:
    """Features by depth."""
    lab = Lab(setting)
    offered = [f.name for f in ResolvedSpec.load(lab.examples).of(spec.CANDIDATE, Side.QUERY)]
    depths, sets = _DEPTHS[setting.mode], _applicable_sets(offered)
    if not setting.is_full:
        sets = {name: sets[name] for name in (next(iter(sets)), list(sets)[-1])}
    rows: list[Row] = []
    ranked = {}
    for name, included in sets.items():
        exclude = tuple(f for f in offered if included and f not in included)
        for depth in depths:
            for seed in setting.seeds:
                trained = lab.train(seed=seed, depth=depth, exclude=exclude, **PAPER)
                result = lab.rank(trained)
                ranked[name, depth, seed] = result
                rows += lab.rows(f"{name}, depth {depth}", result, trained=trained)
    names = list(sets)
    seed, deepest = setting.seeds[0], depths[-1]
    first, last = names[0], names[-1]
    features = lab.difference(
        f"{last} minus {first}, depth {deepest}",
        ranked[last, deepest, seed],
        ranked[first, deepest, seed],
        seed=seed,
    )
    depth_gain = {
        name: lab.difference(
            f"depth {deepest} minus depth 0, {name}",
            ranked[name, deepest, seed],
            ranked[name, 0, seed],
            seed=seed,
        )
        for name in names
    }
    rows += [features, *depth_gain.values()]
    best = max(
        (r for r in rows if r.metric == MAP and " minus " not in r.setting), key=lambda r: r.value
    )
    return Experiment(
        name="figure_6",
        title="Figure 6: features and depth",
        question="Do features beyond watches raise the MAP of the next watch, and does depth "
        "let the model use them?",
        paper="both do: each set of features is above the one before it, and depth raises them "
        "all, the richer sets the most. The figure prints bars, no numbers.",
        settings=lab.settings(
            features={n: list(s) or offered for n, s in sets.items()},
            **PAPER,
        ),
        rows=rows,
        plots=[_by_depth(rows, names, depths, seed=seed)],
        conclusion=f"Best: {best.setting}, MAP@100 {best}. {features.setting}: {features}, "
        f"{verdict(features)}. "
        + "; ".join(f"{row.setting}: {row}, {verdict(row)}" for row in depth_gain.values())
        + ".",
    )


def _by_depth(
    rows: Sequence[Row], names: Sequence[str], depths: Sequence[int], *, seed: int
) -> Plot:
    """Draws a line for each set of features."""
    return Plot(
        kind=LINES,
        x_label="hidden layers",
        y_label="MAP@100 on the next day",
        series=[
            Series.of_rows(name, depths, [find(rows, f"{name}, depth {d}", seed) for d in depths])
            for name in names
        ],
    )


def _applicable_sets(offered: Sequence[str]) -> dict[str, Sequence[str]]:
    """Leaves out sets that add nothing here, such as searches where the logs have none."""
    sets: dict[str, Sequence[str]] = {}
    for name, included in _FEATURE_SETS.items():
        have = tuple(f for f in included if f in offered)
        if have not in sets.values() or not included:
            sets[name] = have
    return sets


# ---- two ways of making examples


def figure_5(setting: Setting) -> Experiment:
    """Next watch against held-out watch."""
    labs = {
        "held-out watch (5a)": Lab(
            setting, setting.variant("held-out", "--label=held_out", candidate_only=True)
        ),
        "next watch (5b)": Lab(setting),
    }
    rows, plots, changes = _compared(setting, labs)
    return Experiment(
        name="figure_5",
        title="Figure 5: next watch or held-out watch",
        question="Is a model better that was trained to predict a random held-out watch from all "
        "others (which leaks the future), or the next watch from those before it?",
        paper="much better performance predicting the next watch (A/B test, no number).",
        settings=labs["next watch (5b)"].settings(),
        rows=rows,
        plots=plots,
        conclusion=f"{sentences(changes)}",
    )


def examples_per_user(setting: Setting) -> Experiment:
    """A fixed number of examples per user against all watches."""
    k = _PER_USER_K[setting.mode]
    labs = {
        "all watches": Lab(
            setting, setting.variant("all", "--examples_per_user=0", candidate_only=True)
        ),
        f"{k} a user": Lab(
            setting, setting.variant("fixed", f"--examples_per_user={k}", candidate_only=True)
        ),
    }
    rows, plots, changes = _compared(setting, labs, per_user=True)
    counts = {name: len(lab.train_queries) for name, lab in labs.items()}
    return Experiment(
        name="examples_per_user",
        title="A fixed number of training examples per user",
        question="Does weighting users equally help? Measured per watch, and with each user "
        "counting once.",
        paper="improved live metrics; keeps a small cohort of highly active users from "
        "dominating the loss.",
        settings=labs["all watches"].settings(training_examples_by_setting=counts),
        rows=rows,
        plots=plots,
        conclusion=f"With {counts} training examples. {sentences(changes)}",
    )


def _compared(
    setting: Setting, labs: Mapping[str, Lab], *, per_user: bool = False
) -> tuple[list[Row], list[Plot], list[Row]]:
    """Trains the product's model in each of two labs; the second one is the paper's choice."""
    rows: list[Row] = []
    changes: list[Row] = []
    (base, paper) = labs
    for seed in setting.seeds:
        ranked = {}
        for name, lab in labs.items():
            trained = lab.train(seed=seed)
            ranked[name] = lab.rank(trained)
            rows += lab.rows(name, ranked[name], trained=trained)
            if per_user:
                rows.append(_user_mean(name, lab, trained, values_of(ranked[name])[MAP]))
        lab = labs[paper]
        for metric in (MAP, RECALL):
            changes.append(
                lab.difference(
                    f"{paper} minus {base}", ranked[paper], ranked[base], metric=metric, seed=seed
                )
            )
        if per_user:
            values = values_of(ranked[paper])[MAP] - values_of(ranked[base])[MAP]
            changes.append(_user_mean(f"{paper} minus {base}", lab, None, values, seed=seed))
    plot = Plot(
        kind=BARS,
        x_label="",
        y_label="MAP@100 on the next day",
        series=[
            Series.of_rows(f"seed {seed}", list(labs), [find(rows, n, seed) for n in labs])
            for seed in setting.seeds
        ],
    )
    return [*rows, *changes], [plot], changes


def _user_mean(
    name: str,
    lab: Lab,
    trained: Trained | None,
    values: npt.NDArray[np.float64],
    *,
    seed: int | None = None,
) -> Row:
    """Returns the mean over users of each user's mean."""
    sums = metrics.sums_by_user(values, lab.user_codes, lab.num_users)
    means = metrics.UserSums(
        numerator=sums.numerator / np.maximum(sums.denominator, 1),
        denominator=np.ones(lab.num_users),
    )
    (interval,) = lab.bootstrap().intervals([means])
    return Row.of(
        name,
        f"{MAP} by user",
        interval,
        seed=trained.seed if trained else seed,
        n=lab.num_users,
    )


# ---- the order of searches


def search_order(setting: Setting) -> Experiment:
    """The last search as a feature of its own, against one unordered bag."""
    if not (setting.logs / "searches").is_dir():
        raise NotApplicableError("the logs have no searches.")
    kept = Lab(setting, setting.variant("ordered", candidate_only=True, features=_LAST_SEARCH))
    discarded = Lab(setting)
    sources = _watch_sources(setting, discarded)
    names = {"order kept": kept, "order discarded": discarded}
    rows: list[Row] = []
    changes: list[Row] = []
    for seed in setting.seeds:
        ranked = {}
        for name, lab in names.items():
            trained = lab.train(seed=seed)
            ranked[name] = lab.rank(trained)
            rows += lab.rows(name, ranked[name], trained=trained, slices=sources)
        changes += discarded.differences(
            ("order kept", "order discarded"), ranked, sources, seed=seed
        )
    seed = setting.seeds[0]
    metric_names = [f"{MAP}:{source}" for source in sources]
    return Experiment(
        name="search_order",
        title="Search order kept or discarded",
        question="Does a model that knows which search was the last one do better where it "
        "counts? The offline task rewards it for guessing the results page of that search; a "
        "home page does not. Cheapest honest design: the model gets the tokens of the last "
        "search as one more feature, and holdout watches are told apart by where they began.",
        paper="reproducing the user's last search page as homepage recommendations performs "
        "very poorly; order is discarded.",
        settings=discarded.settings(
            watches_by_source={s: int(m.sum()) for s, m in sources.items()}
        ),
        rows=[*rows, *changes],
        plots=[
            Plot(
                kind=BARS,
                x_label="where the watch began",
                y_label="MAP@100",
                series=[
                    Series.of_rows(
                        name, list(sources), [find(rows, name, seed, m) for m in metric_names]
                    )
                    for name in names
                ],
            )
        ],
        conclusion=sentences(changes),
    )


def _watch_sources(setting: Setting, lab: Lab) -> dict[str, npt.NDArray[np.bool_]]:
    """Returns the holdout watches by where they began, bool [Q] by source."""
    watches = ds.dataset(str(setting.logs / "watches"), format="parquet")
    if "source" not in watches.schema.names:
        raise NotApplicableError("the watches do not say where they began (column source).")
    recent = watches.to_table(
        columns=["user_id", "time", "video_id", "source"],
        filter=ds.field("time") >= lab.train_until_s,
    )
    keys = zip(*(recent[n].to_pylist() for n in ("user_id", "time", "video_id")), strict=True)
    source_of = dict(zip(keys, recent["source"].cast(pa.string()).to_pylist(), strict=True))
    watch_keys = zip(
        lab.queries.user_ids, lab.queries.times.tolist(), lab.queries.label_ids, strict=True
    )
    sources = np.array([source_of.get(key) or "" for key in watch_keys])
    names = [name for name in np.unique(sources).tolist() if name]
    return {"all": np.ones(len(sources), bool), **{name: sources == name for name in names}}


EXPERIMENTS: Mapping[str, Make] = {
    "figure_6": figure_6,
    "figure_5": figure_5,
    "figure_4": freshness.figure_4,
    "baselines": references.baselines_table,
    "ceiling": references.ceiling,
    "video_content": choices.video_content,
    "losses": choices.losses,
    "examples_per_user": examples_per_user,
    "search_order": search_order,
}
