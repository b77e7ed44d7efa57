"""The binary itself: it measures this very machine, so only the form of its answer is fixed."""

import json
import os
import socket
import subprocess
import sys

import pytest


def run(*flags, **environment):
    return subprocess.run(
        [sys.executable, "-m", "pipeline.doctor", *flags],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
    )


def test_json_names_every_check_and_a_busy_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        done = run("--json", "--role=preprocessing", f"--ports={port}")
    report = json.loads(done.stdout)
    findings = {finding["check"]: finding for finding in report["findings"]}
    assert findings["python"]["status"] == "ok"
    assert findings[f"port {port}"]["status"] == "warning"
    assert {"packages", "processor", "memory", "disk", "open files", "Java"} <= set(findings)
    assert sum(report["counts"].values()) == len(report["findings"])
    assert done.returncode == (1 if report["counts"]["problem"] else 0)


def test_a_problem_is_printed_with_its_remedy_and_exit_code_1():
    done = run("--role=preprocessing", "--ports=0", TF_USE_LEGACY_KERAS="0")
    assert done.returncode == 1
    (line,) = [line for line in done.stdout.splitlines() if "legacy Keras" in line]
    assert line.startswith("problem")
    assert "Remedy: unset TF_USE_LEGACY_KERAS" in line


@pytest.mark.parametrize("ports", ["http", "65536", "-1"])
def test_a_port_that_is_none_is_refused(ports):
    done = run(f"--ports={ports}")
    assert done.returncode == 2
    assert "--ports must be numbers" in done.stderr
    assert "Traceback" not in done.stderr
