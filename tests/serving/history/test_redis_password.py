"""Passwords of Redis are understood, and shown to nobody."""

import contextlib
import logging
import pathlib
import socket
import time
import traceback

import httpx
import pytest

from features import command
from serving import errors
from serving.history import redis_connection
from serving.history.redis_store import RedisHistoryStore
from serving.server import memory, service
from tests.serving.history.redis_stores import watch

PASSWORD = "Tr0ub4dor-Xy7/q#z?k@m"


def pieces(password=PASSWORD, length=4):
    return {password[at : at + length] for at in range(len(password) - length + 1)}


def said(error):
    """All that a traceback, a log line or a message could show of an error."""
    return "".join(traceback.format_exception(error))


def require_nothing_said(text, password=PASSWORD):
    assert not [piece for piece in pieces(password) if piece in text]


@pytest.fixture
def nobody_listens():
    with contextlib.closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


@pytest.mark.parametrize(
    "form",
    [
        "redis://:{password}@127.0.0.1:{port}/0",
        "redis://user:{password}@127.0.0.1:{port}",
        "rediss://:{password}@127.0.0.1:{port}/0",
        "redis://127.0.0.1:{port}/0?password={password}",
        "redis://:{password}",
        "redis://127.0.0.1:{password}/0",
        "redis:/:{password}@127.0.0.1:{port}/0",
        "redis:{password}@127.0.0.1",
        "REDIS://:{password}@127.0.0.1:{port}/0",
        "http://:{password}@127.0.0.1:{port}/0",
        "redis://:99/{password}@127.0.0.1:{port}/0",
    ],
)
@pytest.mark.parametrize("password", [PASSWORD, "pqlzn-hunter2-kqx", "abqd/wxyzk", "%zz%41qqkk"])
def test_no_error_shows_a_part_of_the_password_of_an_address(nobody_listens, form, password):
    address = form.format(password=password, port=nobody_listens)
    with pytest.raises((command.InputError, errors.HistoryUnavailableError)) as raised:
        memory.open_history(address)
    require_nothing_said(said(raised.value).replace(__file__, ""), password)
    with pytest.raises(command.InputError) as raised:
        redis_connection.require_no_password(address)
    require_nothing_said(said(raised.value), password)


@pytest.mark.parametrize(
    "address", ["redis://h", "redis://h:1/0", "redis://user@h:1", "rediss://h/3"]
)
def test_an_address_without_a_password_may_stand_on_the_command_line(address):
    redis_connection.require_no_password(address)


@pytest.mark.parametrize("path", ["history.sqlite", "/srv/redis/history.sqlite", "a b.sqlite"])
def test_a_file_is_no_address(path):
    assert not redis_connection.is_address(path)
    redis_connection.require_no_password(path)


def test_an_address_is_shown_as_it_was_understood():
    assert redis_connection.shown("redis://u:p@h") == "redis://h:6379/0"
    assert redis_connection.shown("rediss://[::1]:1/2") == "rediss://[::1]:1/2"


def test_a_password_comes_from_a_file_or_else_from_the_environment(tmp_path, monkeypatch):
    monkeypatch.delenv(redis_connection.PASSWORD_VARIABLE, raising=False)
    assert redis_connection.read_password(None) is None
    monkeypatch.setenv(redis_connection.PASSWORD_VARIABLE, "of the environment")
    assert redis_connection.read_password(None) == "of the environment"
    (tmp_path / "password").write_text(f"{PASSWORD}\n")
    assert redis_connection.read_password(str(tmp_path / "password")) == PASSWORD


@pytest.mark.parametrize(
    "content", [b"", b"\n", b"Tr0ub4dor\nXy7", b"Tr0ub4dor\xff", b"Tr0ub4\x00dor"]
)
def test_a_file_without_one_line_of_text_is_refused_and_not_shown(tmp_path, content):
    (tmp_path / "password").write_bytes(content)
    with pytest.raises(command.InputError, match="password") as raised:
        redis_connection.read_password(str(tmp_path / "password"))
    require_nothing_said(said(raised.value), "Tr0ub4dor")
    with pytest.raises(command.InputError, match="cannot be read"):
        redis_connection.read_password(str(tmp_path / "none"))


def test_a_wrong_password_is_refused_and_not_shown(redis_with, caplog):
    caplog.set_level(logging.DEBUG)
    server = redis_with("--requirepass", PASSWORD)
    for wrong in ("wr0ngqzxjv", None):
        with pytest.raises(errors.HistoryUnavailableError) as raised:
            RedisHistoryStore(server.url, password=wrong)
        require_nothing_said(said(raised.value) + caplog.text, wrong or PASSWORD)
    store = RedisHistoryStore(server.url, password=PASSWORD)
    store.append([watch(1)])
    require_nothing_said(caplog.text + repr(store) + repr(vars(store)) + store.path)
    store.close()


def test_a_server_process_never_shows_the_password(
    redis_with, published_root, tmp_path, serve, run_command
):
    server = redis_with("--requirepass", PASSWORD)
    file = tmp_path / "password"
    file.write_text(PASSWORD)
    flags = [f"--serving_root={published_root}", f"--logs={tmp_path / 'logs'}"]
    refused = run_command(
        "serving.serve", *flags, f"--history=redis://:{PASSWORD}@127.0.0.1:{server.port}/0"
    )
    assert refused.returncode == 2
    require_nothing_said(refused.stdout + refused.stderr)
    running = serve(*flags, f"--history={server.url}", f"--history_password_file={file}")
    assert httpx.get(f"{running.url}/readyz", timeout=120).status_code == 200
    processes = [running.process.pid, *running.serving_pids()]
    for pid in processes:
        arguments = pathlib.Path(f"/proc/{pid}/cmdline").read_text()
        assert "--history_password_file" in arguments
        require_nothing_said(arguments)
    server.stop()
    end = time.monotonic() + 300
    while httpx.get(f"{running.url}/readyz", timeout=120).status_code != 503:
        assert time.monotonic() < end
        time.sleep(0.1)
    running.stop()
    require_nothing_said(running.log)


def test_the_settings_of_a_service_do_not_show_its_secrets(tmp_path):
    config = service.ServiceConfig(
        serving_root=tmp_path,
        logs=tmp_path,
        history="redis://h",
        history_password=PASSWORD,
        token="a-token-that-is-long",
    )
    require_nothing_said(repr(config))
    assert "a-token" not in repr(config)
