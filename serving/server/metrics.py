"""What the server tells Prometheus."""

import asyncio
import collections
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Literal

import prometheus_client
from absl import logging
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, multiprocess

from features.durations import DAY_S, HOUR_S
from serving.arrays.backend import is_by_tensorflow
from serving.events.event import Event
from serving.funnel.page import Page
from serving.funnel.release_watcher import ReleaseWatcher
from serving.funnel.rungs import FULL, RUNGS
from serving.guard import tallies
from serving.guard.tallies import Counting
from serving.process import sharing
from serving.release.rollbacks import GUARD, Rollback
from serving.server import answers as http_answers

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.035, 0.05, 0.075, 0.1, 0.2, 0.5, 1.0, 2.5)

_SHARE_EVERY_S = 1.0
_LAG_SECONDS = (1, 5, 15, 60, 300, 900, HOUR_S, 6 * HOUR_S, DAY_S)


# What a gauge is of several processes.
Together = Literal["livemax", "livemin", "livesum"]


class Metrics:
    """All metrics of one server, in a registry of its own; those of processes side by side are one.

    Attributes:
        counting: What the guard of releases asks for.
    """

    def __init__(self, counting: Counting) -> None:
        self.counting = counting
        self._is_shared = sharing.joined() is not None
        self._computed: list[tuple[Gauge, Callable[[], float]]] = []
        self._registry = r = CollectorRegistry()
        self.requests = Counter(
            "watchnext_requests", "Answers.", ["route", "method", "status"], registry=r
        )
        self.request_seconds = Histogram(
            "watchnext_request_seconds", "Time to answer.", ["route"], buckets=_SECONDS, registry=r
        )
        self.stage_seconds = Histogram(
            "watchnext_stage_seconds", "Time of a stage.", ["stage"], buckets=_SECONDS, registry=r
        )
        self.pages = Counter("watchnext_pages", "Pages by rung.", ["rung"], registry=r)
        self.release_pages = Counter(
            "watchnext_release_pages",
            "Requests for pages by release, and what they came to.",
            ["release_id", "outcome"],
            registry=r,
        )
        self.source_seconds = Histogram(
            "watchnext_source_seconds",
            "Time of a candidate source.",
            ["source"],
            buckets=_SECONDS,
            registry=r,
        )
        self.degraded = Counter(
            "watchnext_degraded",
            "Pages that had to do without a part that failed.",
            ["part"],
            registry=r,
        )
        self.viewers = Counter(
            "watchnext_viewers", "Pages by what was known of the viewer.", ["known_by"], registry=r
        )
        self.filtered = Counter(
            "watchnext_filtered", "Videos held back by reason.", ["reason"], registry=r
        )
        self.exposures = Counter(
            "watchnext_exposures", "Pages by arm of an experiment.", ["arm"], registry=r
        )
        self.event_lag_seconds = Histogram(
            "watchnext_event_lag_seconds",
            "Time from an event to its arrival.",
            buckets=_LAG_SECONDS,
            registry=r,
        )
        self.not_recorded = Counter(
            "watchnext_pages_not_recorded", "Pages whose impressions are lost.", registry=r
        )
        self.candidates = Counter(
            "watchnext_candidates", "Candidates by source.", ["source"], registry=r
        )
        self.shown = Counter("watchnext_shown", "Shown videos by source.", ["source"], registry=r)
        self.events = Counter("watchnext_events", "Events.", ["result"], registry=r)
        self.overloads = Counter("watchnext_overloads", "Requests turned away.", registry=r)
        for rung in RUNGS:
            self.pages.labels(rung)

    @property
    def registry(self) -> CollectorRegistry:
        """What there is to read: of this process, or of all that serve side by side."""
        if not self._is_shared:
            return self._registry
        self.share()
        registry = CollectorRegistry()
        multiprocess.MultiProcessCollector(registry)
        return registry

    def share(self) -> None:
        """Lets the other processes have what is known here now."""
        for gauge, value in self._computed:
            gauge.set(value())
        self.counting.share()

    @contextlib.asynccontextmanager
    async def sharing(self) -> AsyncIterator[None]:
        """Shares every second while the block runs, where other processes serve beside this."""
        task = asyncio.create_task(self._keep_sharing()) if self._is_shared else None
        yield
        if task is not None:
            task.cancel()

    async def _keep_sharing(self) -> None:
        while True:
            try:
                await asyncio.to_thread(self.share)
            except Exception:
                # Pages are made all the same, and the next round tries again.
                logging.exception("What this process counts cannot be shared.")
            await asyncio.sleep(_SHARE_EVERY_S)

    def gauge(
        self, name: str, text: str, value: Callable[[], float], *, together: Together = "livemax"
    ) -> None:
        """Adds a gauge that is computed when it is read.

        Args:
            name: Name, without prefix.
            text: What it says.
            value: Function that computes it.
            together: What processes side by side make of theirs: largest, smallest, or the sum.
        """
        registry = self._registry
        gauge = Gauge(f"watchnext_{name}", text, registry=registry, multiprocess_mode=together)
        if self._is_shared:
            self._computed.append((gauge, value))
        else:
            gauge.set_function(value)

    def watch_releases(self, releases: ReleaseWatcher) -> None:
        """Adds what there is to know of the release that serves, and of the next one."""

        def age() -> float:
            current = releases.current
            return http_answers.release_age_s(current.version) if current else float("nan")

        def recall() -> float:
            current = releases.current
            lineage = current.manifest.lineage if current and current.manifest else {}
            return float(lineage.get("index", {}).get("recall", "nan"))

        def answering() -> float:
            current = releases.current
            return current.index.answering if current else float("nan")

        def by_tensorflow() -> float:
            current = releases.current
            models = (current.query_tower, current.ranker) if current else ()
            return float(sum(is_by_tensorflow(model) for model in models))

        self.gauge(
            "models_by_tensorflow",
            "Models of pages that TensorFlow runs in here, slower than arrays.",
            by_tensorflow,
        )
        self.gauge("release_age_seconds", "Time since the release was built.", age)
        self.gauge("index_recall", "Recall of the index, measured when it was built.", recall)
        self.gauge(
            "index_answering",
            "Share of the videos whose shards of the index answer.",
            answering,
            together="livemin",
        )
        self.gauge("release_load_failures", "Loads that failed.", lambda: releases.failures)
        self.gauge(
            "shelf_renewal_failures",
            "Looks for new videos that failed.",
            lambda: releases.renewal_failures,
        )
        self.gauge(
            "release_waiting_seconds",
            "How long a published release has been waited for, until the model server has it.",
            lambda: releases.waiting_s,
        )

    def watch_rollbacks(self, read: Callable[[], Sequence[Rollback]]) -> None:
        """Adds how often the serving root was rolled back."""
        self.gauge("rollbacks", "Rollbacks of the serving root.", lambda: len(read()))
        self.gauge(
            "rollbacks_by_guard",
            "Rollbacks that the guard decided.",
            lambda: sum(one.by == GUARD for one in read()),
        )

    def observe_failure(self, release_id: str) -> None:
        """Counts a request for a page that failed while a release served."""
        self._observe_release(release_id, tallies.FAILED)

    def _observe_release(self, release_id: str, outcome: str) -> None:
        self.release_pages.labels(release_id, outcome).inc()
        self.counting.request(release_id, outcome)

    def observe_events(self, events: Sequence[Event], *, now: int) -> None:
        """Counts what came of pages, and how late it was told."""
        for event in events:
            self.event_lag_seconds.observe(max(now - event.time, 0))
        self.counting.follow(events)

    def observe_page(self, page: Page, *, user_id: str) -> None:
        """Counts a page."""
        self.pages.labels(page.rung).inc()
        if page.recorded is False:
            self.not_recorded.inc()
        for stage, milliseconds in page.stages_ms.items():
            self.stage_seconds.labels(stage).observe(milliseconds / 1000)
        for source, milliseconds in page.sources_ms.items():
            self.source_seconds.labels(source).observe(milliseconds / 1000)
        for part in page.falls:
            self.degraded.labels(part).inc()
        for filtering, count in page.filtered.items():
            self.filtered.labels(filtering).inc(count)
        self.viewers.labels(page.viewer_known_by).inc()
        for source, count in page.nominated.items():
            self.candidates.labels(source).inc(count)
        if page.recorded is not None:  # Else it was looked at, not shown.
            self._observe_shown(page, user_id=user_id)

    def _observe_shown(self, page: Page, *, user_id: str) -> None:
        """Counts a page that its viewer saw."""
        degraded = tallies.DEGRADED if page.falls and page.rung != FULL else tallies.WHOLE
        self._observe_release(page.release_id, degraded if page.items else tallies.EMPTY)
        if page.items:
            self.counting.page(page.release_id, page_id=page.page_id, user_id=user_id)
        for arm in page.exposures:
            self.exposures.labels(arm).inc()
        shown = collections.Counter(source for item in page.items for source in item.sources)
        for source, count in shown.items():
            self.shown.labels(source).inc(count)

    def observe_request(self, *, route: str, method: str, status: int, start: float) -> None:
        """Counts an answer; ``start`` is of ``time.perf_counter``."""
        self.requests.labels(route, method, status).inc()
        self.request_seconds.labels(route).observe(time.perf_counter() - start)

    def exposed(self) -> dict[str, float]:
        """Returns the number of pages by arm, ``experiment/arm``."""
        return {
            sample.labels["arm"]: sample.value
            for metric in self.registry.collect()
            for sample in metric.samples
            if sample.name == "watchnext_exposures_total"
        }

    def text(self) -> bytes:
        """Returns all of them in Prometheus' text format."""
        return prometheus_client.generate_latest(self.registry)
