"""Pages of several settings at the same moments of a simulated log, judged by its truth.

Before each watch of the log every arm is asked for a page of its user, with what was known then.
The truth says how probable a click on each place is, and what the watch would be worth. Clicks are
drawn from that, and shown and clicked videos count for the arm's later pages as they would in a
server: what exploration learns, it can use.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa

from features.durations import DAY_S
from pipeline.site.truth import Truth
from serving.batch.past_funnel import PastAnswer, PastFunnel
from serving.events.event import Kind
from serving.live.state import Happened

_BATCH = 64  # Pages between which what happened on them becomes known.
# Times that a video must be shown for its click rate to be known to about a third.
SHOWN_OFTEN = 20
CLICKS, WATCH_TIME, SATISFACTION = "clicks", "watch seconds", "satisfaction"
FRESH, EXPLORED, TOPICS, CHANNELS, LIKENESS = (
    "share of places with uploads of the last day",
    "share of places explored",
    "topics",
    "channels",
    "likeness of two videos",
)


@dataclasses.dataclass(frozen=True)
class Judged:
    """What the pages of one arm were.

    Attributes:
        user_ids: Who each page was for, [pages].
        values: Measure to its value on each page, float64 [pages]; NaN where a page has none.
        uploads: Number of times that each video uploaded meanwhile was shown, float64 [uploads].
        upload_clicks: Clicks that these videos may expect on all pages.
    """

    user_ids: Sequence[str]
    values: Mapping[str, np.ndarray]
    uploads: np.ndarray
    upload_clicks: float


class ArmFunnel(PastFunnel):
    """A funnel whose own pages have consequences."""

    def judged(self, truth: Truth, *, seed: int) -> Judged:
        """Goes through the log once; clicks are drawn with ``seed``."""
        rng = np.random.default_rng(seed)
        catalogue = self.release.catalogue
        shown, clicks = np.zeros(len(catalogue)), np.zeros(len(catalogue))
        users = self._watches["user_id"]
        of_page: list[dict[str, float]] = []
        user_ids: list[str] = []
        for start in range(0, len(self.labels), _BATCH):
            # All of a batch first: pages are ranked in threads, and what happens must not meet them
            # half way.
            for number, answer in list(self.answers(self.labels[start : start + _BATCH])):
                user_id = users[number].as_py()
                worth = self._worth(truth, user_id, answer)
                of_page.append({name: float(v.sum()) for name, v in worth.items()})
                of_page[-1] |= self._make_up(answer)
                user_ids.append(user_id)
                np.add.at(shown, answer.shown.rows, 1.0)
                np.add.at(clicks, answer.shown.rows, worth[CLICKS])
                self._let_happen(answer, user_id, rng.random(len(answer.shown)) < worth[CLICKS])
        times = catalogue.upload_times
        is_upload = (times >= (self.settings.from_s or 0)) & (
            times <= self._times[self.labels].max()
        )
        return Judged(
            user_ids=user_ids,
            values={name: np.array([page[name] for page in of_page]) for name in of_page[0]},
            uploads=shown[is_upload],
            upload_clicks=float(clicks[is_upload].sum()),
        )

    def _worth(self, truth: Truth, user_id: str, answer: PastAnswer) -> dict[str, np.ndarray]:
        ids = self._ids(answer)
        users = [user_id] * len(ids)
        clicked = truth.click_probability(
            users,
            ids,
            times=[answer.viewer.now] * len(ids),
            position=np.arange(len(ids)),
            recent_unclicked_impressions=np.zeros(len(ids)),
        )
        return {
            CLICKS: clicked,
            WATCH_TIME: clicked * truth.expected_watch_time_s(users, ids),
            SATISFACTION: clicked * truth.satisfaction(users, ids),
        }

    def _ids(self, answer: PastAnswer) -> list[str]:
        ids = self.release.catalogue.video_ids.take(pa.array(answer.shown.rows))
        return [str(video_id) for video_id in ids.to_pylist()]

    def _make_up(self, answer: PastAnswer) -> dict[str, float]:
        catalogue, rows = self.release.catalogue, answer.shown.rows
        offsets, codes, _ = catalogue.topics
        vectors = self.release.index.embeddings[rows][:, :-1]
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)
        vectors = vectors / np.where(norms > 0, norms, 1.0)
        pairs = max(len(rows) * (len(rows) - 1), 1)
        return {
            FRESH: float((catalogue.upload_times[rows] > answer.viewer.now - DAY_S).mean()),
            EXPLORED: float(np.isin(rows, list(answer.tried)).mean()),
            TOPICS: len({c for r in rows for c in codes[offsets[r] : offsets[r + 1]].tolist()}),
            CHANNELS: len(np.unique(catalogue.channels[0][rows])),
            LIKENESS: float((vectors @ vectors.T).sum() - (norms > 0).sum()) / pairs,
        }

    def _let_happen(self, answer: PastAnswer, user_id: str, clicked: np.ndarray) -> None:
        """Tells the live state what was shown and what of it is watched."""
        ids = np.array(self._ids(answer))
        for kind, videos in ((Kind.IMPRESSION, ids), (Kind.WATCH, ids[clicked])):
            times = np.full(len(videos), answer.viewer.now, np.int64)
            if len(videos):
                self._state.add(Happened(kind, [user_id] * len(videos), videos.tolist(), times))
