"""The whole funnel at the moments of a log, for :mod:`serving.batch.backtest`."""

import concurrent.futures
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from features import command, spec, tensors
from features.as_of import examples
from features.catalogue import combined
from features.screen import progress
from features.spec import Side
from serving import errors
from serving.batch.config import BacktestConfig
from serving.batch.order_learning import Lessons
from serving.batch.page_scores import Scores
from serving.batch.past_log import PastLog
from serving.batch.past_viewers import PastViewers
from serving.events.event import Kind
from serving.funnel import loaded_release, page_order
from serving.funnel.answer import Answer, Predictions
from serving.funnel.candidates import Candidates
from serving.funnel.deadlines import StagePool
from serving.funnel.filters import Filters
from serving.funnel.fresh_shelf import Shelver
from serving.funnel.loaded_release import LoadedRelease
from serving.funnel.page import FunnelConfig, Item, PageRequest
from serving.funnel.rungs import LastEmbeddings
from serving.funnel.viewer import HOME
from serving.live import seed as live_seed
from serving.live.state import LiveState
from serving.ordering import page_value
from serving.process.tracing import NO_TRACER
from serving.release.manifest import Release
from serving.servables.embedded import EmbeddedBackend

_BATCH = 256
_THREADS = 2
SCHEMA = pa.schema(
    {
        "query_id": pa.int64(),
        "user_id": pa.string(),
        "time": pa.int64(),
        "watched_video_id": pa.string(),
        "rank": pa.int64(),
        "video_id": pa.string(),
        "sources": pa.list_(pa.string()),
    }
)


def opened(
    release_on_disk: Release,
    serving_root: pathlib.Path,
    logs_dir: pathlib.Path,
    settings: BacktestConfig,
) -> "PastFunnel":
    """Loads release and log."""
    return PastFunnel(*loaded(release_on_disk, serving_root, logs_dir, settings), settings)


def loaded(
    release_on_disk: Release,
    serving_root: pathlib.Path,
    logs_dir: pathlib.Path,
    settings: BacktestConfig,
) -> tuple[LoadedRelease, PastLog]:
    """Loads a release, with all videos of a log on its shelf, and the log."""
    backend = EmbeddedBackend()
    release = loaded_release.load(serving_root, release_on_disk.version, backend=backend)
    log = PastLog.read(logs_dir, settings.until_s)
    try:
        release = Shelver.open(release, backend).with_videos(log.videos)
    except errors.ServingError as error:
        raise command.InputError(str(error)) from error
    return release, log


