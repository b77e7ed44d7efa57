"""Asks a server over HTTP: connections that are kept, and patience with one that starts anew."""

import concurrent.futures
import http.client
import json
import threading
import time
import urllib.parse
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from features import command

_Question = TypeVar("_Question")
_Answer = TypeVar("_Answer")

_TIMEOUT_S = 60.0
# A server that is being replaced, or has too much to do, is asked again for so long.
_PATIENCE_S = 120.0
_PAUSE_S = 0.2
_BUSY = 503


class RefusedError(command.InputError):
    """The server understood a request and refused it.

    Attributes:
        status: Status of the answer.
    """

    def __init__(self, path: str, status: int, said: str) -> None:
        super().__init__(f"the server refused {path} with {status}: {said[:500]}")
        self.status = status


class Client:
    """Asks one server; each of its workers has a connection of its own."""

    def __init__(self, address: str, *, workers: int = 1) -> None:
        """Prepares; nothing is asked yet.

        Args:
            address: ``http://HOST:PORT``.
            workers: Number of requests under way at a time.

        Raises:
            InputError: The address is none.
        """
        parts = urllib.parse.urlsplit(address)
        if parts.scheme != "http" or not parts.hostname or parts.path not in {"", "/"}:
            raise command.InputError(f"the server must be http://HOST:PORT, got {address!r}.")
        self.address = f"http://{parts.netloc}"
        self._host = parts.netloc
        self._local = threading.local()
        self._connections: list[http.client.HTTPConnection] = []
        self._pool = concurrent.futures.ThreadPoolExecutor(workers) if workers > 1 else None

    def each(
        self, ask: Callable[[_Question], _Answer], questions: Sequence[_Question]
    ) -> list[_Answer]:
        """Returns the answers in the order of the questions, which are asked side by side."""
        if self._pool is None or len(questions) < 2:
            return [ask(question) for question in questions]
        return list(self._pool.map(ask, questions))

    def answers(self) -> bool:
        """Returns whether the server is ready, at once."""
        try:
            return self._exchange("GET", "/readyz", None)[0] == 200
        except (OSError, http.client.HTTPException):
            self._drop()
            return False

    def get(self, path: str, **query: object) -> Any:
        """Returns the JSON answer of a GET."""
        text = urllib.parse.urlencode({k: str(v) for k, v in query.items()})
        return self._ask("GET", f"{path}?{text}" if text else path, None)

    def post(self, path: str, question: Any) -> Any:
        """Returns the JSON answer of a POST.

        A request whose connection broke is sent again: an event has an id, and of a page that
        nobody received another one is made.

        Raises:
            RefusedError: The server refused it.
            InputError: The server did not answer for two minutes.
        """
        return self._ask("POST", path, json.dumps(question).encode())

    def _ask(self, method: str, path: str, body: bytes | None) -> Any:
        until = time.monotonic() + _PATIENCE_S
        while True:
            try:
                status, said = self._exchange(method, path, body)
            except (OSError, http.client.HTTPException) as error:
                self._drop()
                problem = f"{type(error).__name__} {error}"
            else:
                if status == 200:
                    return json.loads(said)
                if status != _BUSY:
                    raise RefusedError(path, status, said.decode(errors="replace"))
                problem = said.decode(errors="replace")[:500]
            if time.monotonic() >= until:
                raise command.InputError(f"{self.address}{path} did not answer: {problem}")
            time.sleep(_PAUSE_S)

    def _exchange(self, method: str, path: str, body: bytes | None) -> tuple[int, bytes]:
        connection = getattr(self._local, "connection", None)
        if connection is None:
            connection = http.client.HTTPConnection(self._host, timeout=_TIMEOUT_S)
            self._local.connection = connection
            self._connections.append(connection)
        connection.request(method, path, body, {"content-type": "application/json"})
        answer = connection.getresponse()
        return answer.status, answer.read()

    def _drop(self) -> None:
        connection = getattr(self._local, "connection", None)
        if connection is not None:
            connection.close()
            self._connections.remove(connection)
            self._local.connection = None

    def close(self) -> None:
        """Ends the workers and the connections."""
        if self._pool is not None:
            self._pool.shutdown()
        self._drop()
        for connection in self._connections:  # Of the workers.
            connection.close()
