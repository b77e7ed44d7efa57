"""Hours between nights: those that are like the hours before, and those that broke."""

import pyarrow as pa
import pytest

from features.durations import DAY_S, HOUR_S
from features.tables import logs
from serving.building import hour_gates
from serving.building.config import HourLimits
from serving.building.gates import Gate

END = 1_700_006_400  # A full hour.
NOW = END + 5
LIMITS = HourLimits()


def site(root, *, last=100, seconds=60.0, flood=0, shift_s=0):
    """Four days of 100 watches an hour, of 20 videos, 60 s each; and a last hour as it is told."""
    rows = [
        (END - 1 - ago * HOUR_S - n * 30, f"v{(n + ago) % 20}", 60.0)
        for ago in range(1, 96)
        for n in range(100)
    ]
    for n in range(last):
        video = "flood" if n < flood else f"v{n % 20}"
        rows.append((END - 1 - n * 3600 // max(last, 1) + shift_s, video, seconds))
    times, videos, watched = zip(*rows, strict=True)
    table = pa.table(
        {
            "user_id": [f"u{n % 50}" for n in range(len(rows))],
            "video_id": videos,
            "time": pa.array(times, pa.int64()),
            "watch_time_s": watched,
        }
    )
    with logs.LogWriter(root) as writer:
        writer.write("watches", table)
    return root


def verdicts(root, *, since_s=END - HOUR_S):
    judged = hour_gates.of_logs(root, LIMITS, since_s=since_s, until_s=END, now_s=NOW)
    return {gate.rule: gate for gate in judged}


def failing(root, **window):
    return [str(gate) for gate in verdicts(root, **window).values() if gate.verdict == "FAIL"]


def test_an_hour_like_those_before_passes_all(tmp_path):
    judged = verdicts(site(tmp_path))
    assert [gate.verdict for gate in judged.values()] == ["pass"] * 4


@pytest.mark.parametrize(
    ("hour", "said"),
    [
        ({"last": 0}, "0, before 100 to 100: are logs missing, or is a clock behind?"),
        ({"last": 600}, "600, before 100 to 100: is it logged twice?"),
        ({"seconds": 120.0}, "120.0 s from 2023-11-14T23:00:00Z on: is it counted wrongly?"),
        ({"flood": 80}, "80% from 2023-11-14T23:00:00Z on: one video floods it"),
    ],
)
def test_a_bad_hour_is_named(tmp_path, hour, said):
    (gate,) = failing(site(tmp_path, **hour))
    assert said in gate


def test_a_clock_that_is_ahead_is_named_and_so_is_the_hour_that_it_leaves_empty(tmp_path):
    ahead, empty = failing(site(tmp_path, shift_s=3 * HOUR_S))
    assert "100: a clock is ahead" in ahead
    assert "are logs missing" in empty


def test_a_bad_hour_is_refused_as_long_as_it_is_not_learnt(tmp_path):
    site(tmp_path, flood=80)
    # As of two hours later, nothing was learnt since.
    later = {"until_s": END + 2 * HOUR_S, "now_s": NOW + 2 * HOUR_S}
    judged = hour_gates.of_logs(tmp_path, LIMITS, since_s=END - HOUR_S, **later)
    assert any("one video floods it" in gate.value for gate in judged)
    judged = hour_gates.of_logs(tmp_path, LIMITS, since_s=END, **later)
    assert not any("one video floods it" in gate.value for gate in judged)


def test_too_little_is_not_checked(tmp_path):
    rows = {"user_id": ["u"], "video_id": ["v"], "time": [END - DAY_S], "watch_time_s": [1.0]}
    with logs.LogWriter(tmp_path) as writer:
        writer.write("watches", pa.table(rows))
    judged = verdicts(tmp_path)
    assert [gate.verdict for gate in judged.values()] == ["pass", *["not checked"] * 3]


def lists(verdict="FAIL"):
    return [Gate(rule="mean overlap of lists", value=".99", threshold=".98", verdict=verdict)]


STEP = {"watches": 200, "recall": 0.5}
SAME, WORSE = [-0.01, -0.05, 0.03], [-0.2, -0.3, -0.1]


def test_steps_that_make_the_hour_harder_are_refused():
    step = {**STEP, "against_before": WORSE, "against_popularity": SAME}
    judged = hour_gates.of_steps(step, lists())
    assert [gate.verdict for gate in judged] == ["FAIL", "pass", "FAIL"]
    few = hour_gates.of_steps({"watches": 20}, lists("pass"))
    assert [gate.verdict for gate in few] == ["not checked", "not checked", "pass"]


def test_lists_that_are_alike_are_a_collapse_where_one_list_for_all_would_be_better():
    worse = {**STEP, "against_before": SAME, "against_popularity": WORSE}
    assert [g.verdict for g in hour_gates.of_steps(worse, lists())] == ["pass", "FAIL", "FAIL"]
    as_good = {**STEP, "against_before": SAME, "against_popularity": SAME}
    (*_, alike) = hour_gates.of_steps(as_good, lists())
    assert alike.verdict == "not checked"
    assert "one list for everybody" in alike.value
    assert hour_gates.of_steps({}, lists()) == lists()
