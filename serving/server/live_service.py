"""What keeps a server current between releases: live state, and the shelf of new videos."""

import dataclasses
import json
import pathlib
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from absl import logging

from features import command
from features.catalogue import combined
from features.tables import log_files, logs, schema, unlisted, vector_files
from serving import errors
from serving.events import compaction
from serving.events.event import Event, Kind, NewUser, time_fault
from serving.events.following import Follower
from serving.funnel import page_order
from serving.funnel.fresh_shelf import Shelver
from serving.funnel.loaded_release import LoadedRelease
from serving.history.redis_stream import RedisStream
from serving.live import seed as live_seed
from serving.live.state import LiveState
from serving.servables.tensorflow_serving import Backend

_LOOK_EVERY_S = 5.0
_FOLLOW_EVERY_S = 1.0
# Of videos that are watched and stand in no table: whoever may report events can name any.
MAX_UNLISTED = 10_000
# Putting videos on the shelf of a large catalogue takes seconds: at most this part of the time.
_BUSY = 0.05
_COUNTED = {Kind.WATCH.value, Kind.IMPRESSION.value, Kind.CLICK.value}


@dataclasses.dataclass
class _Shelf:
    """What is known of the videos table beside one release.

    Attributes:
        shelver: Shelver of new videos.
        files: The videos table as it was read last; None before it could be read.
        table: What was read of it; None where there is none.
        watched: Videos that are in neither and were watched, with the times of their first watches.
        latest: The release with all that was new then.
        look_at: Time of the next look, by the clock of :class:`LiveParts`.
    """

    shelver: Shelver
    files: object
    latest: LoadedRelease
    table: pa.Table | None = None
    watched: Sequence[tuple[str, int]] = ()
    look_at: float = 0.0


