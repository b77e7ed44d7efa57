"""Jobs that make data and models: simulate, import, preprocess, retrain."""

import features  # noqa: F401 - quiet, where a command started this process
