import numpy as np
import pytest

from features import command
from models.candidate import model as candidate_model
from models.candidate import recent_biases, refit_checks, refitting
from models.candidate import training as candidate_training
from models.config import CandidateConfig, RefitConfig, TrainingConfig
from models.training import saved

SMALL = {"embedding_dim": 8, "depth": 1, "negatives": 16}
QUICK = TrainingConfig(epochs=20, batch_size=100, learning_rate=0.02, patience=20)
REFIT = RefitConfig(epochs=6, learning_rate=0.02)
# Everybody watches it on the days of the holdout, and nobody knew it before.
YOUNG = "v17"


def renumbered(rows, world, tokens):
    """Rows in the ids of another vocabulary of videos."""
    id_of = {token: number for number, token in enumerate(tokens, start=1)}
    new = np.array([0, *(id_of.get(token, 0) for token in world.vocabularies["video"])])
    return {
        name: new[values] if name in {"video_id", "watched_video_ids"} else values
        for name, values in rows.items()
    }


@pytest.fixture
def site(world, tmp_path):
    """Examples before and after the holdout joined them.

    Before, v17 has no id; after, all ids are other ones, since the vocabulary is made anew.
    """
    train = world.candidate_rows(600, seed=1)
    old = train["label_video_id"] != YOUNG.encode()
    train = {name: values[old] for name, values in train.items()}
    train["watched_video_ids"] = np.where(
        train["watched_video_ids"] == 17, 0, train["watched_video_ids"]
    )
    newest = world.candidate_rows(200, seed=5)
    newest["video_id"] = np.full_like(newest["video_id"], 17)
    newest["label_video_id"] = np.full(200, YOUNG.encode(), object)
    before = [token for token in world.vocabularies["video"] if token != YOUNG]
    return Site(world, tmp_path, train, newest, before, world.vocabularies["video"][::-1])


class Site:
    def __init__(self, world, root, train, newest, before, after):
        self.world, self.root, self.before, self.after = world, root, before, after
        together = {name: np.concatenate([train[name], newest[name]]) for name in train}
        self.examples = self.write("examples", before, {"train": train, "holdout": newest})
        self.final_examples = self.write(
            "final_examples",
            after,
            {"train": together, "holdout": newest, "newest": newest},
            info={"train_until_s": 2000, "measured_until_s": 1000},
        )

    def write(self, name, tokens, splits, info=None):
        directory = self.root / name
        directory.mkdir()
        splits = {"videos": self.world.catalogue_rows(), **splits}
        return self.world.write_examples(
            directory,
            candidate={
                split: renumbered(rows, self.world, tokens) for split, rows in splits.items()
            },
            vocabularies={**self.world.vocabularies, "video": tokens},
            info=info,
        )

    def train(self, name="measured", **settings):
        directory = self.root / name
        config = CandidateConfig(**{**SMALL, **settings})
        candidate_training.train(self.examples, directory, config, QUICK)
        return directory

    def refit(self, measured, settings=REFIT):
        output = self.root / "final"
        step = refitting.refit(
            self.final_examples, measured, output, settings, measured_examples=self.examples
        )
        return output, step


@pytest.mark.parametrize("content", [True, False])
def test_what_serves_finds_videos_younger_than_the_holdout(site, content):
    """Known truth: all watches of the holdout are of one video that the measured model has not."""
    measured = site.train(video_content=content)
    assert YOUNG not in saved.vocabulary(measured, "video")
    final, step = site.refit(measured)
    assert YOUNG in saved.vocabulary(final, "video")
    assert step["new_videos"] == 1
    assert step["examples"] == 200
    model = candidate_model.load(final, site.final_examples)
    queries = renumbered(site.world.candidate_rows(50, seed=9), site.world, site.after)
    videos = renumbered(site.world.catalogue_rows(), site.world, site.after)
    scores = model.query_embeddings(queries).numpy() @ model.video_embeddings(videos).numpy().T
    listed = videos["video_id"] > 0
    young = np.flatnonzero(videos["label_video_id"][listed] == YOUNG.encode())[0]
    scores = scores[:, listed]
    # A quarter or more of all it has learnt is of this video, whoever asks; as much is of the first
    # video of the user's own group, .9 * .4 of three quarters, and less of any other one.
    better = (scores > scores[:, [young]]).sum(axis=1)
    assert (better < 3).mean() > 0.9


