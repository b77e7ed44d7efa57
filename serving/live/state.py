"""What everybody watches now: kept in memory, seeded from the logs, updated by each event.

One object outlives releases. It knows videos by numbers of its own; a
:class:`serving.live.view.LiveView` translates between those and rows of a release's catalogue.
It holds

* counts that halve in minutes to a day, over all users and by region (trending);
* what was watched soon after what (co-watch);
* exact counts by minute of the last day, which are features of the ranker
  (:mod:`features.as_of.live_statistics`).

Bounds: watched and shown videos of about a day, at most :data:`MAX_VIDEOS`; the last 20,000
watches of a region and at most 500 regions; the 100,000 videos and 500,000 users that were seen
last for co-watch. Each process has its own, which also learns what other processes record in the
same logs directory (:mod:`serving.server.live_service`); the same event twice among the last
:data:`MAX_KNOWN` is one.
"""

import collections
import dataclasses
import threading
from collections.abc import Sequence

import numpy as np

from features import spec
from features.as_of import live_statistics
from features.as_of.live_statistics import LiveStatistics
from features.catalogue import Catalogue
from features.durations import DAY_S, HOUR_S, MINUTE_S
from serving.events.event import Event, Kind
from serving.live.counts import DecayedCounts, FollowCounts, RecentWatches

# Where nothing is known of the site.
_USUAL_HALF_LIFE_S = 4.0 * HOUR_S
_SHORTEST_S, _LONGEST_S = 5.0 * MINUTE_S, 7.0 * DAY_S
_PARTS = (1 / 16, 1 / 4, 1.0)  # Of the half-life of the site.
_REGION_PARTS = (1 / 4, 1.0)
# A region's share of few watches is held to be everybody's: so many watches count for that.
_PRIOR_WATCHES = 5.0
MAX_VIDEOS = 2_000_000
MAX_KNOWN = 100_000
# The newest watches, from which trending can be counted anew.
MAX_WATCHES = 300_000
_MAX_REGIONS = 500
_MAX_USERS = 1_000_000
# Watches of a region before its own order is worth more than everybody's.
_REGION_MIN_WATCHES = 50
_LISTED = 1000
_HORIZON_S = max(spec.LIVE_WINDOWS_S.values()) + HOUR_S
# New minutes are added up with the older ones when there are so many, or after so long.
_MAX_RECENT = 100_000
_SETTLE_S = 1800
_TABLE_OF = {Kind.WATCH: "watches", Kind.IMPRESSION: "impressions"}


@dataclasses.dataclass(frozen=True)
class Happened:
    """Watches or impressions as columns.

    Attributes:
        kind: ``Kind.WATCH`` or ``Kind.IMPRESSION``.
        user_ids: Ids of the users of n events.
        video_ids: Ids of their videos.
        times: int64 [n], Unix seconds, ascending.
    """

    kind: Kind
    user_ids: Sequence[str]
    video_ids: Sequence[str]
    times: np.ndarray


@dataclasses.dataclass(frozen=True)
class Rates:
    """How much n videos are watched at a moment.

    Attributes:
        counts: Decayed counts of watches by half-life, float64 [half-lives, n].
        region_lift: Logarithm of how many times more each is watched in the region of the viewer
            than everywhere, float64 [n]; 0 where nothing tells.
    """

    counts: np.ndarray
    region_lift: np.ndarray

    @property
    def of_day_here(self) -> np.ndarray:
        """Watches within a day, as if everywhere were the region of the viewer: float64 [n]."""
        return np.where(self.counts[-1] > 0, self.counts[-1] * np.exp(self.region_lift), 0.0)


