"""How commands start and what they tell to type."""

import shlex

import pytest

from features import command


def test_a_line_to_type_is_read_back_by_a_shell_as_it_was_meant():
    line = command.shell_line("serving.serve", serving_root="my root", logs="it's", port=8080)
    assert shlex.split(line) == [
        *("python", "-m", "serving.serve"),
        *("--serving_root=my root", "--logs=it's", "--port=8080"),
    ]


def test_a_plain_line_has_no_quotes():
    assert command.shell_line("pipeline.retrain", logs="a/b-1", serving_root="SERVING_ROOT") == (
        "python -m pipeline.retrain --logs=a/b-1 --serving_root=SERVING_ROOT"
    )


@pytest.mark.parametrize("text", ["yesterday", "2022-13-01"])
def test_a_time_that_is_none_is_refused_by_its_flag(text):
    with pytest.raises(command.InputError, match=f"--until must be an ISO 8601 time.*{text}"):
        command.parse_time(text, name="--until")
