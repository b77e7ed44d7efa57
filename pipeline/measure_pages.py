r"""Measures pages over the holdout, by models that have not seen it: beside a video, by settings.

    python -m pipeline.measure_pages --logs=logs --examples=work/examples \
        --candidate_model=work/candidate_model --ranker_model=work/ranker_model \
        --output=related.json
    python -m pipeline.measure_pages ... --experiment=arms.json --output=arms.json

Without --experiment: before each watch that follows another one of its user within an hour, is the
video among the first of the page beside that other one (``POST /v1/related``)? Beside it stand
co-watch and embeddings alone, and how long such a page takes in relation to one of its own.

With --experiment, on simulated logs: every arm is asked at the same moments, whatever its share,
and the truth says what its pages are worth, see pipeline/benchmarks/arm_pages.py. Intervals are
over users, differences paired. The models are those that were measured, before any refit; an order
of pages (--page_order), for arms that want one, was learned from this very holdout.
"""

import dataclasses
import json
import pathlib
import tempfile
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from absl import flags

from features import command, config_flags, files, reports
from serving.building import config as build_config

if TYPE_CHECKING:
    import numpy.typing as npt

    from models.paper.experiments import Experiment, Row
    from serving.batch.config import BacktestConfig
    from serving.batch.past_log import PastLog
    from serving.funnel.loaded_release import LoadedRelease

_LOGS = config_flags.path("logs", "reads", "Raw logs that the examples are made of.", required=True)
_INPUTS = config_flags.define(
    build_config.Inputs, without={"metrics", "judged_examples", "retraining"}
)
_OUTPUT = config_flags.path("output", "writes", "JSON file of figures to write.", required=True)
_EXPERIMENT = config_flags.path(
    "experiment", "reads", "Arms to compare, a file as of serving.serve; the first is the control."
)
_SAMPLE = flags.DEFINE_integer("sample", 2000, "Pages to ask for, at most.", lower_bound=1)
_K = flags.DEFINE_integer("k", 10, "Videos on a page of an arm.", lower_bound=1, upper_bound=100)
_TIMED = flags.DEFINE_integer("timed", 400, "Pages to take the time of.", lower_bound=0)
_SEED = flags.DEFINE_integer("seed", 1, "Draws clicks.")
_RELATED_K = 20


def main() -> None:
    """Loads release and log, measures, and writes."""
    inputs = _INPUTS.build()
    from features import dataset
    from serving.batch import config as batch_config
    from serving.batch import past_funnel
    from serving.building import assembly

    info = dataset.info(inputs.examples)
    settings = batch_config.BacktestConfig(
        from_s=int(str(info["train_until_s"])),
        until_s=int(str(info["until_s"])),
        k=_K.value if _EXPERIMENT.value else _RELATED_K,
        sample=_SAMPLE.value,
    )
    with tempfile.TemporaryDirectory() as directory:
        root = pathlib.Path(directory)
        release = assembly.unpublished(inputs, root)
        loaded = past_funnel.loaded(release, root, pathlib.Path(_LOGS.value), settings)
        measure = _arms if _EXPERIMENT.value else _related
        measured = measure(*loaded, settings)
    document = {
        "measured": reports.stamp(),
        "settings": {"seeds": [_SEED.value]},
        "experiments": [json.loads(measured.to_json())],
    }
    files.atomic_write(_OUTPUT.value, json.dumps(document, indent=1) + "\n")
    for row in measured.rows:
        print(f"  {row.setting:<40} {row.metric:<40} {row}")
    print(f"Wrote {_OUTPUT.value}.")