class LiveState:
    """What everybody watches now, as the module tells; safe for threads."""

    def __init__(self, *, max_videos: int = MAX_VIDEOS, half_life_s: float | None = None) -> None:
        """Starts empty.

        Args:
            max_videos: Number of videos to know; of more, those without an event of late are
                forgotten, and the others get new numbers.
            half_life_s: Half-life of the site, seconds, by which counts of several lengths are
                chosen; None where it is not known.
        """
        self._max_videos = max_videos
        self.half_lives_s = half_lives(half_life_s)
        self._region_half_lives_s = _clipped(half_life_s, _REGION_PARTS)
        self._lock = threading.Lock()
        self._ids: list[str] = []
        self._number_of: dict[str, int] = {}
        self._first_watch_s: dict[str, int] = {}  # Of what was watched since it was met.
        self._generation = 0  # Numbers mean the same within one.
        self._trending = DecayedCounts(self.half_lives_s)
        self._newest = RecentWatches(MAX_WATCHES)
        self._by_region: collections.OrderedDict[str, RecentWatches] = collections.OrderedDict()
        self._region_of: collections.OrderedDict[str, str] = collections.OrderedDict()
        self._follows = FollowCounts()
        self._watches = 0
        self._lists: dict[str, tuple[int, np.ndarray]] = {}
        self._minutes = _Minutes()
        self._known: dict[int, None] = {}  # Hashes of the last events, oldest first.

    # ---- taking in ---------------------------------------------------------------------------

    def apply(self, events: Sequence[Event]) -> None:
        """Takes in events of funnels, in any order; one that came lately is left out."""
        with self._lock:
            events = [event for event in events if self._is_new(event)]
        for kind in _TABLE_OF:
            mine = sorted((e for e in events if e.kind is kind), key=lambda event: event.time)
            if mine:
                times = np.array([event.time for event in mine], np.int64)
                users = [event.user_id for event in mine]
                self.add(Happened(kind, users, [event.video_id for event in mine], times))

    def add(self, events: Happened, *, is_trending: bool = True) -> None:
        """Takes in columns of events.

        Args:
            events: Watches or impressions.
            is_trending: Whether watches count for trending and co-watch, beside the minutes.
        """
        with self._lock:
            numbers = self._numbers(events.video_ids)
            self._minutes.add(_TABLE_OF[events.kind], numbers, events.times)
            if events.kind is Kind.WATCH:
                for video_id, time_s in zip(events.video_ids, events.times.tolist(), strict=True):
                    first = self._first_watch_s.setdefault(video_id, time_s)
                    if time_s < first:
                        self._first_watch_s[video_id] = time_s
            if events.kind is Kind.WATCH and is_trending:
                self._watches += len(numbers)
                self._trending.add(numbers, events.times.astype(np.float64))
                self._newest.add(numbers, events.times.astype(np.float64))
                self._count_by_region(events, numbers)
                for user_id, number, time in zip(
                    events.user_ids, numbers.tolist(), events.times.tolist(), strict=True
                ):
                    self._follows.add(user_id, number, time)
            if len(self._ids) > self._max_videos:
                self._forget_the_quiet()

    def set_half_life(self, half_life_s: float | None) -> None:
        """Counts anew for what a newer release knows of the site, from the newest watches.

        Its order of pages was learned from counts of that half-life.
        """
        with self._lock:
            if half_lives(half_life_s) != self.half_lives_s:
                self.half_lives_s = half_lives(half_life_s)
                self._region_half_lives_s = _clipped(half_life_s, _REGION_PARTS)
                self._trending = DecayedCounts(self.half_lives_s)
                self._trending.add(*self._newest.all())
                self._lists.clear()

    def _is_new(self, event: Event) -> bool:
        key = hash(event.key)
        if key in self._known:
            return False
        self._known[key] = None
        if len(self._known) > MAX_KNOWN:
            del self._known[next(iter(self._known))]
        return True

    def meet(self, user_id: str, region: str) -> None:
        """Remembers where a user is."""
        if region:
            with self._lock:
                self._region_of.pop(user_id, None)
                self._region_of[user_id] = region
                if len(self._region_of) > _MAX_USERS:
                    self._region_of.popitem(last=False)

    def _numbers(self, video_ids: Sequence[str]) -> np.ndarray:
        numbers = np.empty(len(video_ids), np.int64)
        for place, video_id in enumerate(video_ids):
            number = self._number_of.get(video_id)
            if number is None:
                number = self._number_of[video_id] = len(self._ids)
                self._ids.append(video_id)
            numbers[place] = number
        return numbers

    def _count_by_region(self, events: Happened, numbers: np.ndarray) -> None:
        places: dict[str, list[int]] = {}
        for place, user_id in enumerate(events.user_ids):
            if region := self._region_of.get(user_id):
                places.setdefault(region, []).append(place)
        for region, mine in places.items():
            videos = self._by_region.pop(region, None) or RecentWatches()
            self._by_region[region] = videos
            videos.add(numbers[mine], events.times[mine].astype(np.float64))
            if len(self._by_region) > _MAX_REGIONS:
                quietest, _ = self._by_region.popitem(last=False)
                self._lists.pop(quietest, None)

    def _forget_the_quiet(self) -> None:
        """Keeps the videos with events in the last day; at most half of the bound."""
        kept = self._minutes.newest_numbers()[-(self._max_videos // 2) :]
        new_number = np.full(len(self._ids), -1)
        new_number[kept] = np.arange(len(kept))
        self._ids = [self._ids[number] for number in kept.tolist()]
        self._number_of = {video_id: number for number, video_id in enumerate(self._ids)}
        known = self._first_watch_s
        self._first_watch_s = {id_: known[id_] for id_ in self._ids if id_ in known}
        self._trending.renumbered(kept)
        self._follows.renumbered(new_number)
        for recent in (self._newest, *self._by_region.values()):
            recent.renumbered(new_number)
        self._minutes.renumbered(new_number)
        self._lists.clear()
        self._generation += 1

    # ---- answering ---------------------------------------------------------------------------

    # Numbers mean something within a generation only, so each answer says which one it is of.
    def trending(self, region: str) -> tuple[int, np.ndarray]:
        """Returns the generation, and numbers, best first.

        They are the lists of all windows in turn, each video once.
        """
        with self._lock:
            key = region if region in self._by_region else ""
            videos = self._lists.get(key)
            if videos is None or videos[0] != self._watches:
                lists = [self._trending.top(n, _LISTED) for n in range(len(self.half_lives_s))]
                if key:
                    lists += [
                        self._by_region[key].top(h, _LISTED, at_least=_REGION_MIN_WATCHES)
                        for h in self._region_half_lives_s
                    ]
                videos = self._lists[key] = (self._watches, _in_turn(lists))
            return self._generation, videos[1]

    def rates(self, numbers: np.ndarray, *, region: str, now_s: int) -> tuple[int, Rates]:
        """Returns how much videos are watched just now.

        Args:
            numbers: int [n]; -1 is a video that was never met.
            region: Region of the viewer; "" where not known.
            now_s: Moment, Unix seconds.

        Returns:
            The generation, and the rates of the n videos.
        """
        with self._lock:
            counts, total = self._trending.at(numbers, now_s)
            lift = np.zeros(len(numbers))
            recent = self._by_region.get(region)
            if recent is not None and total[-2] > 0:
                here, all_here = recent.counts(numbers, self._region_half_lives_s[-1], now_s)
                share = counts[-2] / total[-2]
                known = share > 0
                lift[known] = np.log(
                    (here[known] / share[known] + _PRIOR_WATCHES) / (all_here + _PRIOR_WATCHES)
                )
            return self._generation, Rates(counts, lift)

    def following(self, numbers: Sequence[int]) -> tuple[int, np.ndarray, np.ndarray]:
        """Returns the generation, numbers watched after these, best first, and their scores."""
        with self._lock:
            generation, scores = self._generation, self._follows.after(numbers)
        videos = np.fromiter(scores.keys(), np.int64, len(scores))
        values = np.fromiter(scores.values(), np.float64, len(scores))
        order = np.lexsort((videos, -values))
        return generation, videos[order], values[order]

    def statistics(self, now_s: int) -> tuple[int, LiveStatistics]:
        """Returns the generation, and the counts by minute, whose rows are numbers.

        Whole minutes before ``now_s`` hold.
        """
        with self._lock:
            return self._generation, self._minutes.statistics(now_s)

    def watched_outside(self, catalogue: Catalogue, *, most: int) -> list[tuple[str, int]]:
        """Returns videos that were watched and are not in a catalogue, with their first watches.

        Args:
            catalogue: Catalogue that may lack them.
            most: Number of videos at most: those whose first watch is newest.

        Returns:
            Id and time of the first watch, Unix seconds, in the order of these.
        """
        row_of = catalogue.row_of
        with self._lock:
            outside = [(i, t) for i, t in self._first_watch_s.items() if i not in row_of]
        return sorted(outside, key=lambda pair: (pair[1], pair[0]))[-most:]

    def known(self, since: int) -> tuple[int, list[str]]:
        """Returns the generation of the numbers, and the ids from number ``since`` on."""
        with self._lock:
            return self._generation, self._ids[since:]


def half_lives(half_life_s: float | None) -> tuple[float, ...]:
    """Returns the half-lives of counts for a site, seconds: parts of its own, then a day."""
    return (*_clipped(half_life_s, _PARTS), float(DAY_S))


def _clipped(half_life_s: float | None, parts: Sequence[float]) -> tuple[float, ...]:
    of_site = half_life_s or _USUAL_HALF_LIFE_S
    return tuple(float(np.clip(part * of_site, _SHORTEST_S, _LONGEST_S)) for part in parts)


class _Minutes:
    """Counts by minute: a table of the older ones, one of the newest, and keys to be counted."""

    def __init__(self) -> None:
        self._older = live_statistics.merge([])
        self._indexed = LiveStatistics.of()
        self._recent = live_statistics.merge([])
        self._answer = self._indexed
        self._waiting: dict[str, list[np.ndarray]] = {name: [] for name in _TABLE_OF.values()}
        self._newest_s = 0
        self._is_dirty = False
        self._counted_minute = 0
        self._settled_s = 0

    def add(self, name: str, numbers: np.ndarray, times: np.ndarray) -> None:
        if not len(numbers):
            return
        self._newest_s = max(self._newest_s, int(times[-1]))
        # What no window reaches any more is not worth counting anew for.
        first = int(np.searchsorted(times, self._newest_s - _HORIZON_S))
        numbers, times = numbers[first:], times[first:]
        if not len(numbers):
            return
        self._waiting[name].append(live_statistics.keys_of(numbers, times))
        # What lies in a minute that was counted already came late.
        self._is_dirty |= int(times[0]) // MINUTE_S < self._counted_minute

    def statistics(self, now_s: int) -> LiveStatistics:
        minute = now_s // MINUTE_S
        if self._is_dirty or minute != self._counted_minute:
            self._count()
            self._counted_minute, self._is_dirty = minute, False
            is_old = now_s - self._settled_s > _SETTLE_S
            if self._recent.num_rows > _MAX_RECENT or (is_old and self._recent.num_rows):
                self._settle(now_s)
            self._answer = self._indexed.plus(self._recent)
        return self._answer

    def _count(self) -> None:
        parts = [self._recent]
        for name, keys in self._waiting.items():
            if keys:
                parts.append(live_statistics.counts_of(name, np.concatenate(keys)))
                self._waiting[name] = []
        if len(parts) > 1:
            self._recent = live_statistics.merge(parts)

    def _settle(self, now_s: int) -> None:
        together = live_statistics.merge([self._older, self._recent])
        self._older = live_statistics.since(together, min(now_s, self._newest_s) - _HORIZON_S)
        self._indexed = LiveStatistics.of(self._older)
        self._recent = live_statistics.merge([])
        self._settled_s = now_s

    def newest_numbers(self) -> np.ndarray:
        """Returns the numbers with events in the windows, ascending: the later, the newer."""
        self._count()
        self._settle(self._newest_s)
        return np.unique(live_statistics.rows_of(np.asarray(self._older["key"], np.int64)))

    def renumbered(self, new_number: np.ndarray) -> None:
        self._older = live_statistics.with_rows(self._older, new_number)
        self._indexed = self._answer = LiveStatistics.of(self._older)


def _in_turn(lists: Sequence[np.ndarray]) -> np.ndarray:
    """Returns the first of each list, then the second of each, and so on; each number once."""
    width = max((len(videos) for videos in lists), default=0)
    table = np.full((width, len(lists)), -1, np.int64)
    for column, videos in enumerate(lists):
        table[: len(videos), column] = videos
    flat = table[table >= 0]
    _, first = np.unique(flat, return_index=True)
    return flat[np.sort(first)]
