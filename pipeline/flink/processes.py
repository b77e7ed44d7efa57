"""A Flink cluster on this machine, for trying and for tests: each part is a process of its own.

A job manager, task managers that start Python workers, and Beam's job server: ``pom.xml`` names
Beam's Flink runner, whose jars have Flink's own programs with them. A pipeline reaches them with
the flags of :meth:`Cluster.beam_flags`. The parts of a real deployment are the same; they stand on
many machines that share a file system.
"""

import contextlib
import json
import os
import pathlib
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Sequence
from typing import Any

from features import command
from pipeline.java.jars import Jars

FLINK = Jars(
    name="Flink",
    pinned=pathlib.Path(__file__).parent,
    variable="WATCHNEXT_FLINK",
    fetch_command="python -m pipeline.flink_cluster --fetch",
    megabytes=160,
    java="a Java 11 or 17 runtime",
)
_HOST = "localhost"
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # Past any proxy.
_READY_S = 90.0
_STOP_S = 10.0
# Megabytes. The sum of one task manager is its process: small, since examples live in the
# Python workers and pass through Java in pieces.
_JOB_MANAGER_HEAP = 384
_JOB_SERVER_HEAP = 384
_TASK_HEAP = 512
_FRAMEWORK_HEAP = 128
_NETWORK = 256
_MANAGED = 768  # Sort buffers of every shuffle; taken from the system when they are used.
# The job server's own class path: classes that ask for the class loader that they came from.
_IN_JOB_SERVER = re.compile(r"beam-runners-flink|flink-(?!shaded|rpc-akka)")
# What Flink opens of the JDK's modules; its own scripts read the same list from config.yaml.
_OPENED = (
    *("lang", "lang.reflect", "io", "net", "nio", "text", "time", "util", "util.concurrent"),
    *("util.concurrent.atomic", "util.concurrent.locks", "math"),
)


