"""Runs RecTools' SASRec and HSTU on a lab's own examples, in an environment of their own.

Both learn from what the model learns from: of each user the bag of the newest training example and
its label, which is all that they read of a user at this length. Asked for the holdout they get each
query's bag. After each epoch their embeddings are kept, so that the best epoch can be told as the
model's best round is.
"""

import dataclasses
import json
import os
import pathlib
import subprocess
import venv
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from absl import logging

from features import command, files, spec
from features.catalogue import ragged_rows
from models.baselines.retrieval import Ints, Queries
from models.paper.experiments import Setting

Array = npt.NDArray[Any]
REQUIREMENT = "rectools[torch]>=0.19,<0.20"
_PROGRAM = pathlib.Path(__file__).with_name("rectools_peer.py")
_MANY_SESSIONS, _STEPS = 8000, 1500
_PROBE = "import rectools.models, pytorch_lightning"


@dataclasses.dataclass(frozen=True, kw_only=True)
class PeerConfig:
    """Settings of a sequence model of RecTools, whose loss is the full softmax.

    Attributes:
        model: ``sasrec`` or ``hstu``.
        factors: Width of the embeddings.
        blocks: Number of transformer blocks.
        heads: Number of heads of a block.
        dropout: Share of hidden units dropped in training, in [0, 1).
        places: Newest watches of a session that are read, and as many labels.
        learning_rate: Learning rate of Adam, above 0.
        batch_size: Sessions a step; 0: by their number, see :meth:`fitted_to`.
        epochs: Passes over the sessions; 0: likewise.
        seed: Seed of all that is random.
    """

    model: str
    factors: int = 64
    blocks: int = 2
    heads: int = 2
    dropout: float = 0.2
    places: int = spec.WATCH_BAG
    learning_rate: float = 0.001
    batch_size: int = 0
    epochs: int = 0
    seed: int = 1

    def fitted_to(self, sessions: int) -> "PeerConfig":
        """Returns the settings with what is 0 chosen: some 1,500 steps, in 6 to 60 epochs."""
        batch = self.batch_size or (128 if sessions >= _MANY_SESSIONS else 32)
        epochs = self.epochs or min(max(round(_STEPS * batch / max(sessions, 1)), 6), 60)
        return dataclasses.replace(self, batch_size=batch, epochs=epochs)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Epoch:
    """What a peer makes of the holdout after an epoch.

    Attributes:
        queries: Query embeddings, float32 [Q, D]; of a query without a known watch they say
            nothing.
        videos: Video embeddings, float32 [N, D].
        known: bool [N], videos that it can recommend.
        seconds: Wall time of training until here.
    """

    queries: npt.NDArray[np.float32]
    videos: npt.NDArray[np.float32]
    known: npt.NDArray[np.bool_]
    seconds: float


def python(setting: Setting) -> pathlib.Path | None:
    """Returns a Python that has RecTools, or None, with a warning, where none can be had.

    It is ``--rectools_python`` where that is given; otherwise an environment is made in the run's
    scratch directory, once.

    Raises:
        command.InputError: The Python that was given has no RecTools.
    """
    if setting.rectools_python:
        given = pathlib.Path(setting.rectools_python)
        if not _has_rectools(given):
            raise command.InputError(
                f"--rectools_python={given} must be a Python that imports rectools and "
                f"pytorch_lightning. Install them there: pip install '{REQUIREMENT}'"
            )
        return given
    home = setting.work / "rectools"
    made = home / "bin" / "python"
    if files.read_complete(home) is None:
        logging.info("Installs %s in %s: some 5 GB, once.", REQUIREMENT, home)
        venv.create(home, with_pip=True, clear=True)
        line = [str(made), "-m", "pip", "install", "--quiet", "--no-cache-dir", REQUIREMENT]
        done = subprocess.run(line, check=False, capture_output=True, text=True)
        if done.returncode or not _has_rectools(made):
            logging.warning(
                "SASREC AND HSTU ARE LEFT OUT: %s could not be installed in %s. Give "
                "--rectools_python, or let this command run with a package index in reach. pip "
                "said:\n%s",
                *(REQUIREMENT, home, done.stderr[-2000:]),
            )
            return None
        files.mark_complete(home, {"requirement": REQUIREMENT})
    return made


def _has_rectools(python_path: pathlib.Path) -> bool:
    try:
        line = [str(python_path), "-c", _PROBE]
        return subprocess.run(line, check=False, capture_output=True).returncode == 0
    except OSError:
        return False


