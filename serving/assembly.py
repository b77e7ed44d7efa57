"""Makes a release of trained models: components, gates, publication.

A release is assembled under temporary names and everything is tried as written, before any of it
can be seen: SavedModels answer their warm-up requests, the index is searched with real user
queries, and what the SavedModels make of raw features is compared with what training read.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
from absl import logging

from features import command, dataset, files, replay, spec
from features.catalogue import Catalogue
from features.spec import ResolvedSpec, Side
from models import candidate_model, ranker, saved
from serving import export, gates, index, publication, release, signatures, skew, trials, warmup
from serving.gates import Gate
from serving.index_tuning import Floats

VIDEOS = "videos.parquet"
STATISTICS = "video_statistics.parquet"
USERS = "users.parquet"
# Half of them tune the index, half measure it.
NUM_QUERIES = 2000
_BATCH = 4096
_LIGHT_WATCHES = 10


class GatesFailedError(command.InputError):
    """At least one gate failed, so nothing was published."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inputs:
    """What a release is made of.

    Attributes:
        examples: Written by pipeline.preprocess.
        candidate_model: Written by models.train_candidate.
        ranker_model: Written by models.train_ranker; None publishes without a ranker.
        metrics: metrics.json of models.evaluate, or its directory; None leaves gates unchecked.
    """

    examples: pathlib.Path
    candidate_model: pathlib.Path
    ranker_model: pathlib.Path | None = None
    metrics: pathlib.Path | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """How it is made.

    Attributes:
        keep: Newest releases to keep, at least 2.
        recall_target: Of the index, in (0, 1].
        exact_below: Catalogues with fewer videos are searched exactly.
        force_publish: Reason to publish although a gate fails; "" refuses.
    """

    keep: int = publication.KEEP
    recall_target: float = index.RECALL_TARGET
    exact_below: int = index.EXACT_BELOW
    force_publish: str = ""

    def __post_init__(self) -> None:
        if self.keep < publication.MIN_KEEP:
            raise command.InputError(
                f"--keep must be {publication.MIN_KEEP} or more, so that a release can be rolled "
                f"back, got {self.keep}."
            )
        if not 0 < self.recall_target <= 1:
            raise command.InputError(
                f"--recall_target must be in (0, 1], got {self.recall_target}."
            )


def publish(
    inputs: Inputs,
    serving_root: pathlib.Path,
    settings: Settings,
    *,
    report: Callable[[Gate], None] = lambda gate: logging.info("%s", gate),
) -> release.Manifest:
    """Builds a release, checks it, and makes it the current one.

    Args:
        inputs: Examples and models.
        serving_root: Where releases are published.
        settings: How.
        report: Is given every gate as soon as it is decided.

    Raises:
        GatesFailedError: A gate failed and nothing forces publication; nothing was published.
        command.InputError: An input is missing, or the inputs do not belong together.
    """
    info = _require_inputs(inputs)
    figures = gates.read_metrics(inputs.metrics)
    with publication.building(serving_root) as build:
        assembly = _Assembly(inputs, settings, build, report)
        assembly.write_videos()
        assembly.write_query_tower_and_index()
        if inputs.ranker_model is not None:
            assembly.write_ranker(inputs.ranker_model)
        elif info.get("has_ranking"):
            logging.warning("No --ranker_model: pages will be ordered by retrieval score.")
        assembly.judge_metrics(figures)
        _require_passed(assembly.gates, settings.force_publish)
        return build.publish(
            metrics=figures,
            gates=[dataclasses.asdict(gate) for gate in assembly.gates],
            lineage={
                "examples": {"path": str(inputs.examples.resolve()), "info": info},
                "candidate_model": _lineage(inputs.candidate_model),
                "ranker_model": _lineage(inputs.ranker_model),
                "index": assembly.index_report,
            },
            forced=settings.force_publish if gates.failed(assembly.gates) else "",
            keep=settings.keep,
        )


