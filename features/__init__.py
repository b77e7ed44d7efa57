"""What a feature is: raw tables, the feature spec, as-of history, transforms."""

import os

# Before TensorFlow, which has an SQLite of its own, without full-text search: of the two, a process
# uses the one that it loads first.
import sqlite3  # noqa: F401

from features.screen import quiet

quiet.install()
# TensorFlow Recommenders speaks ``tf.keras``, which must be Keras 2 here, and the switch counts
# only before its first touch. What makes no model is spared the import of Keras 3.
os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
