"""Clean tables of whole users -> raw examples, each as of its own moment.

Candidate examples come from ALL watches, rolled back: the label is a watch, the inputs are what
came strictly before it, at most K labels per user so that users weigh equally (paper section
3.4). Ranking examples are impressions with the features of their page's time (section 4.1).
"""

import dataclasses
import zlib
from collections.abc import Iterator, Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from features import examples, live_statistics, spec, statistics
from features.catalogue import Catalogue, combined
from features.event_columns import Queries
from features.examples import Request, Users
from features.held_out import HeldOutHistory
from features.history import History
from features.live_statistics import LiveStatistics
from features.spec import ResolvedSpec

ROWS_PER_BATCH = 4096
PAGE_TIME = "page_time"
PAGE_GAP_S = 30 * 60  # a page where the log names none: impressions without a longer pause
TRAIN, HOLDOUT = "train", "holdout"
# What a candidate example of the training split predicts: the next watch, from what came before
# it; or a held-out one, from all other watches (leaks, see :mod:`features.held_out`).
NEXT, HELD_OUT = "next", "held_out"
LABELS = (NEXT, HELD_OUT)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReplayConfig:
    """What replay needs to know; small and picklable.

    Attributes:
        train_until_s: Examples before it train, later ones are the holdout.
        examples_per_user: K, most candidate examples of a user in the training window; 0 for all.
        completed_only: Whether only completed watches are labels (and where the log does not say
            what was completed, all).
        seed: Chooses which K watches.
        label: ``next``, or ``held_out`` which leaks the future into the training split.
    """

    train_until_s: int
    examples_per_user: int = 0
    completed_only: bool = True
    seed: int = 0
    label: str = NEXT


class Replayer:
    """Turns the events of a bucket of users into raw example batches."""

    def __init__(
        self, config: ReplayConfig, *, resolved: ResolvedSpec, catalogue: Catalogue, users: Users
    ) -> None:
        self._config = config
        self._spec = resolved
        self._catalogue = catalogue
        self._users = users

    def examples(
        self,
        tables: Mapping[str, pa.Table],
        daily: pa.Table,
        live: LiveStatistics = live_statistics.NOTHING,
    ) -> Iterator[tuple[str, str, pa.RecordBatch]]:
        """Yields (model, split, raw examples).

        Args:
            tables: Clean event tables of some users.
            daily: Video statistics of ALL users, see :func:`features.statistics.daily_counts`.
            live: Those of the last minutes before any moment, of ALL users.
        """
        names = sorted({u for t in tables.values() for u in pc.unique(t["user_id"]).to_pylist()})
        codes = {name: code for code, name in enumerate(names)}
        history = History.of(
            self._catalogue,
            codes,
            watches=tables.get("watches"),
            searches=tables.get("searches"),
            impressions=tables.get("impressions"),
        )
        if "watches" in tables:
            yield from self._candidate_examples(tables["watches"], codes, history)
        if "impressions" in tables:
            shown = statistics.VideoStatistics.of(daily, self._catalogue)
            yield from self._ranking_examples(
                tables["impressions"], codes, history, shown, live=live
            )

    # ---- candidate generation ----------------------------------------------------------------

    def _candidate_examples(
        self, watches: pa.Table, codes: Mapping[str, int], history: History
    ) -> Iterator[tuple[str, str, pa.RecordBatch]]:
        config = self._config
        if config.completed_only and "completed" in watches.column_names:
            watches = watches.filter(pc.fill_null(watches["completed"], True))
        is_train = pc.less(watches["time"], config.train_until_s)
        train = self._k_per_user(watches.filter(is_train))
        for split, labels in ((TRAIN, train), (HOLDOUT, watches.filter(pc.invert(is_train)))):
            for start in range(0, labels.num_rows, ROWS_PER_BATCH):
                batch = self._candidate_batch(
                    labels.slice(start, ROWS_PER_BATCH), codes, history, is_train=split == TRAIN
                )
                yield spec.CANDIDATE, split, batch

    def _k_per_user(self, watches: pa.Table) -> pa.Table:
        """Keeps K watches of each user, chosen by a hash of user, video and time."""
        most = self._config.examples_per_user
        if not most or not watches.num_rows:
            return watches
        keys = zip(
            watches["user_id"].to_pylist(),
            watches["video_id"].to_pylist(),
            watches["time"].to_pylist(),
            strict=True,
        )
        lottery = np.array(
            [zlib.crc32(f"{self._config.seed} {u} {v} {t}".encode()) for u, v, t in keys]
        )
        _, user = np.unique(watches["user_id"].to_pylist(), return_inverse=True)
        order = np.lexsort((lottery, user))
        starts = np.searchsorted(user[order], user[order])
        kept = order[np.arange(len(order)) - starts < most]
        return watches.take(pa.array(np.sort(kept)))

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
        return examples.join(
            examples.query_batch(
                self._spec, spec.CANDIDATE, request=request, users=self._users, history=history
            ),
            examples.candidate_batch(
                self._spec, spec.CANDIDATE, catalogue=self._catalogue, video_rows=rows
            ),
            label_batch(labels, spec.CANDIDATE),
        )

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
        impressions = with_pages(impressions)
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
            impressions: With :data:`PAGE_TIME`, see :func:`with_pages`.
            codes: User id to code in ``history``.
            history: Of these users.
            shown: Video statistics.
            live: Those of the last minutes.
        """
        request = self._request(impressions, codes, time=PAGE_TIME)
        page, page_of = _distinct_requests(request)
        query = examples.query_batch(
            self._spec, spec.RANKER, request=request.take(page), users=self._users, history=history
        )
        candidate = examples.candidate_batch(
            self._spec,
            spec.RANKER,
            catalogue=self._catalogue,
            video_rows=self._catalogue.rows(impressions["video_id"]),
            history=history,
            queries=request.queries,
            statistics=shown,
            live=live,
            nominations=_nominations(impressions),
        )
        labels = label_batch(impressions, spec.RANKER)
        return examples.join(query.take(pa.array(page_of)), candidate, labels)

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

    Impressions of one page share user, time and context: their query features are made once.
    """
    keys = [request.queries.user, request.queries.now]
    for column in request.context.values():
        keys.append(np.asarray(column.dictionary_encode().indices.fill_null(-1), np.int64))
    _, first, number = np.unique(
        np.stack(keys, axis=1), axis=0, return_index=True, return_inverse=True
    )
    return first, number.reshape(-1)