def _related(loaded: "LoadedRelease", log: "PastLog", settings: "BacktestConfig") -> "Experiment":
    import numpy as np

    from models.paper.experiments import Experiment, Row
    from pipeline.benchmarks import page_speed
    from serving.batch import past_related

    watches = list(past_related.RelatedFunnel(loaded, log, settings).next_watches())
    if not watches:
        raise command.InputError(f"no watch of {_LOGS.value} follows another one within an hour.")
    users = [one.user_id for one in watches]
    rows = []
    for cutoff in (10, _RELATED_K):
        hits = {
            name: np.array([one.places[name] < cutoff for one in watches], np.float64)
            for name in past_related.RANKINGS
        }
        rows += _compared(
            hits, users, metric=f"next watch in the first {cutoff}", control=past_related.CO_WATCH
        )
    if _TIMED.value:
        rows += [
            Row(setting=setting, metric=metric, value=value, n=_TIMED.value)
            for setting, metric, value in page_speed.beside_a_video(
                loaded, log, now=settings.from_s or 0, pages=_TIMED.value
            )
        ]
    return Experiment(
        name="related",
        title="Pages beside a video",
        question="the page beside the video that a user watched, asked before the next watch "
        "within an hour, with what was known then: is that next video among its first?",
        paper="",
        settings={"next_watches": len(watches)},
        rows=rows,
    )


def _arms(loaded: "LoadedRelease", log: "PastLog", settings: "BacktestConfig") -> "Experiment":
    import numpy as np

    from models.paper.experiments import Experiment, Row
    from pipeline.benchmarks import arm_pages
    from pipeline.site.truth import Truth
    from serving.funnel import experiment as experiments
    from serving.funnel.page import FunnelConfig

    arms = experiments.load(_EXPERIMENT.value).arms
    truth = Truth.load(_LOGS.value)
    judged = {}
    for arm in arms:
        of_arm = dataclasses.replace(settings, funnel=FunnelConfig(**arm.settings))
        judged[arm.name] = arm_pages.ArmFunnel(loaded, log, of_arm).judged(truth, seed=_SEED.value)
    control = judged[arms[0].name]
    rows: list[Row] = []
    for metric in control.values:
        values = {name: one.values[metric] for name, one in judged.items()}
        rows += _compared(values, control.user_ids, metric=metric, control=arms[0].name)
    for name, one in judged.items():
        often = np.mean(one.uploads >= arm_pages.SHOWN_OFTEN) if len(one.uploads) else np.nan
        for metric, value in (
            (f"share of uploads shown {arm_pages.SHOWN_OFTEN} times", float(often)),
            ("clicks on uploads", one.upload_clicks),
        ):
            rows.append(Row(setting=name, metric=metric, value=value, n=len(one.uploads)))
    return Experiment(
        name="arms",
        title="Pages by settings",
        question="pages of every arm at the same moments of the log, judged by the truth: expected "
        "clicks, watch seconds and satisfaction of a page; clicks are drawn, and count later",
        paper="",
        settings={"arms": {arm.name: dict(arm.settings) for arm in arms}},
        rows=rows,
    )


def _compared(
    values: "Mapping[str, npt.NDArray[Any]]", user_ids: Sequence[str], *, metric: str, control: str
) -> "list[Row]":
    """Returns the mean of each, and its difference from the control, with intervals over users."""
    from models.evaluation import metrics
    from models.evaluation.intervals import Bootstrap
    from models.paper.experiments import Row

    codes = metrics.codes_of(user_ids)
    users = int(codes.max()) + 1
    sums = {name: metrics.sums_by_user(column, codes, users) for name, column in values.items()}
    bootstrap = Bootstrap(num_users=users)
    rows = [
        Row.of(name, metric, interval, n=len(codes))
        for name, interval in zip(sums, bootstrap.intervals(list(sums.values())), strict=True)
    ]
    others = [name for name in sums if name != control]
    changes = bootstrap.differences([(sums[name], sums[control]) for name in others])
    return rows + [
        Row.of(f"{name} minus {control}", metric, change, n=len(codes))
        for name, change in zip(others, changes, strict=True)
    ]


if __name__ == "__main__":
    command.run(main)
