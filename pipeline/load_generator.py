r"""Asks a server for pages at a fixed rate, from a process of its own, and measures.

    python -m pipeline.load_generator --address=127.0.0.1:8080 --users=users.txt \
        --rate=50 --seconds=20 --output=load.json

Requests are sent when they are due, whether earlier ones were answered or not, as users do. A
latency counts from the moment at which the request was due: a server that stalls pays for all who
came meanwhile. The answer's release, rung and number of items are looked at in every answer.
"""

import asyncio
import collections
import json
import pathlib
import re
import time
from collections.abc import Sequence

import numpy as np
from absl import flags

from features import command, config_flags, files

_ADDRESS = flags.DEFINE_string("address", None, "HOST:PORT of serving.serve.", required=True)
_USERS = config_flags.path("users", "reads", "File with one user id per line.", required=True)
_RATE = flags.DEFINE_float("rate", 50.0, "Requests a second.", 0.1)
_SECONDS = flags.DEFINE_float("seconds", 20.0, "How long.", 0.1)
_K = flags.DEFINE_integer("k", 20, "Videos on a page.", 1, 100)
_SEED = flags.DEFINE_integer("seed", 1, "Chooses who asks.")
_CONNECTIONS = flags.DEFINE_integer("connections", 128, "At most so many at a time.", 1)
_TIMEOUT_S = flags.DEFINE_float("timeout_s", 10.0, "A request that takes longer has failed.")
_MARK = flags.DEFINE_string(
    "mark",
    "",
    "Titles of one release end with it: an answer in which only some do is a mix of releases.",
)
_OUTPUT = config_flags.path("output", "writes", "JSON file to write.", required=True)

_IDLE_S = 2.0
_RELEASE = re.compile(rb'"release_id":\s*"([^"]*)"')
_RUNG = re.compile(rb'"rung":\s*"([^"]*)"')
_TITLE = re.compile(rb'"title":\s*"((?:[^"\\]|\\.)*)"')
_LENGTH = re.compile(rb"content-length:\s*(\d+)", re.IGNORECASE)
_LAST = re.compile(rb"\r\nconnection:\s*close\r\n", re.IGNORECASE)