def with_pages(impressions: pa.Table) -> pa.Table:
    """Adds when each impression's page began, and which page it is where the log does not say.

    Args:
        impressions: All of some users, sorted by user and time.

    Returns:
        With ``page_id`` (a new page after a pause of 30 minutes, where the log has none) and
        :data:`PAGE_TIME`, int64 Unix seconds: the first impression of that user and page.
    """
    users = combined(impressions["user_id"])
    time = np.asarray(combined(impressions["time"]), np.int64)
    if "page_id" not in impressions.column_names:
        nulls = pa.nulls(len(users), pa.string())
        impressions = impressions.append_column("page_id", nulls)
    pages = pc.coalesce(combined(impressions["page_id"]), _pages_by_gap(users, time))
    index = impressions.column_names.index("page_id")
    keys = [np.asarray(c.dictionary_encode().indices, np.int64) for c in (users, pages)]
    _, number = np.unique(np.stack(keys, axis=1), axis=0, return_inverse=True)
    number = number.reshape(-1)
    start = np.full(len(time), np.iinfo(np.int64).max)
    np.minimum.at(start, number, time)
    with_ids = impressions.set_column(index, "page_id", pages)
    return with_ids.append_column(PAGE_TIME, pa.array(start[number]))


def _pages_by_gap(users: pa.Array, time: np.ndarray) -> pa.Array:
    names = users.to_pylist()
    changed = np.array([a != b for a, b in zip(names[1:], names, strict=False)], bool)
    is_new = np.concatenate([[True], changed | (np.diff(time) > PAGE_GAP_S)])[: len(names)]
    first = np.maximum.accumulate(np.where(is_new, np.arange(len(names)), 0))
    return pa.array([f"{names[row]} {time[row]}" for row in first], pa.string())


def label_batch(events: pa.Table, model: str) -> pa.RecordBatch:
    """Returns the label and pass-through columns of a model's examples."""
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
    return pa.RecordBatch.from_pydict(columns)


def example_schema(resolved: ResolvedSpec, model: str) -> pa.Schema:
    """Returns the Arrow schema of a model's raw examples."""
    catalogue = Catalogue(pa.table({"video_id": pa.array([], pa.string())}))
    nobody = np.zeros(0, np.int64)
    request = Request(Queries(nobody, nobody), nobody, {})
    labels = {
        "user_id": pa.array([], pa.string()),
        "time": pa.array([], pa.int64()),
        "video_id": pa.array([], pa.string()),
        "page_id": pa.array([], pa.string()),
        "clicked": pa.array([], pa.bool_()),
        "watch_time_s": pa.array([], pa.float64()),
    }
    return examples.join(
        examples.query_batch(
            resolved,
            model,
            request=request,
            users=Users(NO_USERS),
            history=History.of(catalogue, {}, watches=None),
        ),
        examples.candidate_batch(
            resolved, model, catalogue=catalogue, video_rows=nobody.astype(np.int32)
        ),
        label_batch(pa.table(labels), model),
    ).schema


def catalogue_examples(resolved: ResolvedSpec, catalogue: Catalogue) -> pa.Table:
    """Returns every video as a raw example of the candidate model without a query.

    ``time`` holds the video's row, so that an order can be found again after Beam.
    """
    rows = np.arange(len(catalogue), dtype=np.int32)
    nobody = np.zeros(len(rows), np.int64)
    labels = pa.table(
        {
            "user_id": pa.array([""] * len(rows), pa.string()),
            "time": pa.array(rows.astype(np.int64)),
            "video_id": catalogue.video_ids,
        }
    )
    no_history = History.of(catalogue, {}, watches=None)
    query = examples.query_batch(
        resolved,
        spec.CANDIDATE,
        request=Request(Queries(nobody, nobody), nobody - 1, {}),
        users=Users(NO_USERS),
        history=no_history,
    )
    candidate = examples.candidate_batch(
        resolved, spec.CANDIDATE, catalogue=catalogue, video_rows=rows
    )
    batch = examples.join(query, candidate, label_batch(labels, spec.CANDIDATE))
    return pa.Table.from_batches([batch])
