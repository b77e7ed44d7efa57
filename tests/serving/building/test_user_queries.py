"""What people watched at the time that lists are of."""

import pathlib

import numpy as np
import pyarrow as pa

from features import dataset
from features.catalogue import Catalogue
from features.durations import DAY_S, HOUR_S
from serving.building import user_queries


def test_where_a_site_forgets_within_hours_the_newest_watches_count(monkeypatch):
    """Over a day each video is watched for an hour; a list of the moment cannot hold the others."""
    number = np.arange(2_400)
    labels = np.array([f"v{n // 100}".encode() for n in number], object)
    holdout = {"time": number * 36, "label_video_id": labels}
    monkeypatch.setattr(dataset, "load", lambda *_: holdout)
    ids = [f"v{n}" for n in range(24)]
    catalogue = Catalogue(pa.table({"video_id": ids, "upload_time": [0] * 24}))
    path = pathlib.Path("examples")
    lately = user_queries.watched_lately(path, catalogue, 4.0 * HOUR_S)
    assert np.flatnonzero(lately).tolist() == [19, 20, 21, 22, 23]
    # Hardly any watches say nothing, so a longer time counts.
    assert user_queries.watched_lately(path, catalogue, 60.0).sum() == 300
    assert user_queries.watched_lately(path, catalogue, 1.0 * DAY_S) is None
    assert user_queries.watched_lately(path, catalogue, None) is None
