"""Why a video is on a viewer's page, and why another is not: told from the stages themselves.

The page is made once more, by the code that makes every page, and recorded nowhere; what it was
made of (:class:`serving.funnel.answer.Worked`) says of each video which filters it passed, who
nominated it, where it stood after each stage, and which one dropped it. It is the page of now: the
one that a viewer has on the screen was made a while ago, and may have changed by being shown.
"""

import math
from collections.abc import Sequence

import numpy as np

from serving import errors
from serving.funnel.answer import Answer
from serving.funnel.candidates import Candidates
from serving.funnel.page import Page
from serving.insight import left_out
from serving.insight.explanations import (
    Contribution,
    Explanation,
    Filter,
    Nearby,
    Nomination,
    OrderPart,
    Outcome,
    Shown,
    Standing,
    Why,
)
from serving.insight.left_out import RawRankers
from serving.insight.standings import Standings

MAX_NEAR = 5
# Of a long history the newest watches are compared.
_COMPARED = 1000
_ORDER_PARTS = 8


def explain(answer: Answer, video_ids: Sequence[str], rankers: RawRankers) -> Explanation:
    """Makes a page and tells of some videos why they are on it or not.

    Args:
        answer: Answer that has met its viewer, see :meth:`serving.funnel.funnel.Funnel.looking`.
        video_ids: Ids of the videos to tell of, on the page or not, known or not.
        rankers: Rankers that can be asked with features missing.

    Raises:
        FilterError: What may be shown cannot be decided.
    """
    page = answer.page()
    rows = answer.release.catalogue.row_of
    known = [video_id for video_id in dict.fromkeys(video_ids) if video_id in rows]
    telling = _Telling(answer, page, rankers, np.array([rows[i] for i in known], np.int32))
    whys = {video_id: telling.why(place) for place, video_id in enumerate(known)}
    return Explanation(
        release_id=page.release_id,
        rung=page.rung,
        reasons=list(page.reasons),
        now=page.now,
        candidates=page.ranked,
        page=[item.video_id for item in page.items],
        groups_told=telling.groups_told,
        videos=[whys.get(i) or _unknown(i, page.release_id) for i in dict.fromkeys(video_ids)],
    )


def _unknown(video_id: str, release_id: str) -> Why:
    return Why(
        video_id=video_id,
        outcome=Outcome.UNKNOWN,
        told=f"Release {release_id} has no such video. A new one joins within seconds of its row "
        "in the videos table.",
    )


