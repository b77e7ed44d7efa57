"""What a release's figures must be: better than chance, as good as baselines and the one before."""

import json
import math
import os
import pathlib
from collections.abc import Mapping
from typing import Any

from features import command
from serving.building.gates import COLLAPSE_K, NOT_CHECKED, Gate, decided

# The holdout moves with each day, so a metric may fall a little from one release to the next.
MAX_FALL = 0.2
# Main metric of each part, and whether more is better. Candidate generation has to bring the
# right videos into the hundreds that are ranked; their order, which MAP judges, is the ranker's.
MAIN_METRICS = {
    "candidate": (("recall_at_100", True),),
    "ranker": (("weighted_per_user_loss", False),),
}
_WORD = {True: "at least", False: "at most"}


def read(path: str | os.PathLike[str] | None) -> Mapping[str, Any]:
    """Returns the figures of models.evaluate's metrics.json, by key.

    Args:
        path: The file, or the directory that holds it; None gives no figures.
    """
    if path is None:
        return {}
    file = pathlib.Path(path)
    file = file / "metrics.json" if file.is_dir() else file
    try:
        figures = json.loads(file.read_text())["figures"]
    except FileNotFoundError:
        raise command.InputError(
            f"--metrics {file} does not exist. Make it with: python -m models.evaluate"
        ) from None
    except (ValueError, KeyError, TypeError) as error:
        raise command.InputError(f"--metrics {file} has no figures: {error!r}.") from None
    return dict(figures)


def judge(
    figures: Mapping[str, Any], previous: Mapping[str, Any], *, num_videos: int, has_ranker: bool
) -> list[Gate]:
    """Metrics against chance, against the baselines and against the release that serves now.

    Args:
        figures: Figures of the release to be published, see :func:`read`.
        previous: Figures of the release that serves now; empty where there is none.
        num_videos: Size of the catalogue; a random list of 100 has a recall of 100 / num_videos.
        has_ranker: Whether the release has one.
    """
    chance = {"candidate": min(1.0, 100 / num_videos), "ranker": 0.5}
    gates = []
    parts = ["candidate", "ranker"] if has_ranker else ["candidate"]
    if num_videos <= COLLAPSE_K:
        parts.remove("candidate")
        gates.append(
            Gate(
                rule="candidate recall_at_100",
                value=f"{num_videos} videos, so a list of 100 holds them all",
                threshold=f"more than {COLLAPSE_K} videos to tell",
                verdict=NOT_CHECKED,
            )
        )
    for part in parts:
        metric, more_is_better = MAIN_METRICS[part][0]
        key = _key(part, "model", metric)
        gates.append(_against_chance(figures, key, chance[part], more_is_better=more_is_better))
        gates.append(
            _against_previous(figures, previous, part, metric, more_is_better=more_is_better)
        )
        for metric, more_is_better in MAIN_METRICS[part]:
            gates.append(_against_baselines(figures, part, metric, more_is_better=more_is_better))
    return gates


def page_order(judged: Mapping[str, Any]) -> list[Gate]:
    """The learned order of pages is not worse than any of its parts alone.

    Args:
        judged: Figures of :class:`serving.batch.order_learning.Learned`; empty where nothing was
            learned.
    """
    best = judged.get("best_single", "the best part alone")
    gates = []
    for k, change in judged.get("difference", {}).items():
        value = judged["hits"][judged["chosen"]][k]
        low, high = _bounds(change)
        gates.append(
            decided(
                f"what is watched, in the first {k} of the page, {judged['chosen']} order, against "
                f"{best}",
                f"{value:.4f}; minus {best}: {change['value']:+.4f} [{low:+.4f}, {high:+.4f}]",
                "interval of the difference not wholly below 0",
                passed=high >= 0,
            )
        )
    return gates or [
        Gate(
            rule="order of pages against its best part alone",
            value=f"{judged.get('lessons', 0)} held-out watches of candidates",
            threshold=f"at least {judged.get('needed', 1)} to learn from",
            verdict=NOT_CHECKED,
        )
    ]


def _against_chance(
    figures: Mapping[str, Any], key: str, chance: float, *, more_is_better: bool
) -> Gate:
    """Fails where a random order is surely as good: also the better end of the interval is."""
    figure = figures.get(key, {})
    value = figure.get("value")
    rule, threshold = (
        f"{key} against chance",
        f"{_WORD[more_is_better]} {chance:.4f} within the interval",
    )
    if not _is_number(value):
        return Gate(rule=rule, value="no figure", threshold=threshold, verdict=NOT_CHECKED)
    low, high = _bounds(figure)
    passed = high >= chance if more_is_better else low <= chance
    return decided(rule, f"{value:.4f} [{low:.4f}, {high:.4f}]", threshold, passed=passed)


