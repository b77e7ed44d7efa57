"""Asks every server what it has counted, and sums it up over servers and over their restarts."""

import concurrent.futures
import dataclasses
import json
import socket
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence

from absl import logging

from features import command
from serving.guard.tallies import Tally

PATH = "/v1/admin/guard"
_TIMEOUT_S = 5.0
_THREADS = 16


@dataclasses.dataclass(frozen=True, kw_only=True)
class Answer:
    """What one process said.

    Attributes:
        process: Name of the process and its start.
        tallies: Counts by release.
    """

    process: str
    tallies: Mapping[str, Tally]


class Servers:
    """The servers that follow a serving root.

    Attributes:
        reached: Number of addresses that answered the last look.
        missed: Number of those that did not.
    """

    def __init__(self, urls: Sequence[str], *, token: str | None = None) -> None:
        """Prepares.

        Args:
            urls: ``http://HOST:PORT``; every address of a name is a server, so that one name (a
                headless service) stands for all replicas.
            token: Admin token of the servers, where they ask for one.

        Raises:
            InputError: A URL is none.
        """
        for url in urls:
            parts = urllib.parse.urlsplit(url)
            if parts.scheme not in {"http", "https"} or not parts.hostname or parts.path.strip("/"):
                raise command.InputError(f"--servers must be http://HOST:PORT, got {url!r}.")
        if not urls:
            raise command.InputError("--servers must name at least one server.")
        self._urls = list(urls)
        self._token = token
        self._seen: dict[str, Mapping[str, Tally]] = {}
        self.reached = self.missed = 0

    def totals(self) -> dict[str, Tally]:
        """Asks all servers; returns the counts by release of all processes that ever answered."""
        places = [place for url in self._urls for place in _addresses(url)]
        with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
            answers = list(pool.map(self._ask, places))
        self.reached = sum(answer is not None for answer in answers)
        self.missed = len(answers) - self.reached
        for answer in answers:
            if answer is not None:
                self._seen[answer.process] = answer.tallies
        totals: dict[str, Tally] = {}
        for tallies in self._seen.values():
            for release_id, tally in tallies.items():
                totals[release_id] = totals.get(release_id, Tally()) + tally
        return totals

    def _ask(self, place: tuple[str, str]) -> Answer | None:
        """Returns what a server says; None, and a log line, where it says nothing of use."""
        url, host = place
        request = urllib.request.Request(f"{url}{PATH}", headers={"Host": host})
        if self._token:
            request.add_header("Authorization", f"Bearer {self._token}")
        try:
            with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as answered:
                said = json.loads(answered.read())
            tallies = {name: Tally.from_json(one) for name, one in said["releases"].items()}
            return Answer(process=str(said["process"]), tallies=tallies)
        except urllib.error.HTTPError as error:
            problem = f"HTTP {error.code}" + (
                ": give its admin token by --admin_token_file" if error.code == 401 else ""
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            problem = str(error)
        logging.log_every_n_seconds(logging.WARNING, "%s tells nothing: %s", 30, url, problem)
        return None


def _addresses(url: str) -> list[tuple[str, str]]:
    """Returns the URL of every address of a name, with the name for the Host header."""
    parts = urllib.parse.urlsplit(url)
    if parts.scheme == "https":  # The certificate is of the name.
        return [(url.rstrip("/"), parts.netloc)]
    port = parts.port or 80
    try:
        infos = socket.getaddrinfo(parts.hostname, port, type=socket.SOCK_STREAM)
    except OSError:
        return [(url.rstrip("/"), parts.netloc)]  # Asking it says what is wrong.
    addresses = {info[4][0]: info[0] for info in infos}
    if socket.AF_INET in addresses.values():  # One machine is not asked twice.
        addresses = {a: f for a, f in addresses.items() if f == socket.AF_INET}
    shown = (f"[{a}]" if f == socket.AF_INET6 else str(a) for a, f in addresses.items())
    return [(f"http://{address}:{port}", parts.netloc) for address in shown]
