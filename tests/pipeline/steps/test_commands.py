"""Commands that are run by others."""

import re
import sys

from pipeline.steps import commands

CHATTY = """
import os, sys
print("Wrote build/demo/logs in 9.1 s (4,000 events/s):")
for row in range(500):
    print(f"  table {row}")
print("Wrote build/demo/examples: " + "many counts, " * 40)
print("Published release 1 in root (index).")
print("Wrote a release in root; report: work/retrain.json")
print(os.environ["WATCHNEXT_VERBOSITY"])
sys.exit(int(sys.argv[1]))
"""
TITLES = {
    "build/demo/logs": "1/3 simulate",
    "build/demo/examples": "2/3 preprocess",
    "root": "3/3 build_release",
}


def test_a_step_is_one_line_and_the_rest_is_kept(tmp_path, capsys):
    log = tmp_path / "demo.log"
    assert commands.run_in_short([sys.executable, "-c", CHATTY, "0"], log, TITLES) == 0
    told = capsys.readouterr().out.splitlines()
    assert len(told) == 3
    assert re.match(r"1/3 simulate {12,}\d+ s  Wrote build/demo/logs in", told[0])
    assert re.match(r"2/3 preprocess {10,}\d+ s  Wrote build/demo/examples: many", told[1])
    assert re.match(r"3/3 build_release +\d+ s  Published release 1 in root", told[2])
    assert max(len(line) for line in told) <= 100
    assert "table 499" in log.read_text()
    assert log.read_text().endswith("brief\n")


def test_the_exit_code_is_that_of_the_command(tmp_path):
    log = tmp_path / "demo.log"
    assert commands.run_in_short([sys.executable, "-c", CHATTY, "7"], log, {}) == 7
