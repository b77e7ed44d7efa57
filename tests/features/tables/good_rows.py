"""Raw tables as the contract wants them."""

import pyarrow as pa
import pytest

from features.tables import schema

GOOD_IMPRESSION = {
    "user_id": "u1",
    "video_id": "v1",
    "time": 500_000,
    "clicked": True,
    "watch_time_s": 12.5,
}


@pytest.fixture(autouse=True)
def _nothing_said_yet():
    schema.warn_once.cache_clear()


def impressions(*rows):
    """Conformed impressions; each row is the good one with some values replaced."""
    full = [{**GOOD_IMPRESSION, **row} for row in rows]
    columns = {name: [row[name] for row in full] for name in GOOD_IMPRESSION}
    return schema.conform("impressions", pa.table(columns, schema=_raw_schema()))


def _raw_schema():
    return pa.schema(
        [
            (column.name, column.type)
            for column in schema.TABLES["impressions"].columns
            if column.required
        ]
    )
