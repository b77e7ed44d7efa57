import hashlib
import json
import types

import numpy as np
import pyarrow as pa
import pytest

from features import command
from features.catalogue import Catalogue
from serving.events.event import Kind
from serving.funnel import page_order
from serving.funnel.candidates import Candidates
from serving.funnel.page import FunnelConfig
from serving.funnel.page_order import NAMES, PageOrder
from serving.live.state import Happened, LiveState
from serving.live.view import LiveView


def _viewer(now, *, region, watched):
    pairs = sorted((time, video) for video, times in watched.items() for time in times)
    watches = types.SimpleNamespace(
        video=np.array([video for _, video in pairs]), time=np.array([time for time, _ in pairs])
    )
    history = types.SimpleNamespace(watches=watches)
    return types.SimpleNamespace(now=now, region=region, history=history)


def test_columns_hold_what_is_known_of_each_candidate_before_the_moment():
    """Video 2 was watched twice in the last minutes, once of them here; the viewer watched 1 twice.

    Co-watch nominated 1 and 2, in this order.
    """
    catalogue = Catalogue(pa.table({"video_id": ["0", "1", "2"], "upload_time": [0, 0, 7200]}))
    state = LiveState()
    times = np.array([10_000, 10_050])
    state.meet("v", "here")
    state.add(Happened(Kind.WATCH, ["u", "v"], ["2", "2"], times))
    found = Candidates(
        rows=np.array([0, 1, 2], np.int32),
        source_names=("retrieval", "co_watch"),
        source_bits=np.array([1, 2, 2]),
        source_scores=np.array([[3.0, np.nan, np.nan], [np.nan, 0.5, 0.2]], np.float32),
        retrieval_scores=np.array([3.0, 1.0, np.nan], np.float32),
    )
    view = LiveView(state, catalogue)
    x = page_order.columns(
        view,
        found,
        viewer=_viewer(10_800, region="here", watched={1: [100, 7_200]}),
        upload_times=catalogue.upload_times,
        seconds=None,
        rates=view.rates(found.rows, region="here", now_s=10_800),
    )
    by_name = dict(zip(NAMES, x.T, strict=True))
    log3, far = np.log(3.0), np.log(1000.0)
    expected = {
        "log_live_watches_10m": [0, 0, 0],
        "log_live_watches_1h": [0, 0, log3],
        "log_live_watches_1d": [0, 0, log3],
        "log_expected_watch_time_s": [0, 0, 0],
        "retrieval_score": [0, -2, 0],
        "has_retrieval_score": [1, 1, 0],
        "co_watch_score": [0, 0.5, 0.2],
        "log_age_h": [np.log(4.0), np.log(4.0), np.log(2.0)],
        "from_retrieval": [1, 0, 0],
        "from_co_watch": [0, 1, 1],
        "from_popular": [0, 0, 0],
        "log_place_in_retrieval": [0, far, far],
        "log_place_in_co_watch": [far, 0, np.log(2.0)],
        "log_place_in_trending": [far, far, far],
        "log_place_in_again": [far, far, far],
        "is_watched": [0, 1, 0],
        "log_times_watched": [0, log3, 0],
        "log_h_since_watched": [0, np.log(1.1), 0],
        "log_rate_day": np.log([0.1, 0.1, 0.1 + 2 ** (-800 / 86_400) + 2 ** (-750 / 86_400)]),
        # Half of its watches are from here, and so are half of all: no more than elsewhere.
        "log_region_lift": [0, 0, 0],
    }
    for name, values in expected.items():
        np.testing.assert_allclose(by_name[name], values, atol=1e-6, err_msg=name)


@pytest.mark.parametrize(("weight", "needs"), [(0.0, False), (0.5, True)])
def test_an_order_that_looks_at_watch_times_needs_a_ranker(weight, needs):
    weights = np.ones(len(NAMES))
    weights[NAMES.index("log_expected_watch_time_s")] = weight
    assert PageOrder(weights, 1).needs_ranker == needs


