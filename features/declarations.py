"""Extra features of one data set, declared in ``features.json``: which can be answered.

A declaration that nothing answers would be a constant, or fail on a worker in the middle of a run.
So what :mod:`features.as_of.examples` answers stands here as a table: for each origin the side, the
columns, and the kinds that a column can be.
"""

import dataclasses
import difflib
import json
import os
import pathlib
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa

from features import command, feedback, spec, vectors
from features.as_of import query_history
from features.spec import CANDIDATE, MODELS, RANKER, Feature, Kind, ResolvedSpec, Side

MAX_WIDTH = 4096  # Entries of a vector: each example holds all of them.
MAX_LENGTH = 1000  # Values of a multivalent feature: each example holds room for all of them.
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
# Columns of examples that are no features: labels, and the vectors that hold numbers.
_RESERVED = frozenset(
    ("user_id", "time", "label_video_id", "page_id", "position", "clicked", "watch_time_s")
) | {spec.vector_column(side, kind) for side in Side for kind in Kind}
_ATTRIBUTES = tuple(field.name for field in dataclasses.fields(Feature))
_REQUIRED = tuple(
    field.name for field in dataclasses.fields(Feature) if field.default is dataclasses.MISSING
)
_CATEGORIES, _NUMBERS = (Kind.UNIVALENT, Kind.MULTIVALENT), (Kind.CONTINUOUS, Kind.BINARY)

Types = Mapping[str, Mapping[str, pa.DataType]]
_Kinds = Mapping[str, Sequence[Kind]]  # Column -> what it can be.


def load(path: str | os.PathLike[str]) -> tuple[Feature, ...]:
    """Reads declarations: a JSON list of objects with :class:`Feature`'s attributes.

    Without the file there are none.

    Raises:
        command.InputError: The file is not such a list; names every bad entry and its reason.
    """
    if not os.path.lexists(path):
        return ()
    try:
        entries = json.loads(pathlib.Path(path).read_text("utf-8-sig"), object_pairs_hook=_object)
    except (OSError, ValueError, RecursionError) as error:
        raise command.InputError(f"{path} cannot be read as JSON: {error}.") from None
    if not isinstance(entries, list):
        raise command.InputError(f"{path} must hold a JSON list of feature declarations.")
    declared, wrong = [], []
    for place, entry in enumerate(entries, start=1):
        try:
            declared.append(_declared(entry))
        except (TypeError, ValueError) as error:
            wrong.append(f"entry {place}, {json.dumps(entry)[:200]}: {error}")
    _refuse(wrong, path)
    return tuple(declared)


