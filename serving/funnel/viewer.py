"""The user who asks, in the form that features are computed from."""

import bisect
import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from features import spec, vectors
from features.as_of.examples import Request, Users
from features.as_of.history import History
from features.as_of.query_history import QueryHistory
from features.catalogue import Catalogue, combined
from features.event_columns import Queries
from features.spec import ResolvedSpec
from serving import errors
from serving.history.user_history import NOTHING_BLOCKED, Blocked, UserHistory

# What a page is called whose caller does not say.
HOME = "home"
REQUEST_COLUMNS = ("device", "surface")
# What a request calls the vectors of its user.
VECTORS = "vectors"


@dataclasses.dataclass(frozen=True)
class Viewer:
    """A user at a moment.

    Attributes:
        user_id: Id of the user.
        now: Moment of the request, Unix seconds; history before it counts.
        profile: Columns of the users table, with what the request says of the user.
        context: ``device`` and ``surface``; "" where not known.
        history: As-of history, the viewer as its user 0.
        request: The moment, for :mod:`features.as_of.examples`.
        users: The profile as a table of one row.
        blocked: Videos and channels that the viewer does not want to see.
        hidden: Those that the viewer hid by feedback.
    """

    user_id: str
    now: int
    profile: Mapping[str, Any]
    context: Mapping[str, str]
    history: History
    request: Request
    users: Users
    blocked: Blocked = NOTHING_BLOCKED
    hidden: Blocked = NOTHING_BLOCKED

    @classmethod
    def of(
        cls,
        stored: UserHistory,
        *,
        now: int,
        context: Mapping[str, Any],
        catalogue: Catalogue,
        user_schema: pa.Schema,
        from_s: int = 0,
        counts_feedback: bool = True,
    ) -> "Viewer":
        """Puts together what the store and the request say.

        Args:
            stored: The user's history, from the store.
            now: Moment of the request, Unix seconds.
            context: ``device``, ``surface``, and columns of the users table, which override
                those of the profile.
            catalogue: Catalogue of the release.
            user_schema: Columns of the users table of the release.
            from_s: Start of what has influence on features, Unix seconds: the release has learnt
                nothing of what happened before.
            counts_feedback: Whether features count what was said; what was hidden counts anyway.
        """
        profile = dict(stored.profile)
        profile |= {k: v for k, v in context.items() if v is not None and k not in REQUEST_COLUMNS}
        known = {name: str(context.get(name) or "") for name in REQUEST_COLUMNS}
        history = History.of(
            catalogue,
            None,
            watches=stored.watches,
            searches=stored.searches,
            impressions=stored.impressions,
            feedback=stored.feedback if counts_feedback else None,
            from_s=from_s,
            kept=stored.kept,
        )
        queries = Queries(np.zeros(1, np.int64), np.array([now], np.int64))
        request = Request(
            queries=queries,
            user_rows=np.zeros(1, np.int64),
            context={name: pa.array([value], pa.string()) for name, value in known.items()},
        )
        return cls(
            user_id=stored.user_id,
            now=now,
            profile=profile,
            context=known,
            history=history,
            request=request,
            users=Users(_one_row(profile, user_schema)),
            blocked=stored.blocked,
            hidden=stored.hidden,
        )

    @property
    def region(self) -> str:
        """Region of the viewer; "" where not known."""
        return str(self.profile.get("region") or "")

    @property
    def age(self) -> float | None:
        """Years; None where it is not known."""
        try:
            age = float(self.profile["age"])
        except (KeyError, TypeError, ValueError):
            return None
        return age if math.isfinite(age) else None

    @functools.cached_property
    def past(self) -> QueryHistory:
        """What the viewer did, as features have it: what both models read is computed once."""
        return QueryHistory(self.history, self.request.queries)

    @functools.cached_property
    def watched_rows(self) -> np.ndarray:
        """Videos watched at all, int32, sorted, each once; those outside the catalogue left out."""
        rows = np.unique(self.history.watches.video)
        return rows[rows >= 0]

    @functools.cached_property
    def liked_rows(self) -> np.ndarray:
        """The last completed watches, int32, newest first."""
        _, rows = self.history.watched_rows(self.request.queries, spec.WATCH_BAG)
        return rows

    @property
    def has_history(self) -> bool:
        """Whether anything was watched or searched before."""
        return bool(len(self.history.watches.key) or len(self.history.search_key))

    @property
    def known_by(self) -> str:
        """What is known of the viewer: ``history``, ``context`` (or profile) or ``nothing``."""
        if self.has_history:
            return "history"
        return "nothing" if self.is_unknown else "context"

    @property
    def is_unknown(self) -> bool:
        """Whether neither history nor profile says anything; device and surface alone do not."""
        # A tuple: what is known may be a vector, which has no hash.
        return not self.has_history and not any(
            value not in (None, "") for value in self.profile.values()
        )


def with_vectors(context: Mapping[str, Any], resolved: ResolvedSpec) -> dict[str, Any]:
    """Returns what a request says of its user with its vectors as columns.

    Args:
        context: Columns of the users table and of the request; ``vectors``, where there are any,
            column to numbers.
        resolved: Features of the release.

    Raises:
        InvalidRequestError: A vector is read by no feature, has another width than is declared, or
            a number that float32 cannot hold.
    """
    known = {name: value for name, value in context.items() if name != VECTORS}
    of_users = vectors.read_by(resolved.features, "users")
    widths = {column: feature.width for feature, column in of_users}
    for name, given in (context.get(VECTORS) or {}).items():
        if name not in widths:
            raise errors.InvalidRequestError(
                f"{VECTORS} has {name!r}, and the release reads no such vector of users; it reads "
                f"{sorted(widths) or 'none'}."
            )
        fits = np.abs(np.asarray(given, np.float64)) <= np.finfo(np.float32).max
        if len(given) != widths[name] or not fits.all():
            raise errors.InvalidRequestError(
                f"{VECTORS} must have {widths[name]} finite numbers in {name!r}, got {len(given)}."
            )
        known[name] = list(given)
    return known


def _one_row(profile: Mapping[str, Any], user_schema: pa.Schema) -> pa.Table:
    columns = {}
    for field in user_schema:
        value = profile.get(field.name)
        try:
            columns[field.name] = pa.array([value], field.type)
        except (pa.ArrowException, TypeError, ValueError):
            # Of another type than in the logs the model learned from: then it is not known.
            columns[field.name] = pa.nulls(1, field.type)
    return pa.table(columns) if columns else pa.table({"user_id": pa.array([""], pa.string())})


class Profiles:
    """The users that a release knows: rows of the users table as of its build; safe for threads.

    Found by id without a look at all of them.

    What a row costs beside the table is four bytes, a fraction of what a dictionary of ids would.

    Attributes:
        table: ``user_id``, which is unique, and the other columns of the users table.
    """

    def __init__(self, table: pa.Table) -> None:
        self.table = table.combine_chunks()
        self._ids = combined(self.table["user_id"])
        self._by_id = np.asarray(pc.sort_indices(self._ids)).astype(np.int32)

    def of(self, user_id: str) -> dict[str, Any]:
        """Returns what is known of a user by column, without nulls; nothing of a stranger."""
        place = bisect.bisect_left(self._by_id, user_id, key=self._id)
        if place == len(self._by_id) or self._id(self._by_id[place]) != user_id:
            return {}
        values: dict[str, Any] = self.table.slice(int(self._by_id[place]), 1).to_pylist()[0]
        return {k: v for k, v in values.items() if k != "user_id" and v is not None}

    def _id(self, row: np.int32) -> str:
        return str(self._ids[int(row)].as_py())
