"""How well watches of a simulated site could be retrieved at all: the oracle, beside popularity.

For watches of the last day of the logs: the truth, given the user's history strictly before each,
ranks all videos; so do counts of earlier watches. Any model should fall in between.
"""

import dataclasses
import os
from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from features import command
from features.durations import DAY_S
from features.tables import logs
from pipeline.site import truth as site_truth

CUTOFF = 100
_BATCH_CELLS = 400_000  # Users times videos asked at once; about 20 arrays of that size are held.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Benchmark:
    """Retrieval of the last day's watches.

    Attributes:
        num_watches: Number of watches that were asked for.
        recall: Ranking to the part of the watches that is among its first 100, in [0, 1].
        mean_average_precision: Ranking to the mean of 1 / rank, as there is one right answer.
    """

    num_watches: int
    recall: Mapping[str, float]
    mean_average_precision: Mapping[str, float]

    def text(self) -> str:
        """Returns a small table."""
        lines = [f"Retrieval of {self.num_watches:,} watches of the last day, all videos ranked:"]
        lines += [
            f"  {name:<24} recall@{CUTOFF} {self.recall[name]:.3f}   "
            f"MAP {self.mean_average_precision[name]:.4f}"
            for name in self.recall
        ]
        return "\n".join(lines)


def last_day(
    truth: site_truth.Truth,
    logs_dir: str | os.PathLike[str],
    *,
    number: int = 1_000,
    is_completed: bool = False,
    seed: int = 0,
) -> Benchmark:
    """Measures oracle and popularity.

    Args:
        truth: Truth of these logs.
        logs_dir: Directory of the simulated logs.
        number: Number of watches to draw, at most.
        is_completed: Whether only completed watches are asked for.
        seed: Seed of the draw.

    Raises:
        InputError: The last day has no watch.
    """
    watches = logs.read_table(logs_dir, "watches")
    midnight_s = truth.world.config.end_s - DAY_S
    labels = watches.filter(pc.greater_equal(watches["time"], midnight_s))
    if is_completed:
        labels = labels.filter(labels["completed"])
    if not labels.num_rows:
        raise command.InputError(
            f"{logs_dir} has no watch on its last day to ask the oracle for. Simulate more users."
        )
    rng = np.random.default_rng(seed)
    chosen = rng.choice(labels.num_rows, size=min(number, labels.num_rows), replace=False)
    labels = labels.take(pa.array(chosen)).sort_by("time")
    ranks = {"oracle": _oracle_ranks(truth, labels, watches, is_completed=is_completed)}
    label = truth.video_rows(labels["video_id"])
    for name, days in (("popular of the day before", 1), ("popular of the week before", 7)):
        ranks[name] = _popularity_ranks(truth, watches, label, days=days)
    return Benchmark(
        num_watches=labels.num_rows,
        recall={name: float((rank <= CUTOFF).mean()) for name, rank in ranks.items()},
        mean_average_precision={name: float((1 / rank).mean()) for name, rank in ranks.items()},
    )


def oracle_ranks(
    truth: site_truth.Truth,
    logs_dir: str | os.PathLike[str],
    *,
    from_s: int,
    number: int,
    is_completed: bool = True,
    seed: int = 0,
) -> pa.Table:
    """Ranks watches by the truth.

    Args:
        truth: Truth of these logs.
        logs_dir: Directory of the simulated logs.
        from_s: First moment of the watches, Unix seconds.
        number: Number of watches to draw, at most.
        is_completed: Whether only completed watches are asked for.
        seed: Seed of the draw.

    Returns:
        ``user_id``, ``time``, ``video_id`` and ``rank``, float64 from 1, ties at their mean rank.

    Raises:
        InputError: There is no such watch.
    """
    watches = _of_the_site(truth, logs.read_table(logs_dir, "watches"))
    labels = watches.filter(pc.greater_equal(watches["time"], from_s))
    if is_completed:
        labels = labels.filter(labels["completed"])
    if not labels.num_rows:
        what = "completed watch" if is_completed else "watch"
        raise command.InputError(f"{logs_dir} has no {what} since {command.format_time(from_s)}.")
    rng = np.random.default_rng(seed)
    chosen = rng.choice(labels.num_rows, size=min(number, labels.num_rows), replace=False)
    labels = labels.take(pa.array(chosen)).sort_by("time")
    ranks = _oracle_ranks(truth, labels, watches, is_completed=is_completed)
    return labels.select(["user_id", "time", "video_id"]).append_column("rank", pa.array(ranks))


def _of_the_site(truth: site_truth.Truth, watches: pa.Table) -> pa.Table:
    """Leaves out rows that were added to the logs later: other ids, other times, copies."""
    config = truth.world.config
    known = pc.is_in(watches["video_id"], pa.array(truth.video_ids, pa.string()))
    known = pc.and_(known, pc.is_in(watches["user_id"], pa.array(truth.user_ids, pa.string())))
    inside = pc.and_(
        pc.greater_equal(watches["time"], config.start_s), pc.less(watches["time"], config.end_s)
    )
    kept = watches.filter(pc.and_(known, inside))
    keys = ["user_id", "time", "video_id"]
    return (
        kept.group_by(keys).aggregate([("completed", "max")]).rename_columns([*keys, "completed"])
    )


def _oracle_ranks(
    truth: site_truth.Truth, labels: pa.Table, watches: pa.Table, *, is_completed: bool
) -> np.ndarray:
    label = truth.video_rows(labels["video_id"])
    size = max(1, _BATCH_CELLS // truth.world.config.videos)
    ranks = []
    for first in range(0, labels.num_rows, size):
        batch = labels.slice(first, size)
        chances = truth.watch_probability(
            batch["user_id"],
            batch["time"].to_numpy(),
            watches=watches,
            is_completed=is_completed,
        )
        ranks.append(_ranks(chances, label[first : first + size]))
    return np.concatenate(ranks)


def _popularity_ranks(
    truth: site_truth.Truth, watches: pa.Table, label: np.ndarray, *, days: int
) -> np.ndarray:
    """Ranks by the number of watches in the days before the last one."""
    midnight_s = truth.world.config.end_s - DAY_S
    time = watches["time"].to_numpy()
    is_counted = (time < midnight_s) & (time >= midnight_s - days * DAY_S)
    rows = truth.video_rows(watches["video_id"])[is_counted]
    counts = np.bincount(rows, minlength=truth.world.config.videos)
    return _ranks(np.broadcast_to(counts, (len(label), len(counts))), label)


def _ranks(scores: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Returns the rank of each label, from 1, float [n]; ties share their mean rank."""
    own = scores[np.arange(len(label)), label][:, None]
    above, equal = (scores > own).sum(axis=1), (scores == own).sum(axis=1)
    return np.asarray(above + (equal + 1) / 2)
