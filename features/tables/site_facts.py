"""What a log tells of its site: how fast it forgets, and how often people watch a video again.

Both decide what is right for a site by default: how far back counts look, and whether pages leave
out what a viewer has watched.
"""

import dataclasses
import os
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from features.catalogue import combined
from features.durations import DAY_S
from features.tables import half_life, logs

# Of a larger log, whole users are drawn until there are about so many watches.
MOST_WATCHES = 5_000_000
_FEWEST_WATCHES = 200
# Where a tenth of the watches are repeats, who is not offered them misses what was wanted.
REPEATS_FROM = 0.1
# Well apart from the half-lives of a news site (3 to 8 hours) and of other ones (days).
SHORT_LIVED_S = DAY_S / 2
_COLUMNS = ["user_id", "video_id", "time"]

Ints = npt.NDArray[np.int64]


@dataclasses.dataclass(frozen=True, kw_only=True)
class SiteFacts:
    """Facts of a site.

    Attributes:
        half_life_s: Half-life of what is watched, seconds, see :mod:`features.tables.half_life`;
            None where there are too few watches to tell.
        repeat_share: Part of the watches whose user had watched the video before; None as above.
        watches: Number of watches that they were told from.
    """

    half_life_s: float | None = None
    repeat_share: float | None = None
    watches: int = 0

    @property
    def repeats(self) -> bool:
        """Whether people watch again, so that pages offer what they have watched."""
        return self.repeat_share is not None and self.repeat_share >= REPEATS_FROM

    @property
    def is_short_lived(self) -> bool:
        """Whether what is watched is forgotten within hours, as news are."""
        return self.half_life_s is not None and self.half_life_s < SHORT_LIVED_S

    @classmethod
    def of_info(cls, info: Mapping[str, Any]) -> "SiteFacts":
        """Returns the facts that the record of examples holds; none where it has none."""
        facts = info.get("site")
        if not isinstance(facts, Mapping):
            return cls()
        known = {field.name for field in dataclasses.fields(cls)}
        return cls(**{name: value for name, value in facts.items() if name in known})


def of_logs(
    logs_dir: str | os.PathLike[str], *, from_s: int | None = None, until_s: int | None = None
) -> SiteFacts:
    """Tells the facts from the watches of a log.

    Args:
        logs_dir: Directory of the raw logs.
        from_s: First second of watches to read, Unix; None for no bound.
        until_s: First second not to read, Unix; None for no bound.
    """
    fragments = logs.fragments(logs_dir, "watches", from_s=from_s, until_s=until_s)
    total = sum(fragment.num_rows for fragment in fragments)
    every = max(1, -(-total // MOST_WATCHES))
    parts = []
    for fragment in fragments:
        rows = logs.read_fragment(fragment, columns=_COLUMNS, from_s=from_s, until_s=until_s)
        rows = rows.filter(pc.is_valid(rows["user_id"])).drop_null()
        parts.append(rows if every == 1 else _some_users(rows, every))
    if not parts:
        return SiteFacts()
    watches = pa.concat_tables(parts)
    users, videos = (_codes(watches[name]) for name in ("user_id", "video_id"))
    return of_watches(users, videos, np.asarray(combined(watches["time"]), np.int64))


def of_watches(users: Ints, videos: Ints, times: Ints) -> SiteFacts:
    """Tells the facts from watches, int64 [n] each: user, video, Unix seconds."""
    pairs = np.unique(users * (int(videos.max(initial=0)) + 1) + videos, return_inverse=True)[1]
    order = np.lexsort((times, pairs))
    # A row that is in the log twice is one watch.
    is_first_of_pair = np.diff(pairs[order], prepend=-1) > 0
    is_copy = ~is_first_of_pair & (np.diff(times[order], prepend=-1) == 0)
    count = int((~is_copy).sum())
    if count < _FEWEST_WATCHES:
        return SiteFacts(watches=count)
    kept = order[~is_copy]
    return SiteFacts(
        half_life_s=half_life.estimate(users[kept], videos[kept], times[kept]),
        repeat_share=1 - int(is_first_of_pair.sum()) / count,
        watches=count,
    )


def _codes(column: pa.ChunkedArray) -> Ints:
    return np.asarray(combined(column).dictionary_encode().indices, np.int64)


def _some_users(rows: pa.Table, every: int) -> pa.Table:
    """Keeps the watches of one user in ``every``, the same in all parts of a log."""
    encoded = combined(rows["user_id"]).dictionary_encode()
    kept = np.array([zlib.crc32(u.encode()) % every == 0 for u in encoded.dictionary.to_pylist()])
    return rows.filter(pa.array(kept[np.asarray(encoded.indices)]))
