"""What an experiment showed: figures of each arm, differences from the control, the split.

Who saw an arm stands in the logged impressions (``exposures``), those among them that still wait in
the event log; a page's watch time is what was watched from it so far. Users are drawn again for the
intervals, because a user's pages are alike. Users that the logs saw in several arms (the file was
changed meanwhile) are left out and counted.

Verdicts are those of tests that hold at any time (:mod:`models.evaluation.sequential`), so whoever
looks every hour is wrong no more often than whoever looks once. Where the arms do not have their
shares of the users, something else differs between them, and no difference is read.
"""

import dataclasses
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from absl import logging

from features import command
from features.catalogue import combined
from features.tables import logs
from models.evaluation import sequential
from models.evaluation.intervals import Bootstrap, Figure, Interval, Sheet
from models.evaluation.metrics import UserSums
from serving.events import compaction
from serving.funnel.experiment import Experiment

REPLICATES = 2000
# Below it, a split is not what the file says: more likely broken than unlucky. Holds at any time.
MISMATCH_P = 0.001
_COLUMNS = ("user_id", "page_id", "clicked", "watch_time_s", "exposures")
# Sums per user, in this order.
_SUMS = ("pages", "impressions", "clicks", "watch_time_s", "users")
# Each metric is a ratio of two sums.
METRICS: Mapping[str, tuple[str, str]] = {
    "watch_s_per_page": ("watch_time_s", "pages"),
    "watch_s_per_user": ("watch_time_s", "users"),
    "pages_per_user": ("pages", "users"),
    "click_rate": ("clicks", "impressions"),
}


@dataclasses.dataclass(frozen=True)
class Exposed:
    """The users of one arm.

    Attributes:
        user_ids: U ids of users, each once.
        sums: float64 [U, 5]: pages, impressions, clicks, watched seconds, and 1.
    """

    user_ids: Sequence[str]
    sums: np.ndarray


def analyse(
    logs_dir: pathlib.Path,
    experiment: Experiment,
    *,
    from_s: int | None = None,
    until_s: int | None = None,
    planned_pages: float = sequential.PLANNED_PAGES,
    replicates: int = REPLICATES,
    seed: int = 0,
) -> dict[str, Any]:
    """Returns the figures, ready for JSON; no differences where the split is not as planned.

    Args:
        logs_dir: Directory of the raw logs.
        experiment: The one that was served.
        from_s: First moment of the impressions, Unix seconds; None for no bound.
        until_s: Moment before which the impressions lie, Unix seconds; None for no bound.
        planned_pages: Pages of two arms at which the interval for any time is narrowest, chosen
            before the experiment.
        replicates: Number of resamples of users.
        seed: Seed of the resamples.

    Raises:
        InputError: The logs cannot be read, or nobody was exposed to one of the arms.
    """
    arms, crossed, waiting = exposed(logs_dir, experiment, from_s=from_s, until_s=until_s)
    control = experiment.arms[0].name
    others = [name for name in arms if name != control]
    figures = _sheet(arms, control).figures(
        Bootstrap(
            num_users=sum(len(arm.user_ids) for arm in arms.values()),
            replicates=replicates,
            seed=seed,
        )
    )
    split = _split(arms, experiment, crossed)
    return {
        "experiment": experiment.name,
        "split": split,
        "pages_waiting": waiting,
        "arms": {
            name: {
                **dict(zip(_SUMS, arm.sums.sum(axis=0).tolist(), strict=True)),
                "metrics": {metric: figures[f"{name}/{metric}"].to_json() for metric in METRICS},
            }
            for name, arm in arms.items()
        },
        "differences": {
            name: {
                metric: _difference(
                    figures[f"{name}/{control}/{metric}"],
                    figures[f"{control}/{metric}"],
                    _at_any_time(arms[name], arms[control], metric, planned_pages),
                )
                for metric in METRICS
            }
            for name in ([] if split["is_mismatch"] else others)
        },
    }