class PastFunnel:
    """A funnel that goes through a log; see :mod:`serving.batch.backtest`."""

    def __init__(self, release: LoadedRelease, log: PastLog, settings: BacktestConfig) -> None:
        self.settings = settings
        self._funnel = settings.funnel
        self._watches = log.tables["watches"]
        self._times = np.asarray(combined(self._watches["time"]), np.int64)
        # What a page is for: time where there is a ranker, which reads it, and else watches.
        self._counts = np.ones(len(self._times))
        if release.ranker is not None:
            self._counts = np.asarray(combined(self._watches["watch_time_s"]), np.float64)
        self.labels = self._chosen()
        self._places = np.arange(len(self.labels))
        self._state = LiveState(half_life_s=release.site.half_life_s)
        self._excludes_watched = (
            not release.site.repeats
            if settings.exclude_watched is None
            else settings.exclude_watched
        )
        users = log.users
        if "region" in users.column_names:
            for user, region in zip(
                users["user_id"].to_pylist(), users["region"].to_pylist(), strict=True
            ):
                self._state.meet(user, region or "")
        self._streams = [
            live_seed.Stream(Kind.WATCH, self._watches),
            live_seed.Stream(Kind.IMPRESSION, log.tables.get("impressions")),
        ]
        first = [*self._times[self.labels[:1]], settings.from_s or 0]
        live_seed.seed(self._state, self._streams, until_s=int(first[0]))
        self.release = release.with_live(self._state)
        self._viewers = PastViewers(release, log.tables, users)
        self._pool = _Inline(1)
        self._threads = concurrent.futures.ThreadPoolExecutor(_THREADS, "answer")
        self._rows = release.catalogue.rows(self._watches["video_id"])
        self.scores = Scores(release.catalogue, self._rows, self._times)

    def _chosen(self) -> np.ndarray:
        settings = self.settings
        labels = np.flatnonzero(self._times >= (settings.from_s or 0))
        if 0 < settings.sample < len(labels):
            labels = labels[np.linspace(0, len(labels) - 1, settings.sample).astype(np.int64)]
        return labels

    def lessons(self) -> Lessons:
        """Returns the candidates before each watch that was among them."""
        lessons = Lessons()
        users = self._watches["user_id"]
        progress.at("asking for pages", total=len(self.labels), unit="watches")
        for start in range(0, len(self.labels), _BATCH):
            numbers = self.labels[start : start + _BATCH]
            progress.add(len(numbers))
            for number, answer in self.answers(numbers):
                place = np.flatnonzero(answer.gathered.rows == self._rows[number])
                if answer.columns is not None and len(place):
                    user_id = users[int(number)].as_py()
                    count = float(self._counts[number])
                    lessons.add(answer.columns, int(place[0]), user_id=user_id, count=count)
        return lessons

    @property
    def order_in_words(self) -> str:
        """What decides the order of pages."""
        is_ranked = self.release.ranker is not None
        return page_order.in_words(self.release.order, self._funnel, is_ranked=is_ranked)

    def keep_every(self, number: int, count: int) -> None:
        """Asks for every ``count``-th of the watches only."""
        self._places = self._places[number::count]

    def pages(self) -> Iterator[pa.Table]:
        """Yields the output of some watches after the other."""
        progress.at("asking for pages", total=len(self._places), unit="watches")
        for start in range(0, len(self._places), _BATCH):
            places = self._places[start : start + _BATCH]
            numbers = self.labels[places]
            shown = []
            for number, answer in self.answers(numbers):
                watched = answer.viewer.watched_rows if self._excludes_watched else None
                self.scores.add(
                    number,
                    answer.gathered,
                    answer.shown.rows,
                    rung=answer.rung,
                    excluded=watched,
                )
                shown.append(answer.shown)
            yield self._output(places, numbers, shown)
            progress.add(len(places))

    def answers(self, numbers: np.ndarray) -> Iterator[tuple[int, "PastAnswer"]]:
        """Asks for some watches, in the order of their times; each then happens."""
        batch = self._watches.take(pa.array(numbers))
        users = batch["user_id"].to_pylist()
        contexts = [{"surface": HOME, "device": d} for d in _strings(batch, "device")]
        embeddings = self._embeddings(users, self._times[numbers], contexts)
        answers = [
            (number, self._threads.submit(self._answer(user, number, context, embedding).finish))
            for user, number, context, embedding in zip(
                users, numbers.tolist(), contexts, embeddings, strict=True
            )
        ]
        for number, answer in answers:
            yield number, answer.result()

    def _embeddings(
        self, users: Sequence[str], times: np.ndarray, contexts: Sequence[Mapping[str, str]]
    ) -> np.ndarray:
        """Returns the query embeddings of many moments, each from what was before it."""
        raw = examples.query_batch(
            self.release.resolved,
            spec.CANDIDATE,
            request=self._viewers.request(users, times, contexts),
            users=self._viewers.profiles,
            history=self._viewers.history,
        )
        inputs = tensors.to_arrays(raw, self.release.resolved, spec.CANDIDATE, Side.QUERY)
        assert self.release.query_tower is not None  # It was published.
        return np.asarray(self.release.query_tower.predict(inputs)["embedding"], np.float32)

    def _answer(
        self, user_id: str, number: int, context: Mapping[str, str], embedding: np.ndarray
    ) -> "PastAnswer":
        now = int(self._times[number])
        for stream in self._streams:
            events = stream.until(now)
            if events is not None:
                self._state.add(events)
        request = self._request(user_id, number, context)
        answer = PastAnswer(
            self.release, self._funnel, request, pool=self._pool, embedding=embedding
        )
        answer.viewer = self._viewers.viewer(user_id, now, context)
        answer.gather()
        return answer

    def _request(self, user_id: str, number: int, context: Mapping[str, str]) -> PageRequest:
        """Returns what is asked before a watch of this number."""
        del number
        return PageRequest(
            user_id=user_id,
            k=self.settings.k,
            context=dict(context),
            exclude_watched=self._excludes_watched,
        )

    def _output(
        self, places: np.ndarray, numbers: np.ndarray, shown: Sequence[Candidates]
    ) -> pa.Table:
        lengths = np.array([len(page) for page in shown])
        rows = np.concatenate([page.rows for page in shown])
        owner = pa.array(np.repeat(np.arange(len(numbers)), lengths))
        batch = self._watches.take(pa.array(numbers)).take(owner)
        ranks = np.concatenate([np.arange(1, length + 1) for length in lengths])
        return pa.table(
            {
                "query_id": places[np.asarray(owner)],
                "user_id": batch["user_id"],
                "time": batch["time"],
                "watched_video_id": batch["video_id"],
                "rank": ranks,
                "video_id": self.release.catalogue.video_ids.take(pa.array(rows)),
                "sources": pa.concat_arrays([page.source_lists for page in shown]),
            }
        )