class Load:
    """One run: what is asked, and what came back."""

    def __init__(self, host: str, port: int, bodies: Sequence[bytes]) -> None:
        self.latencies_ms: list[float] = []
        self.due_s: list[float] = []
        self.failures: collections.Counter[str] = collections.Counter()
        self.releases: collections.Counter[str] = collections.Counter()
        self.first_due_s: dict[str, float] = {}  # Of each release.
        self.rungs: collections.Counter[str] = collections.Counter()
        self.late_ms = 0.0  # The most that sending lagged behind its time.
        self._host, self._port = host, port
        self._bodies = bodies
        self._idle: list[tuple[float, asyncio.StreamReader, asyncio.StreamWriter]] = []
        self._places = asyncio.Semaphore(_CONNECTIONS.value)
        self._start = 0.0

    async def run(self, rate: float, seconds: float) -> None:
        """Sends everything when it is due and waits for the answers."""
        self._start = time.perf_counter()
        tasks = []
        for number in range(int(rate * seconds)):
            due = self._start + number / rate
            wait = due - time.perf_counter()
            if wait > 0:
                await asyncio.sleep(wait)
            self.late_ms = max(self.late_ms, 1e3 * (time.perf_counter() - due))
            body = self._bodies[number % len(self._bodies)]
            tasks.append(asyncio.create_task(self._one(body, due)))
        await asyncio.gather(*tasks)
        for _, _, writer in self._idle:
            writer.close()

    async def _one(self, body: bytes, due: float) -> None:
        try:
            status, answer = await asyncio.wait_for(self._ask(body), _TIMEOUT_S.value)
        except (OSError, asyncio.IncompleteReadError, asyncio.TimeoutError) as error:
            self.failures[type(error).__name__] += 1
            return
        self.latencies_ms.append(1e3 * (time.perf_counter() - due))
        self.due_s.append(due - self._start)
        if status != b"200":
            self.failures[status.decode()] += 1
            return
        self._look_at(answer, due - self._start)

    async def _ask(self, body: bytes) -> tuple[bytes, bytes]:
        async with self._places:
            return await self._exchange(body)

    async def _exchange(self, body: bytes) -> tuple[bytes, bytes]:
        reader, writer = await self._connection()
        try:
            writer.write(body)
            head = await reader.readuntil(b"\r\n\r\n")
            length = _LENGTH.search(head)
            answer = await reader.readexactly(int(length[1]) if length else 0)
        except BaseException:
            writer.close()
            raise
        if _LAST.search(head):  # A server that is about to go: the next one is asked anew.
            writer.close()
        else:
            self._idle.append((time.perf_counter(), reader, writer))
        return head.split(b" ", 2)[1], answer

    async def _connection(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        while self._idle:
            since, reader, writer = self._idle.pop()
            # Servers close what has been idle for long, and a request may just miss that.
            if time.perf_counter() - since < _IDLE_S:
                return reader, writer
            writer.close()
        return await asyncio.open_connection(self._host, self._port)

    def _look_at(self, answer: bytes, due_s: float) -> None:
        release, rung = _RELEASE.search(answer), _RUNG.search(answer)
        titles = _TITLE.findall(answer)
        if release is None or rung is None or len(titles) != _K.value:
            self.failures["not a whole page"] += 1
            return
        self.rungs[rung[1].decode()] += 1
        mark = ""
        if _MARK.value:
            marked = sum(title.endswith(_MARK.value.encode()) for title in titles)
            mark = {0: " unmarked", len(titles): " marked"}.get(marked, " MIXED")
        name = release[1].decode()
        self.releases[name + mark] += 1
        self.first_due_s[name] = min(due_s, self.first_due_s.get(name, due_s))


def _request(host: str, user_id: str, k: int) -> bytes:
    body = json.dumps({"user_id": user_id, "k": k, "context": {"device": "phone"}}).encode()
    head = (
        f"POST /v1/recommendations HTTP/1.1\r\nHost: {host}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def main() -> None:
    """Runs the load and writes what came of it."""
    host, _, port = _ADDRESS.value.rpartition(":")
    if not host or not port.isdigit():
        raise command.InputError(f"--address must be HOST:PORT, got {_ADDRESS.value!r}.")
    users = pathlib.Path(_USERS.value).read_text().split()
    if not users:
        raise command.InputError(f"--users {_USERS.value} names nobody.")
    rng = np.random.default_rng(_SEED.value)
    bodies = [_request(host, users[i], _K.value) for i in rng.integers(len(users), size=10_000)]
    load = Load(host, int(port), bodies)
    started = time.perf_counter()
    asyncio.run(load.run(_RATE.value, _SECONDS.value))
    seconds = time.perf_counter() - started
    latencies = np.array(load.latencies_ms or [float("nan")])
    p50, p99 = (float(np.percentile(latencies, q)) for q in (50, 99))
    report = {
        "rate": _RATE.value,
        "seconds": seconds,
        "sent": int(_RATE.value * _SECONDS.value),
        "answered": len(load.latencies_ms),
        "failures": dict(load.failures),
        "p50_ms": p50 if load.latencies_ms else None,
        "p99_ms": p99 if load.latencies_ms else None,
        "max_ms": float(latencies.max()) if load.latencies_ms else None,
        "cpu_s": time.process_time(),
        "late_ms": load.late_ms,
        "releases": dict(load.releases),
        "first_due_s": load.first_due_s,
        "rungs": dict(load.rungs),
        "latencies_ms": [round(value, 3) for value in load.latencies_ms],
        "due_s": [round(value, 4) for value in load.due_s],
    }
    files.atomic_write(_OUTPUT.value, json.dumps(report, allow_nan=False) + "\n")
    print(
        f"{report['answered']} of {report['sent']} answered at {_RATE.value:g}/s: "
        f"p50 {p50:.1f} ms, p99 {p99:.1f} ms, failures {dict(load.failures)}. "
        f"Wrote {_OUTPUT.value}."
    )


if __name__ == "__main__":
    command.run(main)
