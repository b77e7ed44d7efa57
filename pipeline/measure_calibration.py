r"""Compares expected watch times with the truth of a simulated site, by decile.

    python -m serving.recommend_batch --serving_root=serving_root --stage=rank \
        --logs=logs --from=2022-05-28 --output=scores.parquet
    python -m pipeline.measure_calibration --logs=logs --scores=scores.parquet

The truth knows what an impression was worth before it was known whether it would be clicked, so a
decile of few clicks is as well measured as one of many. Intervals are over users.
"""

import pathlib

import numpy as np
import pyarrow.compute as pc
from absl import flags

from features import command, config_flags
from models.evaluation import metrics
from models.evaluation.intervals import Bootstrap
from pipeline.site import impressions as site_impressions
from pipeline.site import truth as site_truth
from serving.batch import output as batch_output

_LOGS = config_flags.path("logs", "reads", "Simulated logs.", required=True)
_SCORES = config_flags.path(
    "scores", "reads", "Parquet file of recommend_batch --stage=rank.", required=True
)
_BINS = flags.DEFINE_integer("bins", 10, "Equally many impressions in each.", lower_bound=1)
_TOLERATED = 0.1


def main() -> None:
    """Joins scores and truth, and prints one line per decile."""
    scores = batch_output.read_parquet(pathlib.Path(_SCORES.value), flag="scores")
    scores = scores.filter(pc.is_valid(scores["expected_watch_time_s"]))
    truth = site_impressions.expected_watch_times(
        site_truth.Truth.load(_LOGS.value), _LOGS.value
    ).rename_columns(["page_id", "video_id", "click_probability", "truth"])
    joined = scores.join(truth, ["page_id", "video_id"], join_type="inner")
    if not joined.num_rows or joined.num_rows != scores.num_rows:
        raise command.InputError(
            f"{joined.num_rows:,} of {scores.num_rows:,} rows of --scores {_SCORES.value} are "
            f"impressions of {_LOGS.value}; all should be. Score these logs, with "
            "serving.recommend_batch --stage=rank."
        )
    expected, wanted = (
        joined[name].to_numpy().astype(np.float64) for name in ("expected_watch_time_s", "truth")
    )
    users = metrics.codes_of(joined["user_id"].to_numpy())
    bins = metrics.calibration_bins(expected, _BINS.value)
    bootstrap = Bootstrap(num_users=int(users.max()) + 1)
    print("decile  impressions  expected s  truth s  expected / truth")
    within = 0
    for one in np.unique(bins):
        mask = bins == one
        sums = [
            metrics.sums_by_user(values * mask, users, bootstrap.num_users).numerator
            for values in (expected, wanted)
        ]
        (ratio,) = bootstrap.intervals([metrics.UserSums(numerator=sums[0], denominator=sums[1])])
        within += abs(ratio.value - 1) <= _TOLERATED
        print(
            f"{one + 1:6d}  {mask.sum():11,}  {expected[mask].mean():10.2f}"
            f"  {wanted[mask].mean():7.2f}  {ratio.value:.2f} [{ratio.low:.2f}, {ratio.high:.2f}]"
        )
    print(
        f"{within} of {len(np.unique(bins))} within {_TOLERATED:.0%} of the truth; in all "
        f"{expected.sum() / wanted.sum():.3f} times the truth."
    )


if __name__ == "__main__":
    command.run(main)
