"""What a model server is told to hold."""

import pytest

from serving.release import tf_serving_config
from tests.serving.release.releases import held_by_model_server, publish


def test_the_model_server_is_never_told_to_hold_nothing(tmp_path):
    publish(tmp_path)
    before = held_by_model_server(tmp_path)
    with pytest.raises(ValueError, match="must hold some version of a model"):
        tf_serving_config.write(tmp_path, {"query_tower": [], "ranker": []})
    assert held_by_model_server(tmp_path) == before


def test_a_reader_of_the_models_of_a_model_server_sees_one_whole_list_or_the_other(tmp_path):
    file = tmp_path / "tf_serving" / "models.config"
    tf_serving_config.write(tmp_path, {"ranker": ["1"]})
    with file.open() as reading:
        tf_serving_config.write(tmp_path, {"ranker": ["1", "2"]})
        # The file was replaced, not written over: who reads the old one reads it to its end.
        assert "versions: 2" not in reading.read()
    assert held_by_model_server(tmp_path)["ranker"][1] == ["1", "2"]


def test_a_path_with_quotes_and_other_scripts_reaches_the_model_server_whole(tmp_path):
    root = tmp_path / 'shop "süd"\\1'
    root.mkdir()
    tf_serving_config.write(root, {"ranker": ["10", "9", "10"], "query_tower": []})
    assert held_by_model_server(root) == {"ranker": (str(root / "ranker"), ["9", "10"])}


def test_a_list_of_models_is_written_where_it_says_the_same_in_whatever_form(tmp_path):
    file = tmp_path / "tf_serving" / "models.config"
    assert not tf_serving_config.is_written(tmp_path, {"ranker": ["1"]})
    tf_serving_config.write(tmp_path, {"ranker": ["1"]})
    file.write_text(file.read_text().replace("\n", " ").partition("lost. ")[2])
    assert tf_serving_config.is_written(tmp_path, {"ranker": ["1"]})
    assert not tf_serving_config.is_written(tmp_path, {"ranker": ["1", "2"]})
    file.write_text("model_config_list {")
    assert not tf_serving_config.is_written(tmp_path, {"ranker": ["1"]})
