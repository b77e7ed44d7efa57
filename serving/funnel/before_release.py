"""What serves before anything was learned: a release without models, made of the logs' tables.

A new site has videos, users and no logs to learn from. Its pages are then of what is watched just
now and of what is new, in the order of how much is watched, so that there is something to log; the
first release that is published takes its place.
"""

import dataclasses
import os
import pathlib
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from absl import logging

from features.as_of import statistics
from features.as_of.statistics import VideoStatistics
from features.catalogue import Catalogue
from features.spec import ResolvedSpec
from features.tables import log_files, logs, schema
from serving.funnel import filters, sources
from serving.funnel.loaded_release import LoadedRelease
from serving.funnel.nominations import NOTHING, Built, Nominations, Question, Source
from serving.funnel.sources import Popular
from serving.funnel.viewer import Profiles
from serving.index.exact_search import Floats, Rows
from serving.live.view import LiveView
from serving.servables import signatures

# No release has it: versions are times.
VERSION = "0"


class NoIndex:
    """An index of videos of which nothing was learnt: it finds none.

    Attributes:
        kind: ``none``.
        dimension: 1: there is but the bias that says so.
        answering: 1.
        embeddings: float32 [N, 1].
    """

    kind = "none"
    dimension = 1
    answering = 1.0

    def __init__(self, videos: int) -> None:
        self.embeddings = np.full((videos, 1), signatures.UNREACHABLE_BIAS, np.float32)

    def __len__(self) -> int:
        return len(self.embeddings)

    def search(self, queries: Floats, k: int) -> tuple[Rows, Floats]:
        """Returns no rows for each query."""
        del k
        return np.zeros((len(queries), 0), np.int32), np.zeros((len(queries), 0), np.float32)


class PopularNow(Popular):
    """Most watched within a day, where the viewer is: no release has counted anything yet."""

    reads = ("catalogue", "live")

    def __init__(self, catalogue: Catalogue, live: LiveView | None = None) -> None:
        super().__init__(statistics.merge([]), catalogue)
        self._live = live

    @classmethod
    def of(cls, built: Built) -> "PopularNow":
        """Returns the source of a catalogue; it nominates when it is :meth:`over` live state."""
        return cls(built.catalogue)

    def nominate(self, question: Question, limit: int) -> Nominations:
        """Returns what is watched most now; the score is the watches of a day, decayed."""
        if self._live is None:
            return NOTHING
        viewer = question.viewer
        rows = self._live.trending_rows(viewer.region)
        watched = self._live.rates(rows, region=viewer.region, now_s=viewer.now).of_day_here
        best = np.argsort(-watched, kind="stable")
        listed = Nominations(rows[best], watched[best].astype(np.float32))
        return question.first_allowed(listed, limit)


def load(logs_dir: str | os.PathLike[str], *, now_s: int) -> LoadedRelease:
    """Returns what serves while nothing is published.

    Args:
        logs_dir: Raw logs; without a videos table there is nothing to show until it comes, or
            until something is watched.
        now_s: Moment, Unix seconds; later rows are left out.
    """
    videos = _usable(logs_dir, "videos", now_s)
    # Files are read in the order of their names, which say nothing.
    oldest_first = [("upload_time", "ascending"), ("video_id", "ascending")]
    catalogue = Catalogue(videos.sort_by(oldest_first).combine_chunks())
    daily = statistics.merge([])
    logging.warning(
        "Nothing is published yet: pages are of what is watched and new, out of %d videos.",
        len(catalogue),
    )
    opened = _sources(catalogue)
    return LoadedRelease(
        version=VERSION,
        manifest=None,
        resolved=ResolvedSpec(features=()),
        catalogue=catalogue,
        statistics=VideoStatistics.of(daily, catalogue),
        profiles=Profiles(_usable(logs_dir, "users", now_s)),
        index=NoIndex(len(catalogue)),
        query_tower=None,
        ranker=None,
        sources=opened,
        popular=_popular(opened),
        withdrawn=filters.withdrawn_rows(catalogue, catalogue.table),
    )


def over(release: LoadedRelease, catalogue: Catalogue) -> LoadedRelease:
    """Returns such a release over a longer catalogue."""
    opened = _sources(catalogue)
    return dataclasses.replace(
        release,
        catalogue=catalogue,
        index=NoIndex(len(catalogue)),
        sources=opened,
        popular=_popular(opened),
    )


def _sources(catalogue: Catalogue) -> tuple[Source, ...]:
    index = NoIndex(len(catalogue))
    built = Built(catalogue=catalogue, index=index, daily=statistics.merge([]))
    return tuple(
        (PopularNow if source is Popular else source).of(built) for source in sources.SOURCES
    )


def _popular(opened: Sequence[Source]) -> Popular:
    return next(source for source in opened if isinstance(source, Popular))


def _usable(logs_dir: str | os.PathLike[str], name: str, now_s: int) -> pa.Table:
    """Returns the rows of a table that count; with its known columns where there is none."""
    if not log_files.files_of(pathlib.Path(logs_dir), name):
        return schema.empty(name)
    rows = logs.read_table(logs_dir, name)
    usable, _ = schema.validate(name, rows, known_video_ids=None, known_user_ids=None, now_s=now_s)
    return usable.combine_chunks()
