"""Small releases to publish."""

from google.protobuf import text_format
from tensorflow_serving.config import model_server_config_pb2

from serving.release import manifest as release
from serving.release import publication


def publish(root, text="x", *, ranker=True, keep=3):
    with publication.building(root) as build:
        for name in release.COMPONENTS:
            if ranker or name != "ranker":
                (build.directory(name) / "files").mkdir()
                (build.directory(name) / "files" / "a").write_text(f"{name} {text}")
        build.publish(metrics={"map": 0.5}, gates=[], lineage={"examples": text}, keep=keep)
    return build.version


def held_by_model_server(root):
    config = model_server_config_pb2.ModelServerConfig()
    text_format.Parse((root / "tf_serving" / "models.config").read_text(), config)
    return {
        entry.name: (
            entry.base_path,
            [str(v) for v in entry.model_version_policy.specific.versions],
        )
        for entry in config.model_config_list.config
    }
