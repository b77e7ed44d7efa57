"""Arrays of a release, opened where they lie.

Large ones are mapped, not read into memory of the process: servers of one machine share what they
have in common, of a swap both releases are memory that the system can take back where it has no
other, and nothing is copied at the start. A request reads some hundred rows of each.

The price: rows that the system took back are read from disk in the midst of a request, so memory
should hold what serves; and whoever cuts a mapped file short ends the servers that map it. Files of
a published release are never written again, and are removed whole.
"""

import pathlib

import numpy as np

MAPPED_BYTES = 4 << 20


def opened(path: pathlib.Path) -> np.ndarray:
    """Returns the array of a ``.npy`` file, read-only where it is mapped.

    Raises:
        OSError, ValueError: It is not there, or is no array of numbers.
    """
    is_large = path.stat().st_size > MAPPED_BYTES
    # allow_pickle=False refuses an array of objects, the one pickle a .npy can hold.
    values = np.load(path, mmap_mode="r" if is_large else None, allow_pickle=False)
    # A view without the subclass, which would make every slice slower.
    return np.asarray(values)
