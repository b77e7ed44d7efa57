import pathlib

import numpy as np
import pytest

from serving.release import mapping


def saved(path, values):
    np.save(path, values)
    return path


def test_a_large_array_is_mapped_and_read_only(tmp_path):
    values = np.arange(mapping.MAPPED_BYTES // 4 + 1, dtype=np.float32).reshape(-1, 1)
    path = saved(tmp_path / "large.npy", values)
    opened = mapping.opened(path)
    assert str(path) in pathlib.Path("/proc/self/maps").read_text()
    assert type(opened) is np.ndarray
    assert not opened.flags.writeable
    np.testing.assert_array_equal(opened[[0, -1]], values[[0, -1]])


def test_a_small_one_is_read(tmp_path):
    path = saved(tmp_path / "small.npy", np.ones(3, np.float16))
    assert mapping.opened(path).tolist() == [1, 1, 1]
    assert str(path) not in pathlib.Path("/proc/self/maps").read_text()


def test_a_file_that_was_removed_stays_as_long_as_it_is_used(tmp_path):
    values = np.ones((2_000, 1_000), np.float32)
    path = saved(tmp_path / "gone.npy", values)
    opened = mapping.opened(path)
    path.unlink()
    assert opened.sum() == values.sum()


def test_objects_are_refused(tmp_path):
    path = saved(tmp_path / "objects.npy", np.array(["text", None], object))
    with pytest.raises(ValueError, match="Object arrays"):
        mapping.opened(path)
