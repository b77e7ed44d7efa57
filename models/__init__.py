"""Candidate model, ranker, losses, metrics, training, evaluation."""

import features  # noqa: F401 - Keras 2; quiet, where a command started this process
