"""Replay in plain Python, one impression at a time: the yardstick of tests.

Written from the definitions of the features and not from the code that computes them: no NumPy, no
index, loops over a user's whole past. Tests compare it with :mod:`features.as_of.replay` value by
value.

Source: Covington et al., RecSys 2016, sections 3.3, 3.4 and 4.1.
"""

import bisect
import collections
import datetime
import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa

from features import spec, text
from features.as_of.entity_lookup import NEVER_S
from features.as_of.pages import PAGE_GAP_S
from features.clicks import CLICK_WINDOW_S
from features.durations import DAY_S, MINUTE_S
from features.event_columns import MAX_EVENTS
from features.spec import Feature, Kind, ResolvedSpec

Row = dict[str, Any]


class PlainReplay:
    """The tables of a log, row by row.

    Args:
        tables: Clean ``videos``, ``watches`` and whatever else there is.
        resolved: The data set's features.
        train_until_s: End of training, Unix seconds.
    """

    def __init__(
        self, tables: Mapping[str, pa.Table], resolved: ResolvedSpec, *, train_until_s: int
    ) -> None:
        rows = {name: table.to_pylist() for name, table in tables.items()}
        self._spec = resolved
        self._train_until_s = train_until_s
        self._videos = {row["video_id"]: row for row in rows["videos"]}
        self._users = {row["user_id"]: row for row in rows.get("users", [])}
        place = {video: number for number, video in enumerate(self._videos)}
        # The order of events at the same second: that of the catalogue; searches', their words'.
        self._watches = _by_user(
            rows["watches"], lambda r: (place.get(r["video_id"], -1), _ms(r), _counts(r))
        )
        self._shown = _by_user(rows.get("impressions", []), lambda r: place.get(r["video_id"], -1))
        self._searches = _by_user(rows.get("searches", []), lambda r: r["query"])
        self._impressions = rows.get("impressions", [])
        self._clicks = self._find_clicks()
        # What counts of a user's past: copies once.
        self._past_of = {
            "watches": _once(
                self._watches, lambda r: (r["time"], r["video_id"], _ms(r), _counts(r))
            ),
            "searches": _once(self._searches, lambda r: (r["time"], r["query"])),
            "impressions": _once(self._shown, lambda r: (r["time"], r["video_id"])),
            "clicks": self._clicks,
        }
        self._daily = self._count_days(rows)
        self._watched_at = _times(rows["watches"], "video_id")
        self._shown_at = _times(self._impressions, "video_id")
        self._all_watched_at = sorted(row["time"] for row in rows["watches"])

    # ---- examples -----------------------------------------------------------------------------

    def ranking_examples(self) -> Iterator[Row]:
        """Yields an example of each impression: labels and every feature by name."""
        for row, page, start in self._with_pages():
            yield {
                "user_id": row["user_id"],
                "time": row["time"],
                "page_id": page,
                "clicked": float(row["clicked"]),
                "watch_time_s": row["watch_time_s"],
                **self.features(spec.RANKER, row, now=start),
            }

    def candidate_examples(self) -> Iterator[Row]:
        """Yields an example of each completed watch (all of them, not K of a user)."""
        for rows in self._watches.values():
            for row in filter(_counts, rows):
                label = {"user_id": row["user_id"], "time": row["time"]}
                yield label | self.features(spec.CANDIDATE, row, now=row["time"])

    def features(self, model: str, row: Row, *, now: int) -> Row:
        """Returns a model's features of an event, as of ``now``."""
        return {f.name: self._feature(f, row, now) for f in self._spec.of(model)}

    def _with_pages(self) -> Iterator[tuple[Row, str, int]]:
        """Yields impressions with their page's id and start, by user."""
        for user, rows in self._shown.items():
            pages: dict[str, list[Row]] = collections.defaultdict(list)
            page, last = "", -math.inf
            for row in rows:
                if row["time"] - last > PAGE_GAP_S:
                    page = f"{user} {row['time']}"
                last = row["time"]
                pages[row.get("page_id") or page].append(row)
            for name, members in pages.items():
                start = min(row["time"] for row in members)
                for row in members:
                    yield row, name, start

    def _find_clicks(self) -> dict[str, list[Row]]:
        """Returns the clicks of each user in the order of their moments, ``shown`` beside each."""
        clicks: list[Row] = []
        for user, rows in self._shown.items():
            first_click: dict[tuple[int, str], int] = {}
            for row in rows:
                moment = self._clicked_at(row)
                if moment is not None:
                    shown = (row["time"], row["video_id"])
                    first_click[shown] = min(moment, first_click.get(shown, moment))
            clicks += [
                {"user_id": user, "video_id": video, "time": moment, "shown": time}
                for (time, video), moment in first_click.items()
            ]
        return _by_user(clicks, lambda r: r["shown"])

    def _clicked_at(self, row: Row) -> int | None:
        if not row["clicked"]:
            return None
        latest = row["time"] + CLICK_WINDOW_S
        if row.get("click_time") is not None:
            told = max(row["click_time"], row["time"])
            return told if told <= latest else None
        watched = (
            w["time"]
            for w in self._watches.get(row["user_id"], [])
            if w["video_id"] == row["video_id"] and row["time"] <= w["time"] <= latest
        )
        return min(watched, default=latest)

    # ---- features -----------------------------------------------------------------------------

    def _feature(self, feature: Feature, row: Row, now: int) -> Any:
        values = self._raw(feature, row, now)
        if feature.kind is Kind.MULTIVALENT:
            if values is not None and not isinstance(values, list):
                values = [values]
            return ["" if v is None else str(v) for v in values or []][: feature.max_length]
        if feature.kind is Kind.UNIVALENT:
            return "" if values is None else str(values)
        return math.nan if values is None else float(values)

    def _raw(self, feature: Feature, row: Row, now: int) -> Any:
        column, video = feature.column, self._videos.get(row.get("video_id"), {})
        if feature.origin == "users":
            return self._users.get(row["user_id"], {}).get(column)
        if feature.origin == "videos":
            return max(now - video["upload_time"], 0) if column == "age_s" else video.get(column)
        if feature.origin == "context":
            return self._context(column, row, now)
        if feature.origin == "statistics":
            return self._statistic(column, row["video_id"], now)
        if feature.origin == "live":
            return self._live(column, row["video_id"], now)
        if feature.origin == "nomination":
            return row.get(column) if row.get("release_id") is not None else None
        if column.startswith(("user_any_", "user_video_", "user_channel_", "user_topic_")):
            return self._grid(column, row["user_id"], video, now)
        if column == "user_searches_1d":
            return len([s for s in self._past("searches", row, now) if s["time"] >= now - DAY_S])
        if "search" in column:
            return self._search_tokens(row, now, last=column == "last_search_tokens")
        return self._watched(column, feature, row, now)

    def _context(self, column: str, row: Row, now: int) -> Any:
        if column == "example_age_s":
            return self._train_until_s - now if now < self._train_until_s else 0
        moment = datetime.datetime.fromtimestamp(now, datetime.timezone.utc)
        moments = {"hour": moment.hour, "weekday": moment.weekday()}
        return moments[column] if column in moments else row.get(column)

    def _past(self, kind: str, row: Row, now: int) -> list[Row]:
        """Returns what the user did before ``now``, oldest first, cut to the last events."""
        past = [e for e in self._past_of[kind].get(row["user_id"], []) if e["time"] < now]
        if kind == "clicks":
            for other in ("impressions", "watches"):
                told = [e for e in self._past_of[other].get(row["user_id"], []) if e["time"] < now]
                if len(told) > MAX_EVENTS:
                    since = told[-MAX_EVENTS]["time"] + CLICK_WINDOW_S
                    past = [e for e in past if e["time"] > since]
        return past[-MAX_EVENTS:]

    def _watched(self, column: str, feature: Feature, row: Row, now: int) -> Any:
        done = [e for e in self._past("watches", row, now) if _counts(e)]
        recent = done[: -spec.WATCH_BAG - 1 : -1]
        videos = [self._videos[e["video_id"]] for e in recent if e["video_id"] in self._videos]
        name = column.removeprefix("watched_").removeprefix("last_").removesuffix("s")
        if name == "topic":
            values = [topic for video in videos for topic in video.get("topics") or []]
        else:
            values = [video[name] for video in videos if video.get(name) is not None]
        return values if feature.kind is Kind.MULTIVALENT else next(iter(values), None)

    def _search_tokens(self, row: Row, now: int, *, last: bool) -> list[str]:
        recent = self._past("searches", row, now)[: -(1 if last else spec.SEARCH_BAG) - 1 : -1]
        return [token for search in recent for token in text.tokens(search["query"] or "")]

    def _grid(self, column: str, user: str, video: Row, now: int) -> float:
        entity, _, rest = column.removeprefix("user_").partition("_")
        if entity == "topic":
            since = rest.startswith("seconds_since")
            cells = []
            for topic in video.get("topics") or []:
                has_topic = functools.partial(_has_topic, topic=topic)
                cells.append(self._cell(rest, user, has_topic, now))
            return (min if since else max)(cells, default=NEVER_S if since else 0)
        matches: Callable[[Row], bool] = {
            "any": lambda _: True,
            "video": lambda v: bool(v) and v is video,
            "channel": lambda v: (
                v.get("channel_id") is not None and v["channel_id"] == video.get("channel_id")
            ),
        }[entity]
        return self._cell(rest, user, matches, now)

    def _cell(self, rest: str, user: str, matches: Callable[[Row], bool], now: int) -> float:
        if rest.startswith("seconds_since_"):
            measure, window = (
                {"impression": "impressions", "click": "clicks"}.get(
                    rest.removeprefix("seconds_since_"), "watches"
                ),
                None,
            )
        else:
            measure, _, name = rest.rpartition("_")
            window = spec.WINDOWS_S[name]
        kind = "watches" if measure == "watch_time_s" else measure
        past = self._past(kind, {"user_id": user}, now)
        mine = [e for e in past if matches(self._videos.get(e["video_id"], {}))]
        if rest.startswith("seconds_since_"):
            return now - mine[-1]["time"] if mine else NEVER_S
        inside = [e for e in mine if window is None or e["time"] >= now - window]
        if measure == "watch_time_s":
            return sum(round(e["watch_time_s"] * 1000) for e in inside) / 1000
        return len(inside)

    # ---- statistics of videos -----------------------------------------------------------------

    def _count_days(self, rows: Mapping[str, Sequence[Row]]) -> dict[str, dict[int, Row]]:
        """Returns video -> day -> counts."""
        days: dict[str, dict[int, Row]] = collections.defaultdict(dict)

        def count(row: Row, at: int, **numbers: float) -> None:
            totals = days[row["video_id"]].setdefault(at // DAY_S, dict.fromkeys(spec.MEASURES, 0))
            for name, number in numbers.items():
                totals[name] += number

        for row in rows["watches"]:
            count(row, row["time"], watches=1)
            if "impressions" not in rows:
                count(row, row["time"], watch_time_s=row["watch_time_s"])
        for row in rows.get("impressions", []):
            count(row, row["time"], impressions=1)
            clicked_at = self._clicked_at(row)
            known_at = row["time"] if clicked_at is None else clicked_at
            count(row, known_at, clicks=clicked_at is not None, watch_time_s=row["watch_time_s"])
        return days

    def _statistic(self, column: str, video: str, now: int) -> float | None:
        name, _, window = column.removeprefix("video_").rpartition("_")
        days = spec.STATISTICS_WINDOWS_DAYS[window]
        today = now // DAY_S
        counted = [
            counts
            for day, counts in self._daily.get(video, {}).items()
            if day < today and (days is None or day >= today - days)
        ]
        totals = {m: sum(counts[m] for counts in counted) for m in spec.MEASURES}
        if name in totals:
            return totals[name]
        part = {"click_rate": "clicks", "watch_time_per_impression_s": "watch_time_s"}[name]
        return totals[part] / totals["impressions"] if totals["impressions"] else None

    def _live(self, column: str, video: str, now: int) -> float | None:
        name, _, window = column.removeprefix("video_live_").rpartition("_")
        end = now // MINUTE_S * MINUTE_S
        start = end - spec.LIVE_WINDOWS_S[window]
        watches = _within(self._watched_at.get(video, []), start, end)
        impressions = _within(self._shown_at.get(video, []), start, end)
        everything = _within(self._all_watched_at, start, end)
        if name == "watches_per_impression":
            return watches / impressions if impressions else None
        if name == "share_of_watches":
            return watches / everything if everything else None
        return {"watches": watches, "impressions": impressions}[name]


def _has_topic(video: Row, topic: str) -> bool:
    return topic in (video.get("topics") or [])


def _counts(watch: Row) -> bool:
    return watch.get("completed") is not False


def _ms(watch: Row) -> int:
    return round((watch["watch_time_s"] or 0) * 1000)


def _once(events: Mapping[str, list[Row]], key: Callable[[Row], Any]) -> dict[str, list[Row]]:
    return {user: list({key(row): row for row in rows}.values()) for user, rows in events.items()}


def _by_user(rows: Sequence[Row], tie: Callable[[Row], Any]) -> dict[str, list[Row]]:
    events = collections.defaultdict(list)
    for row in sorted(rows, key=lambda r: (r["time"], tie(r))):
        events[row["user_id"]].append(row)
    return events


def _times(rows: Sequence[Row], key: str) -> dict[str, list[int]]:
    times = collections.defaultdict(list)
    for row in sorted(rows, key=lambda r: r["time"]):
        times[row[key]].append(row["time"])
    return times


def _within(times: Sequence[int], start: int, end: int) -> int:
    return bisect.bisect_left(times, end) - bisect.bisect_left(times, start)
