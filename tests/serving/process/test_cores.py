import json
import os
import subprocess
import sys
import textwrap

import pytest

from serving.process import cores

SCRIPT = """
    import json, os, threading
    from serving.process import cores

    def affinity(thread):
        return sorted(os.sched_getaffinity(thread.native_id))

    stop = threading.Event()
    names = ("request", cores.LOADING)
    threads = {name: threading.Thread(target=stop.wait, name=name) for name in names}
    for thread in threads.values():
        thread.start()
    python = {thread.native_id for thread in threading.enumerate()}
    if ONE:
        cores.use_one()
    started = sorted(os.sched_getaffinity(0))
    cores.part()
    later = threading.Thread(target=stop.wait)
    later.start()
    native = {int(t) for t in os.listdir("/proc/self/task")} - python - {later.native_id}
    print(json.dumps({
        "all": sorted(cores.ALL),
        "started": started,
        "main": sorted(os.sched_getaffinity(0)),
        "later": affinity(later),
        **{name: affinity(thread) for name, thread in threads.items()},
        "native": sorted({core for t in native for core in os.sched_getaffinity(t)}),
    }))
    stop.set()
"""


def parted(allowed, *, one):
    script = textwrap.dedent(SCRIPT).replace("ONE", str(one))
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=True,
        preexec_fn=lambda: os.sched_setaffinity(0, allowed),
    )
    return json.loads(done.stdout)


def test_requests_share_a_core_and_models_and_loading_have_the_others():
    mine = sorted(os.sched_getaffinity(0))
    found = parted(mine, one=False)
    first, others = mine[:1], mine[1:] or mine
    assert found["all"] == mine
    assert found["main"] == found["request"] == found["later"] == first
    assert found["releases"] == others
    assert found["native"] in ([], others)  # The threads of pyarrow, where it has any.


def test_what_loads_on_one_core_serves_on_all():
    mine = sorted(os.sched_getaffinity(0))
    found = parted(mine, one=True)
    assert found["started"] == mine[-1:]
    assert found["request"] == mine[:1]
    assert found["releases"] == (mine[1:] or mine)


def test_one_core_is_enough():
    core = min(os.sched_getaffinity(0))
    found = parted([core], one=False)
    assert found["request"] == found["releases"] == found["main"] == [core]


@pytest.mark.parametrize(
    ("cpuinfo", "kernels"),
    [
        ("vendor_id : AuthenticAMD\nflags : fma avx512f avx512cd avx512bw avx512dq avx512vl", True),
        ("vendor_id : AuthenticAMD\nflags : fma avx2", False),
        ("vendor_id : GenuineIntel\nflags : avx512f avx512cd avx512bw avx512dq avx512vl", False),
        ("", False),
    ],
)
def test_products_have_the_widest_registers_that_a_processor_has(cpuinfo, kernels):
    assert cores.kernels(cpuinfo) == ({"OPENBLAS_CORETYPE": "SKYLAKEX"} if kernels else {})


def test_what_was_set_by_hand_stays(monkeypatch):
    monkeypatch.setenv("OPENBLAS_CORETYPE", "HASWELL")
    assert cores.environment()["OPENBLAS_CORETYPE"] == "HASWELL"
