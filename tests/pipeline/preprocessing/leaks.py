"""Logs for the audit."""

import numpy as np
import pyarrow as pa

from features import event_columns, spec
from features.as_of import examples, leakage, live_statistics, replay, statistics
from features.as_of.live_statistics import LiveStatistics
from features.catalogue import Catalogue
from features.durations import DAY_S

T0 = 1_699_920_000  # the first second of a UTC day


VIDEOS = pa.table({"video_id": list("abcd"), "upload_time": [T0 - 10**6] * 4})


USERS = pa.table({"user_id": ["u", "v"]})


TRAIN_UNTIL = T0 + 3 * DAY_S


def tables():
    """Two users; a page of two impressions and the watches of them, every few hours, for 4 days."""
    rows = [
        (user, "abcd"[(i + k) % 4], T0 + i * 9_000 + 7 * code, i)
        for code, user in enumerate("uv")
        for i in range(38)
        for k in range(2)
    ]
    shown = {
        "user_id": [r[0] for r in rows],
        "video_id": [r[1] for r in rows],
        "time": [r[2] + n % 2 for n, r in enumerate(rows)],
        "clicked": [n % 2 == 0 for n in range(len(rows))],
        "watch_time_s": [9.0 * (n % 2 == 0) for n in range(len(rows))],
        "page_id": [f"{r[0]}-{r[3]}" for r in rows],
    }
    watched = rows[::2]
    watches = {
        "user_id": [r[0] for r in watched],
        "video_id": [r[1] for r in watched],
        "time": [r[2] + 5 for r in watched],
        "watch_time_s": [9.0] * len(watched),
    }
    searches = {
        "user_id": watches["user_id"],
        "time": [t - 3 for t in watches["time"]],
        "query": ["cat videos"] * len(watched),
    }
    return {
        "watches": pa.table(watches),
        "impressions": pa.table(shown),
        "searches": pa.table(searches),
    }


def seen(events=None, **config):
    """Replays with an audit and returns what it saw."""
    events = tables() if events is None else events
    resolved = spec.resolve(
        {"videos": VIDEOS.column_names, "users": [], "context": []}
        | {name: table.column_names for name, table in events.items()}
    )
    catalogue = Catalogue(VIDEOS)
    audit = leakage.Audit(resolved, catalogue, train_until_s=TRAIN_UNTIL)
    replayer = replay.Replayer(
        replay.ReplayConfig(train_until_s=TRAIN_UNTIL, **config),
        resolved=resolved,
        catalogue=catalogue,
        users=examples.Users(USERS),
        audit=audit,
    )
    daily = statistics.daily_counts(events["watches"], events["impressions"])
    minutes = live_statistics.minute_counts(catalogue, events["watches"], events["impressions"])
    audit.begin(events, daily, minutes)
    for _ in replayer.examples(events, daily, LiveStatistics.of(minutes)):
        pass
    return audit.drain()


def leaking(found):
    return {key for key, finding in found.findings.items() if finding.leaking}


def not_strictly(key, user, now):
    """``visible`` with a ``<=``: what happens at the moment itself is seen."""
    end = np.searchsorted(key, event_columns.user_time_key(user, now), side="right")
    start = np.searchsorted(key, event_columns.user_time_key(user, np.zeros_like(now)))
    return start, end
