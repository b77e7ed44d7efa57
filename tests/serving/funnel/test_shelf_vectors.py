"""A video of a minute ago is placed by its vector: of the table, or of a file beside it."""

import numpy as np
import pyarrow as pa
import pytest

from features.tables import logs
from serving.funnel import loaded_release
from serving.release import manifest as release
from serving.servables.embedded import EmbeddedBackend
from serving.server.live_service import LiveParts


@pytest.fixture(scope="module")
def backend():
    return EmbeddedBackend()


@pytest.fixture(scope="module")
def built(small_release, backend):
    version = release.current(small_release)
    return loaded_release.load(small_release, version, backend=backend)


class Site:
    """A server's parts, with a clock that jumps to the next look."""

    def __init__(self, root, logs_dir, backend, built):
        self.logs = logs_dir
        self._now = 0.0
        logs.append(logs_dir, "videos", built.catalogue.table)
        self._parts = LiveParts(root, logs_dir, backend, monotonic=lambda: self._now)
        self.serving = self._parts.attach(built)

    def look(self):
        self._now += 60
        self.serving = self._parts.renewed(self.serving) or self.serving
        return self.serving

    def upload(self, *names, content):
        """Uploads videos of which nothing else is known."""
        upload_time = self.serving.catalogue.upload_times[0]
        rows = {"video_id": names, "upload_time": [upload_time] * len(names), "content": content}
        logs.append(self.logs, "videos", pa.table(rows))

    def vectors_file(self, **of_videos):
        directory = self.logs / "video_vectors"
        directory.mkdir(exist_ok=True)
        ids, found = [*of_videos], [*of_videos.values()]
        np.savez(directory / "content.npz", video_id=ids, vector=found)

    def embedding(self, name):
        catalogue = self.serving.catalogue
        return self.serving.index.embeddings[catalogue.rows(pa.array([name]))][0]


@pytest.fixture
def opened(small_release, backend, built, tmp_path):
    return Site(small_release, tmp_path, backend, built)


def test_new_videos_stand_where_their_vectors_say(opened):
    like, other = [1.0, -1.0, 0.5], [-1.0, 1.0, 0.0]
    opened.upload("a", "b", "c", "d", content=[like, like, other, None])
    serving = opened.look()
    a, b, c, d = (opened.embedding(name) for name in "abcd")
    np.testing.assert_array_equal(a, b)
    assert np.abs(a - c).max() > 0.01
    # Without a vector it stands between those that are opposites.
    assert np.abs(a - d).max() > 0.01
    if serving.prepared is not None:
        rows = serving.catalogue.rows(pa.array(["a", "b", "c"]))
        parts = serving.prepared.parts[rows]
        np.testing.assert_array_equal(parts[0], parts[1])
        assert np.abs(parts[0] - parts[2]).max() > 0.01


def test_a_file_of_vectors_places_a_video_when_it_comes(opened):
    vector = [1.0, -1.0, 0.5]
    opened.upload("by table", content=[vector])
    opened.upload("by file", content=[None])
    opened.look()
    before = opened.embedding("by file")
    opened.vectors_file(**{"by file": vector, "unheard of": vector})
    opened.look()
    assert np.abs(opened.embedding("by file") - before).max() > 0.01
    np.testing.assert_array_equal(opened.embedding("by file"), opened.embedding("by table"))


def test_vectors_that_do_not_fit_are_said_and_left_out(opened, caplog):
    opened.upload("short", "none", content=[[1.0, 2.0], None])
    opened.look()
    np.testing.assert_array_equal(opened.embedding("short"), opened.embedding("none"))
    said = [line for line in caplog.messages if "placed without these vectors" in line]
    assert len(said) == 1
    assert "another width than the declared 3 (first: ['short'])" in said[0]
