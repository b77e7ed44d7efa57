"""The shards of an index as actors of a Ray cluster, asked side by side.

    cluster = Cluster("auto", deadline_s=0.8, wait_s=120)
    index = Index.load(directory, open_shards=cluster.open)

An actor is named after the content of its shard, so that all servers of a release share it. Ray
starts one that dies anew, wherever there is room; one that nobody has asked for some minutes ends
by itself, so that no release leaves any behind. Each reads its files where the others do: the
machines of the cluster see them under one path, and have this package installed.

A request asks the shards that are up, until the deadline. One that fails or is late is down from
then on: requests go on without it, at once, until it answers the thread that keeps looking.
"""

import dataclasses
import hashlib
import math
import os
import pathlib
import threading
import time
import weakref
from collections.abc import Sequence
from typing import Any

from absl import logging

from features import command
from serving.index import files as index_files
from serving.index import shards
from serving.index.exact_search import Floats, Rows
from serving.index.index import Index

NAMESPACE = "watchnext"
LOOK_S = 0.25
LEASE_S = 300.0
# An actor that ended, or a cluster that cannot be reached, is tried again after so long.
_RETRY_S = 10.0
_CONCURRENCY = 16
_WHY_LENGTH = 200


class ShardActor:
    """One shard in a process of its own."""

    def __init__(self, directory: str, lease_s: float) -> None:
        """Loads the shard, whose files are those that were built.

        Args:
            directory: Index directory of the shard.
            lease_s: Time after which a shard that nobody asks for ends, seconds.
        """
        self._index = Index.load(directory)
        self._lease_s = lease_s
        self._wanted_at = time.monotonic()
        threading.Thread(target=self._end_when_left, daemon=True).start()

    def search(self, queries: Floats, k: int) -> tuple[Rows, Floats]:
        """Returns rows and scores of the shard, as :meth:`serving.index.index.Index.search`."""
        self._wanted_at = time.monotonic()
        return self._index.search(queries, k)

    def process_id(self) -> int:
        """Returns the process; asking also says that somebody still wants the shard."""
        self._wanted_at = time.monotonic()
        return os.getpid()

    def _end_when_left(self) -> None:
        import ray

        while time.monotonic() - self._wanted_at < self._lease_s:
            time.sleep(self._lease_s / 10)
        ray.kill(ray.get_runtime_context().current_actor)


class Cluster:
    """A Ray cluster that this process asks; safe for threads."""

    def __init__(
        self, address: str, *, deadline_s: float, wait_s: float, lease_s: float = LEASE_S
    ) -> None:
        """Connects to nothing yet.

        Args:
            address: HOST:PORT of the cluster's head, or ``auto`` for the cluster that this machine
                is part of.
            deadline_s: How long a search waits for shards, seconds.
            wait_s: Longest wait for shards that are loading when an index is opened, seconds.
            lease_s: Time after which a shard that nobody asks for ends, seconds.

        Raises:
            InputError: Ray is not installed.
        """
        # A lost head must not end the process that serves: it goes on without shards.
        os.environ.setdefault("RAY_gcs_rpc_server_reconnect_timeout_s", str(10**6))
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        try:
            import ray
        except ImportError as error:
            raise command.InputError(
                f"--index_cluster needs Ray ({error}): pip install '.[cluster]' in the checkout."
            ) from error
        self.ray = ray
        self.deadline_s = deadline_s
        self._address = address
        self._wait_s = wait_s
        self._lease_s = lease_s
        self._lock = threading.Lock()

    def open(self, directories: Sequence[pathlib.Path], sizes: Sequence[int]) -> shards.Sharded:
        """Opens shards, see :data:`serving.index.shards.Opener`; those that are late come later."""
        opened = ClusterShards(self, directories, sizes)
        watching = threading.Thread(
            target=_look_while_used, args=(weakref.ref(opened),), name="index-shards", daemon=True
        )
        watching.start()
        until = time.monotonic() + self._wait_s
        while not all(opened.up) and time.monotonic() < until:
            time.sleep(LOOK_S / 4)
        return opened

    def actor(self, directory: pathlib.Path) -> Any:
        """Returns the actor of a shard, which is made where there is none."""
        with self._lock:
            if not self.ray.is_initialized():
                self.ray.init(
                    address=self._address,
                    namespace=NAMESPACE,
                    log_to_driver=False,
                    configure_logging=False,
                )
        digest = hashlib.sha256((directory / index_files.INDEX_JSON).read_bytes()).hexdigest()
        size = sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())
        return (
            self.ray.remote(ShardActor)
            .options(
                name=f"shard-{digest[:32]}",
                get_if_exists=True,
                lifetime="detached",
                max_restarts=-1,
                max_concurrency=_CONCURRENCY,
                num_cpus=0,
                memory=size,  # So that no machine gets more shards than it can hold.
                scheduling_strategy="SPREAD",
            )
            .remote(str(directory.resolve()), self._lease_s)
        )


