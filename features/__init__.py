"""What a feature is: raw tables, the feature spec, as-of history, transforms.

Imports nothing of ours.

SQLite comes first: where TensorFlow is loaded before it, Python's ``sqlite3`` is bound to the copy
inside TensorFlow, which has no full-text search.
"""

import sqlite3  # noqa: F401

from features.screen import quiet

quiet.install()
