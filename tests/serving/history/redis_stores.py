"""Redis stores for tests."""

from serving.events.event import Event, Kind

T = 1_700_000_000


def watch(number, user="u", at=None):
    return Event(
        event_id=f"{user}-{number}",
        kind=Kind.WATCH,
        user_id=user,
        time=T + number if at is None else at,
        video_id=f"v{number}",
        watch_time_s=5.0,
        page_id="p",
        surface="home",
    )
