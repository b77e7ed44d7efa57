"""Object stores for tests: real servers, started once, and a proxy with faults before them."""

import contextlib
import functools
import pathlib
from collections.abc import Callable, Iterator

import pytest

from features.stores import objects
from tests import store_servers
from tests.store_servers import Proxy, Store

Start = Callable[[str], Store]


@pytest.fixture(scope="session")
def started_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    """Gives ``started_store(scheme)``: a real server, started once."""
    with contextlib.ExitStack() as stack:

        @functools.cache
        def start(scheme: str) -> Store:
            directory = tmp_path_factory.mktemp("store")
            found = stack.enter_context(store_servers.running(scheme, directory))
            store_servers.make_bucket(found)
            return found

        yield start


def _point_to(store: Store, monkeypatch: pytest.MonkeyPatch, port: int | None = None) -> None:
    for name, value in store.environment(port).items():
        monkeypatch.setenv(name, value)
    objects.bucket_of.cache_clear()


def _opened(
    scheme: str, started: Start, monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> Iterator[Store]:
    lacking = store_servers.missing(scheme)
    if lacking:
        pytest.skip(f"missing part stores: {lacking}")
    found = started(scheme)
    _point_to(found, monkeypatch)
    monkeypatch.setenv("WATCHNEXT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv(objects.PATIENCE, "20")
    yield found
    objects.bucket_of.cache_clear()


@pytest.fixture(params=["s3", "gs"])
def store(
    request: pytest.FixtureRequest,
    started_store: Start,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: pathlib.Path,
) -> Iterator[Store]:
    """A store, of S3 and of Google's in turn, to which the environment points."""
    yield from _opened(request.param, started_store, monkeypatch, tmp_path)


@pytest.fixture
def s3(
    started_store: Start, monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> Iterator[Store]:
    """An S3 server to which the environment points."""
    yield from _opened("s3", started_store, monkeypatch, tmp_path)


@pytest.fixture
def proxy(store: Store, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """A proxy with faults, through which ``store`` is reached."""
    between = Proxy(store)
    _point_to(store, monkeypatch, between.port)
    yield between
    between.close()
