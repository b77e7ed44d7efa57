"""Candidate model, ranker, losses, metrics, training, evaluation. Imports features alone of ours.

TensorFlow Recommenders speaks ``tf.keras``, which must be Keras 2 here, and the switch counts only
before the first touch of ``tf.keras``: hence these statements in a package file.
"""

import os

import features  # noqa: F401 - quiet, where a command started this process

os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