def _require_inputs(inputs: Inputs) -> Mapping[str, Any]:
    """Returns what preprocess recorded.

    Raises:
        command.InputError: Something is incomplete, or a model was trained on another transform.
    """
    info = dataset.info(inputs.examples)
    for directory, kind in (
        (inputs.candidate_model, spec.CANDIDATE),
        (inputs.ranker_model, spec.RANKER),
    ):
        if directory is not None:
            saved.open_directory(directory, kind=kind, examples_dir=inputs.examples)
    return info


def _lineage(directory: pathlib.Path | None) -> Mapping[str, Any] | None:
    if directory is None:
        return None
    return {"path": str(directory.resolve()), "info": files.read_complete(directory)}


def _require_passed(found: list[Gate], force_publish: str) -> None:
    failing = gates.failed(found)
    if not failing:
        return
    rules = "; ".join(f"{gate.rule}: {gate.value}, asked {gate.threshold}" for gate in failing)
    if force_publish:
        logging.warning("Publishing although %s. Reason given: %s", rules, force_publish)
        return
    raise GatesFailedError(
        f"nothing was published, since {len(failing)} of {len(found)} gates failed: {rules}. "
        'Publish it all the same with --force_publish="REASON", which is recorded.'
    )


class _Assembly:
    """The components of one release, written one after the other."""

    def __init__(
        self,
        inputs: Inputs,
        settings: Settings,
        build: publication.Build,
        report: Callable[[Gate], None],
    ) -> None:
        self._inputs = inputs
        self._settings = settings
        self._build = build
        self._report = report
        self._resolved = ResolvedSpec.load(inputs.examples)
        self._catalogue = Catalogue(_table(inputs.examples / "videos"))
        self.gates: list[Gate] = []
        self.index_report: Mapping[str, Any] = {}

    def write_videos(self) -> None:
        """Writes catalogue, statistics, profiles and spec: what the funnel knows of them."""
        directory = self._build.directory("videos")
        self._resolved.save(directory)
        pq.write_table(self._catalogue.table, directory / VIDEOS, compression="zstd")
        statistics = _table(self._inputs.examples / "video_statistics")
        pq.write_table(statistics, directory / STATISTICS, compression="zstd")
        users = self._inputs.examples / "users"
        profiles = _table(users) if users.is_dir() else replay.NO_USERS
        pq.write_table(profiles, directory / USERS, compression="zstd")

    def write_query_tower_and_index(self) -> None:
        """Writes both towers and the index of their video embeddings."""
        examples = self._inputs.examples
        model = candidate_model.load(self._inputs.candidate_model, examples)
        directory = self._build.directory(signatures.QUERY_TOWER)
        export.export_query_tower(model, examples, directory)
        requests = warmup.query_tower_requests(examples)
        warmup.write(directory, signatures.QUERY_TOWER, requests)
        videos = _embed(
            functools.partial(export.video_embeddings, model),
            _side(self._resolved, Side.CANDIDATE, dataset.videos(examples)),
        )
        queries, slices = _user_queries(model, examples, self._resolved)
        self._add(gates.finite_embeddings(videos, queries))
        _require_passed(self.gates, "")  # Vectors that are not finite cannot be indexed at all.
        built = self._build.directory("index")
        logging.info("Indexing %d videos with %d user queries.", len(videos), len(queries))
        report = index.build(
            built,
            self._catalogue.video_ids,
            videos,
            tuning_queries=queries,
            query_slices=slices,
            recall_target=self._settings.recall_target,
            exact_below=self._settings.exact_below,
        )
        self.index_report = dataclasses.asdict(report)
        self._add(*gates.index_recall(report, self._settings.recall_target))
        loaded = index.Index.load(built)
        self._add(*gates.collapse(loaded, queries[: NUM_QUERIES // 2]))
        self._add(
            trials.query_tower(
                directory, index=loaded, resolved=self._resolved, catalogue=self._catalogue
            ),
            gates.skew_proof("query tower", skew.measure(directory, examples, spec.CANDIDATE)),
        )

    def write_ranker(self, ranker_model: pathlib.Path) -> None:
        """Writes the ranker."""
        examples = self._inputs.examples
        directory = self._build.directory(signatures.RANKER)
        export.export_ranker(ranker.load(ranker_model, examples), examples, directory)
        warmup.write(directory, signatures.RANKER, warmup.ranker_requests(examples))
        self._add(
            trials.ranker(directory),
            gates.skew_proof("ranker", skew.measure(directory, examples, spec.RANKER)),
        )

    def judge_metrics(self, figures: Mapping[str, Any]) -> None:
        """Compares metrics with chance, the baselines and the release that serves now."""
        root = self._build.serving_root
        previous: Mapping[str, Any] = {}
        if release.stated_current(root) is not None:
            try:
                previous = release.load_manifest(root).metrics
            except release.ReleaseRefusedError as error:
                # A release that is broken is the best reason to publish another one.
                logging.warning("No comparison with the release that serves now: %s", error)
        has_ranker = self._inputs.ranker_model is not None
        self._add(
            *gates.metrics(
                figures, previous, num_videos=len(self._catalogue), has_ranker=has_ranker
            )
        )

    def _add(self, *found: Gate) -> None:
        for gate in found:
            self.gates.append(gate)
            self._report(gate)


def _table(directory: pathlib.Path) -> Any:
    return pq.read_table(directory).combine_chunks()


def _side(
    resolved: ResolvedSpec, side: Side, arrays: Mapping[str, npt.NDArray[Any]]
) -> dict[str, npt.NDArray[Any]]:
    """Returns the transformed inputs of one tower."""
    names = [f.name for f in resolved.of(spec.CANDIDATE, side) if f.categorical]
    names += [spec.vector_column(side, f.kind) for f in resolved.of(spec.CANDIDATE, side)]
    return {name: arrays[name] for name in dict.fromkeys(names) if name in arrays}


def _embed(tower: Callable[..., Any], features: Mapping[str, npt.NDArray[Any]]) -> Floats:
    """Runs a tower in batches: float32 [n, D + 1]."""
    count = len(next(iter(features.values())))
    parts = [
        np.asarray(tower({name: values[at : at + _BATCH] for name, values in features.items()}))
        for at in range(0, count, _BATCH)
    ]
    return np.concatenate(parts).astype(np.float32)


def _user_queries(
    model: Any, examples: pathlib.Path, resolved: ResolvedSpec
) -> tuple[Floats, dict[str, npt.NDArray[np.bool_]]]:
    """Embeds queries of as many held-out users as possible, and says which are light users.

    Without a holdout, training queries stand in: the index still meets real users.
    """
    for split in ("holdout", "train"):
        arrays = _sample(examples, split)
        if arrays:
            break
        logging.warning("%s has no %s examples of users to query with.", examples, split)
    else:
        raise command.InputError(f"{examples} has no candidate examples; preprocess more logs.")
    queries = _embed(model.query_embeddings, _side(resolved, Side.QUERY, arrays))
    if "watched_video_ids" not in arrays:
        return queries, {}
    watched = (arrays["watched_video_ids"] > 0).sum(axis=1)
    return queries, {
        "no watches": watched == 0,
        "light users": (watched > 0) & (watched < _LIGHT_WATCHES),
        "heavy users": watched >= _LIGHT_WATCHES,
    }


def _sample(examples: pathlib.Path, split: str) -> dict[str, npt.NDArray[Any]]:
    """Returns at most :data:`NUM_QUERIES` examples in random order, different users first."""
    kept: dict[str, npt.NDArray[Any]] = {}
    rng = np.random.default_rng(0)
    for batch in dataset.batches(
        examples, spec.CANDIDATE, split, batch_size=_BATCH
    ).as_numpy_iterator():
        merged = {n: np.concatenate([kept[n], v]) if kept else v for n, v in batch.items()}
        order = rng.permutation(len(merged["time"]))
        _, first = np.unique(merged["user_id"][order], return_index=True)
        again = np.setdiff1d(np.arange(len(order)), first)
        chosen = order[np.concatenate([rng.permutation(first), again])][:NUM_QUERIES]
        kept = {name: values[chosen] for name, values in merged.items()}
    return kept
