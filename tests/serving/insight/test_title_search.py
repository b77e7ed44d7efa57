"""Words of titles, in a process that loads TensorFlow first: it has an SQLite of its own."""

import subprocess
import sys

_AFTER_TENSORFLOW = """
import models
import tensorflow
from serving.insight.title_search import TitleSearch

TitleSearch()
"""


def test_full_text_search_is_there_though_tensorflow_is_loaded_first():
    told = subprocess.run(
        [sys.executable, "-c", _AFTER_TENSORFLOW], capture_output=True, text=True, check=False
    )
    assert told.returncode == 0, told.stderr
