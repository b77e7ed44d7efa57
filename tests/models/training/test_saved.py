import json

import pytest

from features import command
from models import config
from models.ranking import model as ranker
from models.ranking.model import Ranker
from models.training import saved


@pytest.fixture
def model(world):
    return Ranker(world.spec(), world.vocabulary_sizes, config.RankerConfig(hidden=(4,)))


def save(model, directory, world, **lineage):
    ranker.save(
        model,
        directory,
        contents=saved.Contents(
            configs={"model": model.config}, vocabularies=world.vocabularies, lineage=lineage
        ),
    )


def test_absent_model_is_named_with_the_command_that_makes_it(tmp_path):
    with pytest.raises(command.InputError, match=r"m should hold a ranker model.*train_ranker"):
        ranker.load(tmp_path / "m")


def test_another_kind_of_model_is_refused(tmp_path, world, model):
    save(model, tmp_path / "m", world)
    with pytest.raises(command.InputError, match="holds a 'ranker' model, not a candidate model"):
        saved.open_directory(tmp_path / "m", kind="candidate")


def test_model_refuses_examples_of_another_transform(tmp_path, world, model, small_examples):
    fingerprint = saved.transform_fingerprint(small_examples, "ranker")
    save(model, tmp_path / "right", world, transform=fingerprint)
    save(model, tmp_path / "wrong", world, transform="0" * 64, examples="/elsewhere")
    ranker.load(tmp_path / "right", small_examples)
    with pytest.raises(command.InputError, match="another transform than that of.*/elsewhere"):
        ranker.load(tmp_path / "wrong", small_examples)


def test_fingerprint_sees_a_changed_vocabulary(tmp_path):
    vocabulary = tmp_path / "transform_fn" / "ranker" / "assets" / "vocabulary_video"
    vocabulary.parent.mkdir(parents=True)
    vocabulary.write_text("a\nb\n")
    before = saved.transform_fingerprint(tmp_path, "ranker")
    vocabulary.write_text("b\na\n")
    assert saved.transform_fingerprint(tmp_path, "ranker") != before


def test_history_comes_back_and_an_older_model_has_none(tmp_path, world, model):
    rounds = [{"step": 3, "epoch": 0.5, "train_loss": 2.0, "holdout": {"map": None}}]
    contents = saved.Contents(
        configs={"model": model.config}, vocabularies=world.vocabularies, history=rounds
    )
    ranker.save(model, tmp_path / "m", contents=contents)
    assert saved.read_history(tmp_path / "m") == rounds
    (tmp_path / "m" / "history.json").unlink()
    assert saved.read_history(tmp_path / "m") == []


def test_failed_save_leaves_the_old_model(tmp_path, world, model):
    save(model, tmp_path / "m", world, seed=1)
    with pytest.raises(TypeError):
        save(model, tmp_path / "m", world, seed=object())
    assert saved.open_directory(tmp_path / "m", kind="ranker").info["lineage"] == {"seed": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_truncated_weights_are_an_input_error(tmp_path, world, model):
    save(model, tmp_path / "m", world)
    weights = next((tmp_path / "m").glob("weights.data*"))
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(command.InputError, match="cannot be read as weights"):
        ranker.load(tmp_path / "m")


def test_settings_of_another_version_are_an_input_error(tmp_path, world, model):
    save(model, tmp_path / "m", world)
    path = tmp_path / "m" / "config.json"
    configs = json.loads(path.read_text())
    configs["model"]["attention_heads"] = 4
    path.write_text(json.dumps(configs))
    with pytest.raises(command.InputError, match=r"does not fit this version.*attention_heads"):
        ranker.load(tmp_path / "m")
