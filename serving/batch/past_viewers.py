"""Viewers as they were at moments of a log: what the history store would have said then.

All events of all users lie in one sorted history. What a user had done before a moment is a range
of each of its columns, so a viewer of the past costs no more than a few slices.

A viewer who watches something is on a page already: its impressions and the clicks on them are left
out, since the funnel is asked when a page begins, and to training they are not yet there either.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from features import feedback
from features.as_of import pages
from features.as_of.examples import Request, Users
from features.as_of.feedback_events import FeedbackEvents
from features.as_of.history import History
from features.catalogue import combined
from features.event_columns import Events, Queries, user_time_key, visible
from serving.funnel.loaded_release import LoadedRelease
from serving.funnel.viewer import REQUEST_COLUMNS, Viewer
from serving.history.user_history import Blocked, hidden_by

_HIDE_TYPES = {
    "video_id": pa.string(),
    "channel_id": pa.string(),
    "kind": pa.string(),
    "value": pa.float64(),
}


class PastViewers:
    """All users of a log."""

    def __init__(
        self, release: LoadedRelease, tables: Mapping[str, pa.Table], users: pa.Table
    ) -> None:
        """Sorts the log.

        Args:
            release: Release whose catalogue numbers the videos.
            tables: ``watches`` and, where there are any, ``searches``, ``impressions`` and
                ``feedback``.
            users: Users table, for profiles.
        """
        ids = {name for table in tables.values() for name in table["user_id"].unique().to_pylist()}
        self.codes = {name: code for code, name in enumerate(sorted(ids))}
        self.history = History.of(
            release.catalogue,
            self.codes,
            watches=tables["watches"],
            searches=tables.get("searches"),
            impressions=tables.get("impressions"),
            feedback=tables.get("feedback"),
            from_s=release.resolved.history_from_s,
        )
        self.profiles = Users(_profiles(users, release.profiles.table.schema))
        self._page_key, self._page_start = self._pages(tables.get("impressions"))
        self._hide_key, self._hides = self._all_hides(tables.get("feedback"))

    def _pages(self, impressions: pa.Table | None) -> tuple[np.ndarray, np.ndarray]:
        """Returns key and start of the page of every impression, int64, sorted by key."""
        if impressions is None or not impressions.num_rows:
            return np.zeros(0, np.int64), np.zeros(0, np.int64)
        paged = pages.with_pages(
            impressions.sort_by([("user_id", "ascending"), ("time", "ascending")])
        )
        encoded = combined(paged["user_id"]).dictionary_encode()
        codes = np.array([self.codes[u] for u in encoded.dictionary.to_pylist()], np.int64)
        times = np.asarray(combined(paged["time"]), np.int64)
        key = user_time_key(codes[np.asarray(encoded.indices)], times)
        order = np.argsort(key, kind="stable")
        return key[order], np.asarray(combined(paged[pages.PAGE_TIME]), np.int64)[order]

    def _all_hides(self, said: pa.Table | None) -> tuple[np.ndarray, pa.Table]:
        """Returns the hides of all users, sorted by user and time, and their keys, int64."""
        columns = {name: pa.nulls(0, kind) for name, kind in _HIDE_TYPES.items()}
        if said is None or not said.num_rows:
            return np.zeros(0, np.int64), pa.table(columns)
        said = said.filter(pc.equal(said["kind"], feedback.HIDE))
        for name, kind in _HIDE_TYPES.items():
            have = name in said.column_names
            columns[name] = said[name] if have else pa.nulls(said.num_rows, kind)
        codes = np.array([self.codes[user] for user in said["user_id"].to_pylist()], np.int64)
        key = user_time_key(codes, np.asarray(combined(said["time"]), np.int64))
        order = np.argsort(key, kind="stable")
        return key[order], pa.table(columns).take(pa.array(order))

    def _hidden(self, code: int, now: int) -> Blocked:
        """Returns what a user had hidden before ``now``."""
        bounds = user_time_key(np.array([code, code]), np.array([0, now]))
        start, end = np.searchsorted(self._hide_key, bounds)
        return hidden_by(self._hides.slice(start, end - start))

    def _page_began(self, code: int, now: int) -> int:
        """Returns when the page began that a user is on, ``now`` where there is none."""
        key = user_time_key(np.array([code]), np.array([now]))
        last = int(np.searchsorted(self._page_key, key)[0]) - 1
        if last < 0 or self._page_key[last] < user_time_key(np.array([code]), np.zeros(1)):
            return now
        start = int(self._page_start[last])
        return start if now - start <= pages.PAGE_GAP_S else now

    def request(
        self, user_ids: Sequence[str], times: np.ndarray, contexts: Sequence[Mapping[str, str]]
    ) -> Request:
        """Returns moments of several users, for features of all of them at once."""
        row_of = self.profiles.row_of
        return Request(
            queries=Queries(np.array([self.codes[u] for u in user_ids], np.int64), times),
            user_rows=np.array([row_of.get(u, -1) for u in user_ids], np.int64),
            context={
                name: pa.array([context.get(name, "") for context in contexts], pa.string())
                for name in REQUEST_COLUMNS
            },
        )

    def viewer(self, user_id: str, now: int, context: Mapping[str, str]) -> Viewer:
        """Returns who would have asked: what happened at ``now`` or later is not known."""
        row = self.profiles.row_of.get(user_id, -1)
        profile: dict[str, Any] = {}
        if row >= 0:
            profile = self.profiles.table.slice(row, 1).to_pylist()[0]
            profile = {k: v for k, v in profile.items() if k != "user_id" and v is not None}
        queries = Queries(np.zeros(1, np.int64), np.array([now], np.int64))
        known = {name: str(context.get(name) or "") for name in REQUEST_COLUMNS}
        return Viewer(
            user_id=user_id,
            now=now,
            profile=profile,
            context=known,
            history=self._before(self.codes[user_id], now),
            request=Request(
                queries=queries,
                user_rows=np.array([row]),
                context={name: pa.array([value], pa.string()) for name, value in known.items()},
            ),
            users=self.profiles,
            hidden=self._hidden(self.codes[user_id], now),
        )

    def _before(self, code: int, now: int) -> History:
        """Returns what a user had done before ``now``, as the only user, number 0."""
        whole = self.history
        shown_until = self._page_began(code, now)
        watched = _before(whole.watches.key, code, now)
        clicked = _before(whole.clicks.key, code, now)
        searched = _before(whole.search_key, code, now)
        said = _before(whole.feedback.events.key, code, now)
        completed = slice(*np.searchsorted(whole.completed_row, [watched.start, watched.stop]))
        clicked_shown = whole.clicked_shown[clicked]
        on_earlier_pages = clicked_shown < shown_until
        first_key = user_time_key(np.array([code]), np.zeros(1))
        return History(
            catalogue=whole.catalogue,
            watches=_part(whole.watches, watched),
            completed=_part(whole.completed, completed),
            completed_row=whole.completed_row[completed] - watched.start,
            impressions=_part(whole.impressions, _before(whole.impressions.key, code, shown_until)),
            clicks=_part(whole.clicks, clicked).keep(on_earlier_pages),
            clicked_shown=clicked_shown[on_earlier_pages],
            search_key=whole.search_key[searched] - first_key,
            search_tokens=whole.search_tokens.slice(searched.start, searched.stop - searched.start),
            from_s=whole.from_s,
            feedback=FeedbackEvents(
                events=_part(whole.feedback.events, said),
                kind=whole.feedback.kind[said],
                channel=whole.feedback.channel[said],
            ),
        )


def _profiles(users: pa.Table, schema: pa.Schema) -> pa.Table:
    columns = {}
    for field in schema:
        if field.name in users.column_names:
            columns[field.name] = users[field.name].cast(field.type)
        else:
            columns[field.name] = pa.nulls(users.num_rows, field.type)
    return pa.table(columns).combine_chunks()


def _before(key: np.ndarray, code: int, now: int) -> slice:
    """Returns which events of a user happened before ``now``, one more than a question sees.

    That one tells the history that there were others before.
    """
    user, moment = np.array([code]), np.array([now])
    start, end = (int(bound[0]) for bound in visible(key, user, moment))
    first = int(np.searchsorted(key, user_time_key(user, np.zeros(1)))[0])
    return slice(max(first, start - 1), end)


def _part(events: Events, part: slice) -> Events:
    return Events(
        key=events.time[part],  # The key of user 0.
        user=np.zeros(part.stop - part.start, np.int64),
        time=events.time[part],
        video=events.video[part],
        watch_time_ms=events.watch_time_ms[part],
    )
