"""Commands that are run by others."""

import re

from pipeline.steps import commands

TITLES = {
    "build/demo/examples": "1/2 preprocess",
    "root": "2/2 build_release",
}


def test_a_step_is_one_line(capsys):
    hear = commands.teller(TITLES)
    for text in (
        "10:45:26 Reading.",
        "Wrote build/demo/examples: " + "many counts, " * 40,
        "  table 7",
        "Published release 1 in root (index).",
        "Wrote a release in root; report: work/retrain.json",
    ):
        hear(text + "\n")
    told = capsys.readouterr().out.splitlines()
    assert len(told) == 2
    assert re.match(r"1/2 preprocess {10,}\d+ s  Wrote build/demo/examples: many", told[0])
    assert re.match(r"2/2 build_release +\d+ s  Published release 1 in root", told[1])
    assert max(len(line) for line in told) <= 100