@dataclasses.dataclass
class _Shard:
    """What is known of a shard: its actor, a question of the thread that looks, why it is down."""

    directory: pathlib.Path
    actor: Any = None
    ping: Any = None
    tried_at: float = -math.inf
    why: str = "it is not loaded yet"


class ClusterShards(shards.Sharded):
    """The shards of one index in a cluster."""

    def __init__(
        self, cluster: Cluster, directories: Sequence[pathlib.Path], sizes: Sequence[int]
    ) -> None:
        super().__init__(sizes, up=False)
        self._cluster = cluster
        self._shards = [_Shard(directory) for directory in directories]

    def ask(self, queries: Floats, k: int) -> list[shards.ShardAnswer]:
        """Asks those that are up side by side, and waits until the deadline."""
        until = time.monotonic() + self._cluster.deadline_s
        calls = [self._called(number, queries, k) for number in range(len(self._shards))]
        return [self._answer(number, call, until) for number, call in enumerate(calls)]

    def _called(self, number: int, queries: Floats, k: int) -> Any:
        """Returns the call of a shard under way; None where it is down."""
        if not self.up[number]:
            return None
        try:
            return self._shards[number].actor.search.remote(queries, k)
        except Exception as error:  # Of whatever is wrong with the cluster.
            return self._lose(number, error)

    def _answer(self, number: int, call: Any, until: float) -> shards.ShardAnswer:
        if call is not None:
            try:
                left_s = max(0.0, until - time.monotonic())
                answer: tuple[Rows, Floats] = self._cluster.ray.get(call, timeout=left_s)
                return answer
            except Exception as error:
                self._lose(number, error)
        return self._shards[number].why

    def look(self) -> None:
        """Sees which shards are there; makes actors where there are none."""
        for number in range(len(self._shards)):
            try:
                self._look_at(number)
            except Exception as error:
                self._lose(number, error)

    def _look_at(self, number: int) -> None:
        ray, shard = self._cluster.ray, self._shards[number]
        if shard.actor is None:
            if time.monotonic() - shard.tried_at < _RETRY_S:
                return
            shard.tried_at = time.monotonic()
            shard.actor = self._cluster.actor(shard.directory)
        if shard.ping is None:
            shard.ping = shard.actor.process_id.remote()
        if ray.wait([shard.ping], timeout=0)[0]:
            ping, shard.ping = shard.ping, None
            ray.get(ping)
            if not self.up[number]:
                logging.info("Shard %d of the index answers: %s", number, shard.directory)
            self.up[number] = True

    def _lose(self, number: int, error: Exception) -> None:
        """Notes that a shard failed or was late; one whose actor is no more gets another."""
        shard = self._shards[number]
        shard.why = f"{type(error).__name__}: {' '.join(str(error).split())}"[:_WHY_LENGTH]
        if self.up[number]:
            logging.error("Shard %d of the index is lost: %s", number, shard.why)
        self.up[number] = False
        if isinstance(error, self._cluster.ray.exceptions.ActorDiedError):
            shard.actor = shard.ping = None


def _look_while_used(reference: "weakref.ref[ClusterShards]") -> None:
    while (opened := reference()) is not None:
        opened.look()
        del opened
        time.sleep(LOOK_S)
