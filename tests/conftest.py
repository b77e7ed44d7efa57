"""What all tests share: a quiet TensorFlow, missing parts, and the real data set.

A test that needs something this project does not install itself (a Redis server, a browser, a
JDK, a data set) asks for it with :func:`needs_program` or a fixture such as ``kuairand_dir``.
Where the part is missing the test is skipped with a reason, and the reasons are listed at the
end. With REQUIRE_ALL=1 a skip is a failure, so that no machine can call a suite green that it
did not run; REQUIRE_ALL_BUT names, with commas, the parts that may be missing all the same.
"""

import base64
import contextlib
import dataclasses
import fcntl
import importlib.util
import os
import pathlib
import shutil
import socket
import sqlite3  # noqa: F401 - before TensorFlow, as our packages do
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

# Before anything imports TensorFlow: its log lines on standard error are no test output, and
# the tests run on the processor everywhere.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

import httpx
import pyarrow as pa
import pytest

# One process runs the tests of all layers, those of features/ first. They touch tf.keras through
# tf.Transform, so the switch to the legacy Keras, which `models` sets when it is imported, must
# be set by then.
import models  # noqa: F401

pytest_plugins = ("tests.store_fixtures",)

_QUIET = ("TF_CPP_MIN_LOG_LEVEL", "GRPC_VERBOSITY", "CUDA_VISIBLE_DEVICES")
_CHECKOUT = pathlib.Path(__file__).resolve().parent.parent
_KUAIRAND = "kuairand"
# Begun first, so that at the end no process waits for one that has just begun the longest file.
_LONGEST = ("test_runners.py", "test_reproduce.py", "test_churn.py")


def needs(part: str, *, present: bool, remedy: str) -> None:
    """Skips the running test when a part is missing.

    Args:
        part: One word, as in REQUIRE_ALL_BUT.
        present: Whether it is there.
        remedy: How to get it.
    """
    if not present:
        pytest.skip(f"missing part {part}: {remedy}")


@pytest.fixture(scope="session")
def needs_program() -> Callable[..., str]:
    """Gives ``needs_program(part, *names)``: the path of the first program found, or a skip."""

    def find(part: str, *names: str) -> str:
        found = next((path for name in names or (part,) if (path := shutil.which(name))), None)
        wanted = " or ".join(names or (part,))
        needs(part, present=found is not None, remedy=f"install {wanted} and put it on PATH")
        assert found is not None
        return found

    return find


@pytest.fixture(scope="session")
def rectools_python() -> pathlib.Path:
    """A Python with RecTools and PyTorch: RECTOOLS_PYTHON."""
    given = os.environ.get("RECTOOLS_PYTHON", "")
    needs(
        "rectools",
        present=bool(given),
        remedy="set RECTOOLS_PYTHON to a Python in which rectools[torch] is installed",
    )
    return pathlib.Path(given)


@pytest.fixture(scope="session")
def needs_module() -> Callable[[str], Any]:
    """Gives ``needs_module(name)``: a module that an optional extra installs, or a skip."""

    def find(name: str) -> Any:
        part = name.partition(".")[0]
        is_there = importlib.util.find_spec(part) is not None
        needs(part, present=is_there, remedy=f"install {part}: see the extras in setup.py")
        return importlib.import_module(name)

    return find


@pytest.fixture(scope="session")
def kuairand_dir() -> pathlib.Path:
    """The KuaiRand-Pure data set: KUAIRAND_DIR, or ../shared/data/kuairand_pure."""
    beside = _CHECKOUT.parent / "shared" / "data" / "kuairand_pure"
    directory = pathlib.Path(os.environ.get("KUAIRAND_DIR") or beside)
    needs(
        _KUAIRAND,
        present=directory.is_dir() and any(directory.iterdir()),
        remedy="set KUAIRAND_DIR to the directory that holds the data set KuaiRand-Pure",
    )
    return directory


