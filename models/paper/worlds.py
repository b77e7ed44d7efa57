"""Hard worlds of watches alone, with every default, beside what needs no model. Ours.

News, of which only clicks are known: the simulated site without its impressions, content and
topics, and a portal made after a public log; a music service, where most plays are repeats; a site
of courses, watched in their order by few. What was chosen on which days: docs/results/worlds.md.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from features.charts import Plot
from features.durations import DAY_S
from features.tables import logs, site_facts
from models.evaluation import intervals, metrics
from models.paper import experiments, world_replays
from models.paper.experiments import Experiment, Row, Setting
from models.paper.retrieval_lab import verdict
from models.paper.world_replays import Replayed

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
_MEASURES: Mapping[str, Callable[[Ints], Floats]] = {
    "recall_at_10": lambda places: (places < 10).astype(np.float64),
    "recall_at_100": lambda places: (places < 100).astype(np.float64),
    "map_at_100": lambda places: np.where(places < 100, 1 / (places + 1.0), 0.0),
}
_QUERIES = {experiments.SHORT: 400, experiments.FULL: 6_000}
_ALL = 10**9
_PAGES = {experiments.SHORT: 100, experiments.FULL: 1_500}


@dataclasses.dataclass(frozen=True)
class _World:
    """A world to measure.

    Attributes:
        title: What it is.
        flags: Flags of pipeline.simulate by mode.
        is_bared: Whether all but watches is taken from its logs.
    """

    title: str
    flags: Mapping[str, Sequence[str]]
    is_bared: bool = False


_WORLDS: Mapping[str, _World] = {
    "bare_news": _World(
        "the simulated news site, watches alone",
        {
            experiments.SHORT: ("--preset=news", "--users=300", "--videos=800", "--days=5"),
            experiments.FULL: ("--preset=news", "--users=3000", "--days=11"),
        },
        is_bared=True,
    ),
    "headlines": _World(
        "a news portal of clicks",
        {
            experiments.SHORT: ("--preset=headlines", "--users=600", "--days=6"),
            experiments.FULL: ("--preset=headlines",),
        },
    ),
    "music": _World(
        "a music service",
        {
            experiments.SHORT: ("--preset=music", "--users=80", "--days=20"),
            experiments.FULL: ("--preset=music",),
        },
    ),
    "course": _World(
        "a site of courses",
        {
            experiments.SHORT: ("--preset=course", "--users=120", "--days=40"),
            experiments.FULL: ("--preset=course",),
        },
    ),
}


def _experiment(name: str, setting: Setting) -> Experiment:
    world = _WORLDS[name]
    seeds = setting.seeds
    replays = {seed: _replay(name, setting, seed) for seed in seeds}
    rows = [*figures(replays), *(row for one in replays.items() for row in differences(*one))]
    changes = [row for row in rows if " minus " in row.setting]
    told = [f"{r.setting}, seed {r.seed}, {r.metric}: {r}, {verdict(r)}" for r in changes]
    names = list(dict.fromkeys(row.setting for row in rows if row not in changes))
    return Experiment(
        name=name,
        title=f"World: {world.title}",
        question="Is what a release finds with every default better than what needs no model, on "
        "the day after the logs end? Retrieval knows nothing of that day, the page all before "
        "each watch.",
        paper="",
        settings={
            "simulated_with": " ".join(world.flags[setting.mode]),
            "seeds": list(seeds),
            "watches": len(logs.read_table(_logs(name, setting, seeds[0]), "watches")),
            "repeats": _repeats(_logs(name, setting, seeds[0])),
            "protocol": "pipeline.retrain --until=CUT with every default; recommend_batch "
            f"--stage=retrieve on {_QUERIES[setting.mode]} and --stage=page on "
            f"{_PAGES[setting.mode]} watches of the day after, spread over it",
            "intervals": "95 %, bootstrap over users, paired for differences",
        },
        rows=rows,
        plots=[Plot.bars(rows, names, {m: m for m in _MEASURES}, y_label="share of the watches")],
        conclusion="; ".join(told) + ".",
    )


def _replay(name: str, setting: Setting, seed: int) -> Replayed:
    directory = _logs(name, setting, seed)
    cut_s = _end_s(directory) - DAY_S
    work = setting.directory(f"release-{name}", seed)
    work.mkdir(parents=True, exist_ok=True)
    return world_replays.replay(
        directory,
        work,
        cut_s,
        queries=_QUERIES[setting.mode],
        pages=_PAGES[setting.mode],
        repeats=_repeats(directory),
        places=oracle(directory, cut_s, whole=_whole(name, directory)),
    )


def _parts(replayed: Replayed) -> list[tuple[str, Ints, Mapping[str, Ints]]]:
    """Returns ours, users and places by name: of retrieval, and of pages."""
    return [
        (world_replays.RETRIEVAL, replayed.users, replayed.retrieved),
        (world_replays.PAGE, replayed.page_users, replayed.paged),
    ]


def figures(replays: Mapping[int, Replayed]) -> list[Row]:
    """Returns figures of all over the watches of all seeds, whose users are others."""
    rows: list[Row] = []
    for parts in zip(*(_parts(replayed) for replayed in replays.values()), strict=True):
        ours = parts[0][0]
        users = np.concatenate([_codes(one) + i * _ALL for i, (_, one, _) in enumerate(parts)])
        sums = [
            (name, metric, _sums(np.concatenate([places[name] for *_, places in parts]), users, m))
            for name in parts[0][2]
            for metric, m in _MEASURES.items()
        ]
        estimates = _bootstrap(users).intervals([one for *_, one in sums])
        for (name, metric, _), interval in zip(sums, estimates, strict=True):
            of_pages = ours == world_replays.PAGE and name != ours
            label = f"{name} (of the pages' watches)" if of_pages else name
            rows.append(Row.of(label, metric, interval, n=len(users)))
    return rows


def differences(seed: int, replayed: Replayed) -> list[Row]:
    """Returns what ours has more than each other, but for the oracle, paired over users."""
    rows: list[Row] = []
    for ours, users, places in _parts(replayed):
        others = [name for name in places if name not in {ours, world_replays.ORACLE}]
        keys = [(other, metric) for other in others for metric in _MEASURES]
        pairs = [
            (_sums(places[ours], users, _MEASURES[m]), _sums(places[other], users, _MEASURES[m]))
            for other, m in keys
        ]
        changes = _bootstrap(users).differences(pairs)
        for (other, metric), change in zip(keys, changes, strict=True):
            label = f"{ours} minus {other}"
            rows.append(Row.of(label, metric, change, seed=seed, n=len(users)))
    return rows


def _codes(users: Ints) -> Ints:
    return np.unique(users, return_inverse=True)[1].astype(np.int64)


def _sums(places: Ints, users: Ints, measure: Callable[[Ints], Floats]) -> metrics.UserSums:
    codes = _codes(users)
    return metrics.sums_by_user(measure(places), codes, int(codes.max()) + 1)


def _bootstrap(users: Ints) -> intervals.Bootstrap:
    return intervals.Bootstrap(num_users=int(_codes(users).max()) + 1)


def _logs(name: str, setting: Setting, seed: int) -> pathlib.Path:
    world = _WORLDS[name]
    directory = setting.work / f"logs-{name}-{setting.mode}-{seed}"
    if not directory.is_dir():
        whole = _whole(name, directory)
        experiments.run_command(
            "pipeline.simulate",
            *(f"--logs={whole}", "--overwrite", f"--seed={seed}"),
            *world.flags[setting.mode],
        )
        if world.is_bared:
            bare(whole, directory)
    return directory


def _whole(name: str, directory: pathlib.Path) -> pathlib.Path:
    """Returns where the logs lie as they were simulated."""
    return directory.with_name(f"{directory.name}-whole") if _WORLDS[name].is_bared else directory


def bare(source: pathlib.Path, target: pathlib.Path) -> None:
    """Writes logs with nothing but who watched what when, on what, from where; and uploads."""
    kept = {
        "videos": ("video_id", "upload_time"),
        "users": ("user_id", "region"),
        "watches": ("user_id", "video_id", "time", "watch_time_s", "completed", "device"),
    }
    with logs.LogWriter(target) as writer:
        for table, columns in kept.items():
            rows = logs.read_table(source, table)
            writer.write(table, rows.select([c for c in columns if c in rows.column_names]))


def _repeats(directory: pathlib.Path) -> bool:
    return site_facts.of_logs(directory).repeats


def _end_s(directory: pathlib.Path) -> int:
    """Returns the midnight after the last watch."""
    newest = int(np.asarray(logs.read_table(directory, "watches", columns=["time"])["time"]).max())
    return (newest // DAY_S + 1) * DAY_S


def oracle(directory: pathlib.Path, cut_s: int, *, whole: pathlib.Path) -> Ints:
    """Returns the places by the truth, from 0, of all watches in the order of time.

    Args:
        directory: Logs of a world, or of a bared site.
        cut_s: Moment from which on the truth of a bared site is asked, Unix seconds; watches
            before it have a miss.
        whole: Logs that lie beside their truth: ``directory`` itself, or what was bared.
    """
    order = [("time", "ascending"), ("user_id", "ascending")]
    path = whole / "truth" / "places.parquet"
    if path.is_file():
        return np.asarray(pq.read_table(path).sort_by(order)["place"], np.int64)
    path = directory.with_name(f"{directory.name}-oracle-{cut_s}.parquet")
    if not path.is_file():
        experiments.run_command(
            "pipeline.measure_oracle",
            *(f"--logs={whole}", f"--from={cut_s}", f"--output={path}"),
            *("--all", f"--watches={_ALL}"),
        )
    ranked, keys = pq.read_table(path), ("user_id", "time", "video_id")
    moments = zip(*(ranked[key].to_pylist() for key in keys), strict=True)
    place_of = dict(zip(moments, ranked["rank"].to_pylist(), strict=True))
    watches = logs.read_table(directory, "watches", columns=list(keys)).sort_by(order)
    # Ties have their mean rank; a half counts as the worse place.
    ranks = [
        place_of.get(key, np.inf)
        for key in zip(*(watches[key].to_pylist() for key in keys), strict=True)
    ]
    return np.minimum(np.ceil(ranks) - 1, world_replays.MISS).astype(np.int64)


EXPERIMENTS = {f"world_{name}": functools.partial(_experiment, name) for name in _WORLDS}
