"""Candidate model, ranker, losses, metrics, training, evaluation. Imports features alone of ours.

TensorFlow Recommenders speaks ``tf.keras``, which must be Keras 2 here, and the switch counts only
before the first touch of ``tf.keras``: hence this one statement in a package file.
"""

import os

os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
