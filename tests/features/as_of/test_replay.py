"""Replay: raw examples of clean logs, each as of its own moment."""

import numpy as np
import pyarrow as pa
import pytest

from features import spec
from features.as_of import example_tables, pages, replay, statistics
from features.as_of.examples import Users
from features.catalogue import Catalogue
from features.spec import Kind, Side

T0 = 1_700_000_000
VIDEOS = pa.table({"video_id": ["a", "b", "c"], "upload_time": [T0 - 10**6] * 3})
USERS = pa.table({"user_id": ["u", "v"], "region": ["eu", None]})


def table(names, rows):
    return pa.table(dict(zip(names, map(list, zip(*rows, strict=True)), strict=True)))


def watches(*rows):
    return table(["user_id", "video_id", "time", "watch_time_s"], [(*r, 5.0) for r in rows])


def impressions(*rows):
    names = ["user_id", "video_id", "time", "clicked", "watch_time_s"]
    return table(names, [(*r, 9.0 if r[3] else 0.0) for r in rows])


def replayed(tables, **config):
    resolved = spec.resolve(
        {
            "videos": VIDEOS.column_names,
            "users": USERS.column_names,
            "watches": [],
            "impressions": tables["impressions"].column_names if "impressions" in tables else [],
            "context": [],
        }
    )
    replayer = replay.Replayer(
        replay.ReplayConfig(**{"train_until_s": T0 + 1000, **config}),
        resolved=resolved,
        catalogue=Catalogue(VIDEOS),
        users=Users(USERS),
    )
    daily = statistics.daily_counts(tables.get("watches"), tables.get("impressions"))
    parts = {}
    for model, split, batch in replayer.examples(tables, daily):
        parts.setdefault((model, split), []).append(batch)
    return resolved, {key: pa.Table.from_batches(batches) for key, batches in parts.items()}


def column(resolved, examples, model, side, name):
    names = resolved.vector_names(model, side, Kind.CONTINUOUS)
    vector = examples[spec.vector_column(side, Kind.CONTINUOUS)].combine_chunks()
    return vector.flatten().to_numpy().reshape(-1, len(names))[:, names.index(name)]


def test_a_watch_never_sees_itself_nor_later_ones():
    tables = {"watches": watches(("u", "a", T0), ("u", "b", T0 + 5), ("u", "c", T0 + 5))}
    _, parts = replayed(tables)
    train = parts[spec.CANDIDATE, "train"]
    seen = {row["video_id"]: row["watched_video_ids"] for row in train.to_pylist()}
    assert seen == {"a": [], "b": ["a"], "c": ["a"]}


def test_example_age_runs_from_the_label_to_the_end_of_training_and_is_0_in_the_holdout():
    tables = {"watches": watches(("u", "a", T0 + 100), ("u", "b", T0 + 1000))}
    resolved, parts = replayed(tables)
    ages = {
        split: column(
            resolved, parts[spec.CANDIDATE, split], "candidate", Side.QUERY, "example_age_s"
        )
        for split in ("train", "holdout")
    }
    assert ages["train"].tolist() == [900]
    assert ages["holdout"].tolist() == [0]


def test_a_held_out_label_sees_all_other_watches_of_training_and_the_holdout_stays_rolled_back():
    log = [("u", "a", T0), ("u", "b", T0 + 5), ("u", "c", T0 + 9), ("v", "a", T0 + 5)]
    tables = {"watches": watches(*log, ("u", "a", T0 + 1000), ("u", "b", T0 + 1001))}
    _, parts = replayed(tables, label=replay.HELD_OUT)
    seen = {
        split: [
            (row["user_id"], row["video_id"], row["watched_video_ids"])
            for row in parts[spec.CANDIDATE, split].to_pylist()
        ]
        for split in ("train", "holdout")
    }
    # Newest first; of the holdout's watches none is seen in training.
    assert sorted(seen["train"]) == [
        ("u", "a", ["c", "b"]),
        ("u", "b", ["c", "a"]),
        ("u", "c", ["b", "a"]),
        ("v", "a", []),
    ]
    assert seen["holdout"] == [("u", "a", ["c", "b", "a"]), ("u", "b", ["a", "c", "b", "a"])]


