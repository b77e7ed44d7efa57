"""What holds of the tests themselves."""

import pathlib

import pytest

ROOT = pathlib.Path(__file__).resolve().parent
FILES = sorted(ROOT.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_of_tests_is_of_one_subject(path):
    assert len(path.read_text().splitlines()) <= 400
