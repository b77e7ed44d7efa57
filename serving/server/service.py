"""Puts the parts of a server together: release, models, history, event log, funnel."""

import functools
import pathlib
import threading
from collections.abc import Callable, Sequence
from typing import Protocol

import pyarrow as pa
from absl import logging

from features import command
from features.durations import DAY_S
from serving import errors
from serving.arrays.backend import ArraysBackend
from serving.events.log import EventLog
from serving.funnel import before_release, filters, loaded_release, page_order
from serving.funnel import experiment as ab_experiment
from serving.funnel.arm_release import ArmRelease
from serving.funnel.experiment import Experiment
from serving.funnel.funnel import Funnel
from serving.funnel.loaded_release import LoadedRelease
from serving.funnel.page import FunnelConfig
from serving.funnel.recorder import Recorder
from serving.funnel.release_watcher import ReleaseWatcher
from serving.history.user_history import HistoryStore
from serving.index.cluster import Cluster
from serving.index.shards import Opener
from serving.insight.console import Console
from serving.insight.left_out import RawRankers
from serving.ordering import page_value
from serving.process import tracing
from serving.process.clock import Clock
from serving.release import manifest as release
from serving.release import publication
from serving.servables import signatures
from serving.servables.signatures import Model
from serving.servables.tensorflow_serving import Backend, TensorFlowServingBackend
from serving.server import memory, model_server_wait
from serving.server.app import Service
from serving.server.config import ServiceConfig
from serving.server.live_service import LiveParts

# What is popular in a region is counted over the last week before the release is loaded.
_REGIONAL_WINDOW_S = 7 * DAY_S
_MACHINE = Clock()
_OF_SOURCES_DEADLINE = 0.7  # Share of it that shards may take.


def build(config: ServiceConfig, *, clock: Clock = _MACHINE) -> Service:
    """Loads everything; returns a service that is ready to answer.

    Raises:
        InputError: There is no release, it is refused, or a path cannot be used.
    """
    if not config.before_release:
        release.current(config.serving_root)  # The likeliest mistake: say so at once.
    try:
        return _build(config, clock)
    except errors.ServingError as error:
        raise command.InputError(str(error)) from error


def _build(config: ServiceConfig, clock: Clock) -> Service:
    predicate = filters.load_predicate(config.predicate) if config.predicate else None
    experiment = ab_experiment.load(config.experiment) if config.experiment else None
    traces = tracing.Traces(config.traces)
    history, log, keeper = memory.opened(config, clock)
    backend = _backend(config)
    open_shards = _opener(config)
    live = _live(config, backend, log, experiment, clock=clock)

    def load(version: str) -> LoadedRelease:
        loaded = _load(config, version, backend, history, open_shards=open_shards, clock=clock.now)
        _say_order(loaded, config.settings)
        return live.attach(_fit_for(loaded, config.settings, experiment))

    awaited = functools.partial(_awaited, config, backend)
    arms: list[ArmRelease] = []
    releases = ReleaseWatcher(
        published=functools.partial(_published, config),
        load=load,
        renew=functools.partial(_renewed, live, arms),
        hand_over=functools.partial(_hand_over, config),
        awaited=awaited,
        period_s=clock.poll_s,
    )
    releases.refresh()
    if experiment:
        _pin(config.serving_root, experiment)
        arms += _arm_releases(experiment, releases, load=load, renew=live.renewed, awaited=awaited)
    recording = Recorder(history, log, live.state)
    funnel = Funnel(
        releases=releases,
        history=history,
        recorder=recording,
        settings=config.settings,
        clock=clock.now,
        predicate=predicate,
        experiment=experiment,
        arm_releases={arm.version: arm for arm in arms},
        tracer=traces.tracer,
    )
    for part in (releases, live, log, keeper):
        part.start()
    return Service(
        funnel=funnel,
        history=history,
        recorder=recording,
        releases=releases,
        models=_where_models_run(config),
        http=config,
        clock=clock.now,
        console=_console(config, backend, history, live, open_shards=open_shards, clock=clock),
        history_losses=lambda: keeper.losses,
        follow=functools.partial(setattr, live, "on_events"),
        raw_rankers=RawRankers(functools.partial(_raw_ranker, backend)),
        on_close=_closing(releases, live, keeper, funnel, log, history, backend, traces),
    )


