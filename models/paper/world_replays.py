"""One world, one moment: a release of everything before it, asked about the day after it.

What is asked of others beside it: popularity of the last hours before the moment, frozen, and
recommenders that are fitted to the log before it; popularity of the hour before each watch, live;
and the oracle.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from features import command
from features.durations import DAY_S, HOUR_S
from features.tables import logs
from models.baselines import ease, implicit
from models.baselines import retrieval as baselines
from models.paper import experiments

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
MISS = 1 << 40
K = 100
FROZEN_H = 3
_SEEDS = 100  # Last watches that recommenders are asked with.
_RECOMMENDERS = {
    "last_watch": "what followed the last watch, frozen",
    "co_visitation": "co-visitation, frozen",
    "item_cosine": "item cosine, frozen",
    "ease": "EASE, frozen",
    "als": "ALS, frozen",
}


@dataclasses.dataclass(frozen=True)
class Watches:
    """All watches of a log in the order of time, as numbers.

    Attributes:
        users: int64 [n], code of the user.
        videos: int64 [n], code of the video.
        times: int64 [n], Unix seconds.
        user_ids: Id of each code.
        video_ids: Id of each code.
        devices: Device of each watch; None where the log has none.
    """

    users: Ints
    videos: Ints
    times: Ints
    user_ids: list[str]
    video_ids: list[str]
    devices: list[str] | None

    @classmethod
    def read(cls, logs_dir: pathlib.Path) -> "Watches":
        """Reads a log."""
        table = logs.read_table(logs_dir, "watches").sort_by(
            [("time", "ascending"), ("user_id", "ascending")]
        )
        users, videos = (
            table[name].combine_chunks().dictionary_encode() for name in ("user_id", "video_id")
        )
        has_device = "device" in table.column_names
        return cls(
            users=np.asarray(users.indices, np.int64),
            videos=np.asarray(videos.indices, np.int64),
            times=np.asarray(table["time"], np.int64),
            user_ids=users.dictionary.to_pylist(),
            video_ids=videos.dictionary.to_pylist(),
            devices=table["device"].to_pylist() if has_device else None,
        )

    @functools.cached_property
    def of_user(self) -> Mapping[int, Ints]:
        """Rows of each user's watches, in the order of time."""
        order = np.argsort(self.users, kind="stable")
        distinct, starts = np.unique(self.users[order], return_index=True)
        ends = [*starts[1:], len(order)]
        return {int(user): order[a:b] for user, a, b in zip(distinct, starts, ends, strict=True)}

    def before(self, row: int, most: int) -> Ints:
        """Returns the rows of the last watches of the user before a watch, oldest first."""
        mine = self.of_user[int(self.users[row])]
        end = int(np.searchsorted(self.times[mine], self.times[row]))
        return mine[max(0, end - most) : end]


def sample(watches: Watches, cut_s: int, most: int) -> Ints:
    """Returns rows of watches of the day from ``cut_s`` on, spread evenly over it."""
    first, end = np.searchsorted(watches.times, [cut_s, cut_s + DAY_S])
    return np.unique(np.linspace(first, end - 1, min(most, end - first)).astype(np.int64))


def write_queries(watches: Watches, queried: Ints, path: pathlib.Path) -> None:
    """Writes a file for ``recommend_batch --stage=retrieve``: each user just before the watch."""
    past = [watches.before(row, 100) for row in queried.tolist()]
    strings, times = pa.list_(pa.string()), pa.list_(pa.int64())
    columns = {
        "query_id": queried,
        "time": watches.times[queried],
        "user_id": [watches.user_ids[user] for user in watches.users[queried]],
        "watched_video_ids": pa.array(
            [[watches.video_ids[v] for v in watches.videos[rows]] for rows in past], strings
        ),
        "watched_times": pa.array([watches.times[rows].tolist() for rows in past], times),
    }
    if watches.devices is not None:
        columns["device"] = [watches.devices[row] for row in queried.tolist()]
    pq.write_table(pa.table(columns), path)


