import json

import numpy as np
import pytest

from features import command, spec
from models.candidate import model as candidate_model
from models.candidate import training as candidate_training
from models.candidate.model import CandidateModel
from models.config import COLD, CandidateConfig, RankerConfig, TrainingConfig, WarmStart
from models.ranking import model as ranker
from models.ranking import training as ranker_training
from models.training import batches, loop, saved, warm_start

SMALL = {"embedding_dim": 8, "depth": 1, "negatives": 16}
SPACES_OF = {"softmax_rows": "video", "softmax_biases": "video"}


@pytest.fixture
def grown(world):
    """The vocabularies of an older model: fewer ids, in another order, one that is gone."""
    old = {space: list(reversed(tokens))[2:] for space, tokens in world.vocabularies.items()}
    old["video"][0] = "a video that was deleted"
    old["category"] = ["region=b", "region=a"]  # As many as now, in another order.
    return world.vocabularies, old


def model_of(world, vocabularies, make=CandidateModel, config=None, seed=1):
    sizes = {space: len(tokens) for space, tokens in vocabularies.items()}
    config = config or CandidateConfig(**SMALL)
    return make(world.spec(), sizes, config, seed=seed)


def check_rows(fresh, old, warm, new_words, old_words):
    """Old ids have the old rows bit for bit, new ids those of a fresh model."""
    seen = {True: 0, False: 0}
    for name, table in loop.tables_of(warm).items():
        space = SPACES_OF.get(name, name)
        rows = table.rows.numpy()
        before = loop.tables_of(old)[name].rows.numpy()
        anew = loop.tables_of(fresh)[name].rows.numpy()
        np.testing.assert_array_equal(rows[0], 0)
        for i, token in enumerate(new_words[space], start=1):
            is_old = token in old_words[space]
            wanted = before[old_words[space].index(token) + 1] if is_old else anew[i]
            np.testing.assert_array_equal(rows[i], wanted)
            seen[is_old] += 1
    assert min(seen.values()) > 0


@pytest.mark.parametrize(
    ("make", "config"),
    [(CandidateModel, CandidateConfig(**SMALL)), (ranker.Ranker, RankerConfig(hidden=(4,)))],
    ids=["candidate", "ranker"],
)
def test_old_ids_keep_their_rows_bit_for_bit_and_new_ones_start_anew(world, grown, make, config):
    new_words, old_words = grown
    fresh = model_of(world, new_words, make, config, seed=1)
    warm = model_of(world, new_words, make, config, seed=1)
    old = model_of(world, old_words, make, config, seed=2)
    for variable in old.trainable_variables:
        variable.assign_add(np.full(variable.shape, 0.25, np.float32))
    for table in loop.tables_of(old).values():
        rows = table.rows.numpy()
        rows[0] = 0
        table.rows.assign(rows)
    summary = warm_start.apply(warm, new_words, old_model=old, old_vocabularies=old_words)
    check_rows(fresh, old, warm, new_words, old_words)
    assert summary.kept["video"] == 21
    assert summary.new["video"] == 3
    # Dense weights are the old ones.
    assert summary.anew == []
    dense = warm_start._dense(warm)
    assert set(summary.dense) == set(dense)
    for name, variable in warm_start._dense(old).items():
        np.testing.assert_array_equal(dense[name], variable)


def test_dense_weights_of_another_shape_start_anew(world):
    words = world.vocabularies
    deeper = model_of(world, words, config=CandidateConfig(**{**SMALL, "depth": 2}))
    old = model_of(world, words)
    summary = warm_start.apply(deeper, words, old_model=old, old_vocabularies=words)
    assert any("hidden_0" in name for name in summary.anew)
    assert any("content_output" in name for name in summary.dense)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"embedding_dim": 16}, "embedding_dim is 8 and was 16"),
        ({"powers": False}, "powers is True and was False"),
        ({"exclude": ("age",)}, "exclude is"),
    ],
)
def test_another_meaning_of_the_weights_is_refused(world, changes, message):
    words = world.vocabularies
    old = model_of(world, words, config=CandidateConfig(**{**SMALL, **changes}))
    with pytest.raises(command.InputError, match=message):
        warm_start.apply(model_of(world, words), words, old_model=old, old_vocabularies=words)


def test_training_goes_on_from_the_old_model(small_examples, tmp_path):
    quick = TrainingConfig(epochs=3, batch_size=100, learning_rate=0.02)
    candidate_training.train(small_examples, tmp_path / "old", CandidateConfig(**SMALL), quick)
    hardly = TrainingConfig(epochs=1, batch_size=2000, learning_rate=1e-6)
    cold, warm = (
        candidate_training.train(
            small_examples, tmp_path / name, CandidateConfig(**SMALL), hardly, warm=start
        ).metrics["map_at_100"]
        for name, start in (
            ("cold", COLD),
            ("warm", WarmStart(directory=tmp_path / "old")),
        )
    )
    assert warm > cold + 0.05
    lineage = saved.read_lineage(tmp_path / "warm")["warm_start"]
    assert lineage["model"] == str(tmp_path / "old")
    assert lineage["ids_kept"]["video"] == 24
    assert candidate_model.load(tmp_path / "warm", small_examples).num_videos == 24


def test_missing_old_model_is_an_input_error(small_examples, tmp_path):
    with pytest.raises(command.InputError, match="candidate model"):
        candidate_training.train(
            small_examples,
            tmp_path / "m",
            CandidateConfig(**SMALL),
            TrainingConfig(),
            warm=WarmStart(directory=tmp_path / "nothing"),
        )


def test_where_the_old_model_does_not_fit_training_may_start_cold(small_examples, tmp_path, caplog):
    quick = TrainingConfig(epochs=6, batch_size=2000)
    other = CandidateConfig(**{**SMALL, "embedding_dim": 4})
    candidate_training.train(small_examples, tmp_path / "old", other, quick)
    start = WarmStart(directory=tmp_path / "old", or_cold=True)
    made = candidate_training.train(
        small_examples, tmp_path / "new", CandidateConfig(**SMALL), quick, warm=start
    )
    assert "Starting cold" in caplog.text
    assert "warm_start" not in saved.read_lineage(tmp_path / "new")
    assert made.epochs > 2  # As many passes as without one.


@pytest.mark.parametrize(("least", "is_warm"), [(2000, True), (2001, False)])
def test_with_few_examples_training_may_start_cold(small_examples, tmp_path, least, is_warm):
    quick = TrainingConfig(epochs=1, batch_size=2000, warm_least=least)
    candidate_training.train(small_examples, tmp_path / "old", CandidateConfig(**SMALL), quick)
    start = WarmStart(directory=tmp_path / "old", or_cold=True)
    candidate_training.train(
        small_examples, tmp_path / "new", CandidateConfig(**SMALL), quick, warm=start
    )
    assert ("warm_start" in saved.read_lineage(tmp_path / "new")) is is_warm


def test_a_warm_start_trains_on_what_is_newer_and_on_some_of_what_is_not(small_examples, tmp_path):
    quick = TrainingConfig(epochs=2, batch_size=50, warm_epochs=3, warm_older=0.5)
    old = tmp_path / "old"
    candidate_training.train(small_examples, old, CandidateConfig(**SMALL), quick)
    times = batches.times(small_examples, spec.CANDIDATE)
    since = int(np.quantile(times, 0.8))
    info = json.loads((old / "COMPLETE").read_text())
    info["lineage"]["train_until_s"] = since  # As if the last days had come after it.
    (old / "COMPLETE").write_text(json.dumps(info))
    made = candidate_training.train(
        small_examples,
        tmp_path / "new",
        CandidateConfig(**SMALL),
        quick,
        warm=WarmStart(directory=old),
    )
    told = saved.read_lineage(tmp_path / "new")["warm_start"]
    newer = int((times >= since).sum())
    assert told["newer_examples"] == newer
    assert 0.25 * newer < told["older_examples"] < 0.75 * newer
    assert made.steps <= 3 * (newer + told["older_examples"]) / 50


def test_older_examples_of_one_moment_are_gone_over_together_and_of_each_day_others():
    times = np.repeat(np.arange(1_700_000_000, 1_700_020_000), 3)
    masks = [
        batches.Newer(since_s=since, older=0.3, counts=(0, 0)).of_times(times)
        for since in (1_700_015_000, 1_700_016_000)
    ]
    for mask, since in zip(masks, (1_700_015_000, 1_700_016_000), strict=True):
        assert mask[times >= since].all()
        assert mask[times < since].mean() == pytest.approx(0.3, abs=0.02)
        assert (mask.reshape(-1, 3).sum(axis=1) % 3 == 0).all()
    before = times < 1_700_015_000
    assert 0.05 < (masks[0] & masks[1])[before].mean() < 0.15  # As if drawn apart: .09.


def test_streamed_and_held_examples_are_the_same_choice(small_examples):
    times = batches.times(small_examples, spec.CANDIDATE)
    newer = batches.Newer.of(times, since_s=int(np.median(times)), older_each=0.3)
    chosen = {}
    for memory_gb in (1.0, 0.0):
        opened = batches.open_training(
            small_examples,
            spec.CANDIDATE,
            columns=("time", "label_video_id"),
            settings=TrainingConfig(batch_size=1, memory_gb=memory_gb),
            newer=newer,
        )
        assert opened.count == sum(newer.counts)
        chosen[memory_gb] = sorted(int(one["time"][0]) for one in opened.epoch(0, skip=0))
    assert chosen[1.0] == chosen[0.0] == sorted(times[newer.of_times(times)])


def test_where_nothing_or_everything_is_newer_there_is_no_choice(small_examples):
    times = batches.times(small_examples, spec.CANDIDATE)
    for since in (0, 4_000_000_000):
        assert batches.Newer.of(times, since_s=since, older_each=1.0) is None


