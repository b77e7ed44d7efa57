"""Raw examples of both models with every kind of column, drawn at random."""

import numpy as np
import pyarrow as pa

from features import spec
from features.id_spaces import IdSpace
from features.spec import Feature, Kind, ResolvedSpec, Side

BOTH = (spec.CANDIDATE, spec.RANKER)


def feature(name, kind, side, **more):
    """Returns a feature of both models."""
    return Feature(name=name, kind=kind, side=side, models=BOTH, source=f"videos.{name}", **more)


NUMBERS = tuple(f"number_{i}" for i in range(5))
RESOLVED = ResolvedSpec(
    features=(
        feature("watched", Kind.MULTIVALENT, Side.QUERY, space="video", max_length=6),
        feature("words", Kind.MULTIVALENT, Side.QUERY, space="search_token", max_length=4),
        feature("region", Kind.UNIVALENT, Side.QUERY, space="category"),
        feature("device", Kind.UNIVALENT, Side.QUERY, space="category"),
        *(feature(name, Kind.CONTINUOUS, Side.QUERY, missing=3.0) for name in NUMBERS),
        feature("signed_in", Kind.BINARY, Side.QUERY),
        feature("video_id", Kind.UNIVALENT, Side.CANDIDATE, space="video"),
        feature("topics", Kind.MULTIVALENT, Side.CANDIDATE, space="topic", max_length=3),
        feature("length", Kind.CONTINUOUS, Side.CANDIDATE),
        feature("picture", Kind.VECTOR, Side.CANDIDATE, width=4),
    ),
    spaces=(
        IdSpace(name="video", max_size=40),
        IdSpace(name="search_token", min_count=2),
        IdSpace(name="category"),
        IdSpace(name="topic"),
    ),
)


def raw(model, rows, seed=0):
    """Returns raw examples: some lists are empty, some ids too, and some numbers missing."""
    draw = np.random.default_rng(seed)

    def ids(prefix, distinct, size):
        numbers = draw.zipf(1.3, size) % distinct
        return [f"{prefix}{n}" if n else "" for n in numbers]

    def bags(prefix, distinct, most):
        return [ids(prefix, distinct, n) for n in draw.integers(0, most + 1, rows)]

    def vectors(width):
        values = draw.lognormal(size=(rows, width)).astype(np.float32)
        values[draw.random((rows, width)) < 0.1] = np.nan
        values[:, 0] = np.round(values[:, 0])
        return pa.array(values.tolist(), pa.list_(pa.float32()))

    videos = ids("v", 90, rows)
    columns = {
        "watched": bags("v", 90, 6),
        "words": bags("é", 500, 4),
        "region": ids("r", 9, rows),
        "device": ids("d", 4, rows),
        "query_continuous": vectors(len(NUMBERS)),
        "query_binary": vectors(1),
        "video_id": videos,
        "topics": bags("t", 20, 3),
        "candidate_continuous": vectors(1),
        "candidate_vector": vectors(4),
        "user_id": ids("u", 50, rows),
        "time": pa.array(draw.integers(0, 1000, rows)),
        "label_video_id": videos,
    }
    if model == spec.RANKER:
        columns |= {
            "page_id": ids("p", 99, rows),
            "position": pa.array(draw.integers(0, 20, rows)),
            "clicked": pa.array((draw.random(rows) < 0.3).astype(np.float32)),
            "watch_time_s": pa.array(draw.random(rows).astype(np.float32)),
        }
    return pa.table(columns)
