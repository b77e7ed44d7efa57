"""One request on its way through the stages: viewer -> candidates -> ranking -> page."""

import contextlib
import dataclasses
import functools
import math
import time
import uuid
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import pyarrow as pa
from absl import logging
from opentelemetry import trace

from serving import errors
from serving.events.event import AHEAD_S
from serving.funnel import candidates, page_order, sources
from serving.funnel import page as page_settings
from serving.funnel.candidates import Candidates
from serving.funnel.deadlines import StagePool
from serving.funnel.filters import Filters, Predicate
from serving.funnel.loaded_release import LoadedRelease
from serving.funnel.nominations import NOTHING, Nominations, Question, Source
from serving.funnel.page import FunnelConfig, Item, Page, PageRequest
from serving.funnel.rungs import (
    LAST_EMBEDDING,
    NO_HISTORY,
    NO_RANKER,
    NO_RETRIEVAL,
    POPULAR,
    Ladder,
    LastEmbeddings,
)
from serving.funnel.viewer import Viewer
from serving.funnel.worked import Worked
from serving.history.user_history import UserHistory, unknown_user
from serving.live.state import Rates
from serving.ordering import diversity, page_value
from serving.process import tracing

Predictions = Mapping[str, np.ndarray]
VALUE = "value"


class Answer:
    """The state of one request.

    Attributes:
        release: Release that answers.
        settings: Widths and deadlines.
        worked: What the page was made of; there after :meth:`page`.
        tried: Rows on the page that are there to be learnt of.
        viewer: User who asks; there after :meth:`meet`.
        ladder: Rung on which the answer stands so far, and why.
        stages_ms: Time of each stage so far, milliseconds.
    """

    viewer: Viewer
    worked: Worked

    def __init__(
        self,
        release: LoadedRelease,
        settings: FunnelConfig,
        request: PageRequest,
        *,
        pool: StagePool,
        last: LastEmbeddings,
        tracer: trace.Tracer,
        predicate: Predicate | None = None,
    ) -> None:
        self.stages_ms: dict[str, float] = {}
        self.release = release
        self.settings = settings
        if request.exclude_watched is None:
            request = dataclasses.replace(request, exclude_watched=not release.site.repeats)
        self._request = request
        self._pool = pool
        self._last = last
        self._tracer = tracer
        self._predicate = predicate
        self.ladder = Ladder()
        self._rates: Rates | None = None
        self._sources_ms: dict[str, float] = {}
        self.tried: set[int] = set()

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Takes the time of a stage."""
        start = time.perf_counter()
        try:
            with tracing.span(self._tracer, name):
                yield
        finally:
            self.stages_ms[name] = 1000 * (time.perf_counter() - start)

    # ---- who asks ----------------------------------------------------------------------------

    def meet(self, read: Callable[[str], UserHistory], *, now: int) -> None:
        """Reads what the viewer did; without a history store the context must do."""
        with self.stage("history"):
            try:
                history = self._pool.run(
                    "history",
                    functools.partial(read, self._request.user_id),
                    self.settings.history_deadline_s,
                )
            except (errors.HistoryUnavailableError, errors.StageTimeoutError) as error:
                logging.log_every_n_seconds(logging.ERROR, "Serving without history: %s", 1, error)
                self.ladder.fall("history", error)
                history = unknown_user(self._request.user_id)
            # Strictly before now: an event of this very second must count for this page. What lies
            # further ahead this page does not see, and training does not see it for this page
            # either: both go by the time that its impressions are written down with.
            now = max(now, min(history.newest_s + 1, now + AHEAD_S))
            if self._request.session:
                history = history.with_session(self._request.session, now=now)
            self.viewer = self.release.viewer(history, now=now, context=self._request.context)

    # ---- stages ------------------------------------------------------------------------------

    def page(self, exposures: tuple[str, ...] = ()) -> Page:
        """Runs the stages.

        Raises:
            FilterError: What may be shown cannot be decided.
        """
        release = self.release
        with self.stage("query_tower"):
            embedding = self._embedding()
        with self.stage("filters"):
            filters = self.filters()
        with self.stage("retrieval"):
            gathered = self._candidates(embedding, filters)
        with self.stage("ranking"):
            order, said = self._order(gathered, embedding)
            order, tried = self._rearranged(order, gathered)
            if len(filters.resting):
                rests = np.isin(gathered.rows[order], filters.resting)
                order = np.concatenate([order[~rests], order[rests]])
        with self.stage("page"):
            channels, _ = release.catalogue.channels
            chosen = candidates.capped_per_channel(
                order,
                channels[gathered.rows],
                k=self._request.k,
                cap=self.settings.per_channel,
            )
            self.tried = set(gathered.rows[tried].tolist())
            items = self._items(
                gathered.take(chosen), {name: values[chosen] for name, values in said.items()}
            )
        seconds = said.get(page_value.WATCH_TIME)
        self.worked = Worked(embedding, filters, gathered, self._rates, seconds, order, chosen)
        return Page(
            page_id=uuid.uuid4().hex,
            release_id=release.version,
            rung=self.ladder.rung,
            reasons=tuple(self.ladder.reasons),
            falls=tuple(self.ladder.falls),
            now=self.viewer.now,
            items=items,
            stages_ms=self.stages_ms,
            sources_ms=dict(self._sources_ms),
            nominated=gathered.counts(),
            ranked=len(gathered),
            filtered=filters.counts(),
            held_back=filters.examples() if self._request.explain else {},
            viewer_known_by=self.viewer.known_by,
            exposures=exposures,
        )

    def filters(self) -> Filters:
        """Returns what decides what the viewer may be shown."""
        return Filters(
            self.viewer,
            self.release.catalogue,
            self.release.video_rules,
            request=self._request,
            settings=self.settings,
            predicate=self._predicate,
        )

    @functools.cached_property
    def _related_to(self) -> int | None:
        """Row of the video that the page stands beside, None for a page of its own.

        Raises:
            UnknownVideoError: The release does not have it.
        """
        if not self._request.related_to:
            return None
        row = int(self.release.catalogue.rows(pa.array([self._request.related_to]))[0])
        if row < 0:
            raise errors.UnknownVideoError(
                f"video_id {self._request.related_to!r} is not in release {self.release.version}; "
                "a new video is once its row is in the videos table."
            )
        return row

    def _embedding(self) -> np.ndarray | None:
        if self._is_popular:
            self.ladder.stand_on(POPULAR, "retrieval: pages are of what is watched and new")
            return None
        if self.viewer.is_unknown:
            self.ladder.reasons.append("retrieval: nothing is known of the viewer")
            return None
        version, user_id = self.release.version, self.viewer.user_id
        deadline_s = self.settings.query_tower_deadline_s
        try:
            embedding = self._pool.run(
                "query_tower",
                functools.partial(self.release.embed, self.viewer, deadline_s=deadline_s),
                deadline_s,
            )
        except (errors.ModelError, errors.StageTimeoutError) as error:
            logging.log_every_n_seconds(logging.ERROR, "No query embedding: %s", 1, error)
            last = self._last.get(version, user_id)
            rung = NO_RETRIEVAL if last is None else LAST_EMBEDDING
            self.ladder.fall("query_tower", error, to=rung)
            return last
        # Without history it knows less than the one before; who looks may pretend a context.
        if self.ladder.rung != NO_HISTORY and self._request.record:
            self._last.put(version, user_id, embedding)
        return embedding

    def _candidates(self, embedding: np.ndarray | None, filters: Filters) -> Candidates:
        question = Question(
            viewer=self.viewer,
            excluded=filters.excluded,
            upload_times=self.release.catalogue.upload_times,
            embedding=embedding,
            permits=filters.allowed,
            related_to=self._related_to,
        )
        nominations = self._nominations(question)
        distinct = {row for n in nominations.values() for row in n.rows.tolist()}
        if len(distinct) < self._request.k:
            # Popular comes in order, so its longer list begins with its shorter one.
            wanted = self._request.k + len(distinct)
            popular = self.release.popular.fill(question, wanted)
            distinct.update(popular.rows.tolist())
            if len(distinct) < self._request.k and len(filters.resting):
                # Shown too often is better than an empty page, to whoever asks so often.
                question = dataclasses.replace(question, excluded=filters.forbidden)
                popular = self.release.popular.fill(question, wanted + len(filters.resting))
            nominations[sources.POPULAR] = popular
        gathered = candidates.merge(
            nominations, embeddings=self.release.index.embeddings, query=embedding
        )
        live, viewer = self.release.live, self.viewer
        if live is not None:  # Of this very moment: what looks at the past goes on meanwhile.
            self._rates = live.rates(gathered.rows, region=viewer.region, now_s=viewer.now)
        return gathered

    def _nominations(self, question: Question) -> dict[str, Nominations]:
        """Asks all sources side by side; one that fails or is late nominates nothing."""
        is_own = question.related_to is None
        request = self.release.sources if is_own else self.release.related_sources
        if self._is_popular:
            request = tuple(source for source in request if source.name in sources.OF_EVERYBODY)
        works = {s.name: functools.partial(self._nominate, s, question) for s in request}
        outcomes = self._pool.run_all(works, self.settings.sources_deadline_s)
        nominations: dict[str, Nominations] = {}
        for name, outcome in outcomes.items():
            if isinstance(outcome, errors.FilterError):
                # Another one: with its own traceback it is a cycle, which would hold the release.
                raise errors.FilterError(str(outcome))
            if isinstance(outcome, Exception):
                is_known = isinstance(outcome, errors.ServingError)
                logging.error("Source %s failed.", name, exc_info=None if is_known else outcome)
                self.ladder.fall(name, outcome)
                outcome = NOTHING
            if outcome.lacking:
                self.ladder.fall("index_shards", outcome.lacking)
            nominations[name] = outcome
        return nominations

    def _nominate(self, source: Source, question: Question) -> Nominations:
        limit: int = getattr(self.settings, source.limit)
        start = time.perf_counter()
        nominated = source.nominate(question, max(limit, self._request.k))
        self._sources_ms[source.name] = 1000 * (time.perf_counter() - start)
        return nominated

    def _order(
        self, gathered: Candidates, embedding: np.ndarray | None
    ) -> tuple[np.ndarray, Predictions]:
        """Returns candidates best first, and what the ranker says of them; nothing without it."""
        if self._is_popular and self._related_to is None:
            uploads = self.release.catalogue.upload_times[gathered.rows]
            return candidates.by_watches(gathered, self._rates, uploads), {}
        if self._related_to is not None:
            is_ranked = len(gathered) > 0 and not self.viewer.is_unknown and not self._is_popular
            said = self._predictions(gathered) if is_ranked else {}
            return candidates.related_order(gathered, said.get(VALUE)), said
        if embedding is not None and self.settings.order == page_settings.RETRIEVAL:
            self.ladder.stand_on(NO_RANKER, "ranker: pages are ordered by retrieval score")
        elif len(gathered) and (self.viewer.is_unknown or embedding is not None):
            said = self._predictions(gathered)
            order = self._by_value(gathered, said)
            if order is not None:
                return order, said
        if embedding is not None:
            scores = np.nan_to_num(gathered.retrieval_scores, nan=-np.inf)
            return np.argsort(-scores, kind="stable"), {}
        order = candidates.by_turns(gathered, (sources.CO_WATCH, sources.POPULAR))
        if not gathered.counts().get(sources.CO_WATCH):
            self.ladder.rung = POPULAR
        return order, {}

    def _predictions(self, gathered: Candidates) -> Predictions:
        """Returns what the ranker says, and the value by it; nothing, a rung lower, without one."""
        if self.release.ranker is None:
            self.ladder.stand_on(NO_RANKER, f"ranker: release {self.release.version} has no ranker")
            return {}
        deadline_s = self.settings.ranker_deadline_s
        rank = functools.partial(
            self.release.predictions, self.viewer, gathered, deadline_s=deadline_s
        )
        try:
            said: dict[str, np.ndarray] = self._pool.run("ranker", rank, deadline_s)
        except (errors.ModelError, errors.StageTimeoutError) as error:
            logging.log_every_n_seconds(logging.ERROR, "No ranking: %s", 1, error)
            self.ladder.fall("ranker", error)
            return {}
        return {**said, VALUE: self._formula.of(said)}

    @property
    def _is_popular(self) -> bool:
        """Whether no model is asked: none is wanted, or nothing was learnt yet."""
        return self.settings.order == page_settings.POPULAR or self.release.query_tower is None

    @property
    def _formula(self) -> page_value.PageValue:
        return page_value.parse(self.settings.page_value)

    def _by_value(self, gathered: Candidates, said: Predictions) -> np.ndarray | None:
        """Returns candidates best first: by the page's formula, or by the learned order.

        None where there is neither.
        """
        seconds = said.get(page_value.WATCH_TIME)
        order = self.release.order
        learned = page_order.deciding(order, self.settings, is_ranked=seconds is not None)
        if learned is not None:
            columns = self.release.order_columns(self.viewer, gathered, seconds, self._rates)
            if columns is not None:
                return np.argsort(-learned.scores(columns), kind="stable")
        return np.argsort(-said[VALUE], kind="stable") if said else None

    def _rearranged(self, order: np.ndarray, gathered: Candidates) -> tuple[np.ndarray, np.ndarray]:
        """Returns the order by the settings of diversity and exploration, and who was tried."""
        settings, rows, k = self.settings, gathered.rows, self._request.k
        if weight := settings.diversity:
            vectors = self.release.index.embeddings[rows][:, :-1]
            order = diversity.diversified(order, vectors, k=k, weight=weight)
        if not settings.explored or self._related_to is not None:
            return order, order[:0]
        rng = diversity.chance(self.viewer.user_id, self.viewer.now)
        shown, clicked, is_fresh = self.release.known_of(rows, self.viewer.now)
        slots = diversity.slots(k, settings.explored, rng)
        return diversity.explored(
            *(order,), shown=shown, clicked=clicked, is_fresh=is_fresh, slots=slots, k=k, rng=rng
        )

    def _items(self, shown: Candidates, said: Predictions) -> tuple[Item, ...]:
        videos = self.release.shown_columns.take(shown.rows).to_pylist()
        # Plain numbers: NumPy's own are slow one by one.
        bits, retrieval = shown.source_bits.tolist(), shown.retrieval_scores.tolist()
        scores = shown.source_scores.T.tolist()
        nothing = [math.nan] * len(videos)
        told = {name: values.tolist() for name, values in said.items()}
        watch_times, values = told.get(page_value.WATCH_TIME, nothing), told.get(VALUE, nothing)
        heads = [name for name in told if name not in {page_value.WATCH_TIME, VALUE}]
        return tuple(
            Item(
                video_id=video["video_id"],
                position=position,
                video=video,
                sources=shown.names_of(bits[position]),
                source_scores={
                    name: score
                    for name, score in zip(shown.source_names, scores[position], strict=True)
                    if math.isfinite(score)
                },
                retrieval_score=_number(retrieval[position]),
                expected_watch_time_s=_number(watch_times[position]),
                feedback={kind: told[kind][position] for kind in heads},
                value=_number(values[position]),
                is_explored=int(shown.rows[position]) in self.tried,
            )
            for position, video in enumerate(videos)
        )


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None
