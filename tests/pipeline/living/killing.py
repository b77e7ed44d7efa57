"""Kills everything of a living site at one scripted event of one of its processes.

Python tells audit hooks of each file that a process opens, renames or removes, before it does. A
``sitecustomize`` of ours, which every process of a run starts with, counts these events in the
process that a point names, and at the chosen one stops and kills (SIGKILL) all processes of the
run: as if the machine had lost power right there. Nothing of the product knows of it.
"""

import collections
import dataclasses
import http.client
import json
import os
import pathlib
import shutil
import subprocess
import sys
import threading
import time
import urllib.request
import uuid
from typing import Any

import pyarrow.parquet as pq

from features.tables import logs
from pipeline.living import server
from pipeline.steps import declared
from serving.events import compaction
from serving.funnel import before_release
from serving.release import manifest as release
from tests.pipeline.living import evidence

CHECKOUT = pathlib.Path(__file__).resolve().parents[3]
_LATER_S = 1 << 33

# KILL: JSON with the run, a directory for traces ("" for none), and a point, if any.
HOOK = r"""
import fnmatch, json, os, signal, sys

EVENTS = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link"}
told = json.loads(os.environ.get("KILL") or "{}")
point, state = told.get("point"), {"seen": 0, "busy": False}
module = next((m for m in told.get("modules", ()) for a in sys.orig_argv if m in a), None)


def die():
    # A run that is killed has those that it started get SIGTERM: this process is not to heed it.
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    with open(told["mark"], "w") as file:  # Before anybody sees that the run has ended.
        file.write(str(os.getpid()))
    needle, me = told["run"].encode(), os.getpid()
    others = []
    for entry in os.listdir("/proc"):
        if entry.isdigit() and int(entry) != me:
            try:
                with open(f"/proc/{entry}/environ", "rb") as file:
                    if needle in file.read():
                        others.append(int(entry))
            except OSError:
                pass
    # A mask is of one thread, and the death of our parent may end us: ancestors last, it the last.
    above, pid = [], me
    while pid > 1:
        with open(f"/proc/{pid}/stat") as file:
            pid = int(file.read().rpartition(")")[2].split()[1])
        above.insert(0, pid)
    others.sort(key=lambda pid: above.index(pid) if pid in above else -1)
    for number in (signal.SIGSTOP, signal.SIGKILL):
        for pid in others:
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                pass
    os.kill(me, signal.SIGKILL)


def look(event, args):
    if event not in EVENTS or state["busy"]:
        return
    if event == "open" and not (isinstance(args[1], str) and set(args[1]) & set("wax+")):
        if not (isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR)):
            if not (point and point["reads"]):
                return
    path = str(args[1] if event in ("os.rename", "os.link") else args[0])
    if told["output"] not in path:
        return
    state["busy"] = True
    if told["trace"]:
        with open(f"{told['trace']}/{module}.{os.getpid()}", "a") as file:
            file.write(f"{event} {path}\n")
    if point and module == point["module"] and fnmatch.fnmatch(path, point["path"]):
        state["seen"] += 1
        if state["seen"] == point["count"]:
            die()
    state["busy"] = False


if module and (told["trace"] or point and point["module"] == module):
    sys.addaudithook(look)
"""
# The run itself, which writes down what the server acknowledged. So few people may teach it so
# little that a gate refuses a release: where publications are to be killed they are forced.
_DRIVER = r"""
import contextlib, dataclasses, json, os, runpy, sys
from pipeline.living import client, presets, snapshots

how = json.loads(os.environ["KILL"])
if how["forced"]:
    tiny = presets.PRESETS["tiny"]
    flags = (*tiny.retrain, "--force_publish=to be killed")
    presets.PRESETS = {**presets.PRESETS, "tiny": dataclasses.replace(tiny, retrain=flags)}
if how["as_left"]:
    snapshots.Snapshots.restore = lambda self, site: self._paths()[-1]
acknowledged = open(sys.argv.pop(1), "a")
post, adding = client.Client.post, snapshots.Snapshots.adding


def note(what, kept):
    acknowledged.write(json.dumps([what, kept]) + "\n")
    acknowledged.flush()


def noted(self, path, question):
    answer = post(self, path, question)
    if path == "/v1/events":
        note("events", question["events"])
    elif answer.get("recorded", True):
        videos = [item["video_id"] for item in answer["items"]]
        note("page", [answer["release_id"], answer["page_id"], videos])
    return answer


@contextlib.contextmanager
def added(self, name, site):
    with adding(self, name, site) as given:
        yield given
    note("snapshot", name)


client.Client.post, snapshots.Snapshots.adding = noted, added
runpy.run_module("pipeline.living_site", run_name="__main__", alter_sys=True)
"""
RUNNER, SERVER, RETRAIN = "pipeline.living_site", "serving.serve", "pipeline.retrain"
STEPS = tuple(step.binary for step in declared.STEPS)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Point:
    """A moment: just before an event of a process.

    Attributes:
        during: Part of the run, for people.
        module: Module of the process.
        path: Pattern of the path that the event is about.
        count: Number of such an event since the process started, from 1.
        reads: Whether files that are opened for reading count too.
    """

    during: str
    module: str
    path: str = "*"
    count: int = 1
    reads: bool = False


