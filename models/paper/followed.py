"""What a model that follows its site is worth between two nights. Ours.

At a portal of headlines, of which only clicks are known: the night's release, one that
``pipeline.follow`` made at a moment, and popularity of the last hour, live and as of that moment,
on the watches of the hour after it.
"""

import pathlib
import shutil
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from features import command
from features.durations import DAY_S, HOUR_S
from models.evaluation import intervals, metrics
from models.paper import experiments, world_replays
from models.paper.experiments import Experiment, Row, Setting
from models.paper.world_replays import LIVE_1H, K, Watches

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
NIGHT, FOLLOWED = "the night's", "followed"
_FROZEN = "popularity of the hour before, frozen"
# Hours of the day at which a cycle ends; each learns all since the one before.
_HOURS = {experiments.SHORT: (10,), experiments.FULL: (9, 13, 17, 21)}
_PAGES = {experiments.SHORT: 40, experiments.FULL: 200}
_WORLD = {
    experiments.SHORT: ("--preset=headlines", "--users=1000", "--days=4"),
    experiments.FULL: ("--preset=headlines", "--users=4000", "--days=6"),
}
_MEASURES: Mapping[str, Callable[[Ints], Floats]] = {
    "recall_at_10": lambda places: (places < 10).astype(np.float64),
    "recall_at_100": lambda places: (places < K).astype(np.float64),
    "map_at_100": lambda places: np.where(places < K, 1 / (places + 1.0), 0.0),
}


def _experiment(setting: Setting) -> Experiment:
    rows: list[Row] = []
    told: list[str] = []
    for seed in setting.seeds:
        logs = setting.work / f"logs-followed-{setting.mode}-{seed}"
        if not logs.is_dir():
            flags = (f"--logs={logs}", "--overwrite", f"--seed={seed}", *_WORLD[setting.mode])
            experiments.run_command("pipeline.simulate", *flags)
        work = setting.directory("followed", seed)
        work.mkdir(parents=True, exist_ok=True)
        for stage, places in _replayed(logs, work, setting).items():
            new, said = _rows(stage, *places, seed=seed)
            rows += new
            told.append(said)
    hours = _HOURS[setting.mode]
    return Experiment(
        name="world_followed",
        title="World: a news portal between two nights",
        question="How much of the way from the night's model to live popularity does one go that "
        "learns what was watched since, on the hour after it learnt?",
        paper="",
        settings={
            "simulated_with": " ".join(_WORLD[setting.mode]),
            "seeds": list(setting.seeds),
            "protocol": "pipeline.retrain --until=CUT with every default, a day before the end; "
            f"pipeline.follow --until at the hours {', '.join(map(str, hours))} of that day; "
            "recommend_batch of both releases, --stage=retrieve on all watches of the hour after, "
            f"--stage=page on {_PAGES[setting.mode]} of each hour",
            "intervals": "95 %, bootstrap over users, paired for differences and shares",
        },
        rows=rows,
        conclusion="; ".join(told) + ".",
    )


def _replayed(
    logs: pathlib.Path, work: pathlib.Path, setting: Setting
) -> dict[str, tuple[Ints, dict[str, Ints]]]:
    """Retrains, follows, and asks: stage to users, int64 [n], and places by who ranked them."""
    watches, pages = Watches.read(logs), _PAGES[setting.mode]
    cut_s = int(watches.times[-1]) // DAY_S * DAY_S
    night_root = work / "night" / "serving_root"
    if not (night_root / "CURRENT").is_file():
        flags = (f"--serving_root={night_root}", f"--until={command.format_time(cut_s)}")
        experiments.run_command("pipeline.retrain", f"--logs={logs}", *flags)
    # A day that was begun and not ended begins again.
    shutil.rmtree(work / "day", ignore_errors=True)
    shutil.copytree(work / "night", work / "day")
    root = work / "day" / "serving_root"
    given, night = (f"--logs={logs}", f"--serving_root={root}"), _serving(root)
    parts: dict[str, list[tuple[Ints, dict[str, Ints]]]] = {stage: [] for stage in _STAGES}
    for hour in _HOURS[setting.mode]:
        now_s = cut_s + hour * HOUR_S
        until = f"--until={command.format_time(now_s)}"
        experiments.run_command("pipeline.follow", *given, until, "--force_publish=to be measured")
        first, end = np.searchsorted(watches.times, [now_s, now_s + HOUR_S])
        versions = {NIGHT: night, FOLLOWED: _serving(root)}
        for stage, parts_of in parts.items():
            chosen = {n: (*given, f"--release={v}") for n, v in versions.items()}
            rows, places = _STAGES[stage](
                watches, np.arange(first, end), chosen, work=work, pages=pages
            )
            places[LIVE_1H] = world_replays.live(
                watches, rows, window_s=HOUR_S, leave_out_watched=True
            )
            places[_FROZEN] = world_replays.frozen(watches, rows, now_s, window_s=HOUR_S)
            parts_of.append((watches.users[rows], places))
    return {
        stage: (
            np.concatenate([users for users, _ in parts_of]),
            {n: np.concatenate([p[n] for _, p in parts_of]) for n in parts_of[0][1]},
        )
        for stage, parts_of in parts.items()
    }