def _against_baselines(
    figures: Mapping[str, Any], part: str, metric: str, *, more_is_better: bool
) -> Gate:
    """Fails where the interval of model minus baseline lies wholly on the worse side."""
    baselines = _baselines(figures, part, metric)
    rule = f"{part} {metric} against the best of {len(baselines)} baselines"
    sign = 1 if more_is_better else -1
    threshold = f"interval of the difference not wholly {'below' if more_is_better else 'above'} 0"
    model = _value(figures, _key(part, "model", metric))
    if not baselines or not _is_number(model):
        return Gate(rule=rule, value="no figures", threshold=threshold, verdict=NOT_CHECKED)
    # The smaller model minus baseline, the better the baseline.
    name = min(baselines, key=lambda baseline: sign * baselines[baseline]["value"])
    best = baselines[name]
    low, high = _bounds(best)
    return decided(
        rule,
        f"{model:.4f}; minus {name}: {best['value']:+.4f} [{low:+.4f}, {high:+.4f}]",
        threshold,
        passed=max(sign * low, sign * high) >= 0,
    )


def _against_previous(
    figures: Mapping[str, Any],
    previous: Mapping[str, Any],
    part: str,
    metric: str,
    *,
    more_is_better: bool,
) -> Gate:
    """Fails where a metric is surely far worse than that of the release that serves now."""
    key = _key(part, "model", metric)
    value, old = (_value(of, key) for of in (figures, previous))
    rule = f"{key} against the release that serves now"
    if not (_is_number(value) and _is_number(old)):
        told = "no figure" if not _is_number(value) else f"{value:.4f}, nothing to compare"
        threshold = f"not worse by more than {MAX_FALL:.0%}"
        return Gate(rule=rule, value=told, threshold=threshold, verdict=NOT_CHECKED)
    harder, best = _harder(figures, previous, part, metric, more_is_better=more_is_better)
    factor = (1 - MAX_FALL) / harder if more_is_better else (1 + MAX_FALL) * harder
    bounds = (_bounds(figures[key]), _bounds(previous[key]))
    new_half, old_half = ((high - low) / 2 for low, high in bounds)
    # The two were measured on other days, so their errors add up.
    room = math.hypot(new_half, factor * old_half)
    limit = factor * old + (-room if more_is_better else room)
    why = [f"{MAX_FALL:.0%} worse", f"{room:.4f} by chance"]
    if harder > 1:
        why.insert(1, f"{harder:.2f} times by the holdout, on which {best} is so much worse")
    return decided(
        rule,
        f"{value:.4f}, was {old:.4f}",
        f"{_WORD[more_is_better]} {limit:.4f}: {', '.join(why[:-1])}, and {why[-1]}",
        passed=value >= limit if more_is_better else value <= limit,
    )


def _harder(
    figures: Mapping[str, Any],
    previous: Mapping[str, Any],
    part: str,
    metric: str,
    *,
    more_is_better: bool,
) -> tuple[float, str]:
    """Returns by how many times a holdout is harder than that of the release that serves now.

    The best baseline says it, measured on both; 1 where it does as well as then, or none is known.
    Without that a release whose holdout was easy, as one of pages by popularity is, would have none
    after it.
    """
    both = {
        name: (now, then)
        for name in _baselines(figures, part, metric)
        for now, then in [[_value(of, _key(part, name, metric)) for of in (figures, previous)]]
        if _is_number(now) and _is_number(then) and min(now, then) > 0
    }
    if not both:
        return 1.0, ""
    sign = -1 if more_is_better else 1
    best = min(both, key=lambda name: sign * both[name][0])
    now, then = both[best]
    return max(1.0, then / now if more_is_better else now / then), best


def _baselines(figures: Mapping[str, Any], part: str, metric: str) -> dict[str, Mapping[str, Any]]:
    """Returns the figures of model minus baseline, by the names of the baselines."""
    start, end = f"{part}.model_minus_", f".all.{metric}"
    return {
        key[len(start) : -len(end)]: figure
        for key, figure in figures.items()
        if key.startswith(start) and key.endswith(end) and _is_number(figure.get("value"))
    }


def _key(part: str, system: str, metric: str) -> str:
    return f"{part}.{system}.all.{metric}"


def _value(figures: Mapping[str, Any], key: str) -> Any:
    return figures.get(key, {}).get("value")


def _bounds(figure: Mapping[str, Any]) -> tuple[float, float]:
    """Returns the interval of a figure; its value twice where it has none."""
    low, high = (figure["value"] if figure.get(b) is None else figure[b] for b in ("low", "high"))
    return low, high


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
