"""Locks in object stores: an object that its holder renews, and that runs out when it does not.

An object is created on condition that there is none, so one of two wins; it says who holds it and
until when. The holder replaces it four times within that time, on condition that it is still its
own. When a holder is killed, the next one on the same machine sees that its process is gone and
takes the lease at once; on another machine when it has run out, by the clocks of both, which must
agree to :data:`SKEW_S`. A holder that was suspended for longer finds its lease taken, and
:meth:`Lease.require` refuses what would be decided under it. What must not go wrong even then is
written on condition of what it replaces (``CURRENT``).
"""

import contextlib
import dataclasses
import json
import os
import pathlib
import socket
import sys
import threading
import time
import uuid
from collections.abc import Iterator

from absl import logging

from features import command
from features.stores import clients, objects
from features.stores.locations import Location

LASTS_S = 60.0
SKEW_S = 5.0
_POLL_S = 0.5


@dataclasses.dataclass(frozen=True, kw_only=True)
class Holder:
    """Who has a lease.

    Attributes:
        id: Name of this very lease.
        machine: What tells machines, and containers, apart; each numbers its own processes.
        host: Name of the machine, for people.
        pid: Process.
        started: Start of the process, since numbers come again.
        command: Its command line, for people.
        until_s: Moment at which the lease runs out, Unix seconds.
    """

    id: str
    machine: str
    host: str
    pid: int
    started: str
    command: str
    until_s: float

    def is_gone(self) -> bool:
        """Returns whether nobody holds the lease any more."""
        if time.time() > self.until_s + SKEW_S:
            return True
        return self.machine == _machine() and _started(self.pid) != self.started

    def __str__(self) -> str:
        until = command.format_time(int(self.until_s + SKEW_S))
        return (
            f"process {self.pid} on {self.host} ({self.command[:200]}); if that was killed on "
            f"another machine, this is free at {until}"
        )


class Lease:
    """A lease that is held; use :func:`hold`."""

    def __init__(self, location: Location, meta: clients.Meta) -> None:
        self._location = location
        self._meta = meta
        self._valid_until = time.monotonic() + LASTS_S
        self._lost = ""

    def require(self) -> None:
        """Refuses to go on where the lease is lost.

        Raises:
            InputError: Another process may have taken it.
        """
        if not self._lost and time.monotonic() > self._valid_until:
            self._lost = "it could not be renewed in time"
        if self._lost:
            raise command.InputError(
                f"the lease {self._location} is lost ({self._lost}): another process may be "
                "writing there, so this one stops. Run it again."
            )

    def renew(self, holder: Holder) -> None:
        """Makes the lease last anew."""
        begun = time.monotonic()
        renewed = dataclasses.replace(holder, until_s=time.time() + LASTS_S)
        try:
            self._meta = objects.at(self._location).write(
                self._location.key, _json(renewed), mode=self._meta.token
            )
        except clients.ConflictError:
            self._lost = "another process took it"
        else:
            self._valid_until = begun + LASTS_S

    def run_out(self, holder: Holder) -> None:
        """Leaves the lease there as one that ran out, which anybody may take."""
        with contextlib.suppress(clients.ConflictError):
            ended = dataclasses.replace(holder, until_s=0.0)
            objects.at(self._location).write(
                self._location.key, _json(ended), mode=self._meta.token
            )

    def release(self, holder: Holder) -> None:
        """Removes the lease, where it is still this one."""
        bucket = objects.at(self._location)
        stored = bucket.read(self._location.key)
        if (
            stored is not None
            and (other := _holder(stored[0])) is not None
            and other.id == holder.id
        ):
            bucket.delete([self._location.key])


@contextlib.contextmanager
def hold(
    location: Location, *, what: str, wait_s: float = 0.0, stays_after_failure: bool = False
) -> Iterator[Lease]:
    """Holds a lease during the block.

    Args:
        location: The object that stands for it.
        what: What may be used by one process alone, for the refusal.
        wait_s: How long another holder is waited for.
        stays_after_failure: Whether the object is left, as one that ran out, when the block fails:
            where it stands for what is half-written.

    Raises:
        InputError: Another process holds it.
    """
    holder = Holder(
        id=uuid.uuid4().hex,
        machine=_machine(),
        host=socket.gethostname(),
        pid=os.getpid(),
        started=_started(os.getpid()),
        command=" ".join([pathlib.Path(sys.argv[0]).name, *sys.argv[1:]]),
        until_s=0.0,
    )
    lease = Lease(location, _acquire(location, holder, what=what, wait_s=wait_s))
    stop = threading.Event()

    def keep() -> None:
        while not stop.wait(LASTS_S / 4):
            try:
                lease.renew(holder)
            except command.InputError as error:
                logging.warning("The lease %s could not be renewed: %s", location, error)

    thread = threading.Thread(target=keep, name="lease", daemon=True)
    thread.start()
    end = lease.release
    try:
        yield lease
    except BaseException:
        end = lease.run_out if stays_after_failure else lease.release
        raise
    finally:
        stop.set()
        thread.join()
        try:
            end(holder)
        except command.InputError as error:
            logging.warning("%s could not be ended, and runs out by itself: %s", location, error)


def holder_of(location: Location) -> Holder | None:
    """Returns who holds a lease now; None where nobody does."""
    stored = objects.at(location).read(location.key)
    holder = None if stored is None else _holder(stored[0])
    return None if holder is None or holder.is_gone() else holder


def _acquire(location: Location, holder: Holder, *, what: str, wait_s: float) -> clients.Meta:
    bucket = objects.at(location)
    give_up = time.monotonic() + wait_s
    while True:
        content = _json(dataclasses.replace(holder, until_s=time.time() + LASTS_S))
        stored = bucket.read(location.key)
        other = None if stored is None else _holder(stored[0])
        if other is None or other.is_gone():
            mode = "create" if stored is None else stored[1].token
            try:
                return bucket.write(location.key, content, mode=mode)
            except clients.ConflictError:
                continue  # Somebody else took it just now: look who.
        if time.monotonic() >= give_up:
            raise command.InUseError(f"{what} is in use by {other}. Wait until it has finished.")
        time.sleep(_POLL_S)


def _json(holder: Holder) -> bytes:
    return json.dumps(dataclasses.asdict(holder)).encode()


def _holder(content: bytes) -> Holder | None:
    """Returns who signed; None where that cannot be read: then it is nobody's."""
    try:
        return Holder(**json.loads(content))
    except (ValueError, TypeError):
        return None


def _machine() -> str:
    """Returns what is the same for two processes exactly where they see each other's numbers."""
    try:
        boot = pathlib.Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return socket.gethostname()


def _started(pid: int) -> str:
    """Returns when a process started, in ticks since the boot; "" where there is none."""
    try:
        stat = pathlib.Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""
    fields = stat.rpartition(")")[2].split()
    return "" if fields[0] == "Z" else fields[19]
