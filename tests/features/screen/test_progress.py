"""How far a long step is, on a terminal and in a pipe."""

import fcntl
import io
import os
import pathlib
import pty
import re
import struct
import subprocess
import sys
import termios

import pytest

from features.screen import progress

ROOT = pathlib.Path(__file__).resolve().parents[3]


class Clock:
    """Seconds that pass when they are told to."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def bar_of(clock, **given):
    return progress.Bar("simulate", stream=io.StringIO(), clock=clock, **given)


def test_a_pipe_gets_one_line_each_ten_seconds_with_rate_and_time_left(clock, caplog):
    caplog.set_level("INFO", logger="absl")
    bar = bar_of(clock, total=400, unit="days")
    for _ in range(50):
        clock.now += 0.5
        bar.add(2)
    # 2 days each half second: 40 after 10 s and 80 after 20 s, of 400.
    assert caplog.messages == [
        "simulate: 40 of 400 days, 4 days/s, 01:30 left",
        "simulate: 80 of 400 days, 4 days/s, 01:20 left",
    ]


def test_a_step_that_stands_still_says_so_too(clock, caplog):
    caplog.set_level("INFO", logger="absl")
    bar = bar_of(clock, total=400, unit="days")
    clock.now += 30
    bar.tick()
    assert caplog.messages == ["simulate: 0 of 400 days, 0 days/s, 00:30 so far"]


def test_what_cannot_be_counted_is_named(clock, caplog):
    caplog.set_level("INFO", logger="absl")
    bar = bar_of(clock)
    bar.at("fitting the transform")
    clock.now += 75
    bar.tick()
    assert caplog.messages == ["simulate: fitting the transform, 01:15 so far"]


def test_an_unknown_total_has_a_rate_alone(clock):
    bar = bar_of(clock, unit="rows")
    clock.now += 2
    bar.add(5000)
    assert bar.text() == "simulate: 5,000 rows, 2,500 rows/s, 00:02 so far"


def test_each_phase_is_counted_from_nought_at_its_own_rate(clock):
    bar = bar_of(clock)
    clock.now += 50
    bar.at("reading", total=100, unit="rows")
    clock.now += 10
    bar.add(40)
    bar.at("reading", total=100, unit="rows")  # As another thread says that reads, too.
    assert bar.text() == "simulate: reading: 40 of 100 rows, 4 rows/s, 00:15 left"
    bar.at("sorting")
    assert bar.text() == "simulate: sorting, 01:00 so far"


def test_phases_of_what_is_counted_as_a_whole_leave_the_count(clock):
    bar = bar_of(clock, total=8, unit="days")
    bar.add(2)
    clock.now += 1
    bar.at("the night", total=5, unit="hours")
    assert bar.text() == "simulate: the night: 2 of 8 days, 2 days/s, 00:03 left"


def test_a_bar_inside_another_shows_nothing(caplog, monkeypatch):
    caplog.set_level("INFO", logger="absl")
    monkeypatch.setattr(progress, "EVERY_S", 0.0)
    with progress.shown("outer", total=2, unit="steps", stream=io.StringIO()) as outer:
        with progress.shown("inner", total=9, unit="rows") as inner:
            inner.add(3)
        outer.add(1)
    assert caplog.messages
    assert all(line.startswith("outer: ") for line in caplog.messages)
    progress.at("nothing is shown any more")


PROGRAM = """
from absl import logging
from features import command
from features.screen import progress


def main():
    with progress.shown("simulate", total=4, unit="days") as bar:
        for day in range(4):
            bar.add(1)
            bar.tick()
            exec(compile(f"logging.info('day {day} is over')", progress.__file__, "exec"))
            progress.write(f"gate {day}")
    with progress.shown("evaluate"):
        progress.at("reading")
        progress.at("ranking", total=20, unit="queries")
        progress.add(10)
        progress.at("ranking", total=20, unit="queries")
        progress.at("writing")
    print("Wrote logs.")


command.run(main)
"""


def on_a_terminal(program):
    """Returns what a terminal of 80 columns gets of a program, up to its end."""
    reading, writing = pty.openpty()
    fcntl.ioctl(writing, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    process = subprocess.Popen(
        [sys.executable, str(program)],
        stdout=writing,
        stderr=writing,
        env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "80", "LINES": "24"},
    )
    os.close(writing)
    shown = b""
    while True:
        try:
            part = os.read(reading, 4096)
        except OSError:  # The end of a terminal.
            break
        if not part:
            break
        shown += part
    os.close(reading)
    assert process.wait() == 0, shown
    return shown.decode()


def screen(text):
    """Returns the lines that stay on a screen: a carriage return writes over what was there."""
    lines = []
    for line in text.replace("\r\n", "\n").split("\n"):
        cells = ""
        for part in re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", line).split("\r"):
            cells = part + cells[len(part) :]
        lines.append(cells.rstrip())
    return [line for line in lines if line]


def test_a_terminal_gets_one_bar_and_whole_lines_above_it(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    text = on_a_terminal(program)
    assert re.search(r"simulate: +\d+%\|.*\| \d/4 \[ *[\d.?]+ ?days/s, [\d:?]+ left\]", text)
    assert re.search(r"evaluate: ranking: +0%\|.*\| 0/20 \[", text)
    assert re.search(r"evaluate: writing \[00:00\]", text)
    kept = [re.sub(r"^\d\d:\d\d:\d\d ", "", line) for line in screen(text)]
    expected = [word for day in range(4) for word in (f"day {day} is over", f"gate {day}")]
    assert kept == [*expected, "Wrote logs."]


def test_a_pipe_gets_no_bar(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    done = subprocess.run(
        [sys.executable, str(program)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.stdout.splitlines() == [*(f"gate {day}" for day in range(4)), "Wrote logs."]
    assert "%|" not in done.stderr
    assert "\r" not in done.stderr
    assert len(done.stderr.splitlines()) == 4
