"""Feedback in a history: counts of what a user said of a video, its channel, its topics, at all."""

import dataclasses
import functools
from collections.abc import Callable, Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from features import feedback, spec
from features.as_of.entity_lookup import EntityLookup
from features.catalogue import Catalogue, combined, filled
from features.event_columns import Events, Queries, user_time_key

_WINDOWS = [list(spec.WINDOWS_S).index(window) for window in feedback.WINDOWS]
Entities = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


@dataclasses.dataclass(frozen=True, eq=False)
class FeedbackEvents:
    """Feedback of one or many users, in the order of user and time.

    What was taken back was given all the same; a row that takes back counts as nothing. Copies
    (the same user, second, kind, video and channel) count once.

    Attributes:
        events: Events of all kinds; of a channel alone with the video -1.
        kind: int8 [n], place in :data:`features.feedback.KINDS`.
        channel: int64 [n], code of the channel in the catalogue, -1 for none.
    """

    events: Events
    kind: np.ndarray
    channel: np.ndarray

    def __len__(self) -> int:
        return len(self.kind)

    @classmethod
    def of(cls, catalogue: Catalogue, users: np.ndarray, table: pa.Table) -> "FeedbackEvents":
        """Takes rows in the layout of the raw logs.

        Args:
            catalogue: Videos; feedback on others, and on channels of none, does not count.
            users: User code of each row, int64 [n], -1 for one who is left out.
            table: ``video_id, time, kind`` and, where they are there, ``channel_id, value``.
        """
        channels, names = catalogue.channels
        video = np.full(table.num_rows, -1, np.int32)
        if "video_id" in table.column_names:
            video = catalogue.rows(table["video_id"])
        channel = np.where(video < 0, -1, channels[video]) if len(channels) else video
        if "channel_id" in table.column_names:
            named = pc.index_in(combined(table["channel_id"]).cast(pa.string()), value_set=names)
            channel = np.where(video < 0, np.asarray(filled(named, pa.int64(), -1)), channel)
        kind = np.asarray(
            filled(pc.index_in(combined(table["kind"]), value_set=_KINDS), pa.int64(), -1)
        )
        given = np.ones(table.num_rows, bool)
        if "value" in table.column_names:
            values = filled(combined(table["value"]), pa.float64(), 1.0)
            given = np.asarray(values) != feedback.TAKEN_BACK
        counts = (users >= 0) & (kind >= 0) & given & ((video >= 0) | (channel >= 0))
        key = user_time_key(users, np.asarray(combined(table["time"]), np.int64))
        columns = np.stack([key, kind, video, channel])[:, counts]
        key, kind, video, channel = np.unique(columns, axis=1)
        return cls(Events.of_sorted(key, video, np.zeros_like(key)), kind.astype(np.int8), channel)

    def lookups(self, entities: Entities, first_channel: int) -> Mapping[str, EntityLookup]:
        """Returns the events of each kind by what they are about.

        Args:
            entities: Function of catalogue rows int [n] that returns owners and numbers of their
                entities, see :meth:`features.as_of.history.History.video_grid`: n videos, n
                channels, and the topics.
            first_channel: Number of the channel of code 0.
        """
        owner, numbers = entities(self.events.video)
        count = len(self)
        of_channel = np.where(self.channel < 0, -1, self.channel + first_channel)
        numbers = np.concatenate([numbers[:count], of_channel, numbers[2 * count :]])
        return {
            kind: EntityLookup.of(self.events, owner[mine], numbers[mine])
            for place, kind in enumerate(feedback.KINDS)
            for mine in (self.kind[owner] == place,)
        }

    @functools.cached_property
    def of_user(self) -> Mapping[str, EntityLookup]:
        """The events of each kind, whatever they are about."""
        return {
            kind: EntityLookup.of(self.events, np.flatnonzero(self.kind == place), None)
            for place, kind in enumerate(feedback.KINDS)
        }


_KINDS = pa.array(feedback.KINDS)
NOTHING = FeedbackEvents(
    Events.of_sorted(*(np.zeros(0, np.int64),) * 3), np.zeros(0, np.int8), np.zeros(0, np.int64)
)


def counts(
    lookups: Mapping[str, EntityLookup],
    queries: Queries,
    entities: np.ndarray | None,
    seen: Callable[[Queries], tuple[np.ndarray, np.ndarray]],
) -> np.ndarray:
    """Returns counts in the order of :func:`features.feedback.names`, float32 [q, F].

    Args:
        lookups: Events by kind.
        queries: Users and moments, q of them.
        entities: int [q], what they ask about; None for the user alone.
        seen: Function from queries to the slices [start, end) of the feedback that they see.
    """
    columns = [lookups[k].answer(queries, entities, seen)[0][:, _WINDOWS] for k in feedback.KINDS]
    return np.concatenate(columns, axis=1).astype(np.float32)