class PastAnswer(Answer):
    """An answer whose embedding is there already, and that keeps candidates instead of items."""

    def __init__(
        self,
        release: LoadedRelease,
        settings: FunnelConfig,
        request: PageRequest,
        *,
        pool: StagePool,
        embedding: np.ndarray,
    ) -> None:
        super().__init__(
            release, settings, request, pool=pool, last=LastEmbeddings(), tracer=NO_TRACER
        )
        self._given = embedding
        self.rung = ""
        self.columns: np.ndarray | None = None

    def _embedding(self) -> np.ndarray | None:
        return None if self.viewer.is_unknown else self._given

    def gather(self) -> None:
        """Asks the sources, of which some only know the present."""
        filters = Filters(
            self.viewer,
            self.release.catalogue,
            self.release.video_rules,
            request=self._request,
            settings=self.settings,
        )
        self.gathered = super()._candidates(self._embedding(), filters)

    def finish(self) -> "PastAnswer":
        """Ranks what :meth:`gather` found, while the log goes on.

        What it looks at is of whole minutes before the moment, or was looked up then.
        """
        self.rung = self.page().rung
        return self

    def _candidates(self, embedding: np.ndarray | None, filters: Filters) -> Candidates:
        del embedding, filters
        return self.gathered

    def _by_value(self, candidates: Candidates, said: Predictions) -> np.ndarray | None:
        if self.release.order is None:
            seconds = said.get(page_value.WATCH_TIME)
            self.columns = self.release.order_columns(self.viewer, candidates, seconds, self._rates)
        return super()._by_value(candidates, said)

    def _items(self, shown: Candidates, said: Predictions) -> tuple[Item, ...]:
        del said
        self.shown = shown
        return ()


class _Inline(StagePool):
    """Runs one stage after the other: nobody waits, so nothing is gained by threads."""

    def run(self, name: str, work: Any, deadline_s: float) -> Any:
        """Runs the stage at once, without a deadline; else as in :class:`StagePool`."""
        del name, deadline_s
        return work()

    def run_all(self, works: Mapping[str, Any], deadline_s: float) -> dict[str, Any]:
        """Runs them in turn; an error is an error, where a server would do without."""
        return {name: self.run(name, work, deadline_s) for name, work in works.items()}


def _strings(table: pa.Table, name: str) -> list[str]:
    if name not in table.column_names:
        return [""] * table.num_rows
    return [value or "" for value in pc.cast(table[name], pa.string()).to_pylist()]
