"""SASRec and HSTU as RecTools has them, run by the Python of an environment of its own.

RecTools wants PyTorch and a NumPy below 2, which cannot live beside our TensorFlow. So
:mod:`models.paper.sequence_peers` starts this file as a program, which imports nothing of ours:

    PYTHON rectools_peer.py INPUTS.npz SETTINGS.json OUTPUT

It trains on sessions and writes, after each epoch, the embeddings of queries and videos, whose
inner product is the score, to OUTPUT/epoch_<n>.npz; then OUTPUT/facts.json.

Sources: Kang and McAuley, "Self-attentive sequential recommendation", ICDM 2018; Zhai et al.,
"Actions speak louder than words", ICML 2024; github.com/MobileTeleSystems/RecTools.
"""

import itertools
import json
import pathlib
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd
import pytorch_lightning as lightning
import torch
from rectools import Columns
from rectools.dataset import Dataset
from rectools.models import HSTUModel, SASRecModel

_FORMAT_DAY = pd.Timestamp("2020-01-01")
_TIMED, _WARM_UP = 200, 20


def _interactions(arrays: Mapping[str, Any]) -> Dataset:
    """Returns the training sessions; RecTools orders a user's watches by time, here the place."""
    lengths = np.diff(arrays["session_offsets"])
    place = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    table = pd.DataFrame(
        {
            Columns.User: np.repeat(np.arange(len(lengths)), lengths),
            Columns.Item: arrays["session_rows"],
            Columns.Weight: 1.0,
            Columns.Datetime: _FORMAT_DAY + pd.to_timedelta(place, unit="min"),
        }
    )
    return Dataset.construct(table)


def _model(settings: Mapping[str, Any], trainer: Callable[[], Any]) -> Any:
    """Returns the model, before its training."""
    shared = {
        "n_factors": settings["factors"],
        "n_blocks": settings["blocks"],
        "n_heads": settings["heads"],
        "session_max_len": settings["places"],
        "dropout_rate": settings["dropout"],
        "lr": settings["learning_rate"],
        "batch_size": settings["batch_size"],
        "epochs": settings["epochs"],
        "loss": "softmax",
        "get_trainer_func": trainer,
    }
    if settings["model"] == "sasrec":
        return SASRecModel(**shared)
    # Times of watches are not in the examples. Cosines need a temperature; .05 is the paper's.
    return HSTUModel(
        **shared, relative_time_attention=False, lightning_module_kwargs={"logits_t": 0.05}
    )


class _Exporter(lightning.Callback):
    """Writes the embeddings after each epoch, and counts the time of the epochs alone."""

    def __init__(self, arrays: Mapping[str, Any], places: int, output: pathlib.Path) -> None:
        self.owner: Any = None  # The RecTools model, which knows its ids once it is being fitted.
        self.seconds: list[float] = []
        self._arrays, self._places, self._output = arrays, places, output
        self._started = 0.0

    def __deepcopy__(self, memo: object) -> "_Exporter":
        """RecTools trains with a copy of its trainer; its model and this would be copied too."""
        return self

    def on_train_epoch_start(self, *_: Any) -> None:
        self._started = time.monotonic()

    def on_train_epoch_end(self, *_: Any) -> None:
        self.seconds.append(time.monotonic() - self._started)
        network = self.owner.lightning_model.torch_model
        network.eval()
        with torch.no_grad():
            items = network.item_model.get_all_embeddings()
            sessions = self.sessions()
            queries = [self.encode(network, part, items) for part in sessions.split(512)]
        network.train()
        internal = self.internal()
        videos = np.zeros((len(internal), items.shape[1]), np.float32)
        videos[internal > 0] = _unit(items, self.is_cosine).numpy()[internal[internal > 0]]
        np.savez(
            self._output / f"epoch_{len(self.seconds)}.npz",
            queries=torch.cat(queries).numpy().astype(np.float32),
            videos=videos,
            known=internal > 0,
        )

    @property
    def is_cosine(self) -> bool:
        similarity = self.owner.lightning_model.torch_model.similarity_module
        return bool(similarity.distance.name == "COSINE")

    def internal(self) -> Any:
        """Returns RecTools's id of each video, int64 [N]; 0, its padding, of unknown ones."""
        ids = np.zeros(int(self._arrays["num_videos"]), np.int64)
        known = self.owner.data_preparator.item_id_map
        rows = np.array([one for one in known.external_ids if not isinstance(one, str)], np.int64)
        ids[rows] = known.convert_to_internal(rows)
        return ids

    def sessions(self) -> torch.Tensor:
        """Returns the queries' watches, oldest first and padded in front, int64 [Q, L]."""
        offsets, ids = self._arrays["query_offsets"], self.internal()
        padded = np.zeros((len(offsets) - 1, self._places), np.int64)
        for query, (start, end) in enumerate(itertools.pairwise(offsets)):
            watched = ids[self._arrays["query_rows"][start:end]]
            watched = watched[watched > 0][-self._places :]
            padded[query, self._places - len(watched) :] = watched
        return torch.from_numpy(padded)

    def encode(self, network: Any, sessions: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
        """Returns the embedding of each session, float32 [n, D]."""
        encoded = network.encode_sessions({"x": sessions}, items)[:, -1]
        return _unit(encoded, self.is_cosine)


def _unit(vectors: torch.Tensor, is_cosine: bool) -> torch.Tensor:  # noqa: FBT001
    return torch.nn.functional.normalize(vectors, dim=-1) if is_cosine else vectors


def _query_ms(exporter: _Exporter) -> float:
    """Returns the median milliseconds of encoding one session at a time."""
    network = exporter.owner.lightning_model.torch_model
    network.eval()
    took = []
    with torch.no_grad():
        items = network.item_model.get_all_embeddings()
        for one in exporter.sessions()[: _WARM_UP + _TIMED].split(1):
            started = time.perf_counter()
            exporter.encode(network, one, items)
            took.append(time.perf_counter() - started)
    return 1000 * float(np.median(took[min(_WARM_UP, len(took) - 1) :]))


def main(inputs: str, settings_file: str, output_directory: str) -> None:
    """Trains one model and writes what it makes of the queries."""
    settings = json.loads(pathlib.Path(settings_file).read_text(encoding="utf-8"))
    output = pathlib.Path(output_directory)
    with np.load(inputs, allow_pickle=False) as stored:
        arrays = dict(stored)
    lightning.seed_everything(settings["seed"])
    exporter = _Exporter(arrays, settings["places"], output)

    def trainer() -> Any:
        return lightning.Trainer(
            max_epochs=settings["epochs"],
            accelerator="cpu",
            devices=1,
            callbacks=[exporter],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )

    model = _model(settings, trainer)
    exporter.owner = model
    model.fit(_interactions(arrays))
    facts = {"seconds": exporter.seconds, "query_ms": _query_ms(exporter)}
    (output / "facts.json").write_text(json.dumps(facts), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