def _live(
    config: ServiceConfig,
    backend: Backend,
    log: EventLog,
    experiment: Experiment | None,
    *,
    clock: Clock,
) -> LiveParts:
    """Returns the live parts, seeded."""
    is_first = release.stated_current(config.serving_root) is None
    live = LiveParts(
        config.serving_root,
        config.logs,
        backend,
        clock=clock.now,
        is_own=log.wrote,
        stream=memory.stream_of(config, log),
        kept=experiment.releases if experiment else (),
        half_life_s=None
        if is_first
        else release.load_manifest(config.serving_root).site.half_life_s,
        look_every_s=clock.look_s,
    )
    live.seed()
    return live


def _fit_for(
    loaded: LoadedRelease, settings: FunnelConfig, experiment: Experiment | None
) -> LoadedRelease:
    """Returns the release; refuses one whose ranker does not say what a formula reads."""
    if loaded.version == before_release.VERSION:
        return loaded  # Its pages are by no formula.
    for formula in _formulas(settings, experiment, loaded.version):
        formula.require(loaded.heads, where=f"release {loaded.version}")
    return loaded


def _say_order(loaded: LoadedRelease, settings: FunnelConfig) -> None:
    if loaded.version != before_release.VERSION:
        is_ranked = loaded.ranker is not None
        words = page_order.in_words(loaded.order, settings, is_ranked=is_ranked)
        logging.info("Pages of release %s are in the order %s.", loaded.version, words)


def _formulas(
    settings: FunnelConfig, experiment: Experiment | None, version: str
) -> list[page_value.PageValue]:
    """Returns the formulas by which pages of a release are made."""
    arms = experiment.arms if experiment else ()
    texts = {
        str(arm.settings.get("page_value", settings.page_value))
        for arm in arms
        if arm.release in {None, version}
    }
    if not experiment or version not in experiment.releases:
        texts.add(settings.page_value)  # Of those who are in no arm.
    return [page_value.parse(text) for text in sorted(texts)]


class _Closable(Protocol):
    def close(self) -> None:
        """Ends it."""


def _closing(*parts: _Closable) -> Callable[[], None]:
    """Returns what closes the parts in order, once, however often it is called."""
    lock = threading.Lock()

    def close() -> None:
        if lock.acquire(blocking=False):
            for part in parts:
                part.close()

    return close


def _hand_over(config: ServiceConfig, version: str) -> bool:
    """Asks for a successor where the release is large; returns whether it is."""
    if config.ask_for_successor is None:
        return False
    if _size_bytes(config, version) < config.hand_over_from_mb << 20:
        return False
    config.ask_for_successor(version)
    return True


def _size_bytes(config: ServiceConfig, version: str) -> int:
    """Returns how much of a release this process would load."""
    manifest = release.load_manifest(config.serving_root, version)
    # Models that a model server runs are its own affair.
    components = ("index", "videos") if config.model_server else release.SERVED
    return release.size_bytes(manifest, components)


def _renewed(
    live: LiveParts, arms: Sequence[ArmRelease], current: LoadedRelease
) -> LoadedRelease | None:
    for arm in arms:
        arm.look()
    return live.renewed(current)


def _pin(serving_root: pathlib.Path, experiment: Experiment) -> None:
    """Keeps the releases of an experiment from removal; says so where that cannot be done."""
    try:
        publication.pin(serving_root, experiment.name, experiment.releases)
    except command.InputError as error:
        logging.error(
            "Nothing keeps the releases of the experiment %s: %s Where it can be written, give: "
            "python -m serving.pin_releases --serving_root=%s --experiment=FILE",
            *(experiment.name, error, serving_root),
        )


