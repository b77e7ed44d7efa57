"""Users, videos and queries, looked up by whoever has to know what happened to them."""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from features import command
from features.durations import DAY_S
from features.tables import logs
from serving import errors
from serving.events import compaction
from serving.events.event import Kind
from serving.funnel.loaded_release import LoadedRelease
from serving.history.user_history import NO_ROWS, UserHistory, unknown_user
from serving.index import exact_search

_ROWS = 100
_NEAR = 12
_SHOWN_DAYS = 7
_BLOCK = 65_536


@dataclasses.dataclass(frozen=True, kw_only=True)
class Happened:
    """Something that a user did or was shown.

    Attributes:
        kind: ``shown``, ``watched``, ``searched``, or a kind of feedback.
        time: Unix seconds.
        video_id: Video that it is about; "" for none.
        title: Title of the video, where it has one.
        told: What else there is to tell.
    """

    kind: str
    time: int
    video_id: str = ""
    title: str | None = None
    told: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class User:
    """A user, and what happened lately.

    Attributes:
        user_id: Id of the user.
        is_known: Whether the history store has met the user.
        profile: Columns of the users table.
        arm: ``experiment/arm`` of the user; "" outside any.
        counts: Number of remembered rows of each kind.
        click_rate: Share of the remembered impressions that were clicked; None without any.
        hidden: Videos and channels that the user does not see.
        happened: What happened, newest first.
    """

    user_id: str
    is_known: bool
    profile: dict[str, Any]
    arm: str
    counts: dict[str, int]
    click_rate: float | None
    hidden: list[str]
    happened: list[Happened]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Near:
    """A video near to another, or to a query."""

    video_id: str
    title: str | None
    score: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShownTo:
    """Who was shown a video in the last days, by the logs.

    Attributes:
        days: Number of days.
        impressions: Number of impressions.
        users: Number of users.
        clicks: Number of impressions that were clicked.
        watch_time_s: Time watched of them, seconds.
        by: ``sources``, ``surface`` and ``device`` to value to number of impressions.
    """

    days: int
    impressions: int
    users: int
    clicks: int
    watch_time_s: float
    by: dict[str, dict[str, int]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Video:
    """A video as a release has it.

    Attributes:
        video_id: Id of the video.
        columns: Its row of the videos table.
        is_withdrawn: Whether nobody is shown it any more.
        statistics: Statistics up to the day before, and those of the last minutes and hours.
        near: The nearest other videos by cosine.
        watched_after: What people watched after it, best first.
        shown: Who was shown it; None where the server has no logs of that.
    """

    video_id: str
    columns: dict[str, str]
    is_withdrawn: bool
    statistics: dict[str, float]
    near: list[Near]
    watched_after: list[Near]
    shown: ShownTo | None


def user(history: UserHistory, release: LoadedRelease, *, arm: str) -> User:
    """Returns a user and what happened lately, newest first."""
    impressions = history.impressions
    clicks = int(pc.sum(impressions["clicked"]).as_py() or 0)
    happened = [
        *(Happened(kind="shown", time=row["time"], video_id=row["video_id"], told=_followed(row))
          for row in _last(impressions)),
        *(Happened(kind="watched", time=row["time"], video_id=row["video_id"],
                   told=f"{row['watch_time_s']:.0f} s{', to the end' if row['completed'] else ''}")
          for row in _last(history.watches)),
        *(Happened(kind="searched", time=row["time"], told=row["query"])
          for row in _last(history.searches)),
        *(Happened(kind=row["kind"], time=row["time"], video_id=row["video_id"] or "",
                   told=_said(row))
          for row in _last(history.feedback)),
    ]  # fmt: skip
    happened.sort(key=lambda one: -one.time)
    titles = _titles(release, [one.video_id for one in happened])
    return User(
        user_id=history.user_id,
        is_known=history.is_known,
        profile=dict(history.profile) or release.profiles.of(history.user_id),
        arm=arm,
        counts={
            "shown": impressions.num_rows,
            "watched": history.watches.num_rows,
            "searched": history.searches.num_rows,
            "said": history.feedback.num_rows,
        },
        click_rate=clicks / impressions.num_rows if impressions.num_rows else None,
        hidden=sorted({*history.blocked.videos, *history.blocked.channels, *history.hidden.videos,
                       *history.hidden.channels}),
        happened=[
            dataclasses.replace(one, title=titles.get(one.video_id)) for one in happened[:_ROWS]
        ],
    )  # fmt: skip


def _last(rows: pa.Table) -> list[dict[str, Any]]:
    return rows.slice(max(rows.num_rows - _ROWS, 0)).to_pylist()


def _followed(row: Mapping[str, Any]) -> str:
    if not row["clicked"] and not row["watch_time_s"]:
        return "not clicked"
    return f"clicked, watched {row['watch_time_s']:.0f} s"


def _said(row: Mapping[str, Any]) -> str:
    about = "" if row["video_id"] else f"channel {row['channel_id']}"
    return f"{about} (taken back)".strip() if row["value"] == 0 else about


def _titles(release: LoadedRelease, video_ids: list[str]) -> dict[str, str | None]:
    rows = {i: release.catalogue.row_of[i] for i in set(video_ids) if i in release.catalogue.row_of}
    if not rows:
        return {}
    videos = release.shown_columns.take(list(rows.values())).to_pylist()
    return {video["video_id"]: video.get("title") for video in videos}


def video(
    release: LoadedRelease, video_id: str, *, now: int, logs_dir: pathlib.Path | None
) -> Video:
    """Returns a video: its row, statistics, neighbours, and who was shown it.

    Raises:
        UnknownVideoError: The release does not have it.
    """
    row = release.catalogue.row_of.get(video_id)
    if row is None:
        raise errors.UnknownVideoError(
            f"video_id {video_id!r} is not in release {release.version}; a new video is once its "
            "row is in the videos table."
        )
    rows, times = np.array([row]), np.array([now], np.int64)
    statistics = dict(release.statistics.columns(rows, times))
    after: list[Near] = []
    if release.live is not None:
        statistics |= release.live.columns(rows, times)
        followers, scores = release.live.rows_after(rows)
        after = _near(release, followers[:_NEAR], scores[:_NEAR])
    columns = release.catalogue.table.slice(row, 1).to_pylist()[0]
    return Video(
        video_id=video_id,
        columns={n: str(v)[:300] for n, v in columns.items() if v is not None and n != "video_id"},
        is_withdrawn=bool(np.isin(row, release.withdrawn)),
        statistics={n: float(v[0]) for n, v in statistics.items() if np.isfinite(v[0])},
        near=_nearest_to(release, row),
        watched_after=after,
        shown=None if logs_dir is None else _shown(logs_dir, video_id, now=now),
    )


def near_query(release: LoadedRelease, query: str, *, now: int) -> list[Near]:
    """Returns the videos that somebody of whom nothing but a search is known would be led to.

    Raises:
        ModelError: The query tower failed.
    """
    rows = NO_ROWS[Kind.SEARCH].schema.empty_table()
    searched = pa.Table.from_pylist(
        [{"user_id": "", "query": query, "time": now - 1}], schema=rows.schema
    )
    somebody = dataclasses.replace(unknown_user(""), searches=searched)
    viewer = release.viewer(somebody, now=now, context={})
    nearest, scores = release.index.search(release.embed(viewer)[np.newaxis], _NEAR)
    kept = nearest[0] >= 0
    return _near(release, nearest[0][kept], scores[0][kept])


def _near(release: LoadedRelease, rows: np.ndarray, scores: np.ndarray) -> list[Near]:
    videos = release.shown_columns.take(rows).to_pylist()
    return [
        Near(video_id=v["video_id"], title=v.get("title"), score=float(score))
        for v, score in zip(videos, scores, strict=True)
    ]


def _nearest_to(release: LoadedRelease, row: int) -> list[Near]:
    """Returns the nearest other videos by cosine; one pass over all embeddings."""
    embeddings = release.index.embeddings
    mine = np.asarray(embeddings[np.array([row])][0, :-1], np.float32)  # The last is the bias.
    cosines = np.full(len(embeddings), -1.0, np.float32)
    for start in range(0, len(embeddings), _BLOCK):
        block = np.arange(start, min(start + _BLOCK, len(embeddings)))
        others = np.asarray(embeddings[block][:, :-1], np.float32)
        lengths = np.linalg.norm(others, axis=1) * np.linalg.norm(mine)
        np.divide(others @ mine, lengths, out=cosines[block[0] : block[-1] + 1], where=lengths > 0)
    cosines[row] = -1.0
    if cosines.max(initial=-1.0) <= -1.0:
        return []
    rows, scores = exact_search.top_k(cosines[np.newaxis], min(_NEAR, len(cosines) - 1))
    return _near(release, rows[0], scores[0])


def _shown(logs_dir: pathlib.Path, video_id: str, *, now: int) -> ShownTo | None:
    """Counts the impressions of a video in the last days, those that still wait included."""
    window: dict[str, Any] = {"from_s": now - _SHOWN_DAYS * DAY_S, "until_s": now + 1}
    try:
        with compaction.waiting_impressions(logs_dir) as waiting:
            late = waiting.filter(pc.greater_equal(waiting["time"], window["from_s"]))
            is_new = not any((logs_dir / "impressions").glob("**/*.parquet"))
            fragments = [] if is_new else logs.fragments(logs_dir, "impressions", **window)
        parts = [logs.read_fragment(fragment, **window) for fragment in fragments]
    except (command.InputError, OSError) as error:
        told = f"the impressions of the logs cannot be read: {error}"
        raise errors.NotPossibleError(told) from error
    rows = [
        row
        for part in (late, *parts)
        for row in part.filter(pc.equal(part["video_id"], video_id)).to_pylist()
    ]
    by: dict[str, dict[str, int]] = {"sources": {}, "surface": {}, "device": {}}
    for row in rows:
        for name in row.get("candidate_sources") or ():
            by["sources"][name] = by["sources"].get(name, 0) + 1
        for key in ("surface", "device"):
            value = row.get(key) or "unknown"
            by[key][value] = by[key].get(value, 0) + 1
    return ShownTo(
        days=_SHOWN_DAYS,
        impressions=len(rows),
        users=len({row["user_id"] for row in rows}),
        clicks=sum(bool(row["clicked"]) for row in rows),
        watch_time_s=float(sum(row["watch_time_s"] or 0 for row in rows)),
        by=by,
    )
