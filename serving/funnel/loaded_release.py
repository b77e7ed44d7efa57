"""A release in memory, whole and warm: what the funnel pins for a request."""

import dataclasses
import functools
import pathlib
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from absl import logging

from features import command, feedback, spec, tensors
from features.as_of import examples
from features.as_of.statistics import VideoStatistics
from features.catalogue import Catalogue
from features.durations import DAY_S
from features.event_columns import Queries
from features.spec import ResolvedSpec, Side
from features.tables.site_facts import SiteFacts
from serving import errors
from serving.funnel import filters, page_order, sources
from serving.funnel.candidates import Candidates
from serving.funnel.filters import VideoRules
from serving.funnel.nominations import Built, Source
from serving.funnel.page_order import PageOrder
from serving.funnel.sources import Popular
from serving.funnel.viewer import HOME, Profiles, Viewer, with_vectors
from serving.history.user_history import UserHistory, unknown_user
from serving.index.index import Index, VideoIndex, search_what_answers
from serving.index.shards import Opener
from serving.live.state import LiveState, Rates
from serving.live.view import LiveView
from serving.ordering import page_value
from serving.release import manifest as release
from serving.servables import prepared_videos, signatures
from serving.servables.prepared_videos import PreparedVideos
from serving.servables.signatures import Model
from serving.servables.tensorflow_serving import Backend

