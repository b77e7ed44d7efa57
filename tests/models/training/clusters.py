"""Processes of one training, on ports of this machine, started by the documented command."""

import json
import os
import pathlib
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping

FLAGS = {
    "embedding_dim": 8,
    "depth": 1,
    "negatives": 16,
    "batch_size": 100,
    "learning_rate": 0.02,
    "id_dropout": 0.0,
    "bag_dropout": 0.0,
    "decay": "false",
    "epochs": 4,
}


class Cluster:
    """Starts and kills the processes of a cluster; what they say is in ``directory``."""

    def __init__(
        self,
        directory: pathlib.Path,
        *,
        examples: pathlib.Path,
        model: pathlib.Path,
        sizes: Mapping[str, int],
    ) -> None:
        ports = iter(_free_ports(sum(sizes.values())))
        self._addresses = {
            role: [f"localhost:{next(ports)}" for _ in range(size)] for role, size in sizes.items()
        }
        self._directory, self._examples, self._model = directory, examples, model
        self.processes: dict[tuple[str, int], subprocess.Popen] = {}

    def start(self, *tasks: tuple[str, int]) -> None:
        """Starts processes: those that are named, or all."""
        named = [(role, i) for role, each in self._addresses.items() for i in range(len(each))]
        for role, index in tasks or named:
            task = {"type": role, "index": index}
            config = json.dumps({"cluster": self._addresses, "task": task})
            line = [
                sys.executable,
                *("-m", "models.train_candidate"),
                *(f"--examples={self._examples}", f"--model={self._model}"),
                *(f"--{name}={value}" for name, value in FLAGS.items()),
            ]
            with (self._directory / f"{role}_{index}").open("w") as log:
                self.processes[role, index] = subprocess.Popen(
                    line, env={**os.environ, "TF_CONFIG": config}, stdout=log, stderr=log
                )

    def text(self, role: str, index: int = 0) -> str:
        """Returns what a process has said since it was started."""
        return (self._directory / f"{role}_{index}").read_text()

    def wait_for(self, text: str, role: str, index: int = 0) -> None:
        """Returns when a process has said something."""
        self._wait(lambda: text in self.text(role, index), role, index)

    def end_of(self, role: str, index: int = 0) -> int:
        """Returns the exit code of a process when it has ended."""
        return self.processes[role, index].wait(timeout=600)

    def kill(self, *tasks: tuple[str, int]) -> None:
        """Kills processes with SIGKILL: those that are named, or all."""
        for task in tasks or list(self.processes):
            self.processes[task].kill()
            self.processes[task].wait()

    def _wait(self, condition: Callable[[], bool], role: str, index: int) -> None:
        until = time.monotonic() + 600
        while not condition():
            assert self.processes[role, index].poll() is None, self.text(role, index)
            assert time.monotonic() < until, self.text(role, index)
            time.sleep(0.02)


def _free_ports(number: int) -> list[int]:
    sockets = [socket.socket() for _ in range(number)]
    for each in sockets:
        each.bind(("localhost", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports
