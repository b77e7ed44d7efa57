import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from features import command
from features.catalogue import Catalogue
from features.durations import DAY_S
from models.baselines import retrieval as baselines

TRAIN_END = 100 * DAY_S
VIDEOS = ["a", "b", "c", "d"]
UPLOADED = [4, 3, 2, 1]  # "a" is the freshest.


def catalogue():
    return Catalogue(pa.table({"video_id": VIDEOS, "upload_time": UPLOADED}))


def queries(*watches):
    """Each watch is (user, seconds before training's end, label, region, history newest first)."""
    rows = {video: row for row, video in enumerate(VIDEOS)}
    histories = [[rows.get(video, -1) for video in watch[4]] for watch in watches]
    return baselines.Queries(
        user_ids=np.array([watch[0] for watch in watches], object),
        times=np.array([TRAIN_END - watch[1] for watch in watches], np.int64),
        label_ids=np.array([watch[2] for watch in watches], object),
        label_rows=np.array([rows.get(watch[2], -1) for watch in watches], np.int64),
        regions=np.array([watch[3] for watch in watches], object),
        history_offsets=np.concatenate([[0], np.cumsum([len(h) for h in histories])]),
        history_rows=np.array([row for history in histories for row in history], np.int64),
    )


def ranking(baseline, query):
    """Video ids in the order of their scores, best first."""
    scores = baseline.score(query)[0]
    assert len(set(scores)) == len(scores), "scores have no ties"
    return "".join(VIDEOS[row] for row in np.argsort(-scores))


def fitted(name, train):
    every = baselines.fit_all(train, catalogue(), train_until_s=TRAIN_END)
    return next(baseline for baseline in every if baseline.name == name)


MINUTE, HOUR, DAY = 60, 3600, 86_400
ANYBODY = queries(("x", 0, "a", "", []))
LOG = queries(
    ("u", 9 * DAY, "b", "SE", []),
    ("u", 8 * DAY, "b", "SE", []),
    ("v", 8 * DAY, "b", "NO", []),
    ("v", 7 * DAY, "c", "NO", []),
    ("v", 7 * HOUR, "c", "NO", []),
    ("v", 8 * HOUR, "d", "NO", []),
    ("w", 8 * HOUR, "d", "", []),
    ("w", 5 * HOUR, "a", "", []),
    ("w", 5 * HOUR, "gone", "", []),
)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        # b 3, then c 2 and d 2 (c is fresher), then a 1.
        ("popularity_all", "bcda"),
        # d 2, then c 1 and a 1 (c is more popular over all time), then b.
        ("popularity_last_day", "dcab"),
        # a 1; the others by all-time popularity.
        ("popularity_last_6h", "abcd"),
        # Nothing in the last hour: by all-time popularity.
        ("popularity_last_1h", "bcda"),
    ],
)
def test_popularity_counts_the_watches_of_its_window(name, expected):
    assert ranking(fitted(name, LOG), ANYBODY) == expected


def test_popularity_by_freshness_counts_watches_per_day_of_life():
    uploads = [TRAIN_END - 1 * DAY, TRAIN_END - 5 * DAY, TRAIN_END - 2 * DAY, TRAIN_END + DAY]
    videos = Catalogue(pa.table({"video_id": VIDEOS, "upload_time": uploads}))
    order = baselines.popularity_order(LOG, videos)
    fitted = baselines.popularity_by_freshness(LOG, videos, order, train_until_s=TRAIN_END)
    # a 1 watch in 1 day, b 3 in 5, c 2 in 2, d 2 in 0; each life is a day longer.
    np.testing.assert_allclose(fitted.scores, [1 / 2, 3 / 6, 2 / 3, 2 / 1], atol=1e-5)


def test_popularity_by_region_counts_the_region_of_the_query():
    # Enough watches that the region outweighs the world: 100 of "d" in NO, 101 of "b" in SE.
    watches = [("u", 9 * DAY, "b", "SE", [])] * 101 + [("v", DAY, "d", "NO", [])] * 100
    baseline = fitted("popularity_by_region", queries(*watches))
    assert ranking(baseline, queries(("x", 0, "a", "NO", []))) == "dbac"
    assert ranking(baseline, queries(("x", 0, "a", "SE", []))) == "bdac"
    assert ranking(baseline, queries(("x", 0, "a", "unheard", []))) == "bdac"


def test_a_log_without_regions_has_no_popularity_by_region():
    every = baselines.fit_all(LOG.take(LOG.regions == ""), catalogue(), train_until_s=TRAIN_END)
    assert "popularity_by_region" not in {baseline.name for baseline in every}


FOLLOWED = queries(
    ("u", 9 * DAY, "d", "", ["a"]),
    ("v", 9 * DAY, "d", "", ["a", "b"]),
    ("w", 9 * DAY, "c", "", ["a", "gone", "b"]),
    ("w", 9 * DAY, "b", "", []),
    ("w", 8 * DAY, "b", "", []),
    ("w", 7 * DAY, "b", "", []),
)


