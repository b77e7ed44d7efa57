"""Commands that are run by others."""

import re
import sys

from pipeline.steps import commands

CHATTY = """
import os, sys
print("Wrote build/demo/logs in 9.1 s (4,000 events/s):")
for row in range(500):
    print(f"  table {row}")
print("Wrote build/demo/work/examples: " + "many counts, " * 40)
print("Published release 1 in root (index).")
print("Wrote a release in root; report: work/retrain.json")
print(os.environ["WATCHNEXT_VERBOSITY"])
sys.exit(int(sys.argv[1]))
"""


def test_a_step_is_one_line_and_the_rest_is_kept(tmp_path, capsys):
    log = tmp_path / "demo.log"
    assert commands.run_in_short([sys.executable, "-c", CHATTY, "0"], log) == 0
    told = capsys.readouterr().out.splitlines()
    assert len(told) == 3
    assert all(re.match(r" +\d+ s  (Wrote|Published)", line) for line in told)
    assert max(len(line) for line in told) <= 100
    assert "table 499" in log.read_text()
    assert log.read_text().endswith("brief\n")


def test_the_exit_code_is_that_of_the_command(tmp_path):
    assert commands.run_in_short([sys.executable, "-c", CHATTY, "7"], tmp_path / "demo.log") == 7
