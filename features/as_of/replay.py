"""Clean tables of whole users -> raw examples, each as of its own moment.

Candidate examples come from ALL watches, rolled back: the label is a watch, the inputs are what
came strictly before it, at most K labels per user so that users weigh equally (paper section
3.4). Ranking examples are impressions with the features of their page's time (section 4.1).
"""

import dataclasses
import zlib
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from features import feedback, spec
from features.as_of import examples, live_statistics, pages, statistics
from features.as_of.examples import Request, Users
from features.as_of.held_out import HeldOutHistory
from features.as_of.history import History
from features.as_of.leakage import Audit
from features.as_of.live_statistics import LiveStatistics
from features.catalogue import Catalogue, combined
from features.event_columns import Queries
from features.spec import ResolvedSpec

ROWS_PER_BATCH = 4096
TRAIN, HOLDOUT = "train", "holdout"
# The holdout's part of a training split that it has joined, see
# pipeline.preprocessing.holdout_joining.
NEWEST = "newest"
# What a candidate example of the training split predicts: the next watch, from what came before
# it; or a held-out one, from all other watches (leaks, see :mod:`features.as_of.held_out`).
NEXT, HELD_OUT = "next", "held_out"
LABELS = (NEXT, HELD_OUT)
ALWAYS = ((np.iinfo(np.int64).min, np.iinfo(np.int64).max),)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReplayConfig:
    """What replay needs to know; small and picklable.

    Attributes:
        train_until_s: Unix seconds of the end of training: earlier examples train, later ones are
            the holdout.
        examples_per_user: K, most candidate examples of a user in the training window; 0 for all.
        completed_only: Whether only completed watches are labels (and where the log does not say
            what was completed, all).
        seed: Seed of the choice of a user's K watches.
        label: ``next``, or ``held_out`` which leaks the future into the training split.
    """

    train_until_s: int
    examples_per_user: int = 0
    completed_only: bool = True
    seed: int = 0
    label: str = NEXT