def run(
    python_path: pathlib.Path,
    directory: pathlib.Path,
    config: PeerConfig,
    *,
    train: Queries,
    holdout: Queries,
    num_videos: int,
) -> tuple[list[Epoch], float]:
    """Trains a peer, or reads what an earlier run with the same settings has left.

    Args:
        python_path: A Python that has RecTools.
        directory: Where its outcome is kept; named by what it is made from.
        config: Settings of the peer.
        train: Training examples.
        holdout: Queries Q to embed.
        num_videos: Number of videos N of the catalogue.

    Returns:
        What it makes of the holdout after each epoch, and the median milliseconds of encoding one
        query at a time.

    Raises:
        command.InputError: It failed; its own messages stand in the error.
    """
    if files.read_complete(directory) is None:
        arrays = inputs(train, holdout, num_videos)
        config = config.fitted_to(len(arrays["session_offsets"]) - 1)
        with files.atomic_directory(directory) as part:
            _train(python_path, part, config, arrays)
            files.mark_complete(part, dataclasses.asdict(config))
    facts: Mapping[str, Any] = json.loads((directory / "facts.json").read_text(encoding="utf-8"))
    seconds: Sequence[float] = np.cumsum(facts["seconds"]).tolist()
    epochs = []
    for number, total in enumerate(seconds, start=1):
        with np.load(directory / f"epoch_{number}.npz", allow_pickle=False) as stored:
            epochs.append(Epoch(**dict(stored), seconds=total))
    return epochs, float(facts["query_ms"])


def _train(
    python_path: pathlib.Path, part: pathlib.Path, config: PeerConfig, arrays: Mapping[str, Array]
) -> None:
    (part / "settings.json").write_text(json.dumps(dataclasses.asdict(config)), encoding="utf-8")
    np.savez(part / "inputs.npz", **dict(arrays))  # type: ignore[arg-type]
    line = [str(python_path), str(_PROGRAM), str(part / "inputs.npz")]
    line += [str(part / "settings.json"), str(part)]
    logging.info("Trains %s of RecTools: %s", config.model, config)
    # It has another environment than ours, so nothing of ours may be on its path.
    done = subprocess.run(line, check=False, capture_output=True, text=True, env=_environment())
    if done.returncode:
        tail = "\n".join((done.stdout + done.stderr).splitlines()[-25:])
        raise command.InputError(f"RecTools' {config.model} ended with an error:\n{tail}")


def _environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    # Threads that spin while they wait make a machine that others use too several times slower.
    return {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0", **kept}


def inputs(train: Queries, holdout: Queries, num_videos: int) -> dict[str, Array]:
    """Returns sessions and queries as the program reads them, videos as catalogue rows.

    Watches stand oldest first; those outside the catalogue are left out.
    """
    session_offsets, session_rows = _sessions(train)
    lengths, rows = _known_history(holdout)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    return {
        "num_videos": np.asarray(num_videos),
        "session_offsets": session_offsets,
        "session_rows": session_rows,
        "query_offsets": offsets,
        "query_rows": _reversed(offsets, rows),
    }


def _known_history(queries: Queries) -> tuple[Ints, Ints]:
    """Returns how many watches of each query are in the catalogue, and their rows."""
    known = queries.history_rows >= 0
    owner = np.repeat(np.arange(len(queries)), queries.history_lengths)[known]
    return np.bincount(owner, minlength=len(queries)), queries.history_rows[known]


def _sessions(train: Queries) -> tuple[Ints, Ints]:
    """Returns offsets and rows of each user's newest bag and label, oldest first."""
    known = train.take(np.flatnonzero(train.label_rows >= 0))
    order = np.lexsort((known.times, known.user_ids.astype("U")))
    users = known.user_ids[order]
    is_last = np.append(users[1:] != users[:-1], True)[: len(users)]
    newest = known.take(order[is_last])
    lengths, rows = _known_history(newest)
    offsets = np.concatenate([[0], np.cumsum(lengths + 1)])
    newest_first = np.empty(offsets[-1], np.int64)
    is_label = np.zeros(len(newest_first), bool)
    is_label[offsets[:-1]] = True
    newest_first[is_label], newest_first[~is_label] = newest.label_rows, rows
    return offsets, _reversed(offsets, newest_first)


def _reversed(offsets: Ints, rows: Ints) -> Ints:
    """Returns the rows with each run between two offsets turned round."""
    lengths = np.diff(offsets)
    ascending = ragged_rows(offsets[:-1], lengths)
    return rows[np.repeat(offsets[:-1] + offsets[1:] - 1, lengths) - ascending]