def test_each_user_gets_k_training_examples_and_the_same_in_every_run():
    rows = [("u", "a", T0 + i) for i in range(50)] + [("v", "b", T0 + i) for i in range(3)]
    tables = {"watches": watches(*rows)}
    _, first = replayed(tables, examples_per_user=10)
    _, second = replayed(tables, examples_per_user=10)
    _, other = replayed(tables, examples_per_user=10, seed=1)
    train = first[spec.CANDIDATE, "train"]
    assert train["user_id"].to_pylist().count("u") == 10
    assert train["user_id"].to_pylist().count("v") == 3
    assert train.equals(second[spec.CANDIDATE, "train"])
    assert train["time"] != other[spec.CANDIDATE, "train"]["time"]


def test_all_impressions_of_a_page_see_what_was_known_when_it_began():
    # One page, since there is no pause of 30 minutes. The click on a must not tell b that the
    # user clicks today: the funnel scores both before anything is clicked.
    tables = {"impressions": impressions(("u", "a", T0, True), ("u", "b", T0 + 60, False))}
    resolved, parts = replayed(tables)
    train = parts[spec.RANKER, "train"]
    clicks = column(resolved, train, "ranker", Side.QUERY, "user_any_clicks_1h")
    assert clicks.tolist() == [0, 0]
    assert train["time"].to_pylist() == [T0, T0 + 60]


def test_the_next_page_sees_the_click():
    later = T0 + pages.PAGE_GAP_S + 1
    tables = {
        "impressions": impressions(("u", "a", T0, True), ("u", "a", later, False)),
        "watches": watches(("u", "a", T0)),
    }
    resolved, parts = replayed(tables, train_until_s=T0 + 10**5)
    train = parts[spec.RANKER, "train"]
    clicks = column(resolved, train, "ranker", Side.CANDIDATE, "user_video_clicks_1h")
    assert clicks.tolist() == [0, 1]
    assert train["last_video_id"].to_pylist() == ["", "a"]


def test_pages_are_per_user_and_split_by_a_pause():
    gap = pages.PAGE_GAP_S
    rows = impressions(
        ("u", "a", T0, True), ("u", "b", T0 + gap, True), ("u", "c", T0 + 2 * gap + 1, True),
        ("v", "a", T0, True),
    )  # fmt: skip
    paged = pages.with_pages(rows)
    assert paged["page_id"].to_pylist() == [
        f"u {T0}", f"u {T0}", f"u {T0 + 2 * gap + 1}", f"v {T0}",
    ]  # fmt: skip
    assert paged[pages.PAGE_TIME].to_pylist() == [T0, T0, T0 + 2 * gap + 1, T0]


def test_logged_page_ids_are_kept_and_gaps_filled():
    rows = impressions(("u", "a", T0, True), ("u", "b", T0 + 9, True))
    rows = rows.append_column("page_id", pa.array(["p", None], pa.string()))
    paged = pages.with_pages(rows)
    assert paged["page_id"].to_pylist() == ["p", f"u {T0}"]
    assert paged[pages.PAGE_TIME].to_pylist() == [T0, T0 + 9]


def test_nominations_without_a_release_are_missing():
    rows = impressions(("u", "a", T0, True), ("u", "b", T0 + 9, True))
    rows = rows.append_column("retrieval_score", pa.array([0.5, 0.25]))
    rows = rows.append_column("release_id", pa.array([None, "7"], pa.string()))
    resolved, parts = replayed({"impressions": rows})
    train = parts[spec.RANKER, "train"]
    scores = column(resolved, train, "ranker", Side.CANDIDATE, "retrieval_score")
    assert np.isnan(scores[0])
    assert scores[1] == pytest.approx(0.25)


def test_the_catalogue_as_examples_keeps_its_rows():
    resolved, _ = replayed({"watches": watches(("u", "a", T0))})
    examples = example_tables.catalogue_examples(resolved, Catalogue(VIDEOS))
    assert examples["video_id"].to_pylist() == ["a", "b", "c"]
    assert examples["time"].to_pylist() == [0, 1, 2]
    assert examples.schema.equals(example_tables.example_schema(resolved, spec.CANDIDATE))