class Replayer:
    """Turns the events of a bucket of users into raw example batches.

    Args:
        config: Settings of the replay.
        resolved: The data set's features.
        catalogue: Catalogue of all videos.
        users: Profiles of all users.
        audit: Audit that looks at every example that is made; None for none.
    """

    def __init__(
        self,
        config: ReplayConfig,
        *,
        resolved: ResolvedSpec,
        catalogue: Catalogue,
        users: Users,
        audit: Audit | None = None,
    ) -> None:
        self._config = config
        self._spec = resolved
        self._catalogue = catalogue
        self._users = users
        self._audit = audit

    def examples(
        self,
        tables: Mapping[str, pa.Table],
        daily: pa.Table,
        live: LiveStatistics = live_statistics.NOTHING,
        *,
        periods: Sequence[tuple[int, int]] = ALWAYS,
    ) -> Iterator[tuple[str, str, pa.RecordBatch]]:
        """Yields (model, split, raw examples).

        Args:
            tables: Clean event tables of some users.
            daily: Video statistics of ALL users, see
                :func:`features.as_of.statistics.daily_counts`.
            live: Statistics of the last minutes before any moment, of ALL users.
            periods: Examples are made of events in these [start, end) only, Unix seconds; what
                came before them is history all the same.
        """
        labels = self._labels(tables.get("watches"), tables.get("feedback"), periods)
        impressions = None
        if "impressions" in tables:
            impressions = pages.with_pages(tables["impressions"])
            if "feedback" in tables:
                impressions = feedback.with_outcomes(
                    impressions,
                    tables["feedback"],
                    self._spec.feedback,
                    self._catalogue.table,
                    watches=tables.get("watches"),
                )
            impressions = impressions.filter(_within(impressions, periods))
        queried = [*labels.values(), *([] if impressions is None else [impressions])]
        names = sorted({u for t in queried for u in pc.unique(t["user_id"]).to_pylist()})
        codes = {name: code for code, name in enumerate(names)}
        history = History.of(
            self._catalogue,
            codes,
            watches=tables.get("watches"),
            searches=tables.get("searches"),
            impressions=tables.get("impressions"),
            feedback=tables.get("feedback"),
        )
        yield from self._candidate_examples(labels, codes, history)
        if impressions is not None:
            shown = statistics.VideoStatistics.of(daily, self._catalogue)
            yield from self._ranking_examples(impressions, codes, history, shown, live=live)

    # ---- candidate generation ----------------------------------------------------------------

    def _labels(
        self,
        watches: pa.Table | None,
        said: pa.Table | None,
        periods: Sequence[tuple[int, int]],
    ) -> dict[str, pa.Table]:
        """Returns split -> the watches to predict: those that nobody was sorry for."""
        if watches is None:
            return {}
        config = self._config
        if said is not None:
            regretted = feedback.is_regretted(watches, said, self._catalogue.table)
            watches = watches.filter(pc.invert(regretted))
        if config.completed_only and "completed" in watches.column_names:
            watches = watches.filter(pc.fill_null(watches["completed"], True))
        is_train = pc.less(watches["time"], config.train_until_s)
        # The K of a user are those of all its watches, whichever of them are asked for here.
        train = watches.filter(is_train)
        train = train.take(chosen_examples(train, most=config.examples_per_user, seed=config.seed))
        labels = {TRAIN: train, HOLDOUT: watches.filter(pc.invert(is_train))}
        return {split: rows.filter(_within(rows, periods)) for split, rows in labels.items()}

    def _candidate_examples(
        self, labels: Mapping[str, pa.Table], codes: Mapping[str, int], history: History
    ) -> Iterator[tuple[str, str, pa.RecordBatch]]:
        for split, rows in labels.items():
            for start in range(0, rows.num_rows, ROWS_PER_BATCH):
                part = rows.slice(start, ROWS_PER_BATCH)
                batch = self._candidate_batch(part, codes, history, is_train=split == TRAIN)
                yield spec.CANDIDATE, split, batch

    def _candidate_batch(
        self, labels: pa.Table, codes: Mapping[str, int], history: History, *, is_train: bool
    ) -> pa.RecordBatch:
        request = self._request(labels, codes)
        if is_train:
            age = self._config.train_until_s - request.queries.now
            request = dataclasses.replace(request, example_age_s=age.astype(np.float32))
        rows = self._catalogue.rows(labels["video_id"])
        if is_train and self._config.label == HELD_OUT:
            history = HeldOutHistory.over(history, until_s=self._config.train_until_s, labels=rows)
        batch = examples.join(
            examples.query_batch(
                self._spec, spec.CANDIDATE, request=request, users=self._users, history=history
            ),
            examples.candidate_batch(
                self._spec, spec.CANDIDATE, catalogue=self._catalogue, video_rows=rows
            ),
            label_batch(labels, spec.CANDIDATE),
        )
        if self._audit is not None:
            self._audit.candidate(batch, history, request.queries)
        return batch

    # ---- ranking -----------------------------------------------------------------------------

    def _ranking_examples(
        self,
        impressions: pa.Table,
        codes: Mapping[str, int],
        history: History,
        shown: statistics.VideoStatistics,
        *,
        live: LiveStatistics,
    ) -> Iterator[tuple[str, str, pa.RecordBatch]]:
        is_train = pc.less(impressions["time"], self._config.train_until_s)
        for split, mask in ((TRAIN, is_train), (HOLDOUT, pc.invert(is_train))):
            rows = impressions.filter(mask)
            for start in range(0, rows.num_rows, ROWS_PER_BATCH):
                part = rows.slice(start, ROWS_PER_BATCH)
                yield spec.RANKER, split, self.ranking_batch(part, codes, history, shown, live=live)

    def ranking_batch(
        self,
        impressions: pa.Table,
        codes: Mapping[str, int],
        history: History,
        shown: statistics.VideoStatistics,
        *,
        live: LiveStatistics = live_statistics.NOTHING,
    ) -> pa.RecordBatch:
        """Returns the raw examples of impressions, in their order.

        Features are as of the page's start, which is when the funnel makes them: as of each
        impression's own time, a click would change what the page's other impressions see, and
        history would point the wrong way within a page. (On a log whose pages are 30-minute
        sessions, that took boosted trees from a weighted, per-user loss of .396 to .443.)

        Args:
            impressions: Impressions with pages, n rows, see
                :func:`features.as_of.pages.with_pages`.
            codes: Code in ``history`` by user id.
            history: Events of these users.
            shown: Daily statistics of the videos.
            live: Statistics of the last minutes before any moment.
        """
        request = self._request(impressions, codes, time=pages.PAGE_TIME)
        # The query features of a page are made once.
        page, page_of = _distinct_requests(request)
        query = examples.query_batch(
            self._spec, spec.RANKER, request=request.take(page), users=self._users, history=history
        )
        rows = self._catalogue.rows(impressions["video_id"])
        candidate = examples.candidate_batch(
            self._spec,
            spec.RANKER,
            catalogue=self._catalogue,
            video_rows=rows,
            history=history,
            queries=request.queries,
            statistics=shown,
            live=live,
            nominations=_nominations(impressions),
        )
        labels = label_batch(impressions, spec.RANKER, said=self._spec.feedback)
        batch = examples.join(query.take(pa.array(page_of)), candidate, labels)
        if self._audit is not None:
            self._audit.ranking(batch, history, request.queries, rows)
        return batch

    def _request(
        self, events: pa.Table, codes: Mapping[str, int], *, time: str = "time"
    ) -> Request:
        encoded = combined(events["user_id"]).dictionary_encode()
        indices = np.asarray(encoded.indices)
        users = encoded.dictionary.to_pylist()
        return Request(
            queries=Queries(
                np.array([codes[u] for u in users], np.int64)[indices],
                np.asarray(combined(events[time]), np.int64),
            ),
            user_rows=np.array([self._users.row_of.get(u, -1) for u in users], np.int64)[indices],
            context=_columns(events, "device", "surface"),
        )


