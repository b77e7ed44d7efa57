"""The online half: index, export, releases, funnel, HTTP."""

import features  # noqa: F401 - quiet, where a command started this process
