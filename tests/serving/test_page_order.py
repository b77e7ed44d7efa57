import numpy as np
import pyarrow as pa
import pytest

from features import command
from features.catalogue import Catalogue
from serving import page_order
from serving.candidates import Candidates
from serving.events import Kind
from serving.live_state import Happened, LiveState, LiveView
from serving.page_order import NAMES, PageOrder


def test_columns_hold_what_is_known_of_each_candidate_before_the_moment():
    """Video 2 was watched twice in the last minutes; co-watch nominated 1 and 2, in this order."""
    catalogue = Catalogue(pa.table({"video_id": ["0", "1", "2"], "upload_time": [0, 0, 7200]}))
    state = LiveState()
    times = np.array([10_000, 10_050])
    state.add(Happened(Kind.WATCH, ["u", "v"], ["2", "2"], times))
    found = Candidates(
        rows=np.array([0, 1, 2], np.int32),
        source_names=("retrieval", "co_watch"),
        source_bits=np.array([1, 2, 2]),
        source_scores=np.array([[3.0, np.nan, np.nan], [np.nan, 0.5, 0.2]], np.float32),
        retrieval_scores=np.array([3.0, 1.0, np.nan], np.float32),
    )
    x = page_order.columns(
        LiveView(state, catalogue),
        found,
        now=10_800,
        upload_times=catalogue.upload_times,
        seconds=None,
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
    }
    for name, values in expected.items():
        np.testing.assert_allclose(by_name[name], values, atol=1e-6, err_msg=name)


@pytest.mark.parametrize(("weight", "needs"), [(0.0, False), (0.5, True)])
def test_an_order_that_looks_at_watch_times_needs_a_ranker(weight, needs):
    weights = np.ones(len(NAMES))
    weights[NAMES.index("log_expected_watch_time_s")] = weight
    assert PageOrder(weights, 1).needs_ranker == needs


def test_a_saved_order_is_the_same_order(tmp_path):
    order = PageOrder(np.linspace(-1, 1, len(NAMES)), 321)
    order.save(tmp_path / "order.json")
    again = PageOrder.load(tmp_path / "order.json")
    assert again.samples == 321
    x = np.random.default_rng(0).normal(size=(9, len(NAMES)))
    np.testing.assert_array_equal(again.scores(x), order.scores(x))


@pytest.mark.parametrize("text", ["", "{}", '{"samples": 1, "weights": {"log_age_h": 1}}'])
def test_a_broken_order_is_refused_and_a_release_does_without(tmp_path, text):
    path = page_order.path_of(tmp_path, "20260101000000")
    assert page_order.of_release(tmp_path, "20260101000000") is None
    path.parent.mkdir()
    path.write_text(text)
    with pytest.raises(command.InputError, match="no learned page order"):
        PageOrder.load(path)
    assert page_order.of_release(tmp_path, "20260101000000") is None