def exposed(
    logs_dir: pathlib.Path,
    experiment: Experiment,
    *,
    from_s: int | None = None,
    until_s: int | None = None,
) -> tuple[dict[str, Exposed], int, int]:
    """Returns the users of each arm, how many were seen in several, and how many pages wait.

    Pages that wait are those of the event log: what comes of them may not be known yet.

    Raises:
        InputError: The logs cannot be read, or nobody was exposed to one of the arms.
    """
    names = [experiment.exposure(arm) for arm in experiment.arms]
    window: dict[str, Any] = {"from_s": from_s, "until_s": until_s}
    with compaction.waiting_impressions(logs_dir) as rows:
        waiting = _pages(_inside(rows, **window).select(_COLUMNS), names)
        # Of a new site all may still wait.
        is_new = rows.num_rows and not any((logs_dir / "impressions").glob("**/*.parquet"))
        fragments = [] if is_new else logs.fragments(logs_dir, "impressions", **window)
    parts = [_pages(logs.read_fragment(f, columns=_COLUMNS, **window), names) for f in fragments]
    pages = pa.concat_tables([_pages(_NO_ROWS, names), waiting, *parts])
    # A page may lie in several fragments: its impressions are written as they ripen.
    pages = pages.group_by(["user_id", "page_id", "arm"]).aggregate(_added())
    pages = pages.rename_columns([name.removesuffix("_sum") for name in pages.column_names])
    users = pages.group_by(["user_id", "arm"]).aggregate([*_added(), ("page_id", "count")])
    owner = combined(users["user_id"]).dictionary_encode()
    codes = np.asarray(owner.indices, np.int64)
    is_crossed = np.bincount(codes, minlength=len(owner.dictionary))[codes] > 1
    arm = np.asarray(combined(users["arm"]), np.int64)
    columns = ("page_id_count", "impressions_sum", "clicks_sum", "watch_time_s_sum")
    sums = np.column_stack(
        [*(np.asarray(combined(users[name]), np.float64) for name in columns), np.ones(len(arm))]
    )
    exposures = {}
    for number, planned in enumerate(experiment.arms):
        mine = (arm == number) & ~is_crossed
        if not mine.any():
            raise command.InputError(
                f"{logs_dir} has no impressions of arm {names[number]!r}, neither in its tables "
                "nor in its event log. Serve with --experiment and this --logs, and give --from "
                "and --until that hold some of that time."
            )
        ids = users["user_id"].filter(pa.array(mine)).to_pylist()
        exposures[planned.name] = Exposed(ids, sums[mine])
    return exposures, len(np.unique(codes[is_crossed])), waiting.num_rows


def _inside(rows: pa.Table, *, from_s: int | None, until_s: int | None) -> pa.Table:
    if from_s is not None:
        rows = rows.filter(pc.greater_equal(rows["time"], from_s))
    return rows if until_s is None else rows.filter(pc.less(rows["time"], until_s))


_NO_ROWS = pa.schema(
    {
        "user_id": pa.string(),
        "page_id": pa.string(),
        "clicked": pa.bool_(),
        "watch_time_s": pa.float64(),
        "exposures": pa.list_(pa.string()),
    }
).empty_table()


def _added() -> list[tuple[str, str]]:
    return [(name, "sum") for name in ("impressions", "clicks", "watch_time_s")]


def _pages(rows: pa.Table, names: Sequence[str]) -> pa.Table:
    """Returns one row per page and arm: ``user_id, page_id, arm, impressions, clicks, ...``."""
    exposures = combined(rows["exposures"]).cast(pa.list_(pa.string()))
    lengths = np.asarray(pc.fill_null(pc.list_value_length(exposures), 0), np.int64)
    arm = pc.index_in(exposures.flatten(), value_set=pa.array(names, pa.string()))
    owner = np.repeat(np.arange(rows.num_rows), lengths)
    mine = np.asarray(pc.is_valid(arm), bool)
    taken = rows.take(pa.array(owner[mine]))
    table = pa.table(
        {
            "user_id": taken["user_id"],
            "page_id": pc.fill_null(taken["page_id"], ""),
            "arm": arm.drop_null().cast(pa.int64()),
            "impressions": pa.array(np.ones(taken.num_rows, np.int64)),
            "clicks": pc.fill_null(taken["clicked"], False).cast(pa.int64()),
            "watch_time_s": pc.fill_null(taken["watch_time_s"], 0.0),
        }
    )
    summed = table.group_by(["user_id", "page_id", "arm"]).aggregate(_added())
    return summed.rename_columns([name.removesuffix("_sum") for name in summed.column_names])


