"""Raw examples without a moment: their schema, and every video as one."""

import numpy as np
import pyarrow as pa

from features import spec
from features.as_of import examples
from features.as_of.examples import Request, Users
from features.as_of.history import History
from features.as_of.replay import NO_USERS, label_batch
from features.catalogue import Catalogue, combined
from features.event_columns import Queries
from features.spec import Kind, ResolvedSpec, Side

_AGE = "example_age_s"


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
        label_batch(pa.table(labels), model, said=resolved.feedback),
    ).schema


def with_example_age(rows: pa.Table, resolved: ResolvedSpec, *, until_s: int | None) -> pa.Table:
    """Writes the example age of raw candidate examples anew.

    Args:
        rows: Raw examples of the candidate model.
        resolved: Features of the data set.
        until_s: The age counts from here, Unix seconds; None for examples as users ask, of age 0.
    """
    names = resolved.vector_names(spec.CANDIDATE, Side.QUERY, Kind.CONTINUOUS)
    if _AGE not in names:
        return rows
    column = spec.vector_column(Side.QUERY, Kind.CONTINUOUS)
    vectors = combined(rows[column]).flatten().to_numpy().reshape(-1, len(names)).copy()
    times = np.asarray(combined(rows["time"]), np.int64)
    vectors[:, names.index(_AGE)] = 0 if until_s is None else until_s - times
    place = rows.column_names.index(column)
    return rows.set_column(place, rows.field(column), examples.vector_array(vectors))


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
