"""What a viewer must not be shown, decided before anything is a candidate.

=================  =================================================================================
watched            watched already, where the request leaves those out
shown_too_often    shown ``max_shown`` times within ``shown_window_s``; last on the page where it
                   could not be filled otherwise
blocked_video      blocked by the user or the request
blocked_channel    likewise
hidden_video       hidden by the viewer's feedback, and not taken back
hidden_channel     likewise
excluded           the request leaves it out, or stands beside it
topic              it has none of the topics that the request wants
language           likewise of languages
region             the video's ``regions`` do not name the viewer's, or its ``blocked_regions`` do
age                the viewer is younger than the video's ``min_age``, or of unknown age
withdrawn          ``withdrawn`` is true in the video's row of the videos table
custom             the predicate of ``--filter`` says no
=================  =================================================================================

``regions``, ``blocked_regions`` (lists of strings) and ``min_age`` (years) are optional columns of
the videos table; a video without a value is for everybody. Sources ask for each video before they
nominate it and look on until they have enough, so that a page has k videos as long as the
catalogue has k that may be shown.
"""

import dataclasses
import functools
import importlib
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from absl import logging

from features import command
from features.catalogue import Catalogue, combined, ragged_rows
from features.tables import schema
from serving import errors
from serving.funnel.page import FunnelConfig, PageRequest
from serving.funnel.viewer import Viewer
from serving.history.user_history import Blocked

# Takes viewer, catalogue and rows int32 [n]; returns bool [n], whether each may be shown.
Predicate = Callable[[Viewer, Catalogue, np.ndarray], np.ndarray]
Rule = Callable[[np.ndarray], np.ndarray]


class VideoRules:
    """The columns of a catalogue that filters look at, ready to be asked.

    Attributes:
        withdrawn: int32, sorted: rows of videos that nobody is shown any more.
    """

    def __init__(self, catalogue: Catalogue, withdrawn: np.ndarray) -> None:
        self._catalogue = catalogue
        self.withdrawn = withdrawn
        names = catalogue.table.column_names
        self._listed = {
            name: _Lists.of(catalogue.table[name])
            for name in ("regions", "blocked_regions")
            if name in names
        }
        self.min_ages: np.ndarray | None = None
        if "min_age" in names:
            ages = pc.fill_null(combined(catalogue.table["min_age"]).cast(pa.float64()), 0.0)
            self.min_ages = np.asarray(ages)

    @functools.cached_property
    def channel_codes(self) -> Mapping[str, int]:
        """Channel id to its code in the catalogue."""
        _, names = self._catalogue.channels
        return {name: code for code, name in enumerate(names.to_pylist())}

    @functools.cached_property
    def _languages(self) -> tuple[np.ndarray, Mapping[str, int]]:
        """The language of each video, int32 [N], -1 for none, and the codes."""
        if "language" not in self._catalogue.table.column_names:
            return np.full(len(self._catalogue), -1, np.int32), {}
        codes = combined(self._catalogue.table["language"]).cast(pa.string()).dictionary_encode()
        names = {name: code for code, name in enumerate(codes.dictionary.to_pylist())}
        return np.asarray(codes.indices.fill_null(-1), np.int32), names

    def in_languages(self, wanted: Sequence[str]) -> Rule:
        """Returns whether each video is in one of these languages."""
        codes, names = self._languages
        mine = [names[name] for name in wanted if name in names]
        return lambda rows: np.isin(codes[rows], mine)

    def on_topics(self, wanted: Sequence[str]) -> Rule:
        """Returns whether each video has one of these topics."""
        offsets, codes, names = self._catalogue.topics
        mine = np.flatnonzero(pc.is_in(names, value_set=pa.array(wanted, names.type)))

        def rule(rows: np.ndarray) -> np.ndarray:
            lengths = offsets[rows + 1] - offsets[rows]
            is_it = np.isin(codes[ragged_rows(offsets[rows], lengths)], mine)
            owner = np.repeat(np.arange(len(rows)), lengths)
            return np.bincount(owner[is_it], minlength=len(rows)) > 0

        return rule

    def allowed_in(self, region: str) -> Rule | None:
        """Returns whether each video may be shown in a region; None where all may everywhere.

        Callers choose the names of regions, so nothing is kept for any of them.
        """
        if not self._listed:
            return None
        regions, blocked = self._listed.get("regions"), self._listed.get("blocked_regions")

        def rule(rows: np.ndarray) -> np.ndarray:
            allowed = np.ones(len(rows), bool)
            if regions is not None:
                allowed &= regions.have(rows, region) | ~regions.have_any(rows)
            if blocked is not None:
                allowed &= ~blocked.have(rows, region)
            return allowed

        return rule