# ---- figures -------------------------------------------------------------------------------------


def _sheet(arms: Mapping[str, Exposed], control: str) -> Sheet:
    """Returns what is to be measured: ``<arm>/<metric>`` and ``<arm>/<control>/<metric>``.

    Sums are over the users of ALL arms, 0 for those of others: one set of draws serves everything.
    """
    sheet = Sheet()
    column = {name: number for number, name in enumerate(_SUMS)}
    ends = np.cumsum([len(arm.user_ids) for arm in arms.values()]).tolist()
    for (name, arm), end in zip(arms.items(), ends, strict=True):
        sums = np.zeros((ends[-1], len(_SUMS)))
        sums[end - len(arm.sums) : end] = arm.sums
        for metric, (top, bottom) in METRICS.items():
            of_users = UserSums(numerator=sums[:, column[top]], denominator=sums[:, column[bottom]])
            sheet.add(f"{name}/{metric}", of_users, n=len(arm.user_ids))
    for name in arms:
        for metric in METRICS:
            if name != control:
                key = f"{name}/{control}/{metric}"
                sheet.compare(key, f"{name}/{metric}", f"{control}/{metric}")
    return sheet


def _at_any_time(one: Exposed, control: Exposed, metric: str, planned_pages: float) -> Interval:
    """Returns the difference from the control in an interval that holds however often one looks."""
    top, bottom = (_SUMS.index(name) for name in METRICS[metric])
    pages = float(one.sums[:, 0].sum() + control.sums[:, 0].sum())
    sides = [(arm.sums[:, top], arm.sums[:, bottom]) for arm in (one, control)]
    return sequential.difference(sides[0], sides[1], pages=pages, planned_pages=planned_pages)


def _difference(change: Figure, control: Figure, at_any_time: Interval) -> dict[str, Any]:
    relative = change.value / control.value if control.value else math.nan
    low, high = (x if math.isfinite(x) else None for x in (at_any_time.low, at_any_time.high))
    return {
        **change.to_json(),
        "relative": relative if math.isfinite(relative) else None,
        "excludes_zero": change.excludes_zero,
        "at_any_time": {"low": low, "high": high, "excludes_zero": at_any_time.excludes_zero},
    }


# ---- the split -----------------------------------------------------------------------------------


def _split(arms: Mapping[str, Exposed], experiment: Experiment, crossed: int) -> dict[str, Any]:
    """Compares the users of the arms with the shares, and with where the file puts them now."""
    counts = np.array([len(arm.user_ids) for arm in arms.values()], np.float64)
    shares = np.array([arm.share for arm in experiment.arms])
    expected = counts.sum() * shares / shares.sum()
    p = sequential.split_p(counts.tolist(), shares.tolist())
    misplaced = sum(
        (place := experiment.arm_of(user_id)) is None or place.name != name
        for name, arm in arms.items()
        for user_id in arm.user_ids
    )
    from scipy import stats  # A server that is not asked for it has 10 MB less.

    if crossed or misplaced:
        logging.warning(
            "%d users were in several arms, %d in others than the file says now: was it changed?",
            crossed,
            misplaced,
        )
    return {
        "users": dict(zip(arms, counts.astype(int).tolist(), strict=True)),
        "expected": dict(zip(arms, expected.tolist(), strict=True)),
        "p": p,
        "chi_square_p": float(stats.chisquare(counts, expected).pvalue),
        "is_mismatch": p < MISMATCH_P,
        "users_in_several_arms": crossed,
        "users_in_another_arm_than_now": misplaced,
    }