@pytest.mark.parametrize(
    ("settings", "is_ranked", "words"),
    [
        ({}, True, "of expected watch time"),
        ({}, False, "learned from 7 watches"),
        ({"page_value": "watch_time_s + like"}, True, "of the value watch_time_s + like"),
        ({"order": "learned"}, True, "learned from 7 watches"),
        ({"order": "learned", "page_value": "2 * like"}, True, "of the value 2 * like"),
        ({"order": "retrieval"}, False, "of the retrieval score"),
        ({"order": "popular"}, True, "of popularity"),
    ],
)
def test_what_decides_the_order_of_pages_is_told_in_words(settings, is_ranked, words):
    order = PageOrder(np.zeros(len(NAMES)), 7)
    config = FunnelConfig(**settings)
    assert page_order.in_words(order, config, is_ranked=is_ranked) == words
    reading = PageOrder(np.ones(len(NAMES)), 7)
    unranked = "of popularity" if "popular" in words else "of the retrieval score"
    assert page_order.in_words(reading, config, is_ranked=False) == unranked


def test_a_saved_order_is_the_same_order(tmp_path):
    order = PageOrder(np.linspace(-1, 1, len(NAMES)), 321)
    order.save(tmp_path / "order.json")
    again = PageOrder.load(tmp_path / "order.json")
    assert again.samples == 321
    x = np.random.default_rng(0).normal(size=(9, len(NAMES)))
    np.testing.assert_array_equal(again.scores(x), order.scores(x))


def signed(order):
    body = json.dumps(order, sort_keys=True)
    return json.dumps({"sha256": hashlib.sha256(body.encode()).hexdigest(), "order": order})


def of_weight(weight):
    return {"samples": 1, "weights": dict.fromkeys(NAMES, weight)}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        "[]",
        "7",
        "[" * 100_000,
        '{"a":' * 100_000,
        "\0" * 2_000_000,
        json.dumps(of_weight(1.0)),
        signed({"samples": 1, "weights": {"log_age_h": 1}}),
        signed(of_weight("much")),
        signed(of_weight(1e308)),
        signed(of_weight(float("nan"))),
        signed(of_weight(10**400)),
        signed(of_weight(None)),
        signed(of_weight(-1.1e6)),
    ],
    ids=lambda text: text[:30],
)
def test_a_broken_order_is_refused_and_a_release_does_without(tmp_path, text, caplog):
    path = page_order.path_of(tmp_path, "20260101000000")
    assert page_order.of_release(tmp_path, "20260101000000") is None
    assert not caplog.text
    path.parent.mkdir()
    path.write_text(text)
    with pytest.raises(command.InputError, match="page order|weights"):
        PageOrder.load(path)
    assert page_order.of_release(tmp_path, "20260101000000") is None
    assert "Pages are not in a learned order" in caplog.text


def test_signed_order_within_bounds_is_taken(tmp_path):
    (tmp_path / "order").write_text(signed(of_weight(-1e6)))
    assert PageOrder.load(tmp_path / "order").weights.tolist() == [-1e6] * len(NAMES)


@pytest.mark.parametrize("make", ["directory", "link to nothing", "link to itself"])
def test_order_that_is_no_file_is_done_without(tmp_path, make):
    path = page_order.path_of(tmp_path, "7")
    path.parent.mkdir()
    if make == "directory":
        path.mkdir()
    else:
        path.symlink_to("nothing" if make == "link to nothing" else path.name)
    assert page_order.of_release(tmp_path, "7") is None


def test_no_flipped_bit_gives_other_weights(tmp_path):
    path = tmp_path / "order.json"
    order = PageOrder(np.linspace(-1, 1, len(NAMES)), 321)
    order.save(path)
    good = path.read_bytes()
    accepted = 0
    for place in range(len(good)):
        for bit in (place % 8, (place + 3) % 8):
            changed = bytearray(good)
            changed[place] ^= 1 << bit
            path.write_bytes(changed)
            try:
                again = PageOrder.load(path)
            except command.InputError:
                continue
            accepted += 1  # White space is no content.
            np.testing.assert_array_equal(again.weights, order.weights)
            assert again.samples == 321
    assert accepted < len(good) / 10


def test_weights_that_would_not_be_taken_are_not_saved(tmp_path):
    with pytest.raises(command.InputError, match="beyond 1e"):
        PageOrder(np.full(len(NAMES), 2e6), 321).save(tmp_path / "order.json")
    assert not list(tmp_path.iterdir())
