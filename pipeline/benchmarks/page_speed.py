"""How long pages take in this process: pages beside a video, and pages of their own, by turns."""

import contextlib
import pathlib
import tempfile
import time
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from features.catalogue import combined
from serving.batch.past_log import PastLog
from serving.events.event import Event, Kind
from serving.funnel.funnel import Funnel
from serving.funnel.loaded_release import LoadedRelease
from serving.funnel.page import PageRequest
from serving.history.sqlite_store import SqliteHistoryStore
from serving.live import seed as live_seed
from serving.live.state import LiveState

OWN, BESIDE = "a page of its own", "the page beside a video"
_WARM = 20  # First pages, whose times do not count.
_USERS = 200
_K = 20


class _Fixed:
    """Holds one release."""

    def __init__(self, release: LoadedRelease) -> None:
        self._release = release

    @contextlib.contextmanager
    def pin(self) -> Iterator[LoadedRelease]:
        """Gives the release."""
        yield self._release


def beside_a_video(
    release: LoadedRelease, log: PastLog, *, now: int, pages: int
) -> list[tuple[str, str, float]]:
    """Takes the time of pages of both kinds, for the same users by turns.

    Args:
        release: Release with the videos of the log.
        log: Log whose last watchers before ``now`` ask.
        now: Moment of the pages, Unix seconds.
        pages: Number of pages of each kind.

    Returns:
        Setting, metric and value: p50 and p99 of each kind, milliseconds, and their ratio.
    """
    watches = log.tables["watches"]
    before = watches.filter(pc.less(watches["time"], now))
    state = LiveState(half_life_s=release.site.half_life_s)
    live_seed.seed(state, [live_seed.Stream(Kind.WATCH, before)], until_s=now)
    users = combined(before["user_id"]).slice(max(before.num_rows - 20 * _USERS, 0)).unique()
    chosen = users.slice(0, _USERS)
    with tempfile.TemporaryDirectory() as directory:
        history = SqliteHistoryStore(pathlib.Path(directory) / "history.sqlite")
        _fill(history, before.filter(pc.is_in(before["user_id"], value_set=chosen)))
        funnel = Funnel(
            releases=_Fixed(release.with_live(state)),
            history=history,
            recorder=None,
            clock=lambda: float(now),
        )
        last = dict(zip(*(before[n].to_pylist() for n in ("user_id", "video_id")), strict=True))
        times = {OWN: np.zeros(pages), BESIDE: np.zeros(pages)}
        for turn in range(-_WARM, pages):
            user_id = chosen[turn % len(chosen)].as_py()
            for kind, related_to in ((OWN, ""), (BESIDE, last[user_id])):
                request = PageRequest(user_id=user_id, k=_K, related_to=related_to, record=False)
                start = time.perf_counter()
                funnel.recommend(request)
                if turn >= 0:
                    times[kind][turn] = 1000 * (time.perf_counter() - start)
        funnel.close()
        history.close()
    rows = [
        (kind, f"p{part} ms", float(np.percentile(taken, part)))
        for kind, taken in times.items()
        for part in (50, 99)
    ]
    for part in (50, 99):
        own, beside = (float(np.percentile(times[kind], part)) for kind in (OWN, BESIDE))
        rows.append((f"{BESIDE} over {OWN}", f"p{part} ratio", beside / own))
    return rows


def _fill(history: SqliteHistoryStore, watches: pa.Table) -> None:
    rows = watches.select(["user_id", "video_id", "time", "watch_time_s"]).to_pylist()
    history.append(
        [
            Event(
                event_id=f"w{n}",
                kind=Kind.WATCH,
                user_id=row["user_id"],
                time=row["time"],
                video_id=row["video_id"],
                watch_time_s=row["watch_time_s"],
                completed=True,
            )
            for n, row in enumerate(rows)
        ]
    )