def test_what_was_learnt_before_the_holdout_is_still_known(site):
    measured = site.train(video_content=False)
    final, step = site.refit(measured)
    checks = step["checks"]
    assert checks["listed"] == 23
    assert checks["new"] == {"watches": 200, "measured": 0.0, "final": 1.0}
    model = candidate_model.load(final, site.final_examples)
    old = candidate_model.load(measured, site.examples)
    rows = site.world.candidate_rows(300, seed=11)
    known = rows["video_id"] != 17
    hits = []
    for one, tokens in ((old, site.before), (model, site.after)):
        asked = renumbered(rows, site.world, tokens)
        scores = one.logits_of_all(one.query_embeddings(asked)).numpy()
        if one is model:
            scores[:, tokens.index(YOUNG)] = -np.inf
        label = scores[np.arange(300), asked["video_id"] - 1]
        hits.append(((scores > label[:, None]).sum(axis=1) < 5)[known].mean())
    # Five of 23 videos at random would hit .22.
    assert hits[0] > 0.35
    assert hits[1] > hits[0] - 0.05


def test_what_was_watched_before_the_holdout_is_counted_as_of_the_end_alone(site, monkeypatch):
    """A model that learns next to nothing more has the biases that it had learnt, moved once."""
    weights = {**dict.fromkeys(recent_biases.NAMES, 0.5), recent_biases.SCORE: 0.25}
    monkeypatch.setattr(recent_biases, "fit", lambda *_, **__: weights)
    measured = site.train(video_content=False, recent_biases=True)
    barely = RefitConfig(epochs=1, learning_rate=1e-9)
    final, _ = site.refit(measured, settings=barely)
    of = {}
    for path, examples, tokens in (
        (measured, site.examples, site.before),
        (final, site.final_examples, site.after),
    ):
        model = candidate_model.load(path, examples)
        moved = model.moved_biases.numpy()[1:, 0]
        watches = recent_biases.counts(model, examples)
        np.testing.assert_allclose(moved, 2 * (watches.sum(axis=0) - 1), atol=1e-4)
        learnt = model.softmax_biases.rows.numpy()[1:, 0] - moved
        of[path] = dict(zip(tokens, learnt, strict=True))
    shared = [token for token in site.before if token in of[final]]
    before, after = ([of[path][token] for token in shared] for path in (measured, final))
    np.testing.assert_allclose(after, before, atol=1e-4)


def test_figures_stay_those_of_the_measured_model(site):
    measured = site.train()
    final, _ = site.refit(measured)
    before, after = (saved.open_directory(d, kind="candidate") for d in (measured, final))
    assert after.info["metrics"] == before.info["metrics"]
    fingerprint = saved.transform_fingerprint(site.final_examples, "candidate")
    assert after.info["lineage"]["transform"] == fingerprint
    assert after.info["lineage"]["transform"] != before.info["lineage"]["transform"]
    assert after.info["lineage"]["refit"]["examples"] == 200
    assert "refit" not in before.info["lineage"]
    # How the measured one was trained stays known.
    assert after.configs["training"] == before.configs["training"]
    assert saved.read_history(final) == saved.read_history(measured) != []
    assert not (site.root / "final.training" / "checkpoints").exists()


def test_it_takes_at_most_half_of_the_steps_of_the_first_training(site):
    measured = site.train()
    steps = saved.read_lineage(measured)["steps"]
    _, step = site.refit(measured, RefitConfig(epochs=1000))
    assert 0 < step["steps"] <= steps / 2


def test_without_a_holdout_the_model_stays_as_it_is(world, tmp_path):
    rows = {"train": world.candidate_rows(300, seed=1)}
    directories = []
    for name, info in (("examples", {}), ("final_examples", {"measured_until_s": 1000})):
        (tmp_path / name).mkdir()
        written = world.write_examples(tmp_path / name, candidate=rows, info=info)
        directories.append(written)
    measured, final = tmp_path / "measured", tmp_path / "final"
    config = CandidateConfig(**SMALL)
    candidate_training.train(directories[0], measured, config, TrainingConfig(epochs=2))
    step = refitting.refit(directories[1], measured, final, REFIT, measured_examples=directories[0])
    assert step["examples"] == step["steps"] == 0
    rows = [
        candidate_model.load(d, e).softmax_rows.rows
        for d, e in zip((measured, final), directories, strict=True)
    ]
    np.testing.assert_array_equal(rows[0], rows[1])


def test_examples_that_the_holdout_has_not_joined_are_refused(site):
    measured = site.train()
    with pytest.raises(command.InputError, match=r"pipeline\.join_holdout"):
        refitting.refit(
            site.examples, measured, site.root / "final", REFIT, measured_examples=site.examples
        )


@pytest.mark.parametrize("bad", [{"epochs": 0}, {"learning_rate": 0.0}, {"newest_weight": 0}])
def test_settings_are_checked(bad):
    with pytest.raises(ValueError, match="must be"):
        RefitConfig(**bad)


def test_a_model_agrees_with_itself_and_not_with_one_of_other_weights(site):
    measured = site.train()
    model = candidate_model.load(measured, site.examples)
    side = refit_checks.Side.of(model, site.examples)
    same = refit_checks.compare(side, side)
    assert same["overlap_at_100"] == 1.0
    assert same["known"]["watches"] == 0
    # Videos that have no id before and after are new to both.
    assert same["new"]["watches"] == 200
