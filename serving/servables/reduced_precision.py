"""A ranker whose products run in bfloat16 where that is faster on this machine, and right.

Some processors multiply bfloat16 at twice the speed of float32, others imitate it slowly. And only
the machine that serves knows. So a release has both signatures, and a server that may choose
(``--precision=auto``) tries both on its first requests.

What it changes: bfloat16 has 8 bits, so logits differ by some hundredths and expected watch times
by about a per cent (up to 1.2 % was seen). That is enough for videos of nearly the same value to
change places: 7 of 120 pages had the order of float32. In float32 machines and servers agree within
some millionths, and on the order of a page. So what must come out the same again runs in float32:
batch, evaluation, and servers with ``--precision=float32``, embedded or with TensorFlow Serving.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import pathlib
import statistics
import threading
import time
import uuid
from typing import Any

import numpy as np
from absl import logging

from serving.servables import signatures
from serving.servables.signatures import Arrays, Model

FLOAT32, BFLOAT16 = "float32", "bfloat16"
AUTO = "auto"
TURNS = 7
TOLERANCE = 0.1  # In the logit.
_LOGIT = "logit"
# A switch should be worth it, and not what else the machine was doing: all turns but one must say
# so, and the first, in which both trace and plan, says nothing.
_GAIN = 0.9
_KEPT = 200
_CPU_LINES = ("model name", "cpu implementer", "cpu part")
_CPU_FLAGS = ("avx512_bf16", "amx_bf16", "bf16")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Choice:
    """What a trial found.

    Attributes:
        precision: ``float32`` or ``bfloat16``.
        exact_ms: Median of float32, milliseconds.
        reduced_ms: Median of bfloat16, milliseconds.
        gap: Largest difference of logits.
        cpu: Kind of processor that it was found on.
    """

    precision: str
    exact_ms: float
    reduced_ms: float
    gap: float
    cpu: str


class Choices:
    """Choices that were made before, by kind of processor and release; replicas may share them.

    So what a page looks like does not depend on what else a machine did when the server started.
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        """Prepares.

        Args:
            directory: Directory of the choices, one small file each; created with the first.
        """
        self._directory = pathlib.Path(directory)
        self.cpu = _cpu()

    def _path(self, version: str) -> pathlib.Path:
        digest = hashlib.sha256(self.cpu.encode()).hexdigest()[:12]
        return self._directory / f"{version}-{digest}.json"

    def known(self, version: str) -> Choice | None:
        """Returns the choice for a release; None where there is none, or none that can be read."""
        try:
            choice = Choice(**json.loads(self._path(version).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None
        return choice if choice.precision in {FLOAT32, BFLOAT16} else None

    def settle(self, version: str, choice: Choice) -> Choice:
        """Writes a choice down; returns the one that holds: that of whoever was first."""
        path = self._path(version)
        temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            for old in sorted(path.parent.glob("*.json"))[:-_KEPT]:
                old.unlink(missing_ok=True)
            temporary.write_text(json.dumps(dataclasses.asdict(choice)), encoding="utf-8")
            try:
                if self.known(version) is None:
                    path.unlink(missing_ok=True)  # One that cannot be read.
                with contextlib.suppress(FileExistsError):
                    path.hardlink_to(temporary)
            finally:
                temporary.unlink()
        except OSError as error:
            logging.warning("The choice of the precision is not remembered: %s", error)
        return self.known(version) or choice


class FasterOf:
    """Two signatures of one model: the exact one answers until the other has proved itself."""

    def __init__(
        self, exact: Model, reduced: Model, *, version: str = "", choices: Choices | None = None
    ) -> None:
        """Prepares; a choice that was made before holds from the first call on.

        Args:
            exact: Signature that multiplies in float32.
            reduced: Signature that multiplies in bfloat16, and else is the same.
            version: Id of their release.
            choices: Memory of choices; None forgets this one.
        """
        self._models = {FLOAT32: exact, BFLOAT16: reduced}
        self._version = version
        self._choices = choices
        self._chosen: Model | None = None
        self._lock = threading.Lock()
        self._seconds: dict[str, list[float]] = {FLOAT32: [], BFLOAT16: []}
        self._gap = 0.0
        known = choices.known(version) if choices else None
        if known is not None:
            self._choose(known, "as was found before")

    @property
    def precision(self) -> str:
        """Precision of answers, as far as has been decided."""
        return BFLOAT16 if self._chosen is self._models[BFLOAT16] else FLOAT32

    def predict(self, inputs: Arrays, *, deadline_s: float | None = None) -> dict[str, np.ndarray]:
        """Returns the outputs by name; the first :data:`TURNS` calls ask both models."""
        if self._chosen is not None:
            return self._chosen.predict(inputs, deadline_s=deadline_s)
        with self._lock:  # One at a time, or they would disturb each other's time.
            if self._chosen is not None:
                return self._chosen.predict(inputs, deadline_s=deadline_s)
            return self._try(inputs, deadline_s)

    def _try(self, inputs: Arrays, deadline_s: float | None) -> dict[str, np.ndarray]:
        outputs = {}
        turn = len(self._seconds[FLOAT32])
        for name in (FLOAT32, BFLOAT16) if turn % 2 else (BFLOAT16, FLOAT32):
            started = time.perf_counter()
            outputs[name] = self._models[name].predict(inputs, deadline_s=deadline_s)
            self._seconds[name].append(time.perf_counter() - started)
        exact, reduced = outputs[FLOAT32], outputs[BFLOAT16]
        if len(exact[_LOGIT]):
            # np.maximum keeps a NaN, which no tolerance allows.
            gap = np.abs(exact[_LOGIT] - reduced[_LOGIT]).max()
            self._gap = float(np.maximum(self._gap, gap))
        if turn + 1 == TURNS:
            self._decide()
        return exact

    def _decide(self) -> None:
        exact, reduced = (self._seconds[name][1:] for name in (FLOAT32, BFLOAT16))
        ratios = sorted(r / e for r, e in zip(reduced, exact, strict=True))
        is_worth_it = self._gap <= TOLERANCE and ratios[-2] < _GAIN
        tried = Choice(
            precision=BFLOAT16 if is_worth_it else FLOAT32,
            exact_ms=1000 * statistics.median(exact),
            reduced_ms=1000 * statistics.median(reduced),
            gap=self._gap if np.isfinite(self._gap) else -1.0,
            cpu=self._choices.cpu if self._choices else _cpu(),
        )
        held = self._choices.settle(self._version, tried) if self._choices else tried
        self._choose(held, "as was tried now" if held == tried else "as another server found")

    def _choose(self, choice: Choice, how: str) -> None:
        self._chosen = self._models[choice.precision]
        logging.info(
            "The ranker of release %s runs in %s, %s on %s: float32 %.1f ms, bfloat16 %.1f ms, "
            "logits differ by %.3f.",
            *(self._version, choice.precision, how, choice.cpu),
            *(choice.exact_ms, choice.reduced_ms, choice.gap),
        )


def scoring_signature(signature: str, precision: str) -> str:
    """Returns the signature to call where one is asked for, in ``float32`` or ``bfloat16``."""
    is_there = signature == signatures.SCORE_PREPARED and precision == BFLOAT16
    return signatures.SCORE_BFLOAT16 if is_there else signature


def of(model: Model | None) -> str:
    """Returns the precision in which a ranker multiplies."""
    ranker: Any = model
    if isinstance(ranker, FasterOf):
        return ranker.precision
    is_reduced = getattr(ranker, "signature", None) == signatures.SCORE_BFLOAT16
    return BFLOAT16 if is_reduced else FLOAT32


def _cpu() -> str:
    """Returns the kind of the processor: its name, and what it has for bfloat16."""
    try:
        text = pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    fields = [line.partition(":")[::2] for line in text.split("\n\n", maxsplit=1)[0].splitlines()]
    known = {name.strip().lower(): value.strip() for name, value in fields}
    flags = set((known.get("flags") or known.get("features") or "").split())
    name = " ".join(known[line] for line in _CPU_LINES if line in known) or os.uname().machine
    return " ".join([name, *(flag for flag in _CPU_FLAGS if flag in flags)])