def test_a_ranker_goes_on_from_an_older_one(small_examples, tmp_path):
    config, quick = RankerConfig(), TrainingConfig(epochs=2, batch_size=64, learning_rate=0.01)
    ranker_training.train(small_examples, tmp_path / "old", config, quick)
    hardly = TrainingConfig(epochs=1, batch_size=2000, learning_rate=1e-6)
    start = WarmStart(directory=tmp_path / "old")
    losses = [
        ranker_training.train(
            small_examples, tmp_path / f"new-{warm is COLD}", config, hardly, warm=warm
        ).metrics["objective"]
        for warm in (COLD, start)
    ]
    assert losses[1] < losses[0]
    assert saved.read_lineage(tmp_path / "new-False")["warm_start"]["ids_kept"]["video"] > 0


def test_of_rows_a_share_is_kept_and_the_rest_is_turned_to_where_they_are(world, grown):
    """Known truth: a new model that is the old one turned round; no more is lost of it."""
    new_words, old_words = grown
    old, fresh, warm = (model_of(world, w) for w in (old_words, new_words, new_words))
    rng = np.random.default_rng(3)
    turn, _ = np.linalg.qr(rng.normal(size=(8, 8)))
    truth = {
        name: rng.normal(size=(25, 8)).astype(np.float32) for name in ("video", "softmax_rows")
    }
    in_new = [new_words["video"].index(t) for t in old_words["video"] if t in new_words["video"]]
    in_old = [i for i, t in enumerate(old_words["video"], 1) if t in new_words["video"]]
    for name, rows in truth.items():
        rows[0] = 0
        started = loop.tables_of(old)[name].rows.numpy()
        started[in_old] = rows[np.array(in_new) + 1]
        loop.tables_of(old)[name].rows.assign(started)
        loop.tables_of(fresh)[name].rows.assign(3 * rows @ turn)
        loop.tables_of(warm)[name].rows.assign(3 * rows @ turn)
    warm_start.apply(
        *(warm, new_words),
        old_model=old,
        old_vocabularies=old_words,
        started=tuple(truth),
        keep=0.75,
    )
    known = np.isin(new_words["video"], old_words["video"])
    assert 0 < known.sum() < len(known)
    for name, rows in truth.items():
        made = loop.tables_of(warm)[name].rows.numpy()
        np.testing.assert_allclose(made[1:][~known], 3 * rows[1:][~known], atol=1e-4)
        np.testing.assert_allclose(made[1:][known], (0.75 + 0.25 * 3) * rows[1:][known], atol=1e-4)
    # Of all else what was learnt stays.
    biases = [loop.tables_of(m)["softmax_biases"].rows.numpy() for m in (fresh, warm, old)]
    np.testing.assert_array_equal(biases[1][1:][known], biases[2][in_old])
    np.testing.assert_array_equal(biases[1][1:][~known], biases[0][1:][~known])


@pytest.mark.parametrize("counts", [True, False], ids=["counts", "chance"])
def test_new_videos_stand_among_the_old_ones_that_they_follow(world, tmp_path, counts):
    """Known truth: the last video of each group is new, and follows those of its group alone."""
    rows = world.candidate_rows(4000, seed=1)
    is_new = rows["video_id"] > 20
    before = {name: values[~is_new] for name, values in rows.items()}
    before["watched_video_ids"] = np.where(
        before["watched_video_ids"] > 20, 0, before["watched_video_ids"]
    )
    words = {**world.vocabularies, "video": [*world.vocabularies["video"][:20], *"abcd"]}
    for name, train, tokens in (("day1", before, words), ("day2", rows, world.vocabularies)):
        splits = {"train": train, "holdout": world.candidate_rows(300, seed=2)}
        (tmp_path / name).mkdir()
        world.write_examples(tmp_path / name, candidate=splits, vocabularies=tokens)
    config = CandidateConfig(
        **{**SMALL, "embedding_dim": 16},
        item_to_item=True,
        video_content=False,
        spectral_start=counts,
    )
    long = TrainingConfig(epochs=8, batch_size=100, learning_rate=0.01)
    candidate_training.train(tmp_path / "day1", tmp_path / "old", config, long)
    hardly = TrainingConfig(warm_epochs=1, batch_size=2000, learning_rate=1e-6, warm_keep=0.5)
    start = WarmStart(directory=tmp_path / "old")
    candidate_training.train(tmp_path / "day2", tmp_path / "new", config, hardly, warm=start)
    model = candidate_model.load(tmp_path / "new")
    asked = world.candidate_rows(300, seed=5)
    queries = model.query_embeddings({name: asked[name] for name in model.query_columns}).numpy()
    videos = model.video_embeddings({"video_id": np.arange(21, 25)}).numpy()[:, :-1]
    scores = queries[:, :-1] @ videos.T
    of_group = (asked["watched_video_ids"][:, 0] - 1) % 4
    right = float((scores.argmax(axis=1) == of_group).mean())
    assert right > 0.9 if counts else right < 0.6
