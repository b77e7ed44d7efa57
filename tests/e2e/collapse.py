"""A candidate model that has one list for everybody, and what becomes of it."""

import pathlib
import shutil

import numpy as np
import tensorflow as tf

from models.candidate import model as candidate_model
from serving.release import manifest as release


def refused(
    root: pathlib.Path, run_command, directory: pathlib.Path, *, bias: float = 100.0
) -> str:
    """Asks for a release of the retrained model with a bias that outweighs all else.

    Args:
        root: Site that was retrained: ``work`` and ``serving_root``.
        run_command: Fixture that runs a command.
        directory: Place for the model.
        bias: By how much the bias of each video is above that of the one before it.

    Returns:
        What the command said, which refused it and left the release that serves.
    """
    before = release.current(root / "serving_root")
    collapsed = directory / "collapsed"
    shutil.copytree(root / "work" / "final_candidate_model", collapsed)
    model = candidate_model.load(collapsed)
    biases = model.softmax_biases.rows
    biases.assign(bias * np.arange(biases.shape[0])[:, np.newaxis])
    tf.train.Checkpoint(model=model).write(str(collapsed / "weights"))
    done = run_command(
        "serving.build_release",
        f"--examples={root / 'work' / 'final_examples'}",
        f"--candidate_model={collapsed}",
        f"--serving_root={root / 'serving_root'}",
    )
    assert done.returncode == 3, done.stdout + done.stderr
    assert release.current(root / "serving_root") == before
    return done.stdout
