"""A Kafka broker on this machine, for trying and for tests: one node, which is its controller too.

``pom.xml`` names the broker, ``SHA256SUMS`` its jars.
"""

import pathlib
import signal
import socket
import subprocess
import time
import types

from features import command
from pipeline.java.jars import Jars

HOME_VARIABLE = "WATCHNEXT_KAFKA"
KAFKA = Jars(
    name="Kafka",
    pinned=pathlib.Path(__file__).parent,
    variable=HOME_VARIABLE,
    fetch_command="make kafka",
    megabytes=43,
    java="a Java 17 runtime",
)
_HOST = "127.0.0.1"
_HEAP_MB = 256
_READY_S = 90.0
_STOP_S = 20.0
# 16 bytes in base64, as the storage tool wants it; there is one cluster in a directory.
_CLUSTER_ID = "d2F0Y2huZXh0LWthZmthIQ"
_PROPERTIES = "server.properties"
_SETTINGS = """\
process.roles=broker,controller
node.id=1
controller.quorum.bootstrap.servers={host}:{controller}
listeners=PLAINTEXT://{host}:{port},CONTROLLER://{host}:{controller}
advertised.listeners=PLAINTEXT://{host}:{port}
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
log.dirs={directory}/data
num.partitions=1
offsets.topic.num.partitions=1
offsets.topic.replication.factor=1
transaction.state.log.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
group.initial.rebalance.delay.ms=0
"""


class Broker:
    """A broker; a context manager. Stopped and started again it has what it had.

    Args:
        directory: Directory for configuration, logs and data; created.
    """

    def __init__(self, directory: pathlib.Path) -> None:
        self._directory = directory.absolute()
        self._port, self._controller = _free_ports(2)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        """What clients are given as ``bootstrap.servers``."""
        return f"{_HOST}:{self._port}"

    def __enter__(self) -> "Broker":
        jars = KAFKA.jars()
        self._directory.mkdir(parents=True, exist_ok=True)
        settings = self._directory / _PROPERTIES
        settings.write_text(
            _SETTINGS.format(
                host=_HOST,
                port=self._port,
                controller=self._controller,
                directory=self._directory,
            )
        )
        format_flags = ["format", "--standalone", "-t", _CLUSTER_ID, "-c", str(settings)]
        with (self._directory / "format.log").open("wb") as log:
            subprocess.run(
                [*self._java(jars), "kafka.tools.StorageTool", *format_flags],
                check=True,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: types.TracebackType | None,
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Starts the broker, and returns once it answers.

        Raises:
            command.InputError: It ended, or does not answer.
        """
        log_path = self._directory / "broker.log"
        with log_path.open("ab") as log:
            self._process = subprocess.Popen(
                [*self._java(KAFKA.jars()), "kafka.Kafka", str(self._directory / _PROPERTIES)],
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        until = time.monotonic() + _READY_S
        while time.monotonic() < until and self._process.poll() is None:
            try:
                socket.create_connection((_HOST, self._port), timeout=1).close()
            except OSError:
                time.sleep(0.2)
            else:
                return
        self.stop()
        raise command.InputError(f"Kafka did not start; it said in {log_path}: {_tail(log_path)}")

    def stop(self, number: int = signal.SIGTERM) -> None:
        """Ends the broker by a signal, SIGKILL if it does not."""
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(number)
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _java(self, jars: list[str]) -> list[str]:
        return ["java", f"-Xmx{_HEAP_MB}m", "-XX:+UseSerialGC", "-cp", ":".join(jars)]


def _tail(path: pathlib.Path) -> str:
    return path.read_text(errors="replace")[-1000:]


def _free_ports(number: int) -> list[int]:
    sockets = [socket.socket() for _ in range(number)]
    try:
        for one in sockets:
            one.bind((_HOST, 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()
