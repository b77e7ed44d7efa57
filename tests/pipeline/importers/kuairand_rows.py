"""Rows of KuaiRand, and the files that it comes in."""

import polars as pl

from features.tables import logs
from pipeline.importers import kuairand, kuairand_files

# 2022-04-25T00:00:00Z.
START_MS = 1_650_844_800_000


MINUTE_MS = 60_000


LOG_ROW = {
    **dict.fromkeys(kuairand_files.LOG, 0),
    "user_id": 1,
    "video_id": 10,
    "date": 20220425,
    "hourmin": 800,
    "time_ms": START_MS,
    "play_time_ms": 2_500,
    "duration_ms": 60_000,
    "tab": 1,
}


USER_ROW = {
    **dict.fromkeys(kuairand_files.USERS, 0),
    **dict.fromkeys(kuairand_files.USER_NAMES, "some"),
    "user_id": 1,
}


VIDEO_ROW = {
    **dict.fromkeys(kuairand_files.VIDEOS, 0),
    "video_id": 10,
    "author_id": 77,
    "video_type": "NORMAL",
    "upload_dt": "2022-04-10",
    "upload_type": "Web",
    "video_duration": 60_000.0,
    "tag": "12,65",
}


def rows_of(default, *changes):
    return pl.DataFrame([{**default, **change} for change in (changes or ({},))])


def log_rows(*changes):
    return rows_of(LOG_ROW, *changes)


def write_official(folder, *, edition="pure", log=None, random=None, users=None, videos=None):
    """Writes the official CSV layout; returns the directory that a user would give."""
    data = folder / f"KuaiRand-{edition}" / "data"
    data.mkdir(parents=True)
    log = log_rows() if log is None else log
    log.write_csv(data / f"log_standard_4_22_to_5_08_{edition}.csv")
    if random is not None:
        random.write_csv(data / f"log_random_4_22_to_5_08_{edition}.csv")
    users = rows_of(USER_ROW) if users is None else users
    users.write_csv(data / f"user_features_{edition}.csv")
    videos = rows_of(VIDEO_ROW) if videos is None else videos
    videos.write_csv(data / f"video_features_basic_{edition}.csv")
    return data.parent


def imported(source, logs_dir, **options):
    with logs.LogWriter(logs_dir) as writer:
        notes = kuairand.import_logs(source, writer, kuairand.KuaiRandConfig(**options))
    return notes


def table(logs_dir, name):
    return pl.DataFrame(pl.from_arrow(logs.read_table(logs_dir, name)))
