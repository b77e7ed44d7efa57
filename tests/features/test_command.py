"""How commands start and what they tell to type."""

import ast
import pathlib
import re
import shlex
import subprocess
import sys

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


ROOT = pathlib.Path(__file__).resolve().parents[2]


def test_the_table_of_exit_codes_in_the_docs_is_that_of_the_code():
    text = (ROOT / "docs" / "operate.md").read_text()
    table = text.partition("| exit code | means |")[2].partition("\n\n")[0]
    rows = re.findall(r"^\| (\d+) \| (.+) \|$", table, re.MULTILINE)
    assert {int(code): meaning for code, meaning in rows} == command.EXIT_CODES


def test_no_command_ends_with_a_code_that_is_in_no_table():
    for package in ("features", "models", "serving", "pipeline"):
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Call) and ast.unparse(node.func) == "SystemExit":
                    for one in ast.walk(node):
                        if isinstance(one, ast.Constant) and one.value != 128:
                            assert one.value in command.EXIT_CODES, (path, one.value)


@pytest.mark.parametrize(
    ("happens", "code", "said"),
    [
        ("pass", 0, ""),
        ("raise ZeroDivisionError", 1, "Traceback"),
        ("raise command.InputError('no logs')", 2, "error: no logs\n"),
        ("raise KeyboardInterrupt", 130, "stopped.\n"),
    ],
)
def test_a_command_ends_with_the_code_of_the_table(happens, code, said):
    program = f"from features import command\ndef main():\n    {happens}\ncommand.run(main)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert done.returncode == code
    assert done.stderr == said or (code == 1 and said in done.stderr)
