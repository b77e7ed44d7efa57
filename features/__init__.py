"""What a feature is: raw tables, the feature spec, as-of history, transforms.

Imports nothing of ours.
"""

# Before TensorFlow, which has an SQLite of its own, without full-text search: of the two, a process
# uses the one that it loads first.
import sqlite3  # noqa: F401

from features.screen import quiet

quiet.install()
