"""Between the schema of the HTTP API and the types of the funnel."""

import datetime
import time
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from features import feedback
from serving import errors
from serving.events.event import Event, Kind, time_fault
from serving.funnel.loaded_release import LoadedRelease
from serving.funnel.page import Item, Page, PageRequest
from serving.history.user_history import Blocked, UserHistory
from serving.server import pages
from serving.server import schema as http_schema

_STATUS: Mapping[type[errors.ServingError], int] = {
    errors.UnknownVideoError: 404,
    errors.NotPossibleError: 409,
    errors.InvalidRequestError: 422,
    errors.OverloadedError: 503,
    errors.NotReadyError: 503,
    errors.HistoryUnavailableError: 503,
    errors.EventLogError: 503,
    errors.FilterError: 503,
    errors.StageTimeoutError: 503,
    errors.IndexPartialError: 503,
    errors.ModelError: 503,
}


def status_of(error: Exception) -> int:
    """Returns the HTTP status that tells of an error: 500 for one that nobody expected."""
    return next((s for kind, s in _STATUS.items() if isinstance(error, kind)), 500)


# The surface of related videos, where the request names none.
RELATED = "related"


def event_of(reported: http_schema.EventIn, *, now: int) -> Event:
    """Returns the event, with the time of arrival where it names none.

    Raises:
        InvalidRequestError: Its time is not one of now, see
            :func:`serving.events.event.time_fault`.
    """
    fault = None if reported.time is None else time_fault(reported.time, now=now)
    if fault:
        raise errors.InvalidRequestError(f"time of event {reported.event_id!r} {fault}.")
    is_feedback = reported.type in feedback.KINDS
    return Event(
        event_id=reported.event_id,
        kind=Kind.FEEDBACK if is_feedback else Kind(reported.type),
        user_id=reported.user_id,
        time=min(reported.time or now, now),
        video_id=reported.video_id or "" if reported.type != "search" else "",
        query=reported.query or "" if reported.type == "search" else "",
        watch_time_s=reported.watch_time_s or 0.0,
        completed=reported.completed,
        clicked=reported.clicked,
        page_id=reported.page_id,
        position=-1 if reported.position is None else reported.position,
        source=reported.source,
        surface=reported.surface,
        device=reported.device,
        feedback=reported.type if is_feedback else "",
        channel_id=reported.channel_id or "",
        value=reported.value,
    )


PageBody = http_schema.RecommendationsRequest | http_schema.RelatedRequest


def request_of(body: PageBody, *, traceparent: str = "") -> PageRequest:
    """Returns the request in the form of the funnel."""
    record = not body.debug if body.record is None else body.record
    related_to = body.video_id if isinstance(body, http_schema.RelatedRequest) else ""
    context = body.context.known()
    if related_to and "surface" not in body.context.model_fields_set:
        context["surface"] = RELATED
    return PageRequest(
        user_id=body.user_id or "",
        k=body.k,
        context=context,
        exclude_watched=body.exclude_watched,
        blocked=blocked_of(body.blocked),
        explain=body.debug,
        record=record and bool(body.user_id),
        exclude=tuple(body.exclude),
        topics=tuple(body.topics),
        languages=tuple(body.languages),
        session=tuple(body.session),
        related_to=related_to,
        traceparent=traceparent,
    )


def blocked_of(given: http_schema.Blocked) -> Blocked:
    """Returns what a user does not want to see, each once."""
    return Blocked(
        videos=tuple(dict.fromkeys(given.videos)), channels=tuple(dict.fromkeys(given.channels))
    )


def page_answer(
    page: Page, *, debug: bool, hosts: Collection[str] = ()
) -> http_schema.RecommendationsAnswer:
    """Returns a page in the form of the API; thumbnails are those of ``hosts``."""
    explained = None
    if debug:
        explained = http_schema.Debug(
            stages_ms={name: round(value, 3) for name, value in page.stages_ms.items()},
            nominated=dict(page.nominated),
            candidates=page.ranked,
            sources_ms={name: round(value, 3) for name, value in page.sources_ms.items()},
            filtered=dict(page.filtered),
            held_back=dict(page.held_back),
            viewer_known_by=page.viewer_known_by,
            exposures=list(page.exposures),
            reasons=list(page.reasons),
            recorded=bool(page.recorded),
        )
    return http_schema.RecommendationsAnswer.model_construct(
        page_id=page.page_id,
        request_id=page.page_id,
        release_id=page.release_id,
        rung=page.rung,
        now=page.now,
        items=[_video(item, debug=debug, hosts=hosts) for item in page.items],
        debug=explained,
    )


