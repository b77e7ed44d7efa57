"""The cores that the threads of a server run on.

Python runs in one thread at a time, whichever holds the interpreter lock. With threads on both of
two cores, requests that overlapped took half as much CPU again as single ones, so that a server
that fell behind fell behind further; presumably what all threads refer to, and count, then goes
from the cache of one core to that of the other with the lock. So the threads of requests share one
core, and the models, which need no lock, have the others (:mod:`serving.servables.embedded`). So
has what loads releases beside requests.
"""

import os
import pathlib
import threading

# Those of the process as it was started; a child of the server knows what its parent may use.
ALL = frozenset(os.sched_getaffinity(0))
# What loads beside requests starts its threads under this name.
LOADING = "releases"
_AVX512 = {"avx512f", "avx512cd", "avx512bw", "avx512dq", "avx512vl"}


def num_for_models() -> int:
    """Returns on how many cores models run, 1 or more."""
    return max(1, len(ALL) - 1)


def environment() -> dict[str, str]:
    """Returns the environment of a process that serves.

    What it says counts when NumPy and TensorFlow load, which a command's own imports already do:
    so it is given from outside. Requests run side by side. To cut the small products of one of them
    into parts for several threads costs more than it gains and makes the others wait; and the
    threads that OpenBLAS would wake for them spin on the cores that other requests need.
    """
    single = {"OPENBLAS_NUM_THREADS": "1", "TF_NUM_INTRAOP_THREADS": "1"}
    return {**single, **kernels(), **os.environ}


def kernels(cpuinfo: str | None = None) -> dict[str, str]:
    """Returns what has OpenBLAS multiply with the widest registers that the processor has.

    OpenBLAS (0.3.31) takes kernels of 256 bits on AMD's processors with AVX-512: those of 512 took
    .53 of their time on a Zen 5 (500 x 291 x 512 and 500 x 512 x 256, one thread).

    Args:
        cpuinfo: Text of ``/proc/cpuinfo``; None for that of this machine.
    """
    if cpuinfo is None:
        try:
            cpuinfo = pathlib.Path("/proc/cpuinfo").read_text()
        except OSError:  # Another system.
            return {}
    is_amd = "AuthenticAMD" in cpuinfo
    return {"OPENBLAS_CORETYPE": "SKYLAKEX"} if is_amd and set(cpuinfo.split()) >= _AVX512 else {}


def use_one() -> None:
    """Keeps this process, and threads that it starts, on one core until :func:`part`.

    For a process that loads while another serves. A lower priority would do, but cannot be taken
    back without privileges.
    """
    # TensorFlow makes as many threads as it sees cores, once and for all.
    os.environ.setdefault("TF_NUM_INTEROP_THREADS", str(len(ALL)))
    os.sched_setaffinity(0, {max(ALL)})


def part(seat: int = 0) -> None:
    """Gives the interpreter one core and all else the others, of those that the process may use.

    Of processes side by side each interpreter has a core of its own, as far as there are so many:
    the one of the process's number, ``seat``. Threads that are started later are where the thread
    is that starts them. With one core, or for threads that end meanwhile, nothing is to be done.
    """
    import pyarrow as pa

    interpreter = {sorted(ALL)[seat % len(ALL)]}
    others = set(ALL) - interpreter or interpreter
    requests = {t.native_id for t in threading.enumerate() if t.name != LOADING}
    for thread in map(int, os.listdir("/proc/self/task")):
        try:
            os.sched_setaffinity(thread, interpreter if thread in requests else others)
        except ProcessLookupError:
            continue
    pa.set_cpu_count(len(ALL))