class _Telling:
    """What one page was made of, asked about some videos."""

    def __init__(self, answer: Answer, page: Page, rankers: RawRankers, rows: np.ndarray) -> None:
        self._answer = answer
        self._page = page
        self._rows = rows
        self._worked = answer.worked
        self._place_of = {int(row): n for n, row in enumerate(self._worked.gathered.rows)}
        self._standings = Standings(answer)
        self._said = self._candidates()
        self._seconds: np.ndarray | None = None
        self._without: dict[str, np.ndarray] = {}
        self.groups_told = self._leave_out(rankers)

    def _candidates(self) -> Candidates:
        """Returns the videos as the ranker sees them; what nobody nominated has no source."""
        gathered = self._worked.gathered
        places = np.array([self._place_of.get(int(row), -1) for row in self._rows], np.int64)
        is_in = places >= 0
        bits = np.zeros(len(places), np.int64)
        scores = np.full((len(gathered.source_names), len(places)), np.nan, np.float32)
        bits[is_in] = gathered.source_bits[places[is_in]]
        scores[:, is_in] = gathered.source_scores[:, places[is_in]]
        return Candidates(
            rows=self._rows,
            source_names=gathered.source_names,
            source_bits=bits,
            source_scores=scores,
            retrieval_scores=self._standings.retrieval_scores(self._rows),
        )

    def _leave_out(self, rankers: RawRankers) -> str:
        """Asks the ranker without each group; returns why that cannot be told, "" where it is."""
        release = self._answer.release
        if release.ranker is None:
            return "the release has no ranker"
        if not len(self._rows):
            return "none of the videos is known"
        try:
            ranker = rankers.of(release)
            if ranker is None:
                return "the ranker reads prepared videos alone"
            self._seconds, self._without = left_out.without_each(
                ranker, release, self._answer.viewer, self._said
            )
        except errors.ModelError as error:
            return f"the ranker does not answer: {error}"
        return ""

    # ---- one video ---------------------------------------------------------------------------

    def why(self, number: int) -> Why:
        """Returns what there is to tell of a video, by its number among those that are asked of."""
        row = int(self._rows[number])
        video = self._answer.release.shown_columns.slice(row, 1).to_pylist()[0]
        verdicts = self._worked.filters.verdicts(row)
        place = self._place_of.get(row)
        outcome, told, position = self._outcome(row, place, verdicts)
        contributions = self._contributions(number)
        return Why(
            video_id=video["video_id"],
            title=video.get("title"),
            channel_id=video.get("channel_id"),
            topics=[topic for topic in video.get("topics") or [] if topic],
            outcome=outcome,
            told=told,
            position=position,
            retrieval_score=_number(self._said.retrieval_scores[number]),
            expected_watch_time_s=None if self._seconds is None else _number(self._seconds[number]),
            filters=[Filter(name=name, passed=passed) for name, passed in verdicts.items()],
            sources=self._nominations(place),
            standings=self._stages(row, place, position, contributions),
            near=self._near(row),
            shown=self._shown(row),
            contributions=contributions,
            order_parts=self._order_parts(place),
        )

    def _outcome(
        self, row: int, place: int | None, verdicts: dict[str, bool]
    ) -> tuple[Outcome, str, int | None]:
        worked, answer = self._worked, self._answer
        if place is not None and place in worked.chosen:
            position = int(np.flatnonzero(worked.chosen == place)[0])
            return Outcome.SHOWN, f"It is on the page, at place {position + 1}.", position
        if answer.release.catalogue.upload_times[row] > answer.viewer.now:
            return Outcome.NOT_YET, "Its upload time is still to come.", None
        refused = [name for name, passed in verdicts.items() if not passed]
        if refused and place is None:
            return Outcome.FILTERED, f"A filter held it back: {', '.join(refused)}.", None
        if place is None:
            return Outcome.NOT_NOMINATED, self._standings.why_not_nominated(row), None
        if self._standings.is_capped(place):
            cap = answer.settings.per_channel
            told = (
                f"{cap} better videos of its channel are on the page, and more than {cap} may not."
            )
            return Outcome.CHANNEL_CAP, told, None
        at = self._standings.place_in_order(place)
        told = (
            f"It was a candidate, but {at - 1} others stand before it, and the page has "
            f"{len(worked.chosen)} places."
        )
        if row in worked.filters.resting:
            told = f"It was shown often lately and comes last. {told}"
        return Outcome.BELOW, told, None

    def _nominations(self, place: int | None) -> list[Nomination]:
        gathered = self._worked.gathered
        listed = []
        for number, name in enumerate(gathered.source_names):
            scores = gathered.source_scores[number]
            score = math.nan if place is None else float(scores[place])
            better = int((scores > score).sum()) if math.isfinite(score) else None
            listed.append(
                Nomination(
                    source=name,
                    score=_number(score),
                    place=None if better is None else better + 1,
                    of=int(np.isfinite(scores).sum()),
                )
            )
        return listed

    def _stages(
        self, row: int, place: int | None, position: int | None, parts: list[Contribution]
    ) -> list[Standing]:
        most = max(parts, key=lambda one: abs(one.seconds), default=None)
        moved = "" if most is None else f"most by {most.group}: {most.seconds:+.0f} s"
        stages = [self._standings.of_retrieval(row)]
        if place is None:
            return [stage for stage in stages if stage is not None]
        stages += [
            self._standings.of_ranker(place, moved_by=moved),
            self._standings.of_order(place),
            self._standings.of_page(place, position),
        ]
        return [stage for stage in stages if stage is not None]

    def _near(self, row: int) -> list[Nearby]:
        """Returns the watched videos whose embeddings are nearest by cosine."""
        watches = self._answer.viewer.history.watches
        start = max(len(watches.video) - _COMPARED, 0)
        newest = {int(v): int(t) for v, t in zip(watches.video[start:], watches.time[start:],
                                                 strict=True) if v >= 0}  # fmt: skip
        newest.pop(row, None)
        if not newest:
            return []
        rows = np.array(list(newest), np.int32)
        similar = self._standings.similarities(row, rows)
        best = [n for n in np.argsort(-similar, kind="stable")[:MAX_NEAR] if similar[n] > -1]
        videos = self._answer.release.shown_columns.take(rows[best]).to_pylist()
        return [
            Nearby(
                video_id=video["video_id"],
                title=video.get("title"),
                similarity=float(similar[n]),
                time=newest[int(rows[n])],
            )
            for n, video in zip(best, videos, strict=True)
        ]

    def _shown(self, row: int) -> Shown:
        settings, viewer = self._answer.settings, self._answer.viewer
        times = viewer.history.impressions.time[viewer.history.impressions.video == row]
        return Shown(
            times=len(times),
            lately=int((times >= viewer.now - settings.shown_window_s).sum()),
            last=int(times.max()) if len(times) else None,
            window_s=settings.shown_window_s,
            rests_from=settings.max_shown,
        )

    def _contributions(self, number: int) -> list[Contribution]:
        if self._seconds is None:
            return []
        whole = float(self._seconds[number])
        return [
            Contribution(group=group, seconds=whole - float(seconds[number]),
                         without_s=float(seconds[number]))
            for group, seconds in self._without.items()
        ]  # fmt: skip

    def _order_parts(self, place: int | None) -> list[OrderPart]:
        parts = None if place is None else self._standings.order_parts(place)
        if parts is None:
            return []
        told = sorted(parts.items(), key=lambda part: -abs(part[1]))[:_ORDER_PARTS]
        return [OrderPart(name=name, value=value) for name, value in told if value]


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