def withdrawn_rows(catalogue: Catalogue, videos: pa.Table) -> np.ndarray:
    """Returns the rows in ``catalogue`` of the withdrawn ones of ``videos``, int32, sorted.

    Args:
        catalogue: Catalogue of a release.
        videos: Rows of a videos table, with or without the column ``withdrawn``.
    """
    if "withdrawn" not in videos.column_names:
        return _NO_ROWS
    try:
        withdrawn = combined(videos["withdrawn"]).cast(pa.bool_()).fill_null(False)
    except pa.ArrowException:
        logging.error(
            "Column withdrawn of the videos table must be true or false, it is %s: NO video is "
            "taken for withdrawn.",
            videos.schema.field("withdrawn").type,
        )
        return _NO_ROWS
    rows = catalogue.rows(combined(videos["video_id"]).filter(withdrawn))
    return np.unique(rows[rows >= 0]).astype(np.int32)


RULES = ("regions", "blocked_regions", "min_age", "withdrawn")


def rule_columns(videos: pa.Table) -> pa.Table:
    """Returns the columns of a videos table that rules look at, in the types of the contract.

    Raises:
        InputError: One of them has another type, so that no request could be answered.
    """
    names = [name for name in RULES if name in videos.column_names]
    return schema.conform("videos", videos.select(names), is_partial=True)


def current_rules(catalogue: Catalogue, videos: pa.Table) -> pa.Table:
    """Returns the rules of the videos of ``catalogue``, row by row, as they are now.

    Args:
        catalogue: Catalogue of a release.
        videos: The videos table of now; a video that it does not have keeps its rules.
    """
    place = pc.index_in(catalogue.video_ids, value_set=combined(videos["video_id"]))
    built, now = rule_columns(catalogue.table), rule_columns(videos)
    columns = {}
    for name in RULES:
        if name in now.column_names:
            columns[name] = combined(now[name]).take(place)
            if name in built.column_names:
                kept = combined(built[name])
                columns[name] = pc.if_else(pc.is_null(place), kept, columns[name])
        elif name in built.column_names:
            columns[name] = combined(built[name])
    return pa.table(columns) if columns else built


def ruled(catalogue: Catalogue, rules: pa.Table) -> Catalogue:
    """Returns the catalogue with the columns of :func:`current_rules` in place of its own."""
    others = [name for name in catalogue.table.column_names if name not in RULES]
    table = catalogue.table.select(others)
    for name in rules.column_names:
        table = table.append_column(name, rules[name])
    return Catalogue(table)


