r"""What a second day's training costs and is worth, from yesterday's models and from nothing.

    python -m tests.models.training.warm_start_costs DIRECTORY 12 21 LOGS@2022-05-05T16

Of each world trains both models on all but its last day, and on all of it, warm and cold, from the
same examples, measured on the same holdout. A world is the seed of a simulated site, or logs and
the time at which their last day ends. Writes DIRECTORY/warm_start.json, of which
pipeline.record_results makes tables (--part=candidate_warm_start, ranker_warm_start). What is there
already is not made again.
"""

import json
import pathlib
import subprocess
import sys

import numpy as np

from features import command, dataset, reports, spec
from features.durations import DAY_S
from features.spec import ResolvedSpec
from models.baselines import retrieval as baselines
from models.candidate import model as candidate_model
from models.evaluation import config as evaluation_config
from models.evaluation import evaluation, metrics, ranking, retrieval
from models.evaluation.intervals import Bootstrap
from models.paper.experiments import Experiment, Row
from models.ranking import model as ranker_model
from models.training import saved
from pipeline.site.config import DEFAULT_START_S
from pipeline.steps import costs

COLD, WARM = "cold", "warm"
DAYS = 9
SITE = f"--users=3000 --videos=3000 --days={DAYS} --events_per_user_day=20"
KEYS = ("user_id", "label_video_id", "time")


def run(module: str, output: pathlib.Path, *flags: str) -> float:
    """Runs a command, unless its output is there; returns what it cost, seconds of processor."""
    told = output.with_name(f"{output.name}.cpu_s")
    if not told.exists():
        process = subprocess.Popen([sys.executable, "-m", module, *flags])
        cost = costs.wait(process)
        assert process.returncode == 0, module
        told.write_text(str(cost.cpu_s))
    return float(told.read_text())


def candidate_ranks(examples: pathlib.Path, directory: pathlib.Path) -> tuple[np.ndarray, ...]:
    """Ranks of the watches of the holdout, and their users."""
    model = candidate_model.load(directory, examples)
    catalogue = evaluation.read_catalogue(examples)
    queries = baselines.read_queries(examples, "holdout", catalogue)
    columns = [*model.query_columns, *KEYS]
    arrays = dataset.load(examples, spec.CANDIDATE, "holdout", columns)
    queries = retrieval.aligned(queries, arrays)
    embeddings = retrieval.embed(
        model,
        ResolvedSpec.load(examples),
        query_features=arrays,
        video_features=dataset.videos(examples),
    )
    settings = evaluation_config.EvaluationConfig()
    ranked = retrieval.rank_with_model(
        embeddings,
        queries,
        catalogue=catalogue,
        settings=evaluation_config.RetrievalConfig(
            ks=settings.ks, exclude_watched=settings.exclude_watched
        ),
    )
    return ranked.ranks, metrics.codes_of(queries.user_ids)


def candidate_sums(examples: pathlib.Path, directory: pathlib.Path) -> dict[str, metrics.UserSums]:
    """Metrics of a candidate model, as sums by user."""
    ranks, users = candidate_ranks(examples, directory)
    values = {"recall_at_100": ranks < 100, "map": metrics.reciprocal_ranks(ranks)}
    number = int(users.max()) + 1
    return {name: metrics.sums_by_user(v, users, number) for name, v in values.items()}


def ranker_sums(examples: pathlib.Path, directory: pathlib.Path) -> dict[str, metrics.UserSums]:
    """Metrics of a ranker, as sums by user."""
    model = ranker_model.load(directory, examples)
    arrays = dataset.load(examples, spec.RANKER, "holdout")
    impressions = ranking.Impressions.of(arrays)
    scored = ranking.score_with_ranker(model, ResolvedSpec.load(examples), impressions)
    loss = metrics.pair_loss_by_user(
        scored.scores,
        impressions.clicked,
        impressions.watch_time_s,
        user_codes=impressions.user_codes,
        page_ids=impressions.pages,
    )
    return {"weighted_per_user_loss": loss}


MODELS = {
    "candidate": ("models.train_candidate", candidate_sums),
    "ranker": ("models.train_ranker", ranker_sums),
}


