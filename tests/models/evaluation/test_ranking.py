import numpy as np
import pytest

from features.spec import Feature, Kind, ResolvedSpec, Side
from models.baselines.ranking import Scores
from models.evaluation import ranking as ranking_evaluation
from models.evaluation.intervals import Bootstrap, Sheet

SPEC = ResolvedSpec(
    features=tuple(
        Feature(name=name, kind=Kind.CONTINUOUS, side=Side.CANDIDATE, models=("ranker",),
                source=f"videos.{name}")
        for name in ("quality", "duration_s")
    )
)  # fmt: skip
# user, duration quantile, position, clicked, seconds, expected seconds
ROWS = [
    ("a", 0.05, 0, 1, 10, 8),
    ("a", 0.15, 1, 0, 99, 2),
    ("a", 0.25, 12, 1, 30, 20),
    ("b", 0.95, 0, 1, 50, 60),
    ("b", 0.99, 9, 0, 0, 30),
    ("b", 0.05, -1, 0, 0, 2),
]


def calibrated(rows=ROWS, *, resolved=SPEC, expected=True):
    users, durations, positions, clicked, seconds, wanted = zip(*rows, strict=True)
    arrays = {
        "user_id": np.array(users, "S"),
        "page_id": np.array(users, "S"),
        "time": np.arange(len(rows)),
        "candidate_continuous": np.stack([np.zeros(len(rows)), durations], axis=1),
        "position": np.array(positions),
        "clicked": np.array(clicked, np.float32),
        "watch_time_s": np.array(seconds, np.float32),
    }
    impressions = ranking_evaluation.Impressions.of(arrays)
    sheet = Sheet()
    wanted = np.array(wanted, float)
    scores = Scores(name="model", scores=wanted, expected_watch_time_s=wanted if expected else None)
    groups = ranking_evaluation.calibrate(scores, resolved, impressions, sheet)
    return groups, sheet.figures(Bootstrap(num_users=2, replicates=20, seed=0))


def test_by_duration():
    groups, figures = calibrated()
    # Fifths: .05 and .15 and the last .05 in the first, .25 in the second, .95 and .99 in the last.
    assert groups["duration"] == ["duration_01", "duration_02", "duration_05"]
    first = figures["ranker.model.duration_01.actual_watch_time_s"]
    # What was not clicked was watched 0 seconds, whatever the log says.
    assert (first.value, first.n) == (pytest.approx(10 / 3), 3)
    assert figures["ranker.model.duration_01.expected_watch_time_s"].value == 4
    assert figures["ranker.model.duration_01.expected_over_actual"].value == pytest.approx(1.2)
    assert figures["ranker.model.duration_05.expected_over_actual"].value == pytest.approx(1.8)


def test_by_position():
    groups, figures = calibrated()
    # Position 12 counts with the tenth; -1 is a log without positions.
    assert groups["position"] == ["position_01", "position_02", "position_10"]
    assert figures["ranker.model.position_01.expected_over_actual"].value == pytest.approx(68 / 60)
    tenth = figures["ranker.model.position_10.expected_over_actual"]
    assert (tenth.value, tenth.n) == (pytest.approx(50 / 30), 2)


def test_logs_without_positions_or_durations_have_no_such_groups():
    groups, _ = calibrated([(*row[:2], -1, *row[3:]) for row in ROWS])
    assert set(groups) == {"decile", "duration"}
    groups, _ = calibrated(resolved=ResolvedSpec(features=SPEC.features[:1]))
    assert set(groups) == {"decile", "position"}


def test_a_system_that_expects_no_seconds_is_not_calibrated():
    groups, figures = calibrated(expected=False)
    assert not groups
    assert not figures


def test_a_pause_starts_a_new_page():
    users = ["a", "b", "a", "a", "b"]
    times = [3701, 100, 100, 1900, 5000]  # "a": 100, 1900 (1800 later), 3701 (1801 later).
    pages = ranking_evaluation.pages_by_gap(users, times)
    assert pages[2] == pages[3]
    assert len(set(pages)) == 4
