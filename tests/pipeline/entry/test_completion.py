"""Completion, as a shell does it."""

import functools
import os
import pty
import select
import signal
import subprocess
import sys
import time

from pipeline.entry import table


@functools.cache
def script(shell):
    done = subprocess.run(
        [sys.executable, "-m", "pipeline.entry.main", "completion", shell],
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


def offered(*words, cwd=None):
    """Returns what bash offers for the last of the words, cut at "=" as bash does."""
    array = " ".join(f"'{word}'" for word in words)
    asking = (
        f"COMP_WORDS=({array}); COMP_CWORD={len(words) - 1}; _watchnext; "
        'printf "%s\\n" "${COMPREPLY[@]}"'
    )
    done = subprocess.run(
        ["bash", "-c", f"{script('bash')}\n{asking}"],
        capture_output=True,
        text=True,
        check=True,
        cwd=cwd,
    )
    assert done.stderr == ""
    return set(done.stdout.split())


def test_commands_are_completed():
    assert offered("watchnext", "") == {*table.commands(), "completion"}
    assert offered("watchnext", "train_") == {"train_candidate", "train_ranker"}


def test_flags_are_completed_after_a_command():
    assert offered("watchnext", "rollback", "--") == {"--serving_root=", "--to=", "--reason="}
    assert offered("watchnext", "train_candidate", "--li") == {"--linear_output"}
    assert offered("watchnext", "train_candidate", "--noli") == {"--nolinear_output"}
    # Those of another are not.
    assert offered("watchnext", "rollback", "--depth") == set()


def test_values_are_completed_where_they_are_few():
    assert offered("watchnext", "train_ranker", "--loss", "=") == {"exact", "weighted", "logistic"}
    assert offered("watchnext", "train_ranker", "--loss", "=", "e") == {"exact"}
    assert offered("watchnext", "train_ranker", "--loss=w") == {"weighted"}
    assert offered("watchnext", "serve", "--port=1", "--order", "=", "p") == {"popular"}


def test_other_values_are_files(tmp_path):
    (tmp_path / "logs-of-may").mkdir()
    found = offered("watchnext", "preprocess", "--logs", "=", "logs", cwd=tmp_path)
    assert found == {"logs-of-may"}


def test_zsh_reads_it_too(tmp_path, needs_program):
    zsh = needs_program("zsh")
    (tmp_path / "c.zsh").write_text(script("zsh"))
    pid, terminal = pty.fork()
    if pid == 0:
        os.execve(zsh, [zsh, "-f", "-i"], {"HOME": str(tmp_path), "TERM": "dumb", "PATH": "/bin"})
    try:
        os.write(terminal, f"source {tmp_path}/c.zsh; print re''ady\n".encode())
        shown = read_until(terminal, "ready")
        os.write(terminal, b"watchnext train_c\t")
        shown = read_until(terminal, "watchnext train_candidate")
        os.write(terminal, b" --li\t")
        shown = read_until(terminal, "--linear_output")
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(terminal)
    assert "--linear_output" in shown


def read_until(terminal, words):
    """Returns what a terminal shows, up to some words of it."""
    shown, deadline = "", time.monotonic() + 60
    while words not in shown and time.monotonic() < deadline:
        if select.select([terminal], [], [], 1)[0]:
            shown += os.read(terminal, 4096).decode(errors="replace")
    assert words in shown, shown
    return shown


def test_another_shell_is_refused():
    refused = subprocess.run(
        [sys.executable, "-m", "pipeline.entry.main", "completion", "fish"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert refused.returncode == 2
    assert "bash, zsh" in refused.stderr
