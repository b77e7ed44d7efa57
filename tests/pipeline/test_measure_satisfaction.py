"""What a ranker expects beside the truth of a simulated site, as its deciles say it."""

import dataclasses

import numpy as np
import pytest

from features import command, feedback
from features.tables.logs import read_table
from models.evaluation.intervals import Bootstrap
from models.evaluation.ranking import Impressions
from pipeline import measure_satisfaction
from pipeline.site import config as site_config
from pipeline.site import simulator

KINDS = ("like", "hide")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Logs of a small site where people say what they think, and its impressions as examples."""
    logs = tmp_path_factory.mktemp("site") / "logs"
    config = dataclasses.replace(site_config.PRESETS["tiny"], days=2, users=80, feedback=1.0)
    simulator.write_logs(config, logs)
    shown = read_table(logs, "impressions").sort_by([("page_id", "ascending")])
    arrays = {
        name: np.array([text.encode() for text in shown[column].to_pylist()])
        for name, column in (
            ("user_id", "user_id"), ("page_id", "page_id"), ("label_video_id", "video_id"),
        )
    }  # fmt: skip
    arrays |= {name: shown[name].to_numpy() for name in ("time", "position", "clicked")}
    arrays["watch_time_s"] = shown["watch_time_s"].fill_null(0).to_numpy()
    arrays |= {feedback.label(kind): np.zeros(shown.num_rows) for kind in KINDS}
    return logs, arrays


def within(site, factor):
    logs, arrays = site
    truth = measure_satisfaction._truth(arrays, logs)
    impressions = Impressions.of(arrays)
    said = {name: factor * truth[name] for name in ("watch_time_s", *KINDS)}
    bootstrap = Bootstrap(num_users=int(impressions.user_codes.max()) + 1, replicates=50)
    rows = measure_satisfaction._of_heads(said, impressions, truth, bootstrap)
    return {
        row.metric: row.value
        for row in rows["calibration_by_truth"]
        if row.setting == "deciles within 10 %"
    }, {row.metric: row.value for row in rows["calibration_by_truth"] if row.setting == "all"}


@pytest.mark.parametrize(("factor", "deciles"), [(1.0, 10), (0.5, 0)])
def test_the_truth_is_right_in_each_decile_and_half_of_it_in_none(site, factor, deciles):
    by_kind, overall = within(site, factor)
    assert by_kind == dict.fromkeys(("watch_time_s", *KINDS), deciles)
    assert overall == pytest.approx(dict.fromkeys(("watch_time_s", *KINDS), factor))


def test_impressions_of_other_logs_are_refused(site):
    logs, arrays = site
    elsewhere = {**arrays, "page_id": np.array([b"elsewhere", *arrays["page_id"][1:]])}
    with pytest.raises(command.InputError, match="holdout impressions of --examples"):
        measure_satisfaction._truth(elsewhere, logs)
