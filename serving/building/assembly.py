"""Makes a release of trained models: components, gates, publication.

A release is assembled under temporary names and everything is tried as written, before any of it
can be seen: SavedModels answer their warm-up requests, the index is searched with real user
queries, and what the SavedModels make of raw features is compared with what training read.
"""

import dataclasses
import functools
import pathlib
import sys
from collections.abc import Callable, Mapping
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq
from absl import logging

from features import command, dataset, files, spec
from features.as_of import replay
from features.catalogue import Catalogue
from features.durations import DAY_S
from features.screen import progress
from features.spec import ResolvedSpec
from features.stores import door
from features.tables import drift
from models.candidate import model as candidate_model
from models.ranking import model as ranker
from models.training import saved
from serving.arrays import export as array_export
from serving.building import (
    array_trials,
    card,
    day_gates,
    gates,
    hour_gates,
    indexing,
    metric_gates,
    origins,
    reports,
    skew,
    trials,
    user_queries,
)
from serving.building.config import BuildConfig, Inputs
from serving.building.gates import Gate
from serving.funnel import page_order
from serving.index.index import Index, ShardsInTurn
from serving.release import manifest as release
from serving.release import publication, tf_serving_config
from serving.servables import export, prepared_videos, signatures, warmup
from serving.servables.prepared_videos import PreparedVideos

VIDEOS = "videos.parquet"
STATISTICS = "video_statistics.parquet"
USERS = "users.parquet"
_FEW_QUERIES = 64
_SERVABLES = (signatures.QUERY_TOWER, signatures.RANKER)


class GatesFailedError(command.RefusedError):
    """At least one gate failed, so nothing was published."""


def publish(
    inputs: Inputs,
    serving_root: pathlib.Path,
    settings: BuildConfig,
    *,
    report: Callable[[Gate], None] = lambda gate: logging.info("%s", gate),
) -> release.Manifest:
    """Builds a release, checks it, and makes it the current one.

    Raises:
        GatesFailedError: A gate failed and nothing forces publication; nothing was published.
        command.InputError: An input is missing, or the inputs do not belong together.
    """
    info = origins.require(inputs)
    figures = metric_gates.read(inputs.metrics)
    with progress.shown("build_release"), publication.building(serving_root) as build:
        assembly = _Assembly(inputs, settings, build, report)
        try:
            assembly.write_judged(figures)
        except GatesFailedError:
            assembly.report_refusal()
            raise
        assembly.write_page_order()
        assembly.write_reports()
        progress.at("adding up checksums")
        return build.publish(
            metrics=figures,
            gates=[dataclasses.asdict(gate) for gate in assembly.gates],
            lineage={
                "examples": {"path": door.shown(inputs.examples.resolve()), "info": info},
                "candidate_model": origins.lineage(inputs.candidate_model),
                "ranker_model": origins.lineage(inputs.ranker_model),
                "index": assembly.index_report,
                "days": day_gates.learnt_days(inputs.examples),
            },
            forced=settings.force_publish if gates.failed(assembly.gates) else "",
            keep=settings.keep,
        )


