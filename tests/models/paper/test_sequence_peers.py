"""What RecTools' models are given, and what becomes of what they give back."""

import itertools
import pathlib
import sys
import textwrap

import numpy as np
import pytest

from features import command
from models.baselines.retrieval import Queries
from models.paper import sequence_peers
from models.paper.experiments import Setting

SETTINGS = sequence_peers.PeerConfig(model="sasrec", factors=4, epochs=2)


def queries(*examples):
    """Each is (user, time, label row, rows of the history, newest first)."""
    histories = [one[3] for one in examples]
    return Queries(
        user_ids=np.array([one[0] for one in examples], object),
        times=np.array([one[1] for one in examples], np.int64),
        label_ids=np.array([f"v{one[2]}" for one in examples], object),
        label_rows=np.array([one[2] for one in examples], np.int64),
        regions=np.full(len(examples), "", object),
        history_offsets=np.concatenate([[0], np.cumsum([len(h) for h in histories])]).astype(int),
        history_rows=np.array([row for h in histories for row in h], np.int64),
    )


TRAIN = queries(
    ("b", 5, 7, [6, 5]),
    ("a", 1, 1, []),
    ("a", 3, 3, [2, -1, 1]),
    ("a", 2, 2, [1]),
    ("c", 1, -1, [9]),  # A label outside the catalogue is no example.
)
HOLDOUT = queries(("a", 9, 4, [3, 2, -1, 1]), ("z", 9, 4, []), ("b", 9, 4, [7]))


def lists(arrays, name):
    offsets, rows = arrays[f"{name}_offsets"], arrays[f"{name}_rows"]
    return [rows[a:b].tolist() for a, b in itertools.pairwise(offsets)]


def test_a_session_is_a_users_newest_example_and_a_query_its_own_bag_oldest_first():
    arrays = sequence_peers.inputs(TRAIN, HOLDOUT, 12)
    assert lists(arrays, "session") == [[1, 2, 3], [5, 6, 7]]
    assert lists(arrays, "query") == [[1, 2, 3], [], [7]]
    assert arrays["num_videos"] == 12


def setting(directory, **changes):
    given = {"logs": directory, "examples": directory, "work": directory, "mode": "short"}
    return Setting(**given, seeds=(1,), **changes)


def test_a_python_without_rectools_is_refused_with_what_to_do(tmp_path):
    for wrong in (sys.executable, tmp_path / "no_python"):
        with pytest.raises(command.InputError, match=r"must be a Python .* pip install"):
            sequence_peers.python(setting(tmp_path, rectools_python=str(wrong)))


@pytest.fixture
def program(tmp_path, monkeypatch):
    """A stand-in for the program of the other environment: it embeds by the last watch."""
    path = tmp_path / "program.py"
    path.write_text(
        textwrap.dedent(
            """
            import json, os, pathlib, sys
            import numpy as np
            inputs, settings, output = sys.argv[1:]
            settings = json.loads(pathlib.Path(settings).read_text())
            if settings["factors"] == 13:
                sys.exit("no such luck")
            assert not [name for name in os.environ if name.startswith("PYTHON")]
            with np.load(inputs) as arrays:
                ends, videos = arrays["query_offsets"][1:], int(arrays["num_videos"])
            for epoch in range(1, settings["epochs"] + 1):
                np.savez(
                    pathlib.Path(output) / f"epoch_{epoch}.npz",
                    queries=np.full((len(ends), 4), epoch, np.float32),
                    videos=np.ones((videos, 4), np.float32),
                    known=np.arange(videos) > 0,
                )
            facts = {"seconds": [2.0, 3.0], "query_ms": 0.5}
            (pathlib.Path(output) / "facts.json").write_text(json.dumps(facts))
            """
        )
    )
    monkeypatch.setattr(sequence_peers, "_PROGRAM", path)
    return path


def run(directory, config=SETTINGS):
    return sequence_peers.run(
        *(pathlib.Path(sys.executable), directory, config),
        train=TRAIN,
        holdout=HOLDOUT,
        num_videos=12,
    )


def test_each_epoch_comes_back_with_its_time_and_a_second_run_trains_nothing(program, tmp_path):
    epochs, query_ms = run(tmp_path / "peer")
    assert [one.seconds for one in epochs] == [2.0, 5.0]
    assert [one.queries[0, 0] for one in epochs] == [1.0, 2.0]
    assert epochs[0].known.tolist() == [False] + [True] * 11
    assert query_ms == 0.5
    program.unlink()
    assert len(run(tmp_path / "peer")[0]) == 2


def test_a_peer_that_fails_leaves_nothing_and_says_why(program, tmp_path):
    del program
    wrong = sequence_peers.PeerConfig(model="sasrec", factors=13)
    with pytest.raises(command.InputError, match="no such luck"):
        run(tmp_path / "peer", wrong)
    assert not (tmp_path / "peer").exists()


@pytest.mark.parametrize("model", ["sasrec", "hstu"])
def test_the_real_ones_learn_what_the_order_of_watches_says(model, tmp_path, rectools_python):
    """A ring of 40 videos that everybody walks along, each from another place."""
    random = np.random.default_rng(0)

    def walks(number, least):
        first, length = random.integers(0, 40, number), random.integers(least, 20, number)
        return [
            (f"u{i}", 1, (a + n) % 40, [(a + n - 1 - k) % 40 for k in range(n)])
            for i, (a, n) in enumerate(zip(first.tolist(), length.tolist(), strict=True))
        ]

    holdout = queries(*walks(50, 0))
    config = sequence_peers.PeerConfig(
        model=model, factors=16, places=10, learning_rate=0.01, batch_size=32, epochs=8
    )
    epochs, query_ms = sequence_peers.run(
        sequence_peers.python(setting(tmp_path, rectools_python=str(rectools_python))),
        tmp_path / model,
        config,
        train=queries(*walks(300, 2)),
        holdout=holdout,
        num_videos=42,
    )
    last = epochs[-1]
    assert last.known.tolist() == [True] * 40 + [False] * 2
    scores = np.where(last.known, last.queries @ last.videos.T, -np.inf)
    found = scores.argmax(axis=1) == holdout.label_rows
    assert found[holdout.history_lengths > 0].mean() > 0.9
    assert query_ms > 0
    assert all(one.seconds > before.seconds for before, one in itertools.pairwise(epochs))


def test_the_program_imports_nothing_of_ours():
    source = pathlib.Path(sequence_peers.__file__).with_name("rectools_peer.py").read_text()
    assert not [name for name in ("features", "models.", "serving") if f"import {name}" in source]
