"""Answers page requests: pins a release, runs the stages, writes down what is shown.

The stages of one request are in :mod:`serving.funnel.answer`; the rungs that an answer can stand
on are told in :mod:`serving.funnel.page`. No transport here.
"""

import contextlib
import dataclasses
import functools
import time
from collections.abc import Callable, Mapping

from absl import logging
from opentelemetry import trace

from serving import errors
from serving.events.event import Event, Kind
from serving.funnel import tracing
from serving.funnel.answer import Answer
from serving.funnel.deadlines import StagePool
from serving.funnel.experiment import Arm, Experiment
from serving.funnel.filters import Predicate
from serving.funnel.loaded_release import LoadedRelease
from serving.funnel.page import MAX_K, FunnelConfig, Page, PageRequest
from serving.funnel.recorder import Recorder
from serving.funnel.release_watcher import Releases
from serving.funnel.rungs import LastEmbeddings
from serving.funnel.viewer import Viewer
from serving.history.user_history import HistoryStore

# Of the pool of stages: a request has at most as many as there are sources under way.
STAGE_THREADS = 32


class Funnel:
    """Answers page requests; safe for threads."""

    def __init__(
        self,
        *,
        releases: Releases,
        history: HistoryStore,
        recorder: Recorder | None,
        settings: FunnelConfig | None = None,
        clock: Callable[[], float] = time.time,
        predicate: Predicate | None = None,
        experiment: Experiment | None = None,
        arm_releases: Mapping[str, Releases] | None = None,
        tracer: trace.Tracer = tracing.NO_TRACER,
    ) -> None:
        """Wires the parts.

        Args:
            releases: Holder of the release of each request.
            history: Store of what users did.
            recorder: Recorder of what was served; None serves without a trace.
            settings: Widths and deadlines.
            clock: Clock of the server, Unix seconds.
            predicate: A filter of the operator's own.
            experiment: Split of users between releases or settings; None for none.
            arm_releases: The releases that its arms name, by version.
            tracer: Source of spans; see :class:`serving.funnel.tracing.Traces`.
        """
        self.settings = settings or FunnelConfig()
        self._releases = releases
        self._history = history
        self._recorder = recorder
        self._clock = clock
        self._predicate = predicate
        self._experiment = experiment
        self._arm_releases = arm_releases or {}
        self._tracer = tracer
        self._pool = StagePool(STAGE_THREADS)
        self._last = LastEmbeddings()

    def recommend(self, request: PageRequest) -> Page:
        """Returns a page, on the best rung that holds.

        Raises:
            InvalidRequestError: ``k`` is out of range.
            NotReadyError: No release is loaded.
            FilterError: What may be shown cannot be decided.
        """
        if not 1 <= request.k <= MAX_K:
            raise errors.InvalidRequestError(f"k must be in [1, {MAX_K}], got {request.k}.")
        settings = self.settings
        arm = None
        if self._experiment and request.user_id:  # Nobody in particular is in no arm.
            arm = self._experiment.arm_of(request.user_id)
        with (
            self._tracer.start_as_current_span(
                "recommend", context=tracing.context_of(request.traceparent)
            ) as span,
            contextlib.ExitStack() as pinned,
        ):
            release, missing = self._pin(arm, pinned)
            exposures: tuple[str, ...] = ()
            if self._experiment and arm and not missing:
                exposures = (self._experiment.exposure(arm),)
                settings = dataclasses.replace(settings, **arm.settings)
            answer = Answer(
                release,
                settings,
                request,
                pool=self._pool,
                last=self._last,
                tracer=self._tracer,
                predicate=self._predicate,
            )
            if missing:
                answer.ladder.fall("experiment", missing)
            answer.meet(self._history.read, now=int(self._clock()))
            page = answer.page(exposures)
            if request.record:
                page = self._recorded(page, answer, settings.record_deadline_s)
            else:
                page = dataclasses.replace(page, recorded=None)
            span.set_attributes(
                {"release": page.release_id, "rung": page.rung, "page": page.page_id}
            )
        return page

    def _pin(self, arm: Arm | None, pinned: contextlib.ExitStack) -> tuple[LoadedRelease, str]:
        """Returns the release for a request, and why it is not the one that the arm is kept on."""
        missing = ""
        if arm and arm.release:
            try:
                return pinned.enter_context(self._arm_releases[arm.release].pin()), missing
            except errors.NotReadyError as error:
                missing = f"arm {arm.name} is kept on release {arm.release}, not had here: {error}"
        return pinned.enter_context(self._releases.pin()), missing

    def _recorded(self, page: Page, answer: Answer, deadline_s: float) -> Page:
        if self._recorder is None or not page.items:
            return page
        with answer.stage("record"):
            record = functools.partial(
                self._recorder.record_page,
                _impressions(page, answer.viewer),
                answer.viewer.profile,
            )
            try:
                self._pool.run("record", record, deadline_s)
                recorded = True
            except errors.ServingError as error:
                # The viewer must not pay for our disk.
                logging.log_every_n_seconds(
                    logging.ERROR, "Page %s is not recorded: %s", 1, page.page_id, error
                )
                recorded = False
        return dataclasses.replace(page, recorded=recorded, stages_ms=answer.stages_ms)

    def close(self) -> None:
        """Lets threads end."""
        self._pool.close()


def _impressions(page: Page, viewer: Viewer) -> list[Event]:
    return [
        Event(
            event_id=f"{page.page_id}/{item.position}",
            kind=Kind.IMPRESSION,
            user_id=viewer.user_id,
            time=page.now,
            video_id=item.video_id,
            page_id=page.page_id,
            position=item.position,
            surface=viewer.context["surface"],
            device=viewer.context["device"],
            candidate_sources=item.sources,
            retrieval_score=item.retrieval_score,
            release_id=page.release_id,
            exposures=page.exposures,
        )
        for item in page.items
    ]
