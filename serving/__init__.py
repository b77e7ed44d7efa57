"""The online half: index, export, releases, funnel, HTTP. Imports features and models alone."""

import features  # noqa: F401 - quiet, where a command started this process