def _serving(root: pathlib.Path) -> str:
    return (root / "CURRENT").read_text().strip()


def _retrieved(
    watches: Watches,
    rows: Ints,
    releases: Mapping[str, Sequence[str]],
    *,
    work: pathlib.Path,
    pages: int,
) -> tuple[Ints, dict[str, Ints]]:
    """Returns rows of watches, and their places in what each release retrieves."""
    del pages
    queries, output = work / "queries.parquet", work / "retrieved.parquet"
    world_replays.write_queries(watches, rows, queries)
    places = {}
    for name, (_, root, version) in releases.items():
        flags = ("--stage=retrieve", f"--queries={queries}", f"--output={output}")
        experiments.run_command("serving.recommend_batch", root, version, *flags)
        places[name] = world_replays.places_in(output, watches, rows)
    return rows, places


def _paged(
    watches: Watches,
    rows: Ints,
    releases: Mapping[str, Sequence[str]],
    *,
    work: pathlib.Path,
    pages: int,
) -> tuple[Ints, dict[str, Ints]]:
    """Returns rows of some of the watches, and their places on the pages of each release."""
    output, places, on_pages = work / "pages.parquet", {}, rows
    begin_s = int(watches.times[rows[0]]) // HOUR_S * HOUR_S
    window = (
        f"--from={command.format_time(begin_s)}",
        f"--until={command.format_time(begin_s + HOUR_S)}",
        f"--sample={pages}",
    )
    for name, flags in releases.items():
        stage = ("--stage=page", f"--k={K}", f"--output={output}")
        experiments.run_command("serving.recommend_batch", *flags, *stage, *window)
        on_pages = world_replays.rows_of_pages(output, watches)
        places[name] = world_replays.places_in(output, watches, on_pages)
    return on_pages, places


_STAGES = {"retrieval": _retrieved, "page": _paged}


def _rows(
    stage: str, users: Ints, places: Mapping[str, Ints], *, seed: int
) -> tuple[list[Row], str]:
    """Returns figures, differences from the night's, and the share of the way to live popularity.

    The share of the way is (followed - night's) / (live - night's).
    """
    codes = np.unique(users, return_inverse=True)[1].astype(np.int64)
    bootstrap = intervals.Bootstrap(num_users=int(codes.max()) + 1)
    rows, told = [], []
    shared = {"seed": seed, "n": len(users)}
    for metric, measure in _MEASURES.items():
        sums = {
            name: metrics.sums_by_user(measure(one), codes, bootstrap.num_users)
            for name, one in places.items()
        }
        for name, interval in zip(sums, bootstrap.intervals(list(sums.values())), strict=True):
            rows.append(Row.of(f"{stage}, {name}", metric, interval, **shared))
        (change,) = bootstrap.differences([(sums[FOLLOWED], sums[NIGHT])])
        rows.append(Row.of(f"{stage}, {FOLLOWED} minus {NIGHT}", metric, change, **shared))
        night, followed, live = bootstrap.replicates_of(
            [sums[name] for name in (NIGHT, FOLLOWED, LIVE_1H)]
        ).T
        value = change.value / (sums[LIVE_1H].value - sums[NIGHT].value)
        share = bootstrap.summary(value, (followed - night) / (live - night))
        rows.append(
            Row.of(f"{stage}, share of the way to live popularity", metric, share, **shared)
        )
        told.append(f"{stage}, {metric}: {share} of the way, seed {seed}")
    return rows, "; ".join(told)


EXPERIMENTS = {"world_followed": _experiment}