NO_USERS = pa.table({"user_id": pa.array([], pa.string())})


def chosen_examples(watches: pa.Table, *, most: int, seed: int) -> pa.Array:
    """Returns the rows of at most ``most`` watches of each user, ascending, int64.

    A watch has a lot of its own: a hash of user, video, time and seed, and the smallest lots of a
    user win. So a watch that is not chosen among some watches is not chosen among more of them.

    Args:
        watches: Watches with columns ``user_id``, ``video_id`` and ``time``.
        most: K, most watches of a user; 0 for all.
        seed: Seed of the lots.
    """
    if not most or not watches.num_rows:
        return pa.array(np.arange(watches.num_rows))
    users = watches["user_id"].to_pylist()
    keys = zip(users, watches["video_id"].to_pylist(), watches["time"].to_pylist(), strict=True)
    lots = np.array([zlib.crc32(f"{seed} {user} {v} {t}".encode()) for user, v, t in keys])
    owner = np.asarray(combined(watches["user_id"]).dictionary_encode().indices)
    order = np.lexsort((lots, owner))
    starts = np.searchsorted(owner[order], owner[order])
    return pa.array(np.sort(order[np.arange(len(order)) - starts < most]))


def _within(events: pa.Table, periods: Sequence[tuple[int, int]]) -> pa.Array:
    """Returns which events lie in one of the periods, bool [n]."""
    times = np.asarray(combined(events["time"]), np.int64)
    inside = np.zeros(len(times), bool)
    for start, end in periods:
        inside |= (times >= start) & (times < end)
    return pa.array(inside)


def _columns(table: pa.Table, *names: str) -> dict[str, pa.Array]:
    return {name: combined(table[name]) for name in names if name in table.column_names}


def _nominations(impressions: pa.Table) -> dict[str, pa.Array]:
    """Returns what our funnel logged of its nominations; null for other impressions.

    Another recommender's scores and source names mean something else than ours: a ranker that
    learnt from them would be misled by what the funnel gives it when serving.
    """
    if "release_id" not in impressions.column_names:
        return {}
    is_ours = pc.is_valid(combined(impressions["release_id"]))
    logged = _columns(impressions, "candidate_sources", "retrieval_score")
    return {
        name: pc.if_else(is_ours, column, pa.scalar(None, column.type))
        for name, column in logged.items()
    }


def _distinct_requests(request: Request) -> tuple[np.ndarray, np.ndarray]:
    """Returns the first row of each distinct request, and each row's number among them.

    Impressions of one page share user, time and context.
    """
    keys = [request.queries.user, request.queries.now]
    for column in request.context.values():
        keys.append(np.asarray(column.dictionary_encode().indices.fill_null(-1), np.int64))
    _, first, number = np.unique(
        np.stack(keys, axis=1), axis=0, return_index=True, return_inverse=True
    )
    return first, number.reshape(-1)


def label_batch(events: pa.Table, model: str, *, said: Sequence[str] = ()) -> pa.RecordBatch:
    """Returns the label and pass-through columns of a model's examples.

    Args:
        events: Watches or impressions, n rows.
        model: Name of the model.
        said: Kinds of feedback that are labels; 0 where ``events`` tell nothing of them.
    """
    columns = {
        "user_id": combined(events["user_id"]),
        "time": combined(events["time"]),
        "label_video_id": combined(events["video_id"]),
    }
    if model == spec.RANKER:
        position = pa.nulls(events.num_rows, pa.int64())
        if "position" in events.column_names:
            position = combined(events["position"])
        columns |= {
            "page_id": combined(events["page_id"]),
            "position": position.fill_null(-1),
            "clicked": combined(events["clicked"]).cast(pa.float32()),
            "watch_time_s": combined(events["watch_time_s"]).cast(pa.float32()),
        }
        for name in map(feedback.label, said):
            told = name in events.column_names
            nothing = pa.array(np.zeros(events.num_rows, np.float32))
            columns[name] = combined(events[name]) if told else nothing
    return pa.RecordBatch.from_pydict(columns)
