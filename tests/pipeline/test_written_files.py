"""Leftovers of attempts that a cluster lost."""

import pytest

from pipeline import written_files


def make(directory, *names):
    directory.mkdir(parents=True, exist_ok=True)
    for name in names:
        (directory / name).write_text("rows")
    return directory


def test_temporary_directories_go_and_parts_stay(tmp_path):
    whole = make(tmp_path / "train", "part-00000-of-00002.parquet", "part-00001-of-00002.parquet")
    make(tmp_path / "train" / "beam-temp-part-1a2b", "x.part.parquet")
    make(tmp_path / "videos", "part-00000.parquet")
    written_files.settle(tmp_path)
    assert sorted(path.name for path in whole.iterdir()) == [
        "part-00000-of-00002.parquet",
        "part-00001-of-00002.parquet",
    ]
    assert (tmp_path / "videos" / "part-00000.parquet").exists()


@pytest.mark.parametrize(
    "names",
    [
        ["part-00001-of-00002.parquet"],
        ["part-00000-of-00002.parquet"],
        [f"part-0000{i}-of-0000{n}.tfrecord" for n in (1, 2) for i in range(n)],
    ],
)
def test_missing_parts_and_parts_of_two_attempts_are_refused(tmp_path, names):
    make(tmp_path / "train", *names)
    with pytest.raises(RuntimeError, match="parts of one attempt"):
        written_files.settle(tmp_path)


def test_examples_of_cached_days_beside_the_parts_are_no_parts(tmp_path):
    directory = make(tmp_path, "part-00000-of-00001.parquet", "cached-1650000000.parquet")
    written_files.settle(tmp_path)
    assert len(list(directory.iterdir())) == 2
