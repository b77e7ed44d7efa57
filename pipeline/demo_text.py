"""What the demo prints: a page of recommendations, and the metrics beside the baselines."""

from collections.abc import Mapping, Sequence
from typing import Any

from features.durations import DAY_S, HOUR_S, MINUTE_S

_WIDEST_TITLE = 44
# Of the ranking baselines, the one that knows no user either.
_POPULAR_RANKING = "video_mean_watch_time"


def page(items: Sequence[Mapping[str, Any]], *, now_s: int) -> str:
    """Returns a page of recommendations as a table.

    Args:
        items: Items as POST /v1/recommendations returns them, best first.
        now_s: Moment of the page, Unix seconds, for the age of a video.
    """
    rows = [("", "title", "channel", "sources", "age", "expected watch")]
    for number, item in enumerate(items, start=1):
        expected = item.get("expected_watch_time_s")
        rows.append(
            (
                str(number),
                _shortened(str(item.get("title") or item["video_id"])),
                str(item.get("channel_id") or "-"),
                ", ".join(item.get("sources") or ()),
                age(now_s - int(item["upload_time"])) if item.get("upload_time") else "-",
                "-" if expected is None else duration(float(expected)),
            )
        )
    return table(rows, right=frozenset({0, 4, 5}))


def visits(record: Mapping[str, Any]) -> str:
    """Returns what a day of visits came to, of its record; answers are by release and rung."""
    releases = {key.partition(" ")[0] for key in record["answers"]} - {""}  # Nothing was shown.
    pages = sum(record["answers"].values())
    events = record["passed"]["events"]
    return f"{pages:,} pages of release {' and '.join(sorted(releases))}; {events:,} events"


def metrics(document: Mapping[str, Any]) -> str:
    """Returns the main figures of evaluation's metrics.json beside those of popularity."""
    figures = document["figures"]
    rows = [("on the days kept aside", "model", "popularity", "which one")]
    for part, name, text in (
        ("candidate", "recall_at_10", "recall@10 of the next watch"),
        ("candidate", "recall_at_100", "recall@100 of the next watch"),
        ("ranker", "weighted_per_user_loss", "weighted, per-user loss (lower is better)"),
    ):
        model = _value(figures, f"{part}.model.all.{name}")
        baseline = _popularity(figures, part, name)
        if model is not None and baseline is not None:
            which, value = baseline
            rows.append((text, f"{model:.3f}", f"{value:.3f}", which.replace("_", " ")))
    if len(rows) == 1:
        return "The logs are too few for a measurement; see the notes of the evaluation."
    return table(rows, right=frozenset({1, 2}))


def table(rows: Sequence[Sequence[str]], *, right: frozenset[int]) -> str:
    """Returns rows as aligned columns, the first row underlined."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join(
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    rule = "  ".join("-" * width for width in widths)
    return "\n".join([lines[0], rule, *lines[1:]])


def age(seconds: int) -> str:
    """Returns the age of a video: 12 min, 5 h, 3 days."""
    if seconds < HOUR_S:
        return f"{max(seconds, 0) // MINUTE_S} min"
    if seconds < 2 * DAY_S:
        return f"{seconds // HOUR_S} h"
    return f"{seconds // DAY_S} days"


def duration(seconds: float) -> str:
    """Returns a watch time: 45 s, 3 min 05 s."""
    whole = round(seconds)
    if whole < MINUTE_S:
        return f"{whole} s"
    return f"{whole // MINUTE_S} min {whole % MINUTE_S:02d} s"


def _shortened(title: str) -> str:
    return title if len(title) <= _WIDEST_TITLE else title[: _WIDEST_TITLE - 1] + "…"


def _value(figures: Mapping[str, Any], key: str) -> float | None:
    figure = figures.get(key)
    return None if figure is None or figure["value"] is None else float(figure["value"])


def _popularity(figures: Mapping[str, Any], part: str, metric: str) -> tuple[str, float] | None:
    """Returns the best of the popularity baselines: its name and figure."""
    baselines = []
    for key in figures:
        of_part, system, slice_name, name = key.split(".")
        popular = system.startswith("popularity") or system == _POPULAR_RANKING
        value = _value(figures, key)
        fits = (of_part, slice_name, name) == (part, "all", metric) and "_minus_" not in system
        if fits and popular and value is not None:
            baselines.append((system, value))
    if not baselines:
        return None
    best = min if part == "ranker" else max
    return best(baselines, key=lambda pair: pair[1])
