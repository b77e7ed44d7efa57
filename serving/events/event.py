"""What users do and are shown, as the funnel receives and records it: one flat record per event."""

import dataclasses
import enum
import json
from collections.abc import Mapping
from typing import Any, ClassVar

from features import clicks
from features.durations import DAY_S, HOUR_S

CLICK_WINDOW_S = clicks.CLICK_WINDOW_S
# The watch that follows a click may be reported when it ends, so it has longer.
WATCH_WINDOW_S = 4 * HOUR_S
# A page is as of the second after its user's last event, but no further than this after the clock:
# else each page of a busy second would move the next one on. So the impression may lie that much
# after the click that it led to. Clocks of servers that share a history should differ by less.
AHEAD_S = 1
# Clocks of clients run ahead a little; more than this is a mistake.
MAX_AHEAD_S = 300
# A client may report late what it did without a network. Earlier than this is a clock that is
# wrong, and each day is a partition of the logs that compaction has to write.
MAX_BEHIND_S = 30 * DAY_S


def time_fault(time: int, *, now: int) -> str | None:
    """Returns what is wrong with the time of an event, None for one that may be recorded.

    Args:
        time: Time that the event claims, Unix seconds.
        now: The server's clock, Unix seconds.
    """
    if time > now + MAX_AHEAD_S:
        return (
            f"must not be after the server's clock ({now}) by more than {MAX_AHEAD_S} s, "
            f"got {time}; is it in milliseconds?"
        )
    if time < now - MAX_BEHIND_S:
        return (
            f"must not be before the server's clock ({now}) by more than {MAX_BEHIND_S // DAY_S} "
            f"days, got {time}; what is older belongs into the tables of the logs"
        )
    return None


class Kind(str, enum.Enum):
    """What happened."""

    WATCH = "watch"
    SEARCH = "search"
    IMPRESSION = "impression"
    CLICK = "click"
    FEEDBACK = "feedback"


def identity(kind: str, event_id: str, *, page_id: str, video_id: str, given: str) -> str:
    """Returns what tells events of one kind of one user apart: the id that was given to them.

    A page shows a video once, whoever tells of it: an impression that names its page is known by
    page and video, so that one that was served here and is reported by the client too is one.
    A like and a share may have one event id, as a click and a watch may. Video ids and event ids
    have no control characters, so the forms never meet.

    Args:
        kind: Kind of event.
        event_id: Name given by whoever reports it.
        page_id: Page that it names; "" for none.
        video_id: Id of the video.
        given: Kind of feedback; "" for other events.
    """
    if kind == Kind.IMPRESSION.value and page_id:
        return f"{video_id}\x1f{page_id}"
    if kind == Kind.FEEDBACK.value:
        return f"{given}\x1f{event_id}"
    return event_id


@dataclasses.dataclass(frozen=True, kw_only=True)
class Event:
    """One thing that a user did, or was shown.

    Attributes:
        event_id: Name given by whoever reports it; see :attr:`key` for what is the same event.
        kind: Kind of event, which decides which of the attributes below mean something.
        user_id: User who did it, or was shown it.
        time: Moment of the event, Unix seconds.
        video_id: Id of the video; "" for a search, and for feedback on a channel.
        query: The words of a search.
        watch_time_s: Seconds watched, 0 or more.
        completed: Whether the watch counts as one to the end; None where it is not known.
        clicked: Whether an impression is already known to have been clicked.
        page_id: The page that showed the video; "" if none did.
        position: Place of an impression on its page, 0 is first; -1 where it is not known.
        source: Place that a watch came from, for example ``home`` or ``search``.
        surface: Kind of page of an impression.
        device: Device of the user.
        candidate_sources: Sources that nominated the video of a served impression.
        retrieval_score: Score in retrieval of a served impression, None where it had none.
        release_id: Release that chose a served impression.
        exposures: Arms of experiments of a served impression, ``experiment/arm``.
        feedback: Kind of feedback, one of :data:`features.feedback.KINDS`; "" for other events.
        channel_id: Id of the channel that feedback is about, in place of a video; "" for none.
        value: Value of feedback, where 0 takes back what was given; None where it has none.
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
    feedback: str = ""
    channel_id: str = ""
    value: float | None = None

    @property
    def identity(self) -> str:
        """What tells the events of one kind of one user apart, see :func:`identity`."""
        return identity(
            self.kind.value,
            self.event_id,
            page_id=self.page_id,
            video_id=self.video_id,
            given=self.feedback,
        )

    @property
    def key(self) -> tuple[str, str, str]:
        """User id, kind and identity: what has the same key is the same event, everywhere."""
        return self.user_id, self.kind.value, self.identity

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
        user_id: Id of the user.
        profile: Columns of the users table, as far as they are known.
    """

    KIND: ClassVar[str] = "user"

    user_id: str
    profile: Mapping[str, Any]

    def to_record(self) -> dict[str, Any]:
        """Returns the record for the event log; the profile travels as JSON text."""
        return {
            "kind": self.KIND,
            "user_id": self.user_id,
            "profile": json.dumps(dict(self.profile)),
        }