def places_in(path: pathlib.Path, watches: Watches, rows: Ints) -> Ints:
    """Returns where the watched video of each query stands in an output, int64 [n], from 0.

    Args:
        path: What ``recommend_batch`` wrote, with ``query_id``.
        watches: The log.
        rows: Rows of the watches by ``query_id``: the id itself, or its number.
    """
    table = pq.read_table(path)
    ids = np.asarray(table["query_id"], np.int64)
    is_row = bool(len(ids)) and int(ids.max()) >= len(rows)
    number_of = {int(row): n for n, row in enumerate(rows)} if is_row else None
    label = [watches.video_ids[v] for v in watches.videos[rows]]
    places = np.full(len(rows), MISS)
    for query, video, rank in zip(
        ids.tolist(), table["video_id"].to_pylist(), table["rank"].to_pylist(), strict=True
    ):
        number = number_of[query] if number_of is not None else query
        if label[number] == video:
            places[number] = rank - 1
    return places


def by_score(scores: npt.NDArray[Any], target: int) -> int:
    """Returns the place of a video by scores, from 0; a miss where it has none above 0."""
    if scores[target] <= 0:
        return MISS
    # Among equal ones, by number: any fixed order is as good as another.
    better = int((scores > scores[target]).sum())
    return better + int((scores[:target] == scores[target]).sum())


def frozen(watches: Watches, rows: Ints, cut_s: int, *, window_s: int) -> Ints:
    """Returns places by the watches of the last ``window_s`` before ``cut_s``."""
    first, end = np.searchsorted(watches.times, [cut_s - window_s, cut_s])
    counts = np.bincount(watches.videos[first:end], minlength=len(watches.video_ids))
    return np.array([by_score(counts, int(v)) for v in watches.videos[rows]], np.int64)


def recommenders(
    watches: Watches, queried: Ints, cut_s: int, *, leave_out_watched: bool
) -> dict[str, Ints]:
    """Returns places by recommenders that are fitted to the log before ``cut_s``, by name."""
    end = int(np.searchsorted(watches.times, cut_s))
    counts = np.bincount(watches.videos[:end], minlength=len(watches.video_ids))
    order = np.argsort(np.argsort(counts, kind="stable")) / len(counts)
    train, queries = _examples(watches, np.arange(end)), _examples(watches, queried)
    fitted: list[baselines.Baseline | None] = [
        *baselines.item_to_item(train, order),
        ease.fit(train, order),
        *implicit.fit_all(train, order, seed=1),
    ]
    own = np.arange(len(queries)), queries.label_rows
    places = {}
    for one in fitted:
        if one is None or one.name not in _RECOMMENDERS:
            continue
        scores = one.score(queries)
        if leave_out_watched:
            owner, _, seen = baselines.newest(queries, len(watches.videos))
            scores[owner, seen] = -np.inf
        mine = scores[own]
        place = (scores > mine[:, np.newaxis]).sum(axis=1)
        is_ranked = (counts[queries.label_rows] > 0) & np.isfinite(mine)
        places[_RECOMMENDERS[one.name]] = np.where(is_ranked, place, MISS)
    return places


def _examples(watches: Watches, rows: Ints) -> baselines.Queries:
    """Returns watches to predict, and what each user had watched before."""
    past = [watches.before(row, _SEEDS)[::-1] for row in rows.tolist()]
    return baselines.Queries(
        user_ids=watches.users[rows].astype(str),
        times=watches.times[rows],
        label_ids=np.array(watches.video_ids, object)[watches.videos[rows]],
        label_rows=watches.videos[rows],
        regions=np.full(len(rows), "", object),
        history_offsets=np.concatenate([[0], np.cumsum([len(one) for one in past])]),
        history_rows=watches.videos[np.concatenate([np.zeros(0, np.int64), *past])],
    )


def live(watches: Watches, rows: Ints, *, window_s: int, leave_out_watched: bool) -> Ints:
    """Returns places by the watches of everybody in the ``window_s`` before each watch."""
    places = []
    for row in rows.tolist():
        now = watches.times[row]
        first, end = np.searchsorted(watches.times, [now - window_s, now])
        counts = np.bincount(watches.videos[first:end], minlength=len(watches.video_ids))
        if leave_out_watched:
            mine = watches.of_user[int(watches.users[row])]
            counts[watches.videos[mine[watches.times[mine] < now]]] = 0
        places.append(by_score(counts, int(watches.videos[row])))
    return np.array(places, np.int64)


