"""A request through the funnel: history -> candidates -> ranking -> page. No transport here.

Which rungs an answer can stand on is told in :mod:`serving.page`.
"""

import contextlib
import dataclasses
import time
import uuid
from collections.abc import Callable, Iterator

import numpy as np
from absl import logging

from serving import candidates, errors, sources
from serving.candidates import Candidates
from serving.events import Event, Kind
from serving.history_store import HistoryStore, UserHistory, unknown_user
from serving.loaded_release import LoadedRelease
from serving.page import FULL, MAX_K, NO_RANKER, POPULAR, FunnelSettings, Item, Page, PageRequest
from serving.recorder import Recorder
from serving.release_watcher import Releases
from serving.viewer import Viewer


class Funnel:
    """Answers page requests; safe for threads."""

    def __init__(
        self,
        *,
        releases: Releases,
        history: HistoryStore,
        recorder: Recorder | None,
        settings: FunnelSettings | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Wires the parts.

        Args:
            releases: Where the release of a request comes from.
            history: What users did.
            recorder: Takes what was served; None serves without a trace.
            settings: Widths and deadlines.
            clock: Unix seconds.
        """
        self.settings = settings or FunnelSettings()
        self._releases = releases
        self._history = history
        self._recorder = recorder
        self._clock = clock

    def recommend(self, asked: PageRequest) -> Page:
        """Returns a page, on the best rung that holds.

        Raises:
            InvalidRequestError: ``k`` is out of range.
            NotReadyError: No release is loaded.
        """
        if not 1 <= asked.k <= MAX_K:
            raise errors.InvalidRequestError(f"k must be in [1, {MAX_K}], got {asked.k}.")
        with self._releases.pin() as release:
            answer = _Answer(release, self.settings, asked)
            with answer.stage("history"):
                found = self._read_history(asked.user_id, answer)
                # Strictly before now: an event of this very second must count for this page.
                now = max(int(self._clock()), found.newest_s + 1)
                answer.viewer = release.viewer(found, now=now, context=asked.context)
            page = answer.page()
        return self._recorded(page, answer)

    def _read_history(self, user_id: str, answer: "_Answer") -> UserHistory:
        try:
            return self._history.read(user_id)
        except errors.HistoryUnavailableError as error:
            logging.error("Serving without history: %s", error)
            answer.reasons.append(f"history: {error}")
            return unknown_user(user_id)

    def _recorded(self, page: Page, answer: "_Answer") -> Page:
        if self._recorder is None or not page.items:
            return page
        with answer.stage("record"):
            try:
                self._recorder.record_page(_impressions(page, answer.viewer), answer.viewer.profile)
                recorded = True
            except errors.ServingError as error:
                # The viewer must not pay for our disk.
                logging.error("Page %s is not recorded: %s", page.request_id, error)
                recorded = False
        return dataclasses.replace(page, recorded=recorded, stages_ms=answer.stages_ms)


class _Answer:
    """The state of one request."""

    viewer: Viewer

    def __init__(
        self, release: LoadedRelease, settings: FunnelSettings, asked: PageRequest
    ) -> None:
        self.reasons: list[str] = []
        self.stages_ms: dict[str, float] = {}
        self._release = release
        self._settings = settings
        self._asked = asked

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Takes the time of a stage."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.stages_ms[name] = 1000 * (time.perf_counter() - start)

    def page(self) -> Page:
        """Runs the stages."""
        with self.stage("query_tower"):
            embedding = self._embedding()
        with self.stage("retrieval"):
            found, excluded = self._candidates(embedding)
        with self.stage("ranking"):
            order, seconds, rung = self._order(found, embedding)
        with self.stage("page"):
            channels, _ = self._release.catalogue.channels
            chosen = candidates.capped_per_channel(
                order,
                channels[found.rows],
                k=self._asked.k,
                cap=self._settings.per_channel,
            )
            items = self._items(found.take(chosen), None if seconds is None else seconds[chosen])
        return Page(
            request_id=uuid.uuid4().hex,
            release_id=self._release.version,
            rung=rung,
            reasons=tuple(self.reasons),
            now=self.viewer.now,
            items=items,
            stages_ms=self.stages_ms,
            nominated=found.counts(),
            ranked=len(found),
            excluded=excluded,
        )

    def _embedding(self) -> np.ndarray | None:
        if self.viewer.is_unknown:
            self.reasons.append("retrieval: nothing is known of the viewer")
            return None
        try:
            return self._release.embed(
                self.viewer, deadline_s=self._settings.query_tower_deadline_s
            )
        except errors.ModelError as error:
            logging.error("No query embedding: %s", error)
            self.reasons.append(f"query_tower: {error}")
            return None

    def _candidates(self, embedding: np.ndarray | None) -> tuple[Candidates, int]:
        excluded = self.viewer.watched_rows if self._asked.exclude_watched else _NO_ROWS
        question = sources.Question(
            viewer=self.viewer,
            excluded=excluded,
            upload_times=self._release.catalogue.upload_times,
            embedding=embedding,
        )
        nominations = {}
        for source in self._release.sources:
            wide = source.name == sources.RETRIEVAL
            limit = self._settings.retrieved if wide else self._settings.per_source
            nominations[source.name] = source.nominate(question, max(limit, self._asked.k))
        distinct = {row for n in nominations.values() for row in n.rows.tolist()}
        if len(distinct) < self._asked.k:
            # Popular comes in order, so its longer list begins with its shorter one.
            nominations[sources.POPULAR] = self._release.popular.fill(
                question, self._asked.k + len(distinct)
            )
        merged = candidates.merge(
            nominations, embeddings=self._release.index.embeddings, query=embedding
        )
        return merged, len(excluded)

    def _order(
        self, found: Candidates, embedding: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray | None, str]:
        """Returns candidates best first, their expected watch times if known, and the rung."""
        known = self.viewer.is_unknown or embedding is not None
        if known and len(found):
            try:
                seconds = self._release.expected_watch_times(
                    self.viewer, found, deadline_s=self._settings.ranker_deadline_s
                )
                return np.argsort(-seconds, kind="stable"), seconds, FULL
            except errors.ModelError as error:
                if self._release.ranker is not None:
                    logging.error("No ranking: %s", error)
                self.reasons.append(f"ranker: {error}")
        if embedding is not None:
            return np.argsort(-found.retrieval_scores, kind="stable"), None, NO_RANKER
        return _by_popularity(found), None, POPULAR

    def _items(self, shown: Candidates, seconds: np.ndarray | None) -> tuple[Item, ...]:
        rows = self._release.catalogue.table.take(shown.rows).to_pylist()
        return tuple(
            Item(
                video_id=video["video_id"],
                position=position,
                video=video,
                sources=shown.names_of(int(shown.source_bits[position])),
                source_scores={
                    name: float(shown.source_scores[s, position])
                    for s, name in enumerate(shown.source_names)
                    if np.isfinite(shown.source_scores[s, position])
                },
                retrieval_score=_number(shown.retrieval_scores[position]),
                expected_watch_time_s=None if seconds is None else _number(seconds[position]),
            )
            for position, video in enumerate(rows)
        )


_NO_ROWS = np.zeros(0, np.int32)


def _by_popularity(found: Candidates) -> np.ndarray:
    """Returns what the popular source nominated in its order, then the rest as it comes."""
    scores = found.source_scores[found.source_names.index(sources.POPULAR)]
    return np.argsort(-np.nan_to_num(scores, nan=-np.inf), kind="stable")


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _impressions(page: Page, viewer: Viewer) -> list[Event]:
    return [
        Event(
            event_id=f"{page.request_id}/{item.position}",
            kind=Kind.IMPRESSION,
            user_id=viewer.user_id,
            time=page.now,
            video_id=item.video_id,
            page_id=page.request_id,
            position=item.position,
            surface=viewer.context["surface"],
            device=viewer.context["device"],
            candidate_sources=item.sources,
            retrieval_score=item.retrieval_score,
            release_id=page.release_id,
        )
        for item in page.items
    ]