class Browser:
    """A headless Chromium, driven by the WebDriver protocol."""

    _ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # Of the protocol.

    def __init__(self, driver: str, program: str, profile: pathlib.Path) -> None:
        with contextlib.closing(socket.socket()) as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self._driver = subprocess.Popen(
            [driver, f"--port={port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        self._client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=120)
        self.wait(self._is_listening)
        arguments = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        options = {"binary": program, "args": [*arguments, f"--user-data-dir={profile}"]}
        wanted = {
            "browserName": "chrome",
            "goog:chromeOptions": options,
            "goog:loggingPrefs": {"browser": "ALL"},
        }
        made = self._client.post("/session", json={"capabilities": {"alwaysMatch": wanted}})
        self._session = f"/session/{made.json()['value']['sessionId']}"

    def _is_listening(self) -> bool:
        assert self._driver.poll() is None, "chromedriver did not start"
        try:
            return self._client.get("/status").status_code == 200
        except httpx.TransportError:
            return False

    def _ask(self, path: str, body: dict[str, object] | None = None) -> Any:
        answer = self._client.post(f"{self._session}/{path}", json=body or {}).json()["value"]
        if isinstance(answer, dict) and "error" in answer:
            raise AssertionError(f"{path}: {answer['message']}")
        return answer

    def open(self, url: str) -> None:
        self._ask("url", {"url": url})

    def back(self) -> None:
        self._ask("back")

    def run(self, script: str) -> Any:
        return self._ask("execute/sync", {"script": script, "args": []})

    def click(self, selector: str) -> None:
        self._ask(f"element/{self._find(selector)}/click")

    def type(self, selector: str, text: str) -> None:
        element = self._find(selector)
        self._ask(f"element/{element}/clear")
        self._ask(f"element/{element}/value", {"text": text})

    def press(self, key: str) -> None:
        """Presses a key on what has the focus."""
        focused = self._client.get(f"{self._session}/element/active").json()["value"]
        self._ask(f"element/{focused[self._ELEMENT]}/value", {"text": key})

    def text(self, selector: str) -> str:
        """What is to be read there; "" where it is hidden."""
        return str(
            self._client.get(f"{self._session}/element/{self._find(selector)}/text").json()["value"]
        )

    def _find(self, selector: str) -> str:
        return str(
            self._ask("element", {"using": "css selector", "value": selector})[self._ELEMENT]
        )

    def look(
        self, *, width: int, height: int = 844, is_dark: bool = False, media: str = "screen"
    ) -> None:
        """Sets the size of the window, in CSS pixels, and the colours that its user likes.

        ``media`` may be ``print``, for what a page is on paper.
        """
        scheme = {"name": "prefers-color-scheme", "value": "dark" if is_dark else "light"}
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.protocol("Emulation.setDeviceMetricsOverride", **size)
        self.protocol("Emulation.setEmulatedMedia", media=media, features=[scheme])

    def protocol(self, command: str, **parameters: Any) -> Any:
        """Sends a command of the Chrome DevTools Protocol."""
        return self._ask("goog/cdp/execute", {"cmd": command, "params": parameters})

    def screenshot(self) -> bytes:
        return base64.b64decode(self._client.get(f"{self._session}/screenshot").json()["value"])

    def picture(self) -> bytes:
        """Returns what the window shows as WebP, a fifth of a PNG."""
        taken = self.protocol("Page.captureScreenshot", format="webp", quality=82)
        return base64.b64decode(taken["data"])

    def complaints(self) -> list[str]:
        """Returns what the console of the page was told since the last call, errors and all."""
        return [str(entry["message"]) for entry in self._ask("se/log", {"type": "browser"})]

    def wait(self, condition: Callable[[], bool], *, seconds: float = 300) -> None:
        until = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < until, "it did not come about"
            time.sleep(0.02)

    def close(self) -> None:
        if hasattr(self, "_session"):
            self._client.delete(self._session)
        self._client.close()
        self._driver.terminate()
        self._driver.wait()


@pytest.fixture(scope="session")
def chromium(
    needs_program: Callable[..., str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Browser]:
    """One browser for all tests that look at pages."""
    program = needs_program("chromium", "chromium", "chromium-browser", "google-chrome")
    driver = needs_program("chromium", "chromedriver")
    browser = Browser(driver, program, tmp_path_factory.mktemp("chromium"))
    yield browser
    browser.close()


def _excused(reason: str) -> bool:
    allowed = os.environ.get("REQUIRE_ALL_BUT", "").split(",")
    return any(part and f"missing part {part}:" in reason for part in allowed)


def _refuse_skip(report: pytest.TestReport | pytest.CollectReport) -> None:
    """Turns a skip into a failure when everything is required; an expected failure stays."""
    if not report.skipped or hasattr(report, "wasxfail"):
        return
    if os.environ.get("REQUIRE_ALL", "0") in {"", "0"}:
        return
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    if _excused(reason):
        return
    report.outcome = "failed"
    report.longrepr = f"REQUIRE_ALL=1 allows no skipped test. {reason}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Iterator[None]:
    """Applies REQUIRE_ALL to tests."""
    report = yield
    _refuse_skip(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Iterator[None]:
    """Applies REQUIRE_ALL to modules that are skipped as a whole."""
    report = yield
    _refuse_skip(report)
    return report


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts the longest files first, where several processes share the tests."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        items.sort(key=lambda item: item.path.name not in _LONGEST)


@dataclasses.dataclass(frozen=True)
class World:
    """A tiny simulated site and all that was made of it, by the commands that people type.

    Attributes:
        logs: With some bad rows, see ``_spoil``.
        work: Examples, models, evaluation.
        serving_root: One release.
        retrain: The command that made it.
    """

    logs: pathlib.Path
    work: pathlib.Path
    serving_root: pathlib.Path
    retrain: tuple[str, ...]

    @property
    def examples(self) -> pathlib.Path:
        return self.work / "examples"

    @property
    def said(self) -> pathlib.Path:
        """What the commands wrote to standard error."""
        return self.logs.with_name("said.txt")


def _run_command(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {name: text for name, text in os.environ.items() if name not in _QUIET}
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=_CHECKOUT,
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )


@pytest.fixture(scope="session")
def run_command() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs one of our binaries as a user would; the test looks at code and output.

    None of what keeps TensorFlow quiet in the tests reaches it: it must be quiet by itself.
    """
    return _run_command


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Simulates, spoils a few rows, and retrains once for all tests that ask; nobody changes it.

    Processes that share the tests share the world too: the first one that asks makes it. WORLD=DIR
    keeps it, for a few tests again and again; whoever changes how it is made removes it.
    """
    root = tmp_path_factory.getbasetemp()
    root = (root.parent if "PYTEST_XDIST_WORKER" in os.environ else root) / "world"
    root = pathlib.Path(os.environ.get("WORLD") or root).absolute()
    root.parent.mkdir(parents=True, exist_ok=True)
    made = World(
        root / "logs",
        root / "work",
        root / "serving_root",
        retrain=(
            "pipeline.retrain",
            f"--logs={root / 'logs'}",
            f"--serving_root={root / 'serving_root'}",
            f"--work={root / 'work'}",
            "--candidate_flags=--batch_size=64 --epochs=30 --depth=1",
            # 200 users are too few to be sure of beating every baseline; gates have their own
            # tests.
            "--force_publish=a tiny world for tests",
        ),
    )
    with open(root.with_suffix(".lock"), "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        complete = root / "COMPLETE"
        if not complete.exists():
            shutil.rmtree(root, ignore_errors=True)  # What another process failed to make.
            _make(made)
            complete.touch()
    return made


def _make(world: World) -> None:
    simulate = ("pipeline.simulate", "--preset=tiny", "--seed=1", f"--logs={world.logs}")
    simulated = _run_command(*simulate)
    assert simulated.returncode == 0, simulated.stderr
    _spoil(world.logs)
    made = _run_command(*world.retrain)
    assert made.returncode == 0, made.stdout + made.stderr
    world.said.write_text(simulated.stderr + made.stderr)


def _spoil(logs_dir: pathlib.Path) -> None:
    """Appends bad watches: 3 exact copies, 2 negative times, 1 unknown user, 1 from the future."""
    from features.tables import logs

    good = logs.read_table(logs_dir, "watches")
    first = good.slice(0, 1)

    def changed(name: str, value: object) -> pa.Table:
        column = pa.array([value], good.schema.field(name).type)
        return first.set_column(good.column_names.index(name), name, column)

    logs.append(logs_dir, "watches", good.slice(0, 3))
    for name, value in (
        ("watch_time_s", -1.0),
        ("watch_time_s", -2.0),
        ("user_id", "no such user"),
        ("time", 4_000_000_000),
    ):
        logs.append(logs_dir, "watches", changed(name, value))