class Cluster:
    """One job manager, task managers and a job server; a context manager.

    Args:
        directory: Directory for configuration, logs and temporary files; created.
        task_managers: Number of task managers.
        slots: Number of slots of each task manager. With ``task_managers - 1`` of them enough for a
            job's parallelism, a job survives the loss of one.
        worker_python: The Python whose environment has this package; workers run in it.
        restarts: Number of times that a job is started again after a task manager was lost.
    """

    def __init__(
        self,
        directory: pathlib.Path,
        *,
        task_managers: int = 2,
        slots: int = 2,
        worker_python: str = sys.executable,
        restarts: int = 3,
    ) -> None:
        self._directory = directory.absolute()
        self._num_task_managers = task_managers
        self._slots = slots
        self._worker_python = worker_python
        self._restarts = restarts
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._started = 0
        self._rpc, self._rest, self._jobs, self._artifacts = _free_ports(4)
        self._worker = self._directory / "worker.sh"

    # ---- for those who use it ------------------------------------------------------------------

    @property
    def rest_url(self) -> str:
        """Address of Flink's REST interface."""
        return f"http://{_HOST}:{self._rest}"

    @property
    def parallelism(self) -> int:
        """What still runs after one task manager was lost."""
        return self._slots * max(1, self._num_task_managers - 1)

    def beam_flags(self) -> list[str]:
        """Returns what a pipeline needs to run here."""
        return [
            "--runner=PortableRunner",
            f"--job_endpoint={_HOST}:{self._jobs}",
            "--environment_type=PROCESS",
            f"--environment_config={json.dumps({'command': str(self._worker)})}",
            f"--parallelism={self.parallelism}",
        ]

    def get(self, path: str) -> Any:
        """Returns what Flink's REST interface says, for example of ``/overview``."""
        with _DIRECT.open(self.rest_url + path, timeout=10) as response:
            return json.load(response)

    def jobs(self) -> dict[str, str]:
        """Returns job id -> state, for example RUNNING, FINISHED, FAILED."""
        return {job["id"]: job["status"] for job in self.get("/jobs")["jobs"]}

    def cancel(self, job_id: str) -> None:
        """Asks Flink to cancel a job."""
        request = urllib.request.Request(f"{self.rest_url}/jobs/{job_id}", method="PATCH")
        _DIRECT.open(request, timeout=10).close()

    def task_managers(self) -> list[str]:
        """Returns the names of the task managers that were started and not killed."""
        return [name for name in self._processes if name.startswith("task_manager")]

    def kill(self, name: str) -> None:
        """Kills a process and its workers at once, as a failing machine would."""
        process = self._processes.pop(name)
        _signal_group(process, signal.SIGKILL)
        process.wait()

    def check(self) -> None:
        """Raises where a process has ended by itself.

        Raises:
            command.InputError: Which one, and the end of its log.
        """
        for name, process in self._processes.items():
            if process.poll() is not None:
                log = (self._directory / f"{name}.log").read_text(errors="replace")
                raise command.InputError(
                    f"the {name.replace('_', ' ')} ended with code {process.returncode}:\n"
                    f"{log[-2000:]}"
                )

    # ---- start and stop ------------------------------------------------------------------------

    def __enter__(self) -> "Cluster":
        self._jars = FLINK.jars()
        self._directory.mkdir(parents=True, exist_ok=True)
        self._write_configuration()
        self._write_worker()
        try:
            self._start_all()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Ends every process, and the workers."""
        for process in self._processes.values():
            _signal_group(process, signal.SIGTERM)
        deadline = time.monotonic() + _STOP_S
        for process in self._processes.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.1, deadline - time.monotonic()))
            _signal_group(process, signal.SIGKILL)
            process.wait()
        self._processes.clear()

    def add_task_manager(self) -> str:
        """Starts one more task manager and returns its name; see :meth:`wait_for_slots`."""
        self._started += 1
        name = f"task_manager_{self._started}"
        settings = {
            "taskmanager.resource-id": name,
            "taskmanager.cpu.cores": "1.0",
            "taskmanager.memory.framework.heap.size": f"{_FRAMEWORK_HEAP}m",
            "taskmanager.memory.framework.off-heap.size": "64m",
            "taskmanager.memory.task.heap.size": f"{_TASK_HEAP}m",
            "taskmanager.memory.task.off-heap.size": "0m",
            "taskmanager.memory.network.min": f"{_NETWORK}m",
            "taskmanager.memory.network.max": f"{_NETWORK}m",
            "taskmanager.memory.managed.size": f"{_MANAGED}m",
            "taskmanager.memory.jvm-metaspace.size": "256m",
            "taskmanager.memory.jvm-overhead.min": "192m",
            "taskmanager.memory.jvm-overhead.max": "192m",
        }
        self._start_java(
            name,
            "org.apache.flink.runtime.taskexecutor.TaskManagerRunner",
            ["--configDir", str(self._directory)]
            + [part for key, value in settings.items() for part in ("-D", f"{key}={value}")],
            heap=_FRAMEWORK_HEAP + _TASK_HEAP,
        )
        return name

    def wait_for_slots(self, slots: int) -> None:
        """Waits until the task managers have registered so many slots."""
        self._wait("task slots", lambda: self.get("/overview")["slots-total"] >= slots)

    def _start_all(self) -> None:
        self._start_java(
            "job_manager",
            "org.apache.flink.runtime.entrypoint.StandaloneSessionClusterEntrypoint",
            ["--configDir", str(self._directory)],
            heap=_JOB_MANAGER_HEAP,
        )
        for _ in range(self._num_task_managers):
            self.add_task_manager()
        self._start_java(
            "job_server",
            "org.apache.beam.runners.flink.FlinkJobServerDriver",
            [
                f"--flink-master={_HOST}:{self._rest}",
                f"--flink-conf-dir={self._directory}",
                f"--job-port={self._jobs}",
                f"--artifact-port={self._artifacts}",
                "--expansion-port=-1",
                f"--artifacts-dir={self._directory / 'artifacts'}",
            ],
            heap=_JOB_SERVER_HEAP,
            sends_little=True,
        )
        self.wait_for_slots(self._num_task_managers * self._slots)
        self._wait("job server", lambda: _is_open(self._jobs))

    def _write_configuration(self) -> None:
        temporary = self._directory / "tmp"
        temporary.mkdir(exist_ok=True)
        settings = {
            "jobmanager.rpc.address": _HOST,
            "jobmanager.rpc.port": self._rpc,
            "jobmanager.bind-host": _HOST,
            "taskmanager.host": _HOST,
            "taskmanager.bind-host": _HOST,
            "taskmanager.numberOfTaskSlots": self._slots,
            "rest.address": _HOST,
            "rest.bind-address": _HOST,
            "rest.port": self._rest,
            "io.tmp.dirs": temporary,
            "parallelism.default": self.parallelism,
            # Otherwise one task manager would get all of a small job.
            "cluster.evenly-spread-out-slots": "true",
            # Each of many small shuffles would otherwise reserve 16 MB.
            "taskmanager.network.sort-shuffle.min-buffers": 64,
            # The cluster has all classes of the job; a job's own copy would be a second one.
            "classloader.resolve-order": "parent-first",
            # A lost machine is noticed after two heartbeats, and its job begins again on the
            # others. Not before that: what still uses the lost one fails, and counts. (This
            # strategy counts all that fails during a wait as one; fixed-delay does not.)
            "heartbeat.interval": 1000,
            "heartbeat.timeout": 20000,
            "restart-strategy.type": "exponential-delay",
            "restart-strategy.exponential-delay.initial-backoff": "8 s",
            "restart-strategy.exponential-delay.max-backoff": "16 s",
            "restart-strategy.exponential-delay.attempts-before-reset-backoff": self._restarts,
        }
        text = "".join(f"{key}: {value}\n" for key, value in settings.items())
        (self._directory / "config.yaml").write_text(text)

    def _write_worker(self) -> None:
        """Writes the command that a task manager starts a Python worker of its own with.

        Beam's worker pool would do it for one task manager; two of them give their workers the
        same names, and with one pool for both each would end those of the other.
        """
        python = shlex.quote(str(pathlib.Path(self._worker_python).absolute()))
        log = shlex.quote(str(self._directory / "workers.log"))
        self._worker.write_text(
            f'#!/bin/sh\nexec {python} -m pipeline.flink.worker "$@" >>{log} 2>&1\n'
        )
        self._worker.chmod(0o755)

    def _start_java(
        self,
        name: str,
        main: str,
        arguments: Sequence[str],
        *,
        heap: int,
        sends_little: bool = False,
    ) -> None:
        # With each job, Beam's job server sends Flink what is on its own class path: 160 MB that
        # the cluster has anyway. What is on the boot class path stays where it is.
        boot, own = [], self._jars
        if sends_little:
            own = [path for path in self._jars if _IN_JOB_SERVER.match(os.path.basename(path))]
            others = [path for path in self._jars if path not in own]
            boot = [f"-Xbootclasspath/a:{os.pathsep.join(others)}"]
        arguments = [
            *("java", f"-Xmx{heap}m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"),
            *(f"--add-opens=java.base/java.{package}=ALL-UNNAMED" for package in _OPENED),
            "-Dorg.slf4j.simpleLogger.showDateTime=true",
            f"-Djava.io.tmpdir={self._directory / 'tmp'}",
            *(*boot, "-cp", os.pathsep.join(own), main, *arguments),
        ]
        # A session of its own: an interrupt at the terminal reaches only us, and we stop them;
        # and a task manager is ended together with the workers that it started.
        with (self._directory / f"{name}.log").open("wb") as log:
            self._processes[name] = subprocess.Popen(
                arguments,
                cwd=self._directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def _wait(self, what: str, is_there: Callable[[], bool]) -> None:
        deadline = time.monotonic() + _READY_S
        while True:
            self.check()
            with contextlib.suppress(OSError):
                if is_there():
                    return
            if time.monotonic() > deadline:
                raise command.InputError(
                    f"waited {_READY_S:.0f} s for the cluster's {what}; logs: {self._directory}"
                )
            time.sleep(0.2)


def _free_ports(number: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(number)]
        for one in sockets:
            one.bind((_HOST, 0))
        return [one.getsockname()[1] for one in sockets]


def _is_open(port: int) -> bool:
    with socket.create_connection((_HOST, port), timeout=1):
        return True


def _signal_group(process: subprocess.Popen[bytes], number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)
