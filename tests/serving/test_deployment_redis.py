"""Redis as it is deployed, its password, and the nightly run."""

import contextlib
import os
import pathlib
import re
import socket
import subprocess
import time

import pytest
import redis

from tests.serving.deployment_files import (
    DEPLOYMENT,
    compose,
    kubernetes_documents,
    pod_of,
    texts_of_the_repository,
)


def redis_scripts():
    """The shell that starts Redis, and how it is given its password."""
    text = compose()["services"]["redis"]["command"][0].replace("$$", "$")
    yield pytest.param(text, id="compose")
    for name, document in kubernetes_documents():
        pod = pod_of(document)
        if pod and name == "redis.yaml":
            yield pytest.param(pod["containers"][0]["args"][0], id="kubernetes")


@pytest.mark.parametrize("script", list(redis_scripts()))
def test_redis_keeps_what_it_acknowledged_and_shows_its_password_to_nobody(
    script, needs_program, tmp_path
):
    needs_program("redis-server")
    with contextlib.closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (tmp_path / "password").write_text("of-redis\n")
    for path, own in {
        "/data": str(tmp_path),
        "/run/secrets/redis_password": str(tmp_path / "password"),
        "/tmp/redis.conf": str(tmp_path / "redis.conf"),
    }.items():
        script = script.replace(path, own)
    script = script.replace("umask 077\n", f"umask 077\nexport PORT={port}\n")
    script = script.replace('echo "appendonly yes"', 'echo "port $PORT"; echo "appendonly yes"')
    process = subprocess.Popen(
        ["sh", "-c", script],
        env={**os.environ, "REDISCLI_AUTH": "of-redis"},
        stdout=subprocess.DEVNULL,
    )
    client = redis.Redis(port=port, password="of-redis")
    while True:
        assert process.poll() is None
        with contextlib.suppress(redis.ConnectionError):
            settings = client.config_get()
            break
        time.sleep(0.02)
    assert (settings["maxmemory-policy"], settings["appendonly"]) == ("noeviction", "yes")
    assert settings["maxmemory"] == str(3 << 30)
    with redis.Redis(port=port) as stranger, pytest.raises(redis.AuthenticationError):
        stranger.ping()
    assert "of-redis" not in pathlib.Path(f"/proc/{process.pid}/cmdline").read_text()
    assert (tmp_path / "redis.conf").stat().st_mode & 0o077 == 0
    process.terminate()  # It is Redis itself that is told to stop, and saves.
    assert process.wait(60) == 0
    client.close()


def test_no_password_stands_in_an_address_or_on_a_command_line():
    for name, text in texts_of_the_repository():
        if not name.startswith("tests/"):
            assert not re.search(r"redis://[^\s@/]*:[^\s@/]+@", text), name
            assert "--requirepass" not in text, name


@pytest.mark.parametrize(("command", "has_failed"), [("exit 0", False), ("exit 3", True)])
def test_the_nightly_run_begins_at_once_and_ends_when_it_is_told(tmp_path, command, has_failed):
    script = (
        (DEPLOYMENT / "nightly.sh").read_text().replace("/tmp/failed", str(tmp_path / "failed"))
    )
    (tmp_path / "nightly.sh").write_text(script)
    (tmp_path / "failed").touch()
    with subprocess.Popen(
        ["sh", tmp_path / "nightly.sh", "sh", "-c", f"echo made; {command}"],
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout.readline() == "made\n"
        (seconds,) = re.fullmatch(r"Next run in (\d+) s\.\n", process.stdout.readline()).groups()
        at = time.gmtime(time.time() + int(seconds))
        assert (at.tm_hour, at.tm_min) in {(3, 0), (2, 59)}
        assert (tmp_path / "failed").exists() == has_failed
        process.terminate()
        assert process.wait(60) == 0