def test_last_watch_suggests_what_followed_it_directly():
    # After "a": d twice, c once. The others have no support and come by popularity.
    baseline = fitted("last_watch", FOLLOWED)
    assert ranking(baseline, queries(("x", 0, "a", "", ["a", "b"]))) == "dcba"
    # Only the newest watch counts, and nothing followed "c".
    assert ranking(baseline, queries(("x", 0, "a", "", ["c", "a"]))) == "bdca"


def test_co_visitation_counts_every_earlier_watch_and_favours_the_newest():
    baseline = fitted("co_visitation", FOLLOWED)
    scores = baseline.score(queries(("x", 0, "a", "", ["b", "a"])))[0]
    # Pairs a->d 2, a->c 1, b->d 1, b->c 1. Query: b at position 0, a at position 1.
    # d = 1/2 + 2/3 / sqrt(2), c = 1/2 + 1/3 / sqrt(2).
    assert scores[3] == pytest.approx(1 / 2 + 2 / 3 / np.sqrt(2))
    assert scores[2] == pytest.approx(1 / 2 + 1 / 3 / np.sqrt(2))


def test_item_cosine_divides_by_the_popularity_of_both():
    scores = fitted("item_cosine", FOLLOWED).score(queries(("x", 0, "a", "", ["a"])))[0]
    # "a" is followed 3 times; d follows 3 times in all, c twice.
    assert scores[3] == pytest.approx(2 / np.sqrt(3 * 3))
    assert scores[2] == pytest.approx(1 / np.sqrt(3 * 2))


def test_only_the_strongest_followers_are_kept(monkeypatch):
    monkeypatch.setattr(baselines, "_MAX_FOLLOWERS", 1)
    scores = fitted("co_visitation", FOLLOWED).score(queries(("x", 0, "a", "", ["a"])))[0]
    # "a" was followed by d twice and by c once: c is left to popularity.
    assert scores[3] == pytest.approx(2 / 3)
    assert scores[2] < 1e-9


def test_query_without_history_gets_the_popular_videos():
    for name in ("co_visitation", "item_cosine", "last_watch"):
        assert ranking(fitted(name, FOLLOWED), ANYBODY) == "bdca"


def test_queries_of_a_batch_do_not_mix():
    batch = queries(("x", 0, "a", "", ["a", "b"]), ("y", 0, "a", "", []), ("z", 0, "a", "", ["b"]))
    for baseline in baselines.fit_all(FOLLOWED, catalogue(), train_until_s=TRAIN_END):
        alone = [baseline.score(batch.take([row]))[0] for row in range(3)]
        np.testing.assert_array_equal(baseline.score(batch), alone)


def test_pairs_are_counted_the_same_in_small_parts(monkeypatch):
    whole = baselines.followed_by(FOLLOWED, 4, 10)
    monkeypatch.setattr(baselines, "_MAX_PAIRS", 10)
    for expected, parts in zip(whole, baselines.followed_by(FOLLOWED, 4, 10), strict=True):
        np.testing.assert_array_equal(parts, expected)


def test_training_examples_from_the_holdout_are_refused():
    with pytest.raises(ValueError, match="train must end before"):
        fitted("popularity_all", queries(("u", 0, "a", "", [])))


def test_no_training_examples_leave_the_freshest_first():
    nothing = LOG.take([])
    for baseline in baselines.fit_all(nothing, catalogue(), train_until_s=TRAIN_END):
        assert ranking(baseline, ANYBODY) == "abcd"


def write_examples(directory, **columns):
    path = directory / "candidate_examples" / "holdout"
    path.mkdir(parents=True)
    pq.write_table(pa.table(columns), path / "part-0.parquet")


def test_queries_are_read_from_raw_examples(tmp_path):
    write_examples(
        tmp_path,
        user_id=["u", "v"],
        time=[5, 6],
        label_video_id=["b", "gone"],
        region=["SE", None],
        watched_video_ids=[["d", "gone", "a"], []],
    )
    read = baselines.read_queries(tmp_path, "holdout", catalogue())
    np.testing.assert_array_equal(read.label_rows, [1, -1])
    np.testing.assert_array_equal(read.history_rows, [3, -1, 0])
    np.testing.assert_array_equal(read.history_offsets, [0, 3, 3])
    assert list(read.regions) == ["SE", ""]


def test_a_data_set_without_region_or_history_is_read(tmp_path):
    write_examples(tmp_path, user_id=["u"], time=[5], label_video_id=["b"])
    read = baselines.read_queries(tmp_path, "holdout", catalogue())
    assert (list(read.regions), list(read.history_lengths)) == ([""], [0])


def test_an_absent_split_has_no_queries(tmp_path):
    assert len(baselines.read_queries(tmp_path, "holdout", catalogue())) == 0


def test_examples_without_a_label_are_refused(tmp_path):
    write_examples(tmp_path, user_id=["u"], time=[5])
    with pytest.raises(command.InputError, match="label_video_id"):
        baselines.read_queries(tmp_path, "holdout", catalogue())
