"""Pages by settings, judged by the truth; and pages that take their time."""

import dataclasses

import numpy as np
import pyarrow.compute as pc
import pytest

from features.tables import logs
from pipeline.benchmarks import arm_pages, page_speed
from pipeline.benchmarks.arm_pages import CLICKS, EXPLORED, LIKENESS, ArmFunnel
from pipeline.site.truth import Truth
from serving.batch import past_funnel
from serving.batch.config import BacktestConfig
from serving.funnel.page import FunnelConfig
from serving.release import manifest as release

K = 5


@pytest.fixture(scope="module")
def site(world):
    newest = logs.read_table(world.logs, "impressions", columns=["time"])["time"]
    noon = pc.max(newest).as_py() // 86400 * 86400 + 43200
    settings = BacktestConfig(from_s=noon, k=K, sample=40)
    loaded = past_funnel.loaded(
        release.load(world.serving_root), world.serving_root, world.logs, settings
    )
    return Truth.load(world.logs), *loaded, settings


def judged(site, **settings):
    truth, loaded, log, config = site
    config = dataclasses.replace(config, funnel=FunnelConfig(**settings))
    return ArmFunnel(loaded, log, config).judged(truth, seed=1)


def test_arms_are_judged_at_the_same_moments(site):
    plain, again, explored, diverse = (
        judged(site),
        judged(site),
        judged(site, explored=0.4),
        judged(site, diversity=0.8),
    )
    assert plain.user_ids == again.user_ids == explored.user_ids
    for name, values in plain.values.items():
        np.testing.assert_array_equal(values, again.values[name])
    assert (plain.values[CLICKS] > 0).all()
    assert (plain.values[CLICKS] < K).all()
    assert not plain.values[EXPLORED].any()
    assert explored.values[EXPLORED].mean() > 0.1
    assert diverse.values[LIKENESS].mean() < plain.values[LIKENESS].mean()
    assert len(plain.uploads) == len(explored.uploads)
    assert arm_pages.SHOWN_OFTEN > 0


def test_both_kinds_of_pages_are_timed(site):
    _, loaded, log, config = site
    rows = page_speed.beside_a_video(loaded, log, now=config.from_s, pages=3)
    values = {(setting, metric): value for setting, metric, value in rows}
    assert len(values) == 6
    own, beside = values[page_speed.OWN, "p50 ms"], values[page_speed.BESIDE, "p50 ms"]
    ratio = values[f"{page_speed.BESIDE} over {page_speed.OWN}", "p50 ratio"]
    assert ratio == pytest.approx(beside / own)