_WARM_UP_CANDIDATES = 300
# Uploaded within this time a video may be tried, see serving.ordering.diversity.
_FRESH_S = 3 * DAY_S
_SHOWN_COLUMNS = (
    *("video_id", "title", "channel_id", "topics"),
    *("language", "duration_s", "upload_time", "thumbnail_url"),
)
_WARM_UP_ROUNDS = 8


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoadedRelease:
    """One consistent set of models, index and videos.

    Attributes:
        version: The release id.
        manifest: Manifest of what was published; None in tests.
        resolved: The features of its models.
        catalogue: Videos; row i is row i of the index.
        statistics: Statistics of the videos, up to the day before.
        profiles: Users known at the build.
        index: Index of the catalogue's embeddings.
        query_tower: Raw query features -> ``embedding``; None where nothing was learnt yet.
        ranker: Raw query and candidate features -> ``expected_watch_time_s``; None where the
            logs could not train one.
        sources: Sources of candidates, retrieval first.
        popular: The source of popular videos, also in ``sources``; it can always fill a page.
        prepared: Contributions of videos alone to the ranker; None where it reads them raw.
        live: View of what everybody watches now, in the rows of the catalogue; None without one.
        order: Learned order of pages; None for that of expected watch time or retrieval score.
        on_disk: The release on disk; None in tests.
        withdrawn: int32, sorted: rows of videos that nobody is shown any more.
        rules: Rules from :func:`serving.funnel.filters.current_rules`; None where they are as they
            were built.
    """

    version: str
    manifest: release.Manifest | None
    resolved: ResolvedSpec
    catalogue: Catalogue
    statistics: VideoStatistics
    profiles: Profiles
    index: VideoIndex
    query_tower: Model | None
    ranker: Model | None
    sources: tuple[Source, ...]
    popular: Popular
    prepared: PreparedVideos | None = None
    live: LiveView | None = None
    order: PageOrder | None = None
    on_disk: release.Release | None = None
    withdrawn: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0, np.int32))
    rules: pa.Table | None = None

    @property
    def site(self) -> SiteFacts:
        """What the logs told of the site that the release is for."""
        return SiteFacts() if self.manifest is None else self.manifest.site

    @functools.cached_property
    def video_rules(self) -> VideoRules:
        """What filters look at."""
        rules = self.rules
        if rules is None:
            rules = filters.rule_columns(self.catalogue.table)
        return VideoRules(filters.ruled(self.catalogue, rules), self.withdrawn)

    def with_live(self, state: LiveState) -> "LoadedRelease":
        """Returns the release with the live sources and features of ``state``."""
        view = LiveView(state, self.catalogue)
        live = tuple(source.over(self.catalogue, self.index, view) for source in self.sources)
        return dataclasses.replace(self, live=view, sources=live)

    @functools.cached_property
    def related_sources(self) -> tuple[Source, ...]:
        """The sources of a page that stands beside a video."""
        live = tuple(source for source in self.sources if source.name == sources.CO_WATCH)
        return (sources.Similar(self.index), *live)

    def order_columns(
        self,
        viewer: Viewer,
        candidates: Candidates,
        seconds: np.ndarray | None,
        rates: Rates | None,
    ) -> np.ndarray | None:
        """Returns what a learned order looks at, float64 [n, F]; None without live state."""
        if self.live is None or rates is None:
            return None
        return page_order.columns(
            *(self.live, candidates),
            viewer=viewer,
            upload_times=self.catalogue.upload_times,
            seconds=seconds,
            rates=rates,
        )

    @functools.cached_property
    def shown_columns(self) -> pa.Table:
        """The columns of the videos table that a page shows; it may have a hundred others."""
        have = self.catalogue.table.column_names
        return self.catalogue.table.select([name for name in _SHOWN_COLUMNS if name in have])

    def viewer(self, history: UserHistory, *, now: int, context: Mapping[str, Any]) -> Viewer:
        """Returns who asks, by the store's profile, else the release's; see ``with_vectors``."""
        if not history.profile:
            history = dataclasses.replace(history, profile=self.profiles.of(history.user_id))
        columns = pa.schema([f for f in self.profiles.table.schema if f.name != "user_id"])
        return Viewer.of(
            history,
            now=now,
            context=with_vectors(context, self.resolved),
            catalogue=self.catalogue,
            user_schema=columns,
            from_s=self.resolved.history_from_s,
            counts_feedback=self._counts_feedback,
        )

    @functools.cached_property
    def _counts_feedback(self) -> bool:
        return any(feedback.kind_of(f.column) for f in self.resolved.features)

    def embed(self, viewer: Viewer, *, deadline_s: float | None = None) -> np.ndarray:
        """Returns the query embedding, float32 [D + 1].

        Raises:
            ModelError: The query tower failed, or its embedding does not fit the index.
        """
        if self.query_tower is None:
            raise errors.ModelError(f"release {self.version} has no query tower.")
        ids_of = signatures.ids_of(self.query_tower)
        inputs = self._query_arrays(spec.CANDIDATE, viewer, ids_of)
        output = self.query_tower.predict(inputs, deadline_s=deadline_s)
        embedding = np.asarray(output["embedding"], np.float32)
        if embedding.shape != (1, self.index.dimension) or not np.isfinite(embedding).all():
            raise errors.ModelError(
                f"the query tower of release {self.version} must give one finite embedding of "
                f"width {self.index.dimension}, got shape {embedding.shape}."
            )
        return embedding[0]

    @property
    def heads(self) -> tuple[str, ...]:
        """Kinds of feedback of which the ranker says how probable they are."""
        return () if self.ranker is None else self.resolved.feedback

    def expected_watch_times(
        self, viewer: Viewer, candidates: Candidates, *, deadline_s: float | None = None
    ) -> np.ndarray:
        """Returns only the expected watch times of :meth:`predictions`, float32 [n], seconds."""
        return self.predictions(viewer, candidates, deadline_s=deadline_s)[page_value.WATCH_TIME]

    def predictions(
        self, viewer: Viewer, candidates: Candidates, *, deadline_s: float | None = None
    ) -> dict[str, np.ndarray]:
        """Returns what the ranker says of each candidate, float32 [n], by name.

        That is the expected watch time, seconds, and the probability of each of :attr:`heads`.

        Raises:
            ModelError: There is no ranker, or it failed.
        """
        if self.ranker is None:
            raise errors.ModelError(f"release {self.version} has no ranker.")
        prepared = self.prepared
        if prepared is None:
            inputs = self.raw_ranker_inputs(viewer, candidates)
        else:
            inputs = self._query_arrays(spec.RANKER, viewer, signatures.ids_of(self.ranker))
            inputs |= prepared.static_inputs(candidates.rows)
            inputs |= prepared.nominated_inputs(candidates.source_combinations)
            nominations = {"retrieval_score": pa.array(candidates.retrieval_scores)}
            moment = self._moment(viewer, candidates)
            for kind, features in prepared.moment.items():
                if features:
                    name = spec.vector_column(Side.CANDIDATE, kind)
                    inputs[name] = examples.candidate_numbers(
                        features, **moment, nominations=nominations
                    )
        output = self.ranker.predict(inputs, deadline_s=deadline_s)
        said = {page_value.WATCH_TIME: output["expected_watch_time_s"]}
        said |= {kind: output[kind] for kind in self.heads}
        count = len(candidates)
        for name, values in said.items():
            said[name] = values = np.asarray(values, np.float32).reshape(-1)
            if values.shape != (count,) or np.isnan(values).any():
                raise errors.ModelError(
                    f"the ranker of release {self.version} must give {count} numbers as {name}, "
                    f"got shape {values.shape} with {int(np.isnan(values).sum())} NaN."
                )
        return said

    def known_of(self, rows: np.ndarray, now: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns impressions, clicks, float32 [n], of videos by row; and who is fresh then."""
        times = np.full(len(rows), now, np.int64)
        counts = self.statistics.columns(rows, times)
        shown, clicked = counts["video_impressions_all"], counts["video_clicks_all"]
        if self.live is not None:
            lately = self.live.columns(rows, times)
            shown = shown + lately["video_live_impressions_1d"]
            clicked = clicked + lately["video_live_watches_1d"]
        return shown, clicked, self.catalogue.upload_times[rows] > now - _FRESH_S

    def raw_ranker_inputs(self, viewer: Viewer, candidates: Candidates) -> dict[str, np.ndarray]:
        """Returns the inputs of the ranker's default signature, which reads videos raw, by name."""
        nominations = {
            "retrieval_score": pa.array(candidates.retrieval_scores),
            "candidate_sources": candidates.source_lists,
        }
        batch = examples.candidate_batch(
            self.resolved,
            spec.RANKER,
            **self._moment(viewer, candidates),
            nominations=nominations,
        )
        inputs = self._query_arrays(spec.RANKER, viewer)
        return inputs | tensors.to_arrays(batch, self.resolved, spec.RANKER, Side.CANDIDATE)

    def _moment(self, viewer: Viewer, candidates: Candidates) -> dict[str, Any]:
        count = len(candidates)
        return {
            "catalogue": self.catalogue,
            "video_rows": candidates.rows,
            "history": viewer.history,
            "queries": Queries(np.zeros(count, np.int64), np.full(count, viewer.now, np.int64)),
            "statistics": self.statistics,
            "live": self.live,
        }

    def _query_arrays(
        self, model: str, viewer: Viewer, ids_of: examples.IdsOf | None = None
    ) -> dict[str, np.ndarray]:
        """Returns the query-side inputs of a model: strings, or ids where it tells them."""
        asks: dict[str, Any] = {"request": viewer.request, "users": viewer.users}
        if ids_of is not None:
            asks |= {"past": viewer.past, "ids_of": ids_of}
            return examples.query_arrays(self.resolved, model, **asks)
        batch = examples.query_batch(self.resolved, model, **asks, history=viewer.history)
        return tensors.to_arrays(batch, self.resolved, model, Side.QUERY)

    def warm_up(self) -> None:
        """Answers a few requests of nobody, so that the first real one is not the slow one.

        Raises:
            ModelError, IndexPartialError: It cannot answer, so it must not serve.
        """
        for _ in range(_WARM_UP_ROUNDS):
            self.probe()

    def probe(self) -> None:
        """Makes one real prediction with every model; raises where one, or all the index, fails."""
        if self.query_tower is None:
            return
        viewer = self.viewer(unknown_user(""), now=int(time.time()), context={"surface": HOME})
        query = self.embed(viewer)
        rows, scores, _ = search_what_answers(self.index, query, _WARM_UP_CANDIDATES)
        if self.ranker is not None and len(rows):
            candidates = Candidates(
                rows=rows,
                source_names=(sources.RETRIEVAL,),
                source_bits=np.ones(len(rows), np.int64),
                source_scores=scores[np.newaxis],
                retrieval_scores=scores,
            )
            self.expected_watch_times(viewer, candidates)


def load(
    serving_root: str | pathlib.Path,
    version: str,
    *,
    backend: Backend,
    regional_watches: Callable[[], pa.Table | None] = lambda: None,
    open_shards: Opener | None = None,
) -> LoadedRelease:
    """Loads, verifies and warms up a release.

    Args:
        serving_root: Directory in which it was published.
        version: Release id.
        backend: Runner of its models.
        regional_watches: Function that returns ``region, video_id, watches`` of the last days, None
            where not known.
        open_shards: As of :meth:`serving.index.index.Index.load`.

    Raises:
        InputError: It is incomplete, altered or mixed.
        ModelError: Its models cannot answer.
    """
    start = time.monotonic()
    on_disk = release.load(serving_root, version)
    logging.info("Release %s: files verified; loading.", version)
    catalogue = Catalogue(pq.read_table(on_disk.videos / "videos.parquet").combine_chunks())
    daily = pq.read_table(on_disk.videos / "video_statistics.parquet")
    # The manifest's checksums were compared a moment ago.
    index = Index.load(on_disk.index, hash_contents=False, open_shards=open_shards)
    _require_same_videos(version, index, catalogue)
    _require_rules(version, catalogue)
    logging.info("Release %s: %d videos (%s); loading models.", version, len(index), index.kind)
    built = Built(catalogue=catalogue, index=index, daily=daily, regional=regional_watches())
    opened = tuple(source.of(built) for source in sources.SOURCES)
    resolved = ResolvedSpec.load(on_disk.videos)
    columns = on_disk.videos / prepared_videos.DIRECTORY
    prepared = PreparedVideos.load(columns, resolved) if columns.is_dir() else None
    ranker = None
    if on_disk.ranker is not None:
        signature = signatures.SCORE_PREPARED if prepared else signatures.DEFAULT
        ranker = backend.open(signatures.RANKER, on_disk, signature=signature)
    loaded = LoadedRelease(
        version=version,
        manifest=on_disk.manifest,
        resolved=resolved,
        catalogue=catalogue,
        statistics=VideoStatistics.of(daily, catalogue),
        profiles=Profiles(pq.read_table(on_disk.videos / "users.parquet")),
        index=index,
        query_tower=backend.open(signatures.QUERY_TOWER, on_disk),
        ranker=ranker,
        sources=opened,
        popular=next(source for source in opened if isinstance(source, Popular)),
        prepared=prepared,
        order=page_order.of_release(serving_root, version),
        on_disk=on_disk,
        withdrawn=filters.withdrawn_rows(catalogue, catalogue.table),
    )
    loaded.warm_up()
    logging.info("Release %s is loaded and warm after %.1f s.", version, time.monotonic() - start)
    return loaded


def _require_rules(version: str, catalogue: Catalogue) -> None:
    try:
        filters.rule_columns(catalogue.table)
    except command.InputError as error:
        raise release.ReleaseRefusedError(
            f"release {version} is refused, since no page could be filtered: {error}"
        ) from error


def _require_same_videos(version: str, index: Index, catalogue: Catalogue) -> None:
    if not index.video_ids.cast(pa.string()).equals(catalogue.video_ids.cast(pa.string())):
        raise release.ReleaseRefusedError(
            f"release {version} is refused: its index has {len(index)} videos that are not, row by "
            f"row, the {len(catalogue)} of its videos table. Build it again."
        )
