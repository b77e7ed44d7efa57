"""Answers page requests: pins a release, runs the stages, writes down what is shown.

The stages of one request are in :mod:`serving.funnel.answer`; the rungs that an answer can stand
on are told in :mod:`serving.funnel.page`. No transport here.
"""

import contextlib
import dataclasses
import functools
import time
from collections.abc import Callable, Iterator, Mapping

from absl import logging
from opentelemetry import trace

from serving import errors
from serving.events.event import Event, Kind
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
from serving.process import tracing

# Of the pool of stages: a request has at most as many as there are sources under way.
STAGE_THREADS = 32
# How the logs name an impression that was there to be learnt of, among the exposures.
EXPLORED = "exploration/posterior"


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
            tracer: Source of spans; see :class:`serving.process.tracing.Traces`.
        """
        self.settings = settings or FunnelConfig()
        self.releases = releases
        self._history = history
        self._recorder = recorder
        self._clock = clock
        self._predicate = predicate
        self.experiment = experiment
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
        with (
            self._tracer.start_as_current_span(
                "recommend", context=tracing.context_of(request.traceparent)
            ) as span,
            contextlib.ExitStack() as pinned,
        ):
            answer, exposures = self._begun(request, pinned)
            page = answer.page(exposures)
            if request.record:
                page = self._recorded(page, answer)
            else:
                page = dataclasses.replace(page, recorded=None)
            span.set_attributes(
                {"release": page.release_id, "rung": page.rung, "page": page.page_id}
            )
        return page

    @contextlib.contextmanager
    def looking(
        self,
        request: PageRequest,
        *,
        release: Releases | None = None,
        settings: FunnelConfig | None = None,
    ) -> Iterator[Answer]:
        """Gives an answer that has met its viewer, for looking; nothing of it is recorded.

        Args:
            request: Page request.
            release: Holder of another release to answer from; None takes that of the viewer.
            settings: Other settings; None takes those of the viewer.

        Raises:
            InvalidRequestError, NotReadyError: As in :meth:`recommend`.
        """
        request = dataclasses.replace(request, record=False)
        with contextlib.ExitStack() as pinned:
            answer, _ = self._begun(request, pinned, release=release, settings=settings)
            yield answer

    def arm_of(self, user_id: str) -> str:
        """Returns ``experiment/arm`` of a user; "" for one outside any experiment."""
        arm = self.experiment.arm_of(user_id) if self.experiment else None
        return self.experiment.exposure(arm) if self.experiment and arm else ""

    def _begun(
        self,
        request: PageRequest,
        pinned: contextlib.ExitStack,
        *,
        release: Releases | None = None,
        settings: FunnelConfig | None = None,
    ) -> tuple[Answer, tuple[str, ...]]:
        """Returns an answer that has met its viewer, and the arms that its page belongs to."""
        if not 1 <= request.k <= MAX_K:
            raise errors.InvalidRequestError(f"k must be in [1, {MAX_K}], got {request.k}.")
        arm = None
        if self.experiment and request.user_id:  # Nobody in particular is in no arm.
            arm = self.experiment.arm_of(request.user_id)
        if release is None:
            pinned_release, missing = self._pin(arm, pinned)
        else:
            pinned_release, missing = pinned.enter_context(release.pin()), ""
        exposures: tuple[str, ...] = ()
        chosen = settings or self.settings
        if self.experiment and arm and not missing:
            exposures = (self.experiment.exposure(arm),)
            if settings is None:
                chosen = dataclasses.replace(chosen, **arm.settings)
        answer = Answer(
            pinned_release,
            chosen,
            request,
            pool=self._pool,
            last=self._last,
            tracer=self._tracer,
            predicate=self._predicate,
        )
        if missing:
            answer.ladder.fall("experiment", missing)
        answer.meet(self._history.read, now=int(self._clock()))
        return answer, exposures

    def _pin(self, arm: Arm | None, pinned: contextlib.ExitStack) -> tuple[LoadedRelease, str]:
        """Returns the release for a request, and why it is not the one that the arm is kept on."""
        missing = ""
        if arm and arm.release:
            try:
                return pinned.enter_context(self._arm_releases[arm.release].pin()), missing
            except errors.NotReadyError as error:
                missing = f"arm {arm.name} is kept on release {arm.release}, not had here: {error}"
        return pinned.enter_context(self.releases.pin()), missing

    def _recorded(self, page: Page, answer: Answer) -> Page:
        if self._recorder is None or not page.items:
            return page
        with answer.stage("record"):
            record = functools.partial(
                self._recorder.record_page,
                _impressions(page, answer.viewer),
                answer.viewer.profile,
            )
            try:
                self._pool.run("record", record, answer.settings.record_deadline_s)
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
            exposures=(*page.exposures, *((EXPLORED,) if item.is_explored else ())),
        )
        for item in page.items
    ]
