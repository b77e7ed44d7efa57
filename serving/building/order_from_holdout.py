"""The order of pages that the holdout teaches, asked of the models that were measured on it."""

import pathlib

from features import dataset
from serving.batch import past_funnel
from serving.batch.config import BacktestConfig
from serving.batch.order_learning import Learned, Lessons
from serving.building import assembly
from serving.building.config import Inputs


def learn(inputs: Inputs, *, root: pathlib.Path, logs_dir: pathlib.Path, watches: int) -> Learned:
    """Returns the order of pages that watches of the holdout teach."""
    info = dataset.info(inputs.examples)
    from_s, until_s = int(str(info["train_until_s"])), int(str(info["until_s"]))
    if from_s >= until_s:
        return Lessons().learned()
    settings = BacktestConfig(from_s=from_s, until_s=until_s, sample=watches)
    unpublished = assembly.unpublished(inputs, root)
    return past_funnel.opened(unpublished, root, logs_dir, settings).lessons().learned()
