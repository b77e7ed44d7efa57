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
from models.training import batches, saved, warm_start

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
    for name, table in warm_start.loop.tables_of(warm).items():
        space = SPACES_OF.get(name, name)
        rows = table.rows.numpy()
        before = warm_start.loop.tables_of(old)[name].rows.numpy()
        anew = warm_start.loop.tables_of(fresh)[name].rows.numpy()
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
    for table in warm_start.loop.tables_of(old).values():
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