def _object(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        raise ValueError(f"an object has a key twice: {[key for key, _ in pairs]}")
    return members


def _declared(entry: Any) -> Feature:
    """Returns one declaration.

    Raises:
        TypeError, ValueError: The entry is no declaration; the message says why.
    """
    if not isinstance(entry, dict):
        raise TypeError(f"it must be an object with the keys {', '.join(_REQUIRED)}.")
    for key in entry:
        if key not in _ATTRIBUTES:
            raise ValueError(f"it has no key {key!r}. {_allowed(key, _ATTRIBUTES)}")
    if absent := [key for key in _REQUIRED if key not in entry]:
        raise ValueError(f"it lacks {', '.join(absent)}.")
    _require_words(entry)
    _require_models(entry["models"])
    _require_numbers(entry.get("max_length", 1), entry.get("missing", 0.0))
    if type(entry.get("width", 0)) is not int or not 0 <= entry.get("width", 0) <= MAX_WIDTH:
        raise ValueError(f"width must be a whole number up to {MAX_WIDTH}, got {entry['width']!r}.")
    if entry["kind"] == Kind.VECTOR.value and not entry.get("width"):
        raise ValueError("a vector needs its width, such as 64.")
    feature = Feature(**entry)
    if "max_length" in entry and feature.kind is not Kind.MULTIVALENT:
        raise ValueError(f"max_length is for multivalent features, not {feature.kind.value} ones.")
    if "missing" in entry and feature.kind not in _NUMBERS:
        raise ValueError(f"missing is for numbers, not for {feature.kind.value} features.")
    return feature


def _require_words(entry: Mapping[str, Any]) -> None:
    for key in ("name", "kind", "side", "source", "space"):
        if not isinstance(entry.get(key, ""), str):
            raise TypeError(f"{key} must be text, got {entry[key]!r}.")
    for key, words in (("kind", Kind), ("side", Side)):
        allowed = [word.value for word in words]
        if entry[key] not in allowed:
            raise ValueError(f"{key} is {entry[key]!r}. {_allowed(entry[key], allowed)}")
    for key in ("name", "space"):
        if entry.get(key) and not _NAME.fullmatch(entry[key]):
            raise ValueError(f"{key} must be letters, digits and _, got {entry[key]!r}.")
    if not entry["name"] or entry["name"] in _RESERVED:
        raise ValueError(f"name {entry['name']!r} is taken by examples themselves; take another.")


def _require_models(models: Any) -> None:
    if not isinstance(models, list) or not models or any(m not in MODELS for m in models):
        raise ValueError(f"models must be a list out of {list(MODELS)}, got {models!r}.")
    if len(set(models)) < len(models):
        raise ValueError(f"models names one twice: {models}.")


def _require_numbers(length: Any, missing: Any) -> None:
    if type(length) is not int or not 1 <= length <= MAX_LENGTH:
        raise ValueError(f"max_length must be a whole number up to {MAX_LENGTH}, got {length!r}.")
    if type(missing) not in {int, float}:
        raise ValueError(f"missing must be a number, got {missing!r}.")


def resolve(types: Types, path: str | os.PathLike[str]) -> ResolvedSpec:
    """Returns the features that logs have, those that are declared for them included.

    Args:
        types: Table to its columns and their types; absent tables are left out.
        path: File of the declarations; it need not be there.

    Raises:
        command.InputError: A declaration is none, or nothing answers it.
    """
    extra = load(path)
    require_answerable(extra, types, path=path)
    logged = {*types.get("impressions", ()), *types["watches"]}
    columns: dict[str, Iterable[str]] = {**types, "context": logged & {"device", "surface"}}
    return spec.resolve(columns, extra)


def require_answerable(extra: Sequence[Feature], types: Types, *, path: object) -> None:
    """Refuses declarations that no column answers, or that are there already.

    Args:
        extra: Declarations of further features.
        types: Table to its columns and their types; absent tables are left out.
        path: File of the declarations, for messages.

    Raises:
        command.InputError: Names every such entry, what is allowed, and the nearest name.
    """
    wrong = []
    names = [feature.name for feature in spec.FEATURES]
    for feature in extra:
        reason = "is declared twice; rename one." if feature.name in names else None
        names.append(feature.name)
        if reason := reason or _unanswerable(feature, types):
            wrong.append(f"feature {feature.name!r} {reason}")
    _refuse(wrong, path)


def _unanswerable(feature: Feature, types: Types) -> str | None:
    """Returns why no column answers a feature; None where one does."""
    origin, column, reads = feature.origin, feature.column, f"reads {feature.source}, but"
    side = Side.QUERY if origin in {"users", "context"} else Side.CANDIDATE
    if origin != "history" and feature.side is not side:
        return f"{reads} {origin} belongs to the {side.value} side."
    columns = _columns(feature, types)
    if column not in columns:
        of = "the logs have no table of it" if not columns else _allowed(column, columns)
        return f"{reads} {origin} has no such column on the {feature.side.value} side. {of}"
    if feature.kind not in columns[column]:
        kinds = " or ".join(kind.value for kind in columns[column]) or "no kind of feature"
        of_type = types.get(origin, {}).get(column, "")
        return f"is {feature.kind.value}, but {feature.source} ({of_type}) can be {kinds}."
    if feature.side is Side.CANDIDATE and CANDIDATE in feature.models and not feature.static:
        return (
            f"{reads} the candidate model embeds a video once for all moments, so that of videos "
            f'only their columns can be its features; give "models": ["{RANKER}"].'
        )
    if origin == "history" and not spec.is_available(feature, types):
        made_of = "searches, feedback, channel_id or topics"
        return f"{reads} the logs have not what it is made of: {made_of}."
    return _unfit_for_a_model(feature)


def _unfit_for_a_model(feature: Feature) -> str | None:
    only = {"context.example_age_s": CANDIDATE, "context.surface": RANKER}.get(feature.source)
    if only and set(feature.models) != {only}:
        return f'reads {feature.source}, which is the {only}\'s alone; give "models": ["{only}"].'
    return None


def _columns(feature: Feature, types: Types) -> _Kinds:
    """Returns the columns of a feature's origin, as its side has them, and what they can be."""
    origin, is_query = feature.origin, feature.side is Side.QUERY
    number: _Kinds = {}
    if origin in {"users", "videos"}:
        kinds = {name: _kinds_of(kind) for name, kind in types.get(origin, {}).items()}
        return {**kinds, "age_s": (Kind.CONTINUOUS,)} if origin == "videos" else kinds
    if origin == "context":
        logged = {*types.get("impressions", {}), *types.get("watches", {})}
        known = ("hour", "weekday", *(n for n in ("device", "surface") if n in logged))
        return {**dict.fromkeys(known, (Kind.UNIVALENT,)), "example_age_s": (Kind.CONTINUOUS,)}
    if origin == "nomination":
        has = {"candidate_sources": _CATEGORIES, "retrieval_score": (Kind.CONTINUOUS,)}
        shown = types.get("impressions", {})
        return {n: k for n, k in has.items() if n in shown} if "release_id" in shown else {}
    if origin == "statistics":
        names: Iterable[str] = spec.statistics_names()
    elif origin == "live":
        names = spec.live_names()
    elif is_query:
        names = (*spec.grid_names("any"), *query_history.NUMBERS, *feedback.names("any"))
        number = dict.fromkeys(query_history.BAGS, _CATEGORIES)
        number |= _watched_vectors(types)
    else:
        entities = ("video", "channel", "topic")
        names = (n for e in entities for n in (*spec.grid_names(e), *feedback.names(e)))
    return {**number, **dict.fromkeys(names, (Kind.CONTINUOUS,))}


def _watched_vectors(types: Types) -> _Kinds:
    """Returns what can be averaged over watches."""
    columns = (name for name, t in types.get("videos", {}).items() if Kind.VECTOR in _kinds_of(t))
    return {f"{bag}.{name}": (Kind.VECTOR,) for name in columns for bag in vectors.WINDOWS}


def _kinds_of(column_type: pa.DataType) -> Sequence[Kind]:
    """Returns what a column of a table can be, by its type."""
    is_number = pa.types.is_integer(column_type) or pa.types.is_floating(column_type)
    if is_number or pa.types.is_boolean(column_type):
        return (*_CATEGORIES, *_NUMBERS)
    if pa.types.is_string(column_type):
        return _CATEGORIES
    if not pa.types.is_list(column_type):
        return ()
    of_values = _kinds_of(column_type.value_type)
    bag = (Kind.MULTIVALENT,) if Kind.UNIVALENT in of_values else ()
    is_vector = Kind.CONTINUOUS in of_values and not pa.types.is_boolean(column_type.value_type)
    return (*bag, Kind.VECTOR) if is_vector else bag


def require_known(names: Sequence[str], resolved: ResolvedSpec, *, flag: str) -> None:
    """Refuses names of features that no data set has and this one does not declare.

    Raises:
        command.InputError: Names them, and the nearest ones that there are.
    """
    known = {feature.name for feature in (*spec.FEATURES, *resolved.features)}
    for name in names:
        if name not in known:
            raise command.InputError(f"{flag} names no feature: {name!r}. {_allowed(name, known)}")


def _allowed(wrong: str, allowed: Collection[str]) -> str:
    """Returns the nearest names where some are near, and all where they are few."""
    near = difflib.get_close_matches(wrong, sorted(allowed), n=3)
    hint = f"Did you mean {' or '.join(near)}? " if near else ""
    names = ", ".join(sorted(allowed))
    return f"{hint}There are: {names if len(names) <= 1000 else names[:1000] + ', ...'}."


def _refuse(wrong: Sequence[str], path: object) -> None:
    if wrong:
        raise command.InputError(f"{path} cannot be used:\n  " + "\n  ".join(wrong))
