"""A model card made by the real code from a few recorded facts."""

import dataclasses

from features import spec
from features.spec import Feature, ResolvedSpec
from serving.building import card
from serving.building.gates import Gate

RESOLVED = ResolvedSpec(
    features=(
        Feature(name="region", kind="univalent", side="query", models=spec.MODELS,
                source="users.region"),
        Feature(name="age_s", kind="continuous", side="candidate", models=(spec.RANKER,),
                source="videos.age_s"),
    )
)  # fmt: skip
INFO = {
    "logs": "/data/logs",
    "from_s": None,
    "until_s": 86_400 * 20_000,
    "measured_until_s": 86_400 * 19_999,
    "holdout_days": 1.0,
    "num_videos": 48,
    "has_ranking": True,
    "rows": {"watches": {"read": 100, "accepted": 98, "unknown_user": 2}},
    "log_files": {"watches": {"files": 3, "first": "date=2024-10-01", "last": "date=2024-10-04"}},
    "config": {"seed": 4},
}


def figure(value, wide=0.05, n=150):
    return {"value": value, "low": value - wide, "high": value + wide, "n": n}


FIGURES = {
    "candidate.model.all.recall_at_100": figure(0.6),
    "candidate.popularity_all.all.recall_at_100": figure(0.4),
    "candidate.model_minus_popularity_all.all.recall_at_100": figure(0.2, 0.1),
    "candidate.model.new_users.recall_at_100": figure(0.3, n=20),
    "candidate.model.heavy_users.recall_at_100": figure(0.62, n=40),
    "candidate.model.region_A|B.recall_at_100": figure(0.58, n=9),
    "ranker.model.all.weighted_per_user_loss": figure(0.3),
    "ranker.model.decile_01.expected_over_actual": figure(1.0),
}
GATES = [
    Gate(rule="recall against chance", value="0.6", threshold="0.2", verdict="pass"),
    Gate(rule="against the one before", value="-", threshold="-20%", verdict="not checked"),
]
FAILED = Gate(rule="finite <b>", value="7 not finite", threshold="0", verdict="FAIL")


def sources(version="20261130000000", **changes):
    made = card.Sources(
        version=version,
        previous="20261129000000",
        info=INFO,
        resolved=RESOLVED,
        models={},
        evaluation={"figures": FIGURES, "settings": {"seed": 7}, "notes": ["A note."]},
        gates=GATES,
        forced="",
        index={},
    )
    return dataclasses.replace(made, **changes)
