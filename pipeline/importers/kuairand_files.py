"""KuaiRand's files: which there are, what columns they have, which columns become features."""

import pathlib
import re
from collections.abc import Mapping
from typing import Any

import pyarrow as pa
from absl import logging

from features import command
from pipeline.importers import source_files

_I, _F, _S = pa.int64(), pa.float64(), pa.string()

# Columns by what they hold; ``pipeline.importers.kuairand`` treats each group alike.
LOG_FLAGS = (
    *("is_like", "is_follow", "is_comment", "is_forward", "is_hate", "is_profile_enter"),
    *("long_view", "is_rand"),
)
USER_FLAGS = ("is_lowactive_period", "is_live_streamer", "is_video_author")
USER_COUNTS = ("follow_user_num", "fans_user_num", "friend_user_num", "register_days")
USER_NAMES = ("user_active_degree", *(f"{name}_range" for name in USER_COUNTS))
USER_CODES = tuple(f"onehot_feat{number}" for number in range(18))
VIDEO_NAMES = ("video_type", "upload_type")
VIDEO_CODES = ("author_id", "music_id", "music_type", "visible_status")
VIDEO_SIZES = ("server_width", "server_height")

LOG: Mapping[str, pa.DataType] = dict.fromkeys(
    (
        *("user_id", "video_id", "date", "hourmin", "time_ms", "tab", "is_click"),
        *("play_time_ms", "duration_ms", "profile_stay_time", "comment_stay_time"),
        *LOG_FLAGS,
    ),
    _I,
)
# Codes are floats where a column has gaps: that is how pandas wrote them.
USERS: Mapping[str, pa.DataType] = {
    "user_id": _I,
    **dict.fromkeys((*USER_FLAGS, *USER_COUNTS, *USER_CODES), _F),
    **dict.fromkeys(USER_NAMES, _S),
}
VIDEOS: Mapping[str, pa.DataType] = {
    "video_id": _I,
    **dict.fromkeys((*VIDEO_CODES, *VIDEO_SIZES, "video_duration"), _F),
    **dict.fromkeys((*VIDEO_NAMES, "upload_dt", "tag"), _S),
}
HISTORY: Mapping[str, pa.DataType] = {
    "user_id": _I,
    "history_len": _I,
    "last_time_ms": _I,
    "long_watch_seq": pa.list_(_I),
}

# Published in 2026, for the videos of all editions; each is there or not.
LEVELS = ("first", "second", "third", "fourth")
CAPTIONS: Mapping[str, pa.DataType] = {"final_video_id": _I, "caption": _S, "show_cover_text": _S}
CATEGORY_COLUMNS = tuple(f"category_{number}" for number in range(1, 1 + len(LEVELS)))
CATEGORIES: Mapping[str, pa.DataType] = {
    "final_video_id": _I,
    **{f"{level}_level_category_name": _S for level in LEVELS},
}

_ROLES = {
    "log": ("log_standard", "log_random"),
    "users": ("user_features",),
    "videos": ("video_features_basic",),
    "history": ("history",),
    "statistics": ("video_features_statistic",),
}
_NAME = re.compile(
    r"(?P<role>log_standard|log_random|user_features|video_features_basic|"
    r"video_features_statistic|history)_(.+_)?(?P<edition>pure|1k|27k)(_part\d+)?"
    r"\.(?P<format>csv|csv\.gz|parquet)"
)


def find_files(source: pathlib.Path) -> dict[str, list[pathlib.Path]]:
    """Returns role -> files: log, users, videos, history, captions, categories, statistics.

    All but the first three may be empty.

    Raises:
        InputError: Files are missing, or belong to several editions or formats.
    """
    if source.is_file() and source.name.startswith("video_features_statistic"):
        raise command.InputError(
            f"{source} is refused: its columns are averages over the month that contains the log, "
            "so they hold the outcomes that are to be predicted. Give the directory of the data."
        )
    source_files.require_directory(
        source, expected="KuaiRand's files, log_standard_*.csv and so on"
    )
    matches = [
        (match, path)
        for folder in (source, source / "data", *sorted(source.glob("*/data")))
        for path in (sorted(folder.iterdir()) if folder.is_dir() else ())
        if (match := _NAME.fullmatch(path.name))
    ]
    for what in ("edition", "format"):
        kinds = sorted({match[what] for match, _ in matches})
        if len(kinds) > 1:
            raise command.InputError(
                f"{source} holds KuaiRand files of more than one {what} ({', '.join(kinds)}), "
                "whose rows would count twice. Give a directory with one of them."
            )
    files = {
        role: [path for match, path in matches if match["role"] in names]
        for role, names in _ROLES.items()
    }
    missing = [role for role in ("log", "users", "videos") if not files[role]]
    if missing:
        expected = ", ".join(f"{_ROLES[role][0]}_*.csv (or .parquet)" for role in missing)
        names = ", ".join(path.name for _, path in matches) or "no file of KuaiRand"
        raise command.InputError(
            f"{source} lacks {expected}, named as in the original download. Found: {names}."
        )
    for role in ("captions", "categories"):
        added = [f"kuairand_video_{role}.{suffix}" for suffix in ("csv", "csv.gz", "parquet")]
        folders = (source, source / "data", *sorted(source.glob("*/data")))
        paths = [folder / name for folder in folders for name in added]
        files[role] = [path for path in paths if path.is_file()][:1]
    for path in files["statistics"]:
        logging.warning(
            "%s is not read: it averages over the month that contains the log, so it leaks the "
            "outcomes that are to be predicted.",
            path,
        )
    return files


def declarations(*, has_history: bool, has_categories: bool = False) -> list[dict[str, Any]]:
    """Returns the extra features of this data set, as ``features.json`` holds them.

    Left out are columns that say the same again (the ranges of the counts), that have one value
    (``visible_status``), or nearly one value per video (``music_id``).
    """
    both, ranker = ["candidate", "ranker"], ["ranker"]

    def declare(
        table: str, names: tuple[str, ...], kind: str, models: list[str]
    ) -> list[dict[str, Any]]:
        side = "query" if table == "users" else "candidate"
        return [
            {
                "name": name,
                "kind": kind,
                "side": side,
                "models": models,
                "source": f"{table}.{name}",
            }
            for name in names
        ]

    return [
        *declare("users", ("user_active_degree", *USER_CODES), "univalent", both),
        *declare("users", USER_FLAGS, "binary", both),
        *declare("users", USER_COUNTS, "continuous", ranker),
        *(declare("users", ("history_impressions",), "continuous", ranker) if has_history else ()),
        *declare("videos", (*VIDEO_NAMES, "music_type"), "univalent", both),
        *declare("videos", VIDEO_SIZES, "continuous", ranker),
        *(declare("videos", CATEGORY_COLUMNS, "univalent", both) if has_categories else ()),
    ]
