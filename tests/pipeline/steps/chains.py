"""A chain of quick steps, and a place for it."""

import json
import os
import pathlib
import tempfile

import pytest

from pipeline.steps import declared, retraining

Outcome = retraining.Outcome


# Writes its output like a real binary: COMPLETE last. FAIL_<STEP> makes it fail before that.
STEP = """
import json, os, pathlib, sys, tempfile, time
flags = dict(argument[2:].split("=", 1) for argument in sys.argv[1:])
name = pathlib.Path(__file__).stem
with open(os.environ["TRACE"], "a") as trace:
    trace.write(json.dumps([name, flags]) + "\\n")
out = pathlib.Path(flags["out"])
out.mkdir(parents=True, exist_ok=True)
(out / "COMPLETE").unlink(missing_ok=True)
code = os.environ.get("FAIL_" + name.upper())
pathlib.Path(tempfile.gettempdir(), name).write_text("scratch")
if code == "hang":
    time.sleep(60)
while code == "wait" and not os.path.exists(os.environ["GO"]):
    time.sleep(0.02)
if code and code != "wait":
    sys.exit(int(code))
ranking = os.environ.get("RANKING", "1") == "1"
if os.environ.get("FORGETS") != name:
    made = {"has_ranking": ranking, "no_ranking": os.environ.get("NO_RANKING", "")}
    (out / "COMPLETE").write_text(json.dumps({**made, "ns": time.time_ns()}))
if os.environ.get("FAILS_LAST") == name:
    sys.exit(1)
pathlib.Path(os.environ["WATCHNEXT_DONE"]).touch()
"""


CHAIN = (
    declared.Step(
        binary="prepare",
        reads={"logs": declared.LOGS},
        writes=("out", declared.EXAMPLES),
    ),
    declared.Step(
        binary="rank",
        reads={"examples": declared.EXAMPLES},
        writes=("out", "ranker"),
        needs_ranking=True,
    ),
    declared.Step(
        binary="judge",
        reads={"examples": declared.EXAMPLES, "ranker": "ranker"},
        writes=("out", "verdict"),
    ),
)


@pytest.fixture
def root():
    """A directory with a short path: that of the work directory decides where steps write."""
    with tempfile.TemporaryDirectory(prefix="site-", dir="/tmp") as directory:
        yield pathlib.Path(directory)


@pytest.fixture
def site(root, monkeypatch):
    """Logs, the three binaries, and ``site.job(**settings)``, ``site.ran()``."""
    binaries = root / "binaries"
    binaries.mkdir()
    for step in CHAIN:
        (binaries / f"{step.binary}.py").write_text(STEP)
    logs = root / "logs"
    (logs / "impressions").mkdir(parents=True)
    (logs / "impressions" / "part.parquet").write_text("rows")
    monkeypatch.setenv("PYTHONPATH", str(binaries), prepend=os.pathsep)
    monkeypatch.setenv("TRACE", str(root / "trace"))
    return Site(root)


class Site:
    def __init__(self, root):
        self.root = root
        self.logs = root / "logs"
        self.work = root / "work"

    def job(self, **settings):
        return retraining.Retraining(
            **{
                "logs": self.logs,
                "serving_root": self.root / "serving_root",
                "work": self.work,
                "chain": CHAIN,
                **settings,
            }
        )

    def outcomes(self, **settings):
        return [step.outcome for step in self.job(**settings).run()]

    def ran(self):
        """Returns the names of the steps that were started since the last call."""
        trace = self.root / "trace"
        lines = trace.read_text().splitlines() if trace.exists() else []
        trace.unlink(missing_ok=True)
        return [json.loads(line)[0] for line in lines]