class LivingSite:
    """A living site of the tiny preset below a directory, run and killed from outside.

    Attributes:
        served: Releases that a server or a page named and that were whole then.
        broken: What was wrong with others.
        asked: Number of times that the running server said what it serves, and gave a page of it.
    """

    def __init__(self, root: pathlib.Path, *, days: int, seed: int, forced: bool = False) -> None:
        self._forced = forced
        self.output = root / "living"
        self.trace = root / "trace"
        self.said = root / "said.txt"
        self._root, self._flags = root, [f"--days={days}", f"--seed={seed}", "--preset=tiny"]
        self._acknowledged = root / "acknowledged.jsonl"
        self.served: set[str] = set()
        self.broken: list[str] = []
        self.asked = 0
        (root / "hook").mkdir(parents=True)
        (root / "hook" / "sitecustomize.py").write_text(HOOK)
        self.trace.mkdir()

    def run(
        self, point: Point | None = None, *, trace: bool = False, as_left: bool = False
    ) -> bool:
        """Runs until it is killed at a point, or to its end; returns whether it was killed.

        Args:
            point: The point.
            trace: Whether events of files are written down.
            as_left: Whether logs and serving root are taken as the last kill left them, as an
                operator would; a living site puts them back to where its last whole snapshot ended.
        """
        mark = self._root / "mark"
        mark.unlink(missing_ok=True)
        evidence.forget_unfinished(self._acknowledged, self.output / "snapshots")
        told = {
            "run": uuid.uuid4().hex,
            "output": str(self.output),
            "trace": str(self.trace) if trace else "",
            "modules": [RUNNER, SERVER, RETRAIN, *STEPS],
            "point": dataclasses.asdict(point) if point else None,
            "mark": str(mark),
            "forced": self._forced,
            "as_left": as_left,
        }
        path = os.pathsep.join([str(self._root / "hook"), str(CHECKOUT)])
        line = [sys.executable, "-c", _DRIVER, str(self._acknowledged), *self._flags]
        with self.said.open("ab") as said:
            process = subprocess.Popen(
                [*line, f"--output={self.output}"],
                cwd=CHECKOUT,
                stdout=said,
                stderr=said,
                env={**os.environ, "KILL": json.dumps(told), "PYTHONPATH": path},
            )
            with _Probe(self, process):
                process.wait()
        killed = mark.exists()
        assert killed or process.returncode == 0, self.said.read_text()[-3000:]
        while _alive(told["run"]):
            time.sleep(0.02)
        return killed

    def traced(self, module: str) -> list[list[str]]:
        """Events of each process of a module, in the order in which they started."""
        paths = sorted(self.trace.glob(f"{module}.*"), key=lambda path: path.stat().st_ctime_ns)
        return [path.read_text().splitlines() for path in paths]

    def current(self) -> str:
        """The release that CURRENT names, after each of its files was verified."""
        root = self.output / "site" / "serving_root"
        version = release.stated_current(root)
        return release.load(root, version).version if version else ""

    def acknowledged(self) -> tuple[int, int, int]:
        """Numbers of what was acknowledged until now, of it of what is lost, and of what is twice.

        A real server is started on a copy of what the kill left: it has to come up, to give a page
        of the release that CURRENT names, and what it acknowledged before has to be in the tables.
        """
        copy = self._root / "copy"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(self.output / "site", copy)
        shutil.copyfile(self.output / "clock", copy / "clock")
        flags = (f"--serving_root={copy / 'serving_root'}", f"--logs={copy / 'logs'}")
        flags += (f"--history={copy / 'history.sqlite'}", f"--clock={copy / 'clock'}")
        successor = server.Server([*flags, "--before_release"], said=self.said, workers=1)
        try:
            page = successor.client.post("/v1/recommendations", _PAGE)
        finally:
            successor.stop()
        version = page["release_id"]
        if version != (self.current() or before_release.VERSION) or not page["items"]:
            self.broken.append(f"after a restart: {version}, {len(page['items'])} videos")
        compaction.compact(copy / "logs", wall_s=_LATER_S, flush=True)
        wanted = collections.Counter(evidence.kept(self._acknowledged))
        have = collections.Counter(evidence.in_tables(copy / "logs"))
        shutil.rmtree(copy)
        twice = have - collections.Counter({key: max(1, wanted[key]) for key in have})
        return wanted.total(), (wanted - have).total(), twice.total()

    def pages_of_unknown_releases(self) -> int:
        """Number of pages whose release was never verified whole."""
        pages = [kept[0] for what, kept in evidence.lines(self._acknowledged) if what == "page"]
        for version in set(pages) - self.served:  # The probe may not have come by since.
            self.verify(version)
        return sum(page not in self.served for page in pages)

    def verify(self, version: str) -> None:
        """Notes whether a release that is served is whole."""
        try:
            if version != before_release.VERSION:
                release.load(self.output / "site" / "serving_root", version)
        except release.ReleaseRefusedError as error:
            self.broken.append(f"{version}: {error}")
        else:
            self.served.add(version)

    def end(self) -> dict[str, object]:
        """What a run came to, without times and names of releases and pages."""
        report = json.loads((self.output / "report.json").read_text())
        keys = ("outcome", "exit_code")  # Gates of steps that are done are not told again.
        site = self.output / "site"
        manifest = release.load_manifest(site / "serving_root", self.current())
        return {
            "figures": report["figures"],
            "nights": {d: {k: n[k] for k in keys} for d, n in report["nights"].items()},
            "visits": {d: sum(v["answers"].values()) for d, v in report["visits"].items()},
            "happened": {
                "/".join(path.parts[-3::2]): evidence.digest(pq.read_table(path))
                for path in sorted(self.output.glob("snapshots/*/happened/*.parquet"))
            },
            "logs": {
                table: evidence.digest(logs.read_table(site / "logs", table))
                for table in sorted(logs.tables_in(site / "logs"))
            },
            "models": {
                f"{part}/{name}": sums["sha256"]
                for part, files in manifest.components.items()
                for name, sums in (files or {}).items()
                if pathlib.Path(name).suffix in {".npy", ".npz", ".parquet"}
            },
            "left over": [
                str(path.relative_to(site))
                for pattern in ("serving_root/**/.tmp-*", "serving_root/*/.building-*")
                for path in (*site.glob(pattern), *site.glob("logs/.event_log/commit-*"))
            ],
        }