def examples_seen(directory: pathlib.Path) -> int:
    """Number of examples that a training went over."""
    settings = json.loads((directory / "config.json").read_text())["training"]
    return int(saved.read_lineage(directory)["steps"] * settings["batch_size"])


def measured(
    kind: str, world: str, directory: pathlib.Path, before: pathlib.Path, after: pathlib.Path
) -> list[Row]:
    """Trains a model on the days before, and on all days from it and from nothing.

    Args:
        kind: Kind of model.
        world: Name of the world.
        directory: Directory of the models.
        before: Examples of all days but the last.
        after: Examples of all days.
    """
    module, sums_of = MODELS[kind]
    old = directory / f"{kind}-before"
    run(module, old, f"--examples={before}", f"--model={old}")
    cpu, seen, sums, rows = {}, {}, {}, []
    for name, flags in ((COLD, ()), (WARM, (f"--warm_start={old}",))):
        made = directory / f"{kind}-{name}"
        cpu[name] = run(module, made, f"--examples={after}", f"--model={made}", *flags)
        seen[name], sums[name] = examples_seen(made), sums_of(after, made)
        setting = f"{world}: {name}"
        rows += [
            Row(setting=setting, metric="CPU s", value=cpu[name]),
            Row(setting=setting, metric="examples gone over", value=seen[name]),
        ]
        bootstrap = Bootstrap(num_users=len(next(iter(sums[name].values())).numerator))
        intervals = bootstrap.intervals(list(sums[name].values()))
        rows += [Row.of(setting, m, i) for m, i in zip(sums[name], intervals, strict=True)]
    pairs = [(sums[WARM][metric], sums[COLD][metric]) for metric in sums[WARM]]
    changes = zip(sums[WARM], bootstrap.differences(pairs), strict=True)
    rows += [Row.of(f"{world}: warm - cold", metric, change) for metric, change in changes]
    for metric, cost in (("CPU s", cpu), ("examples gone over", seen)):
        ratio = cost[WARM] / cost[COLD]
        rows.append(Row(setting=f"{world}: warm / cold", metric=metric, value=ratio))
    return rows


def examples_of(directory: pathlib.Path, world: str) -> tuple[str, list[pathlib.Path]]:
    """Makes the examples of all days but the last, and of all; returns a name besides."""
    logs, _, end = world.rpartition("@")
    name = f"seed {world}"
    if logs:
        end_s, name = command.parse_time(end, name="the last day's end"), pathlib.Path(logs).name
    else:
        logs, end_s = str(directory / "logs"), DEFAULT_START_S + DAYS * DAY_S
        site = (f"--seed={world}", *SITE.split())
        run("pipeline.simulate", directory / "logs", f"--logs={logs}", *site)
    made = []
    for day in ("before", "after"):
        made.append(directory / f"examples-{day}")
        until = command.format_time(int(end_s) - DAY_S * (day == "before"))
        flags = (f"--logs={logs}", f"--examples={made[-1]}", f"--until={until}")
        run("pipeline.preprocess", made[-1], *flags)
    return name, made


def main(root: str, *worlds: str) -> None:
    """Measures each world."""
    rows = {kind: [] for kind in MODELS}
    for world in worlds:
        directory = pathlib.Path(root) / world.rpartition("/")[2]
        directory.mkdir(parents=True, exist_ok=True)
        name, examples = examples_of(directory, world)
        for kind in MODELS:
            rows[kind] += measured(kind, name, directory, *examples)
            print(kind, *rows[kind], sep="\n", flush=True)
    experiments = [
        Experiment(
            name=f"{kind}_warm_start",
            title="Warm start",
            question="the last day, from the model of the day before or from nothing; same "
            "examples, same holdout (that day); processor time of the whole command",
            paper="",
            settings={},
            rows=rows[kind],
        )
        for kind in MODELS
    ]
    document = {
        "experiments": [json.loads(one.to_json()) for one in experiments],
        "settings": {"simulated_with": SITE, "seeds": [1]},
        "measured": reports.stamp(),
    }
    (pathlib.Path(root) / "warm_start.json").write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
