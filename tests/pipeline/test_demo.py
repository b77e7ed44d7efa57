"""The binary where it refuses to start; tests/e2e runs the chain itself."""

import socket
import subprocess
import sys


def demo(*flags):
    return subprocess.run(
        [sys.executable, "-m", "pipeline.demo", *flags], capture_output=True, text=True, check=False
    )


def test_a_busy_port_is_refused_before_minutes_of_work(tmp_path):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        done = demo(f"--output={tmp_path / 'demo'}", f"--port={port}", "--once")
    assert done.returncode == 2
    assert f"127.0.0.1:{port}" in done.stderr
    assert "make demo PORT=" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "demo").exists()


def test_a_port_out_of_range_is_refused(tmp_path):
    done = demo(f"--output={tmp_path / 'demo'}", "--port=70000")
    assert done.returncode == 2
    assert "port" in done.stderr
    assert "Traceback" not in done.stderr
