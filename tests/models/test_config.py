import dataclasses
import json

import pytest

from models import config


def test_tower_halves_its_width_from_layer_to_layer():
    assert config.CandidateConfig(embedding_dim=256, depth=4).hidden == (2048, 1024, 512, 256)
    assert config.CandidateConfig(embedding_dim=256, depth=0).hidden == ()


@pytest.mark.parametrize(
    ("config_class", "values", "rule"),
    [
        (config.CandidateConfig, {"depth": 5}, r"depth must be in \[0, 4\], got 5"),
        (config.CandidateConfig, {"loss": "hinge"}, "loss must be one of"),
        (config.CandidateConfig, {"negatives": 0}, "negatives must be 1 or more"),
        (config.RankerConfig, {"hidden": (0,)}, "hidden must each be 1 or more"),
        (config.RankerConfig, {"watch_cap_s": -1.0}, "watch_cap_s must be 0 or more"),
        (config.TrainingConfig, {"learning_rate": 0.0}, "learning_rate must be above 0"),
        (config.TrainingConfig, {"learning_rate": float("nan")}, "learning_rate must be above 0"),
        (
            config.TrainingConfig,
            {"clip_norm": float("inf")},
            "clip_norm must be finite and 0 or more, got inf",
        ),
        (config.TrainingConfig, {"clip_norm": float("nan")}, "clip_norm must be 0 or more"),
        (config.TrainingConfig, {"epochs": -1}, "epochs must be 0 or more"),
        (config.TrainingConfig, {"optimizer": "sgd"}, "optimizer must be one of"),
    ],
)
def test_bad_values_are_refused_by_rule_and_value(config_class, values, rule):
    with pytest.raises(ValueError, match=rule):
        config_class(**values)


def test_json_round_trip_gives_equal_configs():
    before = config.RankerConfig(hidden=(8, 4), exclude=("age",))
    plain = json.loads(config.to_json({"model": before}))["model"]
    assert config.from_mapping(config.RankerConfig, plain) == before


def test_unknown_keys_are_refused():
    values = dataclasses.asdict(config.RankerConfig()) | {"widht": 3}
    with pytest.raises(ValueError, match="widht"):
        config.from_mapping(config.RankerConfig, values)


def test_a_config_of_before_a_setting_existed_is_refused():
    values = dataclasses.asdict(config.RankerConfig())
    del values["pairwise"]
    with pytest.raises(ValueError, match=r"no \['pairwise'\]"):
        config.from_mapping(config.RankerConfig, values)


@pytest.mark.parametrize(
    ("num_examples", "expected"),
    [(1, 64), (1_200, 64), (15_000, 256), (65_536, 1024), (10_000_000, 1024)],
)
def test_batches_fit_the_number_of_examples(num_examples, expected):
    # 15,000 / 64 = 234, nearest power of two: 256.
    assert config.TrainingConfig().fitted_to(num_examples).batch_size == expected


def test_a_given_batch_size_stays():
    assert config.TrainingConfig(batch_size=7).fitted_to(10_000_000).batch_size == 7


@pytest.mark.parametrize(
    ("num_examples", "epochs", "patience"),
    [(500, 20, 10), (200_000, 20, 10), (400_000, 10, 5), (50_000_000, 4, 3)],
)
def test_small_data_sets_are_gone_over_more_often(num_examples, epochs, patience):
    fitted = config.CANDIDATE_TRAINING.fitted_to(num_examples)
    assert (fitted.epochs, fitted.patience) == (epochs, patience)


def test_given_epochs_and_patience_stay():
    fitted = config.TrainingConfig(epochs=5, patience=2).fitted_to(100)
    assert (fitted.epochs, fitted.patience) == (5, 2)
