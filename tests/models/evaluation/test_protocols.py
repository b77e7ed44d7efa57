"""Protocols of public data sets."""

import numpy as np
import pytest

from features import command
from features.durations import DAY_S
from models.evaluation import metrics, protocols


def info(until_s, days):
    return {"until_s": until_s, "train_until_s": until_s - int(days * DAY_S)}


@pytest.mark.parametrize("name", protocols.PROTOCOLS)
def test_examples_that_keep_other_days_out_are_refused_with_the_way_to_make_them(name):
    protocol = protocols.PROTOCOLS[name]
    until_s = protocol.until_s or 1_700_000_000
    assert protocols.require_fit(name, info(until_s, protocol.holdout_days)) is protocol
    with pytest.raises(command.InputError, match=f"--protocol={name} keeps the last"):
        protocols.require_fit(name, info(until_s, protocol.holdout_days + 1))


def test_the_right_number_of_days_at_another_time_is_refused():
    with pytest.raises(command.InputError, match="up to 2024-02-18T16:00:00Z; these examples"):
        protocols.require_fit("recflow", info(1_700_000_000, 1))


def test_the_gain_of_one_label_falls_with_its_rank_up_to_the_cut_off():
    gains = metrics.discounted_gains([1, 3, 7, 8], k=7)
    np.testing.assert_allclose(gains, [1, 1 / 2, 1 / 3, 0])