_PAGE = {"user_id": "probe", "k": 5, "record": False}


def _alive(run: str) -> bool:
    for entry in pathlib.Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and run.encode() in (entry / "environ").read_bytes():
                return True
        except OSError:
            continue
    return False


class _Probe:
    """Asks the server all the time what it serves, and verifies each release that it names."""

    def __init__(self, site: LivingSite, process: "subprocess.Popen[bytes]") -> None:
        self._site, self._process = site, process
        self._thread = threading.Thread(target=self._watch)
        self._failed: list[BaseException] = []

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *error: object) -> None:
        self._thread.join()
        if self._failed:
            raise self._failed[0]

    def _watch(self) -> None:
        try:
            self._ask()
        except Exception as error:  # A thread's failure would be lost.
            self._failed.append(error)

    def _ask(self) -> None:
        port = None
        while self._process.poll() is None:
            time.sleep(0.1)
            port = port or _port(self._site.output)
            if port is None:
                continue
            try:
                stated = _json(f"http://127.0.0.1:{port}/v1/release")["release_id"]
                page = _json(f"http://127.0.0.1:{port}/v1/recommendations", _PAGE)
            except (OSError, http.client.HTTPException, ValueError):
                continue  # It was killed, or is not ready yet.
            self._site.asked += 1
            if stated != before_release.VERSION and not page["items"]:
                self._site.broken.append(f"{page['release_id']}: a page without videos")
            for version in {stated, page["release_id"]} - self._site.served:
                self._site.verify(version)


def _json(url: str, body: object = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=10) as answer:
        return json.load(answer)


def _port(output: pathlib.Path) -> int | None:
    for entry in pathlib.Path("/proc").iterdir():
        try:
            words = (entry / "cmdline").read_text().split("\0") if entry.name.isdigit() else []
        except OSError:
            continue
        if "serving.serve" in words and any(str(output) in word for word in words):
            ports = [w for w in words if w.startswith("--port=")]
            return int(ports[0].partition("=")[2]) if ports else None
    return None
