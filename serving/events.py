"""What users do and are shown, as the funnel receives and records it: one flat record per event."""

import dataclasses
import enum
import json
from collections.abc import Mapping
from typing import Any

# A click leads from an impression to its watch within this time of the impression ...
CLICK_WINDOW_S = 30 * 60
# ... and the watch that follows a click may be reported when it ends, so it has longer.
WATCH_WINDOW_S = 4 * 3600
# Clocks of clients run ahead a little; more than this is a mistake.
MAX_AHEAD_S = 300
# A client may report late what it did without a network. Earlier than this is a clock that is
# wrong, and each day is a partition of the logs that compaction has to write.
MAX_BEHIND_S = 30 * 86400


def time_fault(time: int, *, now: int) -> str | None:
    """Returns what is wrong with the time of an event, None for one that may be recorded.

    Args:
        time: Unix seconds.
        now: The server's clock, Unix seconds.
    """
    if time > now + MAX_AHEAD_S:
        return (
            f"must not be after the server's clock ({now}) by more than {MAX_AHEAD_S} s, "
            f"got {time}; is it in milliseconds?"
        )
    if time < now - MAX_BEHIND_S:
        return (
            f"must not be before the server's clock ({now}) by more than {MAX_BEHIND_S // 86400} "
            f"days, got {time}; what is older belongs into the tables of the logs"
        )
    return None


class Kind(str, enum.Enum):
    """What happened."""

    WATCH = "watch"
    SEARCH = "search"
    IMPRESSION = "impression"
    CLICK = "click"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Event:
    """One thing that a user did, or was shown.

    Attributes:
        event_id: Named by whoever reports it; the same id of the same user is the same event.
        kind: Decides which of the attributes below mean something.
        user_id: Who.
        time: Unix seconds.
        video_id: What; "" for a search.
        query: The words of a search.
        watch_time_s: Seconds watched, 0 or more.
        completed: Whether the watch counts as one to the end; None where it is not known.
        clicked: Of an impression: whether it is already known to have been clicked.
        page_id: The page (``request_id`` of the answer) that showed the video; "" if none did.
        position: Of an impression: place on the page, 0 is first; -1 where it is not known.
        source: Of a watch: where it came from, for example ``home`` or ``search``.
        surface: Of an impression: the kind of page.
        device: What the user held.
        candidate_sources: Of a served impression: the sources that nominated the video.
        retrieval_score: Of a served impression: its score in retrieval, if it had one.
        release_id: Of a served impression: the release that chose it.
        exposures: Of a served impression: arms of experiments, ``experiment/arm``.
    """

    event_id: str
    kind: Kind
    user_id: str
    time: int
    video_id: str = ""
    query: str = ""
    watch_time_s: float = 0.0
    completed: bool | None = None
    clicked: bool = False
    page_id: str = ""
    position: int = -1
    source: str = ""
    surface: str = ""
    device: str = ""
    candidate_sources: tuple[str, ...] = ()
    retrieval_score: float | None = None
    release_id: str = ""
    exposures: tuple[str, ...] = ()

    def to_record(self) -> dict[str, Any]:
        """Returns the attributes that differ from their defaults, ready for JSON."""
        record: dict[str, Any] = {}
        for name, default in _DEFAULTS.items():
            value = getattr(self, name)
            if value != default:
                record[name] = value
        record["kind"] = self.kind.value
        return record

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> "Event":
        """Inverse of :meth:`to_record`; keys that are no attributes are ignored."""
        known = {k: v for k, v in record.items() if k in _DEFAULTS and v is not None}
        known["kind"] = Kind(known["kind"])
        for name in ("candidate_sources", "exposures"):
            if name in known:
                known[name] = tuple(known[name])
        return cls(**known)


_DEFAULTS: Mapping[str, Any] = {field.name: field.default for field in dataclasses.fields(Event)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class NewUser:
    """A user who was met for the first time.

    Attributes:
        user_id: Who.
        profile: Columns of the users table, as far as they are known.
    """

    user_id: str
    profile: Mapping[str, Any]

    def to_record(self) -> dict[str, Any]:
        """Returns the record for the event log; the profile travels as JSON text."""
        return {"kind": "user", "user_id": self.user_id, "profile": json.dumps(dict(self.profile))}