def videos_answer(
    release: LoadedRelease, rows: np.ndarray, *, source: str, hosts: Collection[str] = ()
) -> list[http_schema.RecommendedVideo]:
    """Returns videos that no page chose, in the form of those on a page.

    Args:
        release: Release whose catalogue has them.
        rows: int [n], of the catalogue.
        source: Name of what found them.
        hosts: Hosts of thumbnails.
    """
    videos = release.shown_columns.take(rows).to_pylist()
    return [
        _video(
            Item(
                video_id=video["video_id"],
                position=position,
                video=video,
                sources=(source,),
                source_scores={},
                retrieval_score=None,
                expected_watch_time_s=None,
            ),
            debug=False,
            hosts=hosts,
        )
        for position, video in enumerate(videos)
    ]


def _video(item: Item, *, debug: bool, hosts: Collection[str]) -> http_schema.RecommendedVideo:
    return http_schema.RecommendedVideo(
        video_id=item.video_id,
        position=item.position,
        **_described(item.video),
        language=item.video.get("language"),
        duration_s=item.video.get("duration_s"),
        upload_time=item.video["upload_time"],
        thumbnail_url=pages.thumbnail(item.video.get("thumbnail_url"), hosts),
        sources=list(item.sources),
        retrieval_score=item.retrieval_score,
        expected_watch_time_s=item.expected_watch_time_s,
        value=item.value,
        feedback=dict(item.feedback) if debug else None,
        source_scores=dict(item.source_scores) if debug else None,
    )


def _described(video: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "title": video.get("title"),
        "channel_id": video.get("channel_id"),
        "topics": [topic for topic in video.get("topics") or [] if topic],
    }


def history_answer(
    history: UserHistory, release: LoadedRelease, *, limit: int
) -> http_schema.HistoryAnswer:
    """Returns the last watches and searches, newest first, with titles where they are known."""
    last = history.watches.slice(max(history.watches.num_rows - limit, 0))
    rows = release.catalogue.rows(last["video_id"])
    known = release.catalogue.table.take(rows[rows >= 0]).to_pylist()
    videos = {video["video_id"]: video for video in known}
    last_feedback = history.feedback.slice(max(history.feedback.num_rows - limit, 0))
    searches = history.searches.slice(max(history.searches.num_rows - limit, 0)).to_pylist()
    return http_schema.HistoryAnswer(
        user_id=history.user_id,
        is_known=history.is_known,
        profile=dict(history.profile) or release.profiles.of(history.user_id),
        blocked=http_schema.Blocked(**history.blocked.to_record()),
        watches=[
            http_schema.WatchedVideo(
                video_id=watch["video_id"],
                **_described(videos.get(watch["video_id"], {})),
                time=watch["time"],
                watch_time_s=watch["watch_time_s"],
                completed=watch["completed"],
            )
            for watch in reversed(last.to_pylist())
        ],
        searches=[
            http_schema.Search(query=search["query"], time=search["time"])
            for search in reversed(searches)
        ],
        feedback=[
            http_schema.Feedback(
                type=given["kind"],
                video_id=given["video_id"] or None,
                channel_id=given["channel_id"] or None,
                time=given["time"],
                value=given["value"],
            )
            for given in reversed(last_feedback.to_pylist())
        ],
    )


def release_answer(
    release: LoadedRelease, *, loaded_at: float, models: str
) -> http_schema.ReleaseAnswer:
    """Describes the release that serves."""
    manifest = release.manifest
    return http_schema.ReleaseAnswer(
        release_id=release.version,
        created=manifest.created if manifest else "",
        loaded_at=loaded_at,
        videos=len(release.catalogue),
        index=release.index.kind,
        has_ranker=release.ranker is not None,
        models=models,
        previous=manifest.previous if manifest else None,
        forced=manifest.forced if manifest else "",
        metrics=dict(manifest.metrics) if manifest else {},
        gates=[dict(gate) for gate in manifest.gates] if manifest else [],
    )


def release_age_s(version: str) -> float:
    """Returns seconds since a release was built, from its version, a UTC time."""
    try:
        built = datetime.datetime.strptime(version, "%Y%m%d%H%M%S")
    except ValueError:
        return float("nan")
    return time.time() - built.replace(tzinfo=datetime.timezone.utc).timestamp()