def _arm_releases(
    experiment: Experiment,
    releases: ReleaseWatcher,
    *,
    load: Callable[[str], LoadedRelease],
    renew: Callable[[LoadedRelease], LoadedRelease | None],
    awaited: Callable[[str], str],
) -> list[ArmRelease]:
    """Returns the releases that arms are kept on; the current one is not loaded twice."""

    def loaded(version: str) -> LoadedRelease:
        current = releases.current
        if current and current.version == version:
            return current
        waiting = awaited(version)
        if waiting:
            raise errors.NotReadyError(waiting)
        return load(version)

    arms = [
        ArmRelease(version, load=loaded, renew=renew) for version in sorted(experiment.releases)
    ]
    for arm in arms:
        arm.look()
    return arms


def _backend(config: ServiceConfig) -> Backend:
    """Opens what runs the models; a model server may still be loading them."""
    if config.model_server:
        backend = TensorFlowServingBackend(
            config.model_server, root_certificates=config.model_server_ca
        )
        if not config.is_successor and _published(config) != before_release.VERSION:
            manifest = release.load_manifest(config.serving_root)
            model_server_wait.wait(backend, manifest, up_to_s=config.model_server_wait_s)
        return backend
    return ArraysBackend()


def _opener(config: ServiceConfig) -> Opener | None:
    """Returns what opens the shards of an index; None where this process holds them."""
    if config.index_cluster is None:
        return None
    return Cluster(
        config.index_cluster,
        # What is left of the time is for merging, and for a second look that goes deeper.
        deadline_s=_OF_SOURCES_DEADLINE * config.settings.sources_deadline_s,
        wait_s=config.index_cluster_wait_s,
    ).open


def _console(
    config: ServiceConfig,
    backend: Backend,
    history: HistoryStore,
    live: LiveParts,
    *,
    open_shards: Opener | None,
    clock: Clock,
) -> Console:
    def load(version: str) -> LoadedRelease:
        # Without a shelf of its own: that would take the place of the one of what serves.
        loaded = _load(config, version, backend, history, open_shards=open_shards, clock=clock.now)
        return loaded.with_live(live.state)

    return Console(
        serving_root=config.serving_root,
        logs=config.logs,
        load=load,
        size_bytes=functools.partial(_size_bytes, config),
        limit_bytes=config.hand_over_from_mb << 20,
    )


def _published(config: ServiceConfig) -> str:
    """Returns the version that should serve."""
    root = config.serving_root
    is_empty = release.stated_current(root) is None and not release.versions(root)
    if config.before_release and is_empty:
        return before_release.VERSION
    return release.current(config.serving_root)


def _awaited(config: ServiceConfig, backend: Backend, version: str) -> str:
    return backend.lacks(release.load_manifest(config.serving_root, version))


def _raw_ranker(backend: Backend, loaded: LoadedRelease) -> Model:
    if loaded.on_disk is None:
        raise errors.ModelError(f"release {loaded.version} is on no disk.")
    return backend.open(signatures.RANKER, loaded.on_disk)


def _where_models_run(config: ServiceConfig) -> str:
    return f"TensorFlow Serving at {config.model_server}" if config.model_server else "embedded"


def _load(
    config: ServiceConfig,
    version: str,
    backend: Backend,
    history: HistoryStore,
    *,
    open_shards: Opener | None,
    clock: Callable[[], float],
) -> LoadedRelease:
    def regional() -> pa.Table | None:
        try:
            return history.watch_counts(int(clock()) - _REGIONAL_WINDOW_S)
        except errors.HistoryUnavailableError as error:
            logging.error("Popularity is that of all regions together: %s", error)
            return None

    if version == before_release.VERSION:
        return before_release.load(config.logs, now_s=int(clock()))
    return loaded_release.load(
        config.serving_root,
        version,
        backend=backend,
        regional_watches=regional,
        open_shards=open_shards,
    )
