"""Leases: one holder, which may be killed, or out of touch."""

import subprocess
import sys
import time

import pytest

from features import command
from features.stores import leases, locations, objects


@pytest.fixture
def place(store, request):
    return locations.parse(store.url(request.node.name.replace("[", "-").rstrip("]")))


def test_one_holds_it_and_who_is_told(place):
    with leases.hold(place, what="the work") as lease:
        lease.require()
        with (
            pytest.raises(command.InputError, match="the work is in use by process"),
            leases.hold(place, what="the work"),
        ):
            pass
    assert objects.at(place).head(place.key) is None
    with leases.hold(place, what="the work"):
        pass


_HOLD = """
import sys, time
from features.stores import leases, locations
with leases.hold(locations.parse(sys.argv[1]), what="it"):
    print("held", flush=True)
    time.sleep(600)
"""


def test_the_lease_of_a_killed_process_of_this_machine_is_free(place):
    child = subprocess.Popen(
        [sys.executable, "-c", _HOLD, str(place)], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout.readline() == "held\n"
    with (
        pytest.raises(command.InputError, match=f"process {child.pid}"),
        leases.hold(place, what="it"),
    ):
        pass
    child.kill()
    child.communicate()
    with leases.hold(place, what="it"):
        pass


def test_the_lease_of_another_machine_is_free_when_it_has_run_out(place, monkeypatch):
    monkeypatch.setattr(leases, "_machine", lambda: "another")
    holding = leases.hold(place, what="it")
    lease = holding.__enter__()
    monkeypatch.setattr(leases, "_machine", lambda: "this one")
    with pytest.raises(command.InputError, match="in use"), leases.hold(place, what="it"):
        pass
    later = time.time() + leases.LASTS_S + leases.SKEW_S + 1
    with monkeypatch.context() as patch:
        patch.setattr(leases.time, "time", lambda: later)
        taking = leases.hold(place, what="it")
        taking.__enter__()
    holder = leases.holder_of(place)
    lease.renew(holder)
    with pytest.raises(command.InputError, match="is lost"):
        lease.require()
    holding.__exit__(None, None, None)
    assert leases.holder_of(place).id == holder.id  # Not the first one's to remove.
    taking.__exit__(None, None, None)


def test_a_lease_that_could_not_be_renewed_in_time_is_no_leave(place, monkeypatch):
    with leases.hold(place, what="it") as lease:
        late = time.monotonic() + leases.LASTS_S + 1
        monkeypatch.setattr(leases.time, "monotonic", lambda: late)
        with pytest.raises(command.InputError, match="could not be renewed in time"):
            lease.require()
        monkeypatch.undo()


def test_one_waits_for_the_other(place):
    child = subprocess.Popen(
        [sys.executable, "-c", _HOLD.replace("600", "1"), str(place)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdout.readline() == "held\n"
    with leases.hold(place, what="it", wait_s=30):
        child.communicate(timeout=30)
        assert child.returncode == 0