def unpublished(inputs: Inputs, root: pathlib.Path) -> release.Release:
    """Writes a release that knows nothing of the holdout, to be asked about it; no gate judges it.

    Args:
        inputs: Models that were trained on the training split alone.
        root: Directory of its own, such as a temporary one.

    Raises:
        command.InputError: As of :func:`publish`.
    """
    info = origins.require(inputs)
    train_until_s = int(str(info["train_until_s"]))
    settings = BuildConfig(exact_below=sys.maxsize)
    with publication.building(root) as build:
        assembly = _Assembly(inputs, settings, build, lambda gate: logging.debug("%s", gate))
        # Popular and trending videos are those of the days before.
        assembly.write_videos(until_day=train_until_s // DAY_S)
        assembly.write_query_tower_and_index(is_judged=False)
        if inputs.ranker_model is not None:
            assembly.write_ranker(inputs.ranker_model, is_judged=False)
        if inputs.page_order is not None:
            assembly.write_page_order()
        known = {**info, "until_s": train_until_s}
        build.publish(metrics={}, gates=[], lineage={"examples": {"info": known}})
    return release.load(root)


def _require_passed(judged: list[Gate], force_publish: str) -> None:
    failing = gates.failed(judged)
    if not failing:
        return
    rules = "; ".join(f"{gate.rule}: {gate.value}, asked {gate.threshold}" for gate in failing)
    if force_publish:
        logging.warning("Publishing although %s. Reason given: %s", rules, force_publish)
        return
    raise GatesFailedError(
        f"nothing was published, since {len(failing)} of {len(judged)} gates failed: {rules}. "
        'Publish it all the same with --force_publish="REASON", which is recorded.'
    )


class _Assembly:
    """The components of one release, written one after the other.

    Attributes:
        gates: Gates so far, in order.
        index_report: Facts of the index; empty before it is written.
    """

    def __init__(
        self,
        inputs: Inputs,
        settings: BuildConfig,
        build: publication.Build,
        report: Callable[[Gate], None],
    ) -> None:
        self._inputs = inputs
        self._settings = settings
        self._build = build
        self._report = report
        self._resolved = ResolvedSpec.load(inputs.examples)
        self._catalogue = Catalogue(_table(inputs.examples / "videos"))
        # Of a model that follows its site between nights.
        self._step = saved.read_lineage(inputs.candidate_model).get("follow", {})
        self.gates: list[Gate] = []
        self.index_report: Mapping[str, Any] = {}
        self._previous: tuple[str | None, Mapping[str, Any]] = (None, {})

    def write_judged(self, figures: Mapping[str, Any]) -> None:
        """Writes all that gates judge; raises GatesFailedError where one forbids publication."""
        force = self._settings.force_publish
        self._add(*day_gates.recorded(self._inputs.judged_examples))
        self.judge_metrics(figures)
        if not self._step:  # The order of pages is the night's, too.
            self.judge_page_order()
        # What fails here fails before anything expensive is done.
        _require_passed(self.gates, force)
        self.write_videos()
        self.write_query_tower_and_index()
        if self._inputs.ranker_model is not None:
            self.write_ranker(self._inputs.ranker_model)
        elif dataset.info(self._inputs.examples).get("has_ranking"):
            logging.warning("No --ranker_model: expected watch times will not be known.")
        _require_passed(self.gates, force)

    def write_videos(self, *, until_day: int | None = None) -> None:
        """Writes catalogue, statistics, profiles and spec: what the funnel knows of them.

        Args:
            until_day: First day, since 1970, whose statistics are left out; None keeps all.
        """
        # No reason could make up for pages that are all errors.
        self._require(trials.rules(self._catalogue))
        directory = self._build.directory("videos")
        self._resolved.save(directory)
        pq.write_table(self._catalogue.table, directory / VIDEOS, compression="zstd")
        if (self._inputs.examples / drift.FILE).is_file():
            files.link_tree(self._inputs.examples / drift.FILE, directory / drift.FILE)
        statistics = _table(self._inputs.examples / "video_statistics")
        if until_day is not None:
            statistics = statistics.filter(pc.less(statistics["day"], until_day))
        pq.write_table(statistics, directory / STATISTICS, compression="zstd")
        users = self._inputs.examples / "users"
        profiles = _table(users) if users.is_dir() else replay.NO_USERS
        pq.write_table(profiles, directory / USERS, compression="zstd")

    def write_query_tower_and_index(self, *, is_judged: bool = True) -> None:
        """Writes both towers and the index of their video embeddings."""
        progress.at("writing the query tower")
        examples = self._inputs.examples
        model = candidate_model.load(self._inputs.candidate_model, examples)
        directory = self._build.directory(signatures.QUERY_TOWER)
        export.export_query_tower(model, examples, directory)
        array_export.write_query_tower(model, examples, directory)
        requests = warmup.query_tower_requests(examples)
        warmup.write(directory, signatures.QUERY_TOWER, requests)
        tf_serving_config.write_batching(directory)
        users = user_queries.of_held_out_users(model, examples, self._resolved)
        report = indexing.write(
            self._build.directory("index"),
            model,
            examples,
            self._catalogue.video_ids,
            settings=self._settings,
            users=users if is_judged else users.first(_FEW_QUERIES),
            require=self._require,
        )
        self.index_report = dataclasses.asdict(report)
        if is_judged:
            self._add(*gates.index_recall(report, self._settings.recall_target))
            progress.at("judging the query tower")
            self._judge_retrieval(users)

    def _judge_retrieval(self, users: user_queries.UserQueries) -> None:
        """Judges the towers and the index as they were written."""
        examples = self._inputs.examples
        directory = self._build.directory(signatures.QUERY_TOWER)
        in_turn = functools.partial(ShardsInTurn, kept=False)
        loaded = Index.load(self._build.directory("index"), open_shards=in_turn)
        watched = user_queries.watched(examples, self._catalogue)
        lineage = saved.read_lineage(self._inputs.candidate_model)
        self._add(*gates.refit(lineage.get("refit", {})))
        known = users.of_known_users(user_queries.NUM_QUERIES // 2)
        collapse = gates.collapse(loaded, known, watched=watched)
        self._add(*hour_gates.of_steps(self._step, collapse))
        self._add(
            trials.query_tower(
                directory, index=loaded, resolved=self._resolved, catalogue=self._catalogue
            ),
            gates.skew_proof(
                "query tower",
                skew.measure(skew.of_saved_model(directory), examples, spec.CANDIDATE),
            ),
            *array_trials.query_tower(directory, examples, self._resolved),
        )

    def write_ranker(self, ranker_model: pathlib.Path, *, is_judged: bool = True) -> None:
        """Writes the ranker; videos are prepared for those that are judged, to serve."""
        progress.at("writing the ranker")
        examples = self._inputs.examples
        directory = self._build.directory(signatures.RANKER)
        model = ranker.load(ranker_model, examples)
        export.export_ranker(model, examples, directory)
        array_export.write_ranker(model, examples, directory)
        requests = warmup.ranker_requests(examples)
        prepared = self._prepare_videos(directory) if is_judged else None
        if prepared is not None:
            requests += warmup.prepared_requests(requests, prepared, self._catalogue)
        warmup.write(directory, signatures.RANKER, requests)
        if not is_judged:
            return
        progress.at("judging the ranker")
        self._add(
            trials.ranker(directory),
            gates.skew_proof(
                "ranker", skew.measure(skew.of_saved_model(directory), examples, spec.RANKER)
            ),
            *array_trials.ranker(directory, examples, self._resolved),
        )
        if prepared is not None:
            self._add(trials.prepared_ranker(directory, requests))

    def _prepare_videos(self, saved_model: pathlib.Path) -> PreparedVideos | None:
        """Computes what videos alone contribute to the ranker, with the SavedModel itself."""
        if not prepared_videos.is_supported(self._resolved):
            return None
        directory = self._build.directory("videos") / prepared_videos.DIRECTORY
        examples = self._inputs.examples
        prepared_videos.write(
            directory,
            resolved=self._resolved,
            catalogue=self._catalogue,
            prepare=export.function_of(saved_model, signatures.PREPARE_VIDEOS),
            vocabularies={
                space.name: dataset.vocabulary(examples, spec.RANKER, space.name)
                for space in self._resolved.spaces_of(spec.RANKER)
            },
        )
        return PreparedVideos.load(directory, self._resolved)

    def judge_metrics(self, figures: Mapping[str, Any]) -> None:
        """Compares metrics with chance, the baselines and the release that serves now."""
        root = self._build.serving_root
        if release.stated_current(root) is not None:
            try:
                serving = release.load_manifest(root)
                self._previous = (serving.version, serving.metrics)
            except release.ReleaseRefusedError as error:
                # A release that is broken is the best reason to publish another one.
                logging.warning("No comparison with the release that serves now: %s", error)
        if self._step:  # These figures are the night's, which were judged then.
            return
        count, has_ranker = len(self._catalogue), self._inputs.ranker_model is not None
        self._add(
            *metric_gates.judge(figures, self._previous[1], num_videos=count, has_ranker=has_ranker)
        )

    def judge_page_order(self) -> None:
        """Compares the learned order of pages with orders by one part alone."""
        directory = self._inputs.page_order
        if directory is None and self._inputs.ranker_model is not None:
            return  # The ranker orders pages, and gates of its own judge it.
        info = None if directory is None else files.read_complete(directory)
        self._add(*metric_gates.page_order((info or {}).get("judged", {})))

    def write_page_order(self) -> None:
        """Puts the learned order, where there is one, where servers look for it."""
        directory = self._inputs.page_order
        if directory is None or not (directory / page_order.FILE).is_file():
            if self._inputs.ranker_model is None:
                logging.warning("No learned order: pages will be in that of the retrieval score.")
            return
        path = page_order.path_of(self._build.serving_root, self._build.version)
        path.parent.mkdir(exist_ok=True)
        page_order.PageOrder.load(directory / page_order.FILE).save(path)

    def write_reports(self) -> None:
        """Writes the model card and the reports."""
        progress.at("reports")
        directory = self._build.directory("reports")
        reports.write(self._making(), directory)
        self._report_to((directory / reports.RETRAINING).read_text(encoding="utf-8"))

    def report_refusal(self) -> None:
        """Writes why nothing is published."""
        self._report_to(reports.refused(self._making()))

    def _report_to(self, page: str) -> None:
        if self._settings.report is not None:
            files.atomic_write(self._settings.report, page)

    def _making(self) -> reports.Making:
        previous, figures = self._previous
        return reports.Making(
            inputs=self._inputs,
            sources=card.Sources(
                version=self._build.version,
                previous=previous,
                resolved=self._resolved,
                gates=self.gates,
                forced=self._settings.force_publish if gates.failed(self.gates) else "",
                index=self.index_report,
                **reports.recorded(self._inputs),
            ),
            previous_figures=figures,
            servables={n: self._build.directory(n) for n in _SERVABLES if self._build.has(n)},
        )

    def _require(self, gate: Gate) -> None:
        self._add(gate)
        _require_passed([gate], "")

    def _add(self, *judged: Gate) -> None:
        for gate in judged:
            self.gates.append(gate)
            self._report(gate)


def _table(directory: pathlib.Path) -> Any:
    return pq.read_table(directory).combine_chunks()