class Filters:
    """The filters of one request; safe for the threads of its sources.

    Attributes:
        forbidden: int32, sorted: rows that are not shown at all.
        resting: int32, sorted: rows that are shown last, if there is nothing else.
        excluded: int32, sorted: both.
    """

    def __init__(
        self,
        viewer: Viewer,
        catalogue: Catalogue,
        rules: VideoRules,
        *,
        request: PageRequest,
        settings: FunnelConfig,
        predicate: Predicate | None = None,
    ) -> None:
        """Prepares everything that does not depend on a single video.

        Args:
            viewer: User who asks.
            catalogue: Videos of the release.
            rules: Rules of the videos of ``catalogue``.
            request: Page request, with what it blocks.
            settings: Limits of what is shown again.
            predicate: The custom filter.
        """
        self._catalogue = catalogue
        self._refused: dict[str, list[np.ndarray]] = {}
        blocked = viewer.blocked | request.blocked
        self._listed = {
            "watched": viewer.watched_rows if request.exclude_watched else _NO_ROWS,
            "shown_too_often": _shown_too_often(viewer, settings),
            "blocked_video": _rows_of(catalogue, blocked.videos),
            "hidden_video": _rows_of(catalogue, viewer.hidden.videos),
            "excluded": _rows_of(catalogue, (*request.exclude, request.related_to)),
            "withdrawn": rules.withdrawn,
        }
        lists = [rows for name, rows in self._listed.items() if name != "shown_too_often"]
        forbidden = np.unique(np.concatenate(lists))
        self.forbidden = forbidden.astype(np.int32)
        self.resting = np.setdiff1d(self._listed["shown_too_often"], forbidden).astype(np.int32)
        self.excluded = np.union1d(self.forbidden, self.resting).astype(np.int32)
        self._rules = dict(_rules(viewer, catalogue, rules, blocked=blocked, predicate=predicate))
        if request.topics:
            self._rules["topic"] = rules.on_topics(request.topics)
        if request.languages:
            self._rules["language"] = rules.in_languages(request.languages)

    def allowed(self, rows: np.ndarray) -> np.ndarray:
        """Returns bool [n], whether the rules allow each video; :attr:`excluded` is not request.

        Raises:
            FilterError: The custom filter failed.
        """
        kept = np.ones(len(rows), bool)
        for name, rule in self._rules.items():
            passed = rule(rows)
            if not passed.all():
                self._refused.setdefault(name, []).append(rows[kept & ~passed])
                kept &= passed
        return kept

    def shows(self, rows: np.ndarray, *, now: int) -> np.ndarray:
        """Returns bool [n], whether each may be shown at all, if last; raises FilterError."""
        kept = (self._catalogue.upload_times[rows] <= now) & ~np.isin(rows, self.forbidden)
        return np.asarray(kept & self.allowed(rows), bool)

    def verdicts(self, row: int) -> dict[str, bool]:
        """Returns whether a video passes each filter, by name; raises FilterError."""
        passed = {name: row not in rows for name, rows in self._listed.items()}
        return passed | {n: bool(rule(np.array([row]))[0]) for n, rule in self._rules.items()}

    def _held_back(self) -> dict[str, np.ndarray]:
        refused = {name: np.unique(np.concatenate(r)) for name, r in list(self._refused.items())}
        return {name: rows for name, rows in {**self._listed, **refused}.items() if len(rows)}

    def counts(self) -> dict[str, int]:
        """Returns how many videos each filter held back, among those that a source looked at."""
        return {name: len(rows) for name, rows in self._held_back().items()}

    def examples(self, limit: int = 5) -> dict[str, list[str]]:
        """Returns the ids of some videos that each filter held back."""
        ids, held = self._catalogue.video_ids, self._held_back()
        return {name: ids.take(pa.array(rows[:limit])).to_pylist() for name, rows in held.items()}


def load_predicate(name: str) -> Predicate:
    """Returns the custom filter ``module:function``.

    Raises:
        InputError: There is no such function.
    """
    module, _, function = name.partition(":")
    try:
        predicate = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise command.InputError(
            f"--filter={name} must be MODULE:FUNCTION, a function of viewer, catalogue and rows "
            f"that can be imported: {error}."
        ) from error
    if not callable(predicate):
        raise command.InputError(f"--filter={name} must name a function, got {predicate!r}.")
    return predicate


_NO_ROWS = np.zeros(0, np.int32)