class LiveParts:
    """The live state of a server, and the releases with what is new beside them.

    :meth:`attach` and :meth:`renewed` are called by one thread, that of the releases. What other
    processes record in the same logs directory is taken in by a thread of its own.

    Attributes:
        state: State that is fed by the recorder and by what others record, and read by every
            release that :meth:`attach` returned.
        on_events: Function called with watches, impressions and clicks that others recorded.
        misdated: Events of other processes that were left out of it for their times.
    """

    def __init__(
        self,
        serving_root: pathlib.Path,
        logs_dir: pathlib.Path,
        backend: Backend,
        *,
        clock: Callable[[], float] = time.time,
        is_own: Callable[[str], bool] = lambda _: False,
        stream: RedisStream | None = None,
        kept: Collection[str] = (),
        half_life_s: float | None = None,
        look_every_s: float = _LOOK_EVERY_S,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Starts empty.

        Args:
            serving_root: Directory in which releases are published.
            logs_dir: Raw logs; new videos appear in their videos table.
            backend: Runner of the models.
            clock: Clock of the server, Unix seconds.
            is_own: Function that tells whether this process wrote the segment of the event log of
                this name.
            stream: What replicas with other logs directories record; None where there are none.
            kept: Versions that serve whatever is published, as arms of an experiment.
            half_life_s: Half-life of the site, seconds; None where it is not known.
            look_every_s: Least time between two looks for new videos, seconds of ``monotonic``.
            monotonic: Clock for how often to look for new videos, seconds.
        """
        self.state = LiveState(half_life_s=half_life_s)
        self.on_events: Callable[[Sequence[Event]], None] = lambda _: None
        self.misdated = 0
        self._serving_root = serving_root
        self._logs = logs_dir
        self._backend = backend
        self._clock = clock
        self._kept = frozenset(kept)
        self._look_every_s = look_every_s
        self._monotonic = monotonic
        self._shelves: dict[str, _Shelf] = {}  # By version.
        self._follower = Follower(logs_dir, is_own=is_own)
        self._stream = stream
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def seed(self) -> None:
        """Takes in what the logs know of the last days, and what waits to be compacted."""
        # What moved in between from one to the other would be missed, or counted twice.
        with compaction.paused(self._logs):
            if log_files.has_tables(self._logs):
                live_seed.from_logs(self.state, self._logs, until_s=int(self._clock()))
            self._follow_directory()
        self._follow_stream()

    def start(self) -> None:
        """Starts to follow what other processes record, until :meth:`close`."""
        self._thread = threading.Thread(target=self._keep_following, name="live", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stops following."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        if self._stream is not None:
            self._stream.close()

    def _keep_following(self) -> None:
        while not self._stop.wait(_FOLLOW_EVERY_S):
            try:
                self.follow()
            except errors.HistoryUnavailableError as error:
                logging.log_every_n_seconds(logging.WARNING, "%s", 30, error)
            except Exception:
                # Pages are made all the same, and the next round tries again.
                logging.exception("What other processes recorded cannot be read.")

    def follow(self) -> None:
        """Takes in what other processes recorded since the last call.

        Raises:
            HistoryUnavailableError: Those of other hosts cannot be heard now.
        """
        self._follow_directory()
        self._follow_stream()

    def _follow_directory(self) -> None:
        with self._follower.new_records() as records:
            self._apply(records)

    def _follow_stream(self) -> None:
        if self._stream is not None:
            self._stream.publish()
            for records in self._stream.pages():
                self._apply(records)

    def _apply(self, records: Sequence[Mapping[str, Any]]) -> None:
        events = []
        for record in records:
            if record["kind"] == NewUser.KIND:
                profile = json.loads(record.get("profile") or "{}")
                self.state.meet(record["user_id"], str(profile.get("region") or ""))
            elif record["kind"] in _COUNTED:
                events.append(Event.from_record(record))
        of_now = self._of_now(events)
        self.state.apply([event for event in of_now if event.kind is not Kind.CLICK])
        self.on_events(of_now)

    def _of_now(self, events: Sequence[Event]) -> list[Event]:
        """Leaves out what no server takes: one host's wrong clock must not move everybody's now."""
        now = int(self._clock())
        faults = [time_fault(event.time, now=now) for event in events]
        wrong = [fault for fault in faults if fault]
        if wrong:
            self.misdated += len(wrong)
            message = "%d events of other processes do not count as live: the time of one %s."
            logging.warning(message, len(wrong), wrong[0])
        return [event for event, fault in zip(events, faults, strict=True) if not fault]

    def attach(self, loaded: LoadedRelease) -> LoadedRelease:
        """Returns the release with live sources, live features, and new videos on its shelf.

        Whatever is wrong with the videos table, the release can serve what it has; the next
        :meth:`renewed` tries again.
        """
        if loaded.version not in self._kept:  # Arms may be older than what serves.
            self.state.set_half_life(loaded.site.half_life_s)
        latest = loaded.with_live(self.state)
        # The one before is not renewed any more: requests that are still on it hold what they need.
        replaced = () if loaded.version in self._kept else self._shelves.keys() - self._kept
        for version in {loaded.version, *replaced}:
            self._shelves.pop(version, None)
        try:
            shelf = _Shelf(Shelver.open(loaded, self._backend), None, latest)
        except errors.ServingError as error:
            # Nothing new then joins this release; what it has it can serve.
            logging.error("Release %s has no shelf: %s", loaded.version, error)
            return latest
        self._shelves[loaded.version] = shelf
        try:
            self._look(shelf)
        except Exception as error:
            is_known = isinstance(error, command.InputError | errors.ServingError | OSError)
            message = "Release %s serves without new videos: %s"
            logging.error(message, loaded.version, error, exc_info=not is_known)
        shelf.look_at = 0.0  # What comes while the release is swapped in need not wait.
        return shelf.latest

    def renewed(self, current: LoadedRelease) -> LoadedRelease | None:
        """Returns the release with what is new in the videos table; None where nothing is.

        Raises:
            InputError, ServingError, OSError: New videos cannot be read, or not be embedded. The
                release serves on, and a later call tries again.
        """
        self.state.statistics(int(self._clock()))  # Done here, requests find it done.
        shelf = self._shelves.get(current.version)
        if shelf is None:
            return None
        if self._monotonic() >= shelf.look_at:
            self._look(shelf)
        return None if shelf.latest is current else shelf.latest

    def _look(self, shelf: _Shelf) -> None:
        start = self._monotonic()
        try:
            self._look_for_order(shelf)
            listed = self._video_files()
            if is_other := listed != shelf.files:
                shelf.table = self._videos()
            watched = self._watched_only(shelf)
            if is_other or watched != shelf.watched:
                shelved = self._shelved(shelf, watched)
                if shelved is not None and not _same_videos(shelved, shelf.latest):
                    shelf.latest = shelved
                shelf.files, shelf.watched = listed, watched
        finally:  # What fails takes its time, too.
            now = self._monotonic()
            shelf.look_at = now + max(self._look_every_s, (now - start) / _BUSY)

    def _look_for_order(self, shelf: _Shelf) -> None:
        if shelf.latest.order is None:  # It is learned when the release stands.
            order = page_order.of_release(self._serving_root, shelf.latest.version)
            if order is not None:
                release = dataclasses.replace(shelf.shelver.release, order=order)
                shelf.shelver = dataclasses.replace(shelf.shelver, release=release)
                shelf.latest = dataclasses.replace(shelf.latest, order=order)
                told = "Release %s has an order of pages learned from %d watches now."
                logging.info(told, shelf.latest.version, order.samples)

    def _watched_only(self, shelf: _Shelf) -> Sequence[tuple[str, int]]:
        """Returns what is watched and has no row anywhere; none where rows say who may see it."""
        catalogue, listed = shelf.shelver.release.catalogue, shelf.table
        if not (unlisted.may_be_shown(catalogue.table) and unlisted.may_be_shown(listed)):
            return ()
        outside = self.state.watched_outside(catalogue, most=MAX_UNLISTED)
        if listed is None or not outside:
            return outside
        ids = pa.array([video_id for video_id, _ in outside], pa.string())
        known = pc.is_in(ids, value_set=combined(listed["video_id"]).cast(pa.string()))
        return [
            one for one, is_known in zip(outside, known.to_pylist(), strict=True) if not is_known
        ]

    def _shelved(self, shelf: _Shelf, watched: Sequence[tuple[str, int]]) -> LoadedRelease | None:
        if shelf.table is None and not watched:
            return None
        rows = [
            pa.array(column, kind)
            for column, kind in zip(
                zip(*watched, strict=True) if watched else ((), ()),
                unlisted.TYPES.values(),
                strict=True,
            )
        ]
        videos = unlisted.joined(shelf.table, pa.table(rows, names=list(unlisted.TYPES)))
        built = len(shelf.shelver.release.catalogue)
        shelved = shelf.latest.catalogue.table.slice(built)
        longer = shelf.shelver.with_videos(videos.combine_chunks(), shelved=shelved)
        return longer.with_live(self.state)

    def _videos(self) -> pa.Table | None:
        listing = log_files.find(self._logs, "videos")
        if not listing.files and not listing.problems:
            return None
        rows = logs.read_table(self._logs, "videos")
        accepted, rejected = schema.validate(
            "videos", rows, known_video_ids=None, known_user_ids=None, now_s=int(self._clock())
        )
        bad = rejected.filter(pc.not_equal(rejected["reason"], schema.OLDER_ROW))
        if bad.num_rows:
            logging.error(
                "%d rows of the videos table are not used, such as %s.",
                bad.num_rows,
                bad.select(["video_id", "upload_time", "reason"]).slice(0, 3).to_pylist(),
            )
        return accepted.combine_chunks()

    def _video_files(self) -> list[tuple[str, int, int]]:
        """Returns what tells whether table or vectors have changed; also of what cannot be read."""
        listing = log_files.find(self._logs, "videos")
        stamps = [(str(file.path), file.modified_ns, file.size) for file in listing.files]
        problems = [*listing.problems]
        try:
            stamps += vector_files.stamps(self._logs, "videos")
        except (command.InputError, OSError) as error:
            problems.append(str(error))
        return [*stamps, *((problem, 0, 0) for problem in problems)]


def _same_videos(first: LoadedRelease, second: LoadedRelease) -> bool:
    # What was known by its first watch alone may have a row by now.
    same = first.catalogue.table.equals(second.catalogue.table)
    return same and first.rules == second.rules