@dataclasses.dataclass(frozen=True)
class Replayed:
    """Places of the watched videos, from 0, by what ranked them.

    Attributes:
        users: Users of the watches that retrieval was asked of, int64 [n].
        retrieved: Name to places, int64 [n].
        page_users: Users of the watches that pages were asked of, int64 [m].
        paged: Name to places, int64 [m].
    """

    users: Ints
    retrieved: Mapping[str, Ints]
    page_users: Ints
    paged: Mapping[str, Ints]


RETRIEVAL, PAGE, ORACLE = "retrieval", "page", "oracle (of the moment)"
FROZEN = f"popularity of {FROZEN_H} h, frozen"
LIVE_1H, LIVE_1D = "live popularity, 1 h", "live popularity, 1 d"


def replay(
    logs_dir: pathlib.Path,
    work: pathlib.Path,
    cut_s: int,
    *,
    queries: int,
    pages: int,
    repeats: bool,
    places: Ints,
) -> Replayed:
    """Retrains on what was before ``cut_s`` with every default, and asks about the day after it.

    Args:
        logs_dir: The world's logs.
        work: Directory for the release and what it answers.
        cut_s: Moment, Unix seconds.
        queries: Watches to ask retrieval of.
        pages: Watches to ask pages of.
        repeats: Whether the people of the world watch again.
        places: Places by the oracle, of all watches in the order of time.
    """
    watches = Watches.read(logs_dir)
    root, until = work / "serving_root", command.format_time(cut_s)
    if not (root / "CURRENT").is_file():
        experiments.run_command(
            "pipeline.retrain",
            *(f"--logs={logs_dir}", f"--serving_root={root}", f"--until={until}"),
        )
    rows = sample(watches, cut_s, queries)
    write_queries(watches, rows, work / "queries.parquet")
    batch = ("serving.recommend_batch", f"--serving_root={root}")
    experiments.run_command(
        *batch,
        *("--stage=retrieve", f"--queries={work / 'queries.parquet'}"),
        f"--output={work / 'retrieved.parquet'}",
    )
    after = command.format_time(cut_s + DAY_S)
    experiments.run_command(
        *batch,
        *("--stage=page", f"--logs={logs_dir}", f"--from={until}", f"--until={after}"),
        *(f"--sample={pages}", f"--k={K}", f"--output={work / 'pages.parquet'}"),
    )
    paged = rows_of_pages(work / "pages.parquet", watches)
    on_pages = {
        PAGE: places_in(work / "pages.parquet", watches, paged),
        LIVE_1H: live(watches, paged, window_s=HOUR_S, leave_out_watched=not repeats),
        LIVE_1D: live(watches, paged, window_s=DAY_S, leave_out_watched=not repeats),
        ORACLE: places[paged],
    }
    retrieved = {
        RETRIEVAL: places_in(work / "retrieved.parquet", watches, rows),
        FROZEN: frozen(watches, rows, cut_s, window_s=FROZEN_H * HOUR_S),
        **recommenders(watches, rows, cut_s, leave_out_watched=not repeats),
        ORACLE: places[rows],
    }
    return Replayed(watches.users[rows], retrieved, watches.users[paged], on_pages)


def rows_of_pages(path: pathlib.Path, watches: Watches) -> Ints:
    """Returns the row of the watch of each page, in the order of their numbers."""
    table = pq.read_table(path, columns=["query_id", "user_id", "time", "watched_video_id"])
    number, first = np.unique(np.asarray(table["query_id"], np.int64), return_index=True)
    if not np.array_equal(number, np.arange(len(number))):
        raise ValueError(f"{path} lacks pages: it has {len(number)}.")
    pages = table.take(pa.array(first))
    row_of = {
        (watches.user_ids[u], int(t), watches.video_ids[v]): row
        for row, (u, t, v) in enumerate(
            zip(watches.users, watches.times, watches.videos, strict=True)
        )
    }
    keys = zip(
        *(pages[name].to_pylist() for name in ("user_id", "time", "watched_video_id")), strict=True
    )
    return np.array([row_of[key] for key in keys], np.int64)