def _rules(
    viewer: Viewer,
    catalogue: Catalogue,
    rules: VideoRules,
    *,
    blocked: Blocked,
    predicate: Predicate | None,
) -> Mapping[str, Rule]:
    rule_of: dict[str, Rule] = {}
    for name, listed in (("blocked_channel", blocked), ("hidden_channel", viewer.hidden)):
        codes = [rules.channel_codes[c] for c in listed.channels if c in rules.channel_codes]
        if codes:
            rule_of[name] = functools.partial(_of_no_channel, catalogue.channels[0], codes)
    in_region = rules.allowed_in(viewer.region)
    if in_region is not None:
        rule_of["region"] = in_region
    min_ages = rules.min_ages
    if min_ages is not None:
        age = viewer.age or 0.0
        rule_of["age"] = lambda rows: min_ages[rows] <= age
    if predicate is not None:
        rule_of["custom"] = functools.partial(_custom_rule, predicate, viewer, catalogue)
    return rule_of


def _of_no_channel(channels: np.ndarray, codes: Sequence[int], rows: np.ndarray) -> np.ndarray:
    return ~np.isin(channels[rows], codes)


def _custom_rule(
    predicate: Predicate, viewer: Viewer, catalogue: Catalogue, rows: np.ndarray
) -> np.ndarray:
    if not len(rows):  # Of nothing, code of others often makes floats.
        return np.zeros(0, bool)
    try:
        answer = np.asarray(predicate(viewer, catalogue, rows))
    except Exception as error:
        logging.exception("The custom filter failed.")
        raise errors.FilterError(f"the custom filter failed: {error!r}.") from error
    if answer.shape != rows.shape or answer.dtype != bool:
        raise errors.FilterError(
            f"the custom filter must return bool [{len(rows)}], got {answer.dtype} {answer.shape}."
        )
    return answer


def _shown_too_often(viewer: Viewer, settings: FunnelConfig) -> np.ndarray:
    if not settings.max_shown:
        return _NO_ROWS
    shown = viewer.history.impressions
    recent = shown.video[shown.time >= viewer.now - settings.shown_window_s]
    rows, counts = np.unique(recent[recent >= 0], return_counts=True)
    return rows[counts >= settings.max_shown]


def _rows_of(catalogue: Catalogue, video_ids: tuple[str, ...]) -> np.ndarray:
    if not video_ids:
        return _NO_ROWS
    rows = np.unique(catalogue.rows(pa.array(video_ids, pa.string())))
    return rows[rows >= 0]


@dataclasses.dataclass(frozen=True)
class _Lists:
    """A column of lists of strings.

    Attributes:
        offsets: int64 [N + 1], where the values of each row begin.
        codes: int32 [sum], the values.
        code_of: Value to code.
    """

    offsets: np.ndarray
    codes: np.ndarray
    code_of: Mapping[str, int]

    @classmethod
    def of(cls, column: pa.ChunkedArray) -> "_Lists":
        lists = combined(column)
        lengths = np.asarray(pc.fill_null(pc.list_value_length(lists), 0), np.int64)
        values = lists.flatten().cast(pa.string()).dictionary_encode()
        return cls(
            offsets=np.concatenate([[0], np.cumsum(lengths)]),
            codes=np.asarray(values.indices.fill_null(-1), np.int32),
            code_of={name: code for code, name in enumerate(values.dictionary.to_pylist())},
        )

    def have(self, rows: np.ndarray, value: str) -> np.ndarray:
        """Returns bool [n], whether the list of each row has the value."""
        code = self.code_of.get(value)
        if code is None:
            return np.zeros(len(rows), bool)
        lengths = self.offsets[rows + 1] - self.offsets[rows]
        is_it = self.codes[ragged_rows(self.offsets[rows], lengths)] == code
        owner = np.repeat(np.arange(len(rows)), lengths)
        return np.bincount(owner[is_it], minlength=len(rows)) > 0

    def have_any(self, rows: np.ndarray) -> np.ndarray:
        """Returns bool [n], whether the list of each row has any value."""
        return self.offsets[rows + 1] > self.offsets[rows]
