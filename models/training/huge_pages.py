"""Large pages for large tables.

A step reads and writes thousands of rows at random places of tables of gigabytes. With pages of
4 KiB nearly each row is on a page that the processor's translation cache does not hold; with
pages of 2 MiB a table of a million videos has a few hundred. Most systems give large pages to
those who ask (`madvise`); the C library asks where a tunable says so, which it reads once, when
a process starts.
"""

import os
import sys

_TUNABLES = "GLIBC_TUNABLES"
_SETTING = "glibc.malloc.hugetlb=1"


def environment() -> dict[str, str]:
    """Returns the variable to start a process with, so that it asks for large pages."""
    return {_TUNABLES: os.environ.get(_TUNABLES) or _SETTING}


def restart() -> None:
    """Starts this very program anew with large pages, as the same process.

    Does nothing where the tunables are set already, and on other systems than Linux. To be called
    by a binary before anything else. A C library that does not know the tunable ignores it.
    """
    if sys.platform != "linux" or os.environ.get(_TUNABLES):
        return
    arguments = [sys.executable, *sys.orig_argv[1:]]
    os.execve(sys.executable, arguments, {**os.environ, **environment()})
