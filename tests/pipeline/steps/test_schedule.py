"""Again and again: when the next run comes, and what ends the loop."""

import types

import pytest

from features import command
from pipeline.steps import schedule
from pipeline.steps.schedule import ScheduleConfig


class Stopped(BaseException):
    """As a signal is."""


class Days:
    """Runs that take a while each, on a clock of their own, until the last."""

    def __init__(self, *runs):
        self.now, self.starts, self.runs = 1000.0, [], list(runs)

    def run(self):
        if not self.runs:
            raise Stopped
        self.starts.append(self.now - 1000)
        takes, error = self.runs.pop(0)
        self.now += takes
        if error:
            raise error
        return 1

    def sleep(self, seconds):
        self.now += seconds

    def repeat(self, every_s=100):
        with pytest.raises(Stopped):
            schedule.repeat(self.run, every_s, sleep=self.sleep, clock=lambda: self.now)
        return self.starts


def test_runs_start_at_their_times_and_a_long_one_lets_others_out():
    assert Days((30, None), (250, None), (10, None)).repeat() == [0, 100, 400]


def test_a_run_that_goes_wrong_is_said_and_the_next_one_comes(caplog):
    bad = command.InputError("no logs any more")
    assert Days((1, None), (1, bad), (1, None)).repeat() == [0, 100, 200]
    assert "error: no logs any more" in caplog.text


def test_what_was_given_wrongly_ends_it_at_once_but_another_run_does_not():
    with pytest.raises(command.InputError, match="no logs"):
        Days((1, command.InputError("no logs"))).repeat()
    assert Days((1, command.InUseError("in use by process 7")), (1, None)).repeat() == [0, 100]


@pytest.mark.parametrize("text", ["24", "h", "0h", "1.5h", "-1h", "24 h", "1w"])
def test_what_is_no_length_of_time_is_refused(text):
    with pytest.raises(command.InputError, match="--every must be"):
        ScheduleConfig(every=text)


def test_a_window_begins_at_midnight_so_that_it_is_the_same_all_day():
    config = ScheduleConfig(window_days=14)
    morning, evening = 1_700_006_400, 1_700_006_400 + 80_000  # 2023-11-15, 00:00 and later.
    assert config.window_from(morning) == config.window_from(evening) == "2023-11-01T00:00:00Z"
    assert ScheduleConfig().window_from(morning) is None


def test_lengths_are_seconds_minutes_hours_and_days():
    lengths = types.SimpleNamespace(**{u: schedule.parse(f"2{u}") for u in "smhd"})
    assert (lengths.s, lengths.m, lengths.h, lengths.d) == (2, 120, 7200, 172_800)


def test_runs_on_a_schedule_start_warm_unless_it_is_said():
    assert ScheduleConfig(every="24h").starts_warm and not ScheduleConfig().starts_warm
    assert ScheduleConfig(warm_start=True).starts_warm
    assert not ScheduleConfig(every="24h", warm_start=False).starts_warm
