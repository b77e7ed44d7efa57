"""The deployment files: they parse, and what they name exists and fits together."""

import configparser
import pathlib
import re
import shlex

import pytest
import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
DEPLOYMENT = ROOT / "serving" / "deployment"
SHARED = "/srv/watchnext"
# Flags of the stock tensorflow_model_server 2.19 that are used here.
MODEL_SERVER_FLAGS = {
    "port",
    "rest_api_port",
    "grpc_max_threads",
    "num_load_threads",
    "max_num_load_retries",
    "load_retry_interval_micros",
    "model_config_file",
    "model_config_file_poll_wait_seconds",
    "monitoring_config_file",
}


def compose_services():
    services = yaml.safe_load((DEPLOYMENT / "compose.yaml").read_text())["services"]
    for name, service in services.items():
        command = [*service.get("entrypoint", []), *service["command"]]
        mounts = [volume.split(":")[1] for volume in service["volumes"]]
        writable = [v.split(":")[1] for v in service["volumes"] if not v.endswith(":ro")]
        yield f"compose {name}", command, mounts, writable


def kubernetes_documents():
    for path in sorted((DEPLOYMENT / "kubernetes").glob("*.yaml")):
        for document in yaml.safe_load_all(path.read_text()):
            yield path.name, document


def pod_of(document):
    spec = document["spec"]
    if document["kind"] == "CronJob":
        spec = spec["jobTemplate"]["spec"]
    return spec["template"]["spec"] if "template" in spec else None


def kubernetes_containers():
    for name, document in kubernetes_documents():
        pod = pod_of(document)
        for container in pod["containers"] if pod else []:
            command = [*container.get("command", []), *container.get("args", [])]
            volumes = container["volumeMounts"]
            writable = [v["mountPath"] for v in volumes if not v.get("readOnly")]
            yield (
                f"{name} {container['name']}",
                command,
                [v["mountPath"] for v in volumes],
                writable,
            )


def units():
    for path in sorted((DEPLOYMENT / "systemd").iterdir()):
        parser = configparser.ConfigParser(strict=True, interpolation=None)
        parser.optionxform = str
        parser.read_string(path.read_text().replace("\\\n", " "))
        yield path.name, parser


def unit_commands():
    for name, unit in units():
        if "Service" in unit:
            service = unit["Service"]
            writable = service.get("ReadWritePaths", "").split()
            yield name, shlex.split(service["ExecStart"]), ["/"], writable


COMMANDS = [*compose_services(), *kubernetes_containers(), *unit_commands()]
OURS = [entry for entry in COMMANDS if "-m" in entry[1]]
MODEL_SERVERS = [entry for entry in COMMANDS if entry[1][0].endswith("tensorflow_model_server")]


def flags_of(command):
    return dict(part[2:].split("=", 1) for part in command if part.startswith("--"))


def declared_flags(module):
    source = (ROOT / pathlib.Path(*module.split("."))).with_suffix(".py").read_text()
    names = set(re.findall(r"DEFINE_\w+\(\s*\"(\w+)\"", source))
    return names | set(re.findall(r"^    \"(\w+)\": flags\.DEFINE", source, re.MULTILINE))


def is_under(path, directories):
    return any(pathlib.PurePath(path).is_relative_to(directory) for directory in directories)


def test_every_way_to_deploy_has_all_parts():
    assert len(OURS) == 6  # Funnel and retraining, three ways.
    assert len(MODEL_SERVERS) == 3


@pytest.mark.parametrize(("name", "command", "mounts", "writable"), OURS)
def test_our_commands_have_flags_that_exist_and_paths_that_are_there(
    name, command, mounts, writable
):
    module = command[command.index("-m") + 1]
    flags = flags_of(command)
    assert set(flags) <= declared_flags(module), name
    paths = {flag: value for flag, value in flags.items() if value.startswith("/")}
    assert all(path.startswith(SHARED) and is_under(path, mounts) for path in paths.values())
    written = {"logs", "history"} if module == "serving.serve" else {"logs", "work", "serving_root"}
    for flag in written & set(paths):
        assert is_under(paths[flag], writable), (name, flag)


@pytest.mark.parametrize(("name", "command", "mounts", "writable"), MODEL_SERVERS)
def test_model_servers_read_the_files_that_releases_write(name, command, mounts, writable):
    from serving import tf_serving_config

    flags = flags_of(command)
    assert set(flags) == MODEL_SERVER_FLAGS, name
    directory = pathlib.PurePath(SHARED, "serving_root", tf_serving_config.DIRECTORY)
    assert flags["model_config_file"] == str(directory / "models.config")
    assert flags["monitoring_config_file"] == str(directory / "monitoring.config")
    assert is_under(directory, mounts)
    assert not writable or not is_under(directory, writable)


# Without them one version that cannot load holds up all others for minutes.
LOADING = {
    "--num_load_threads=4",
    "--max_num_load_retries=1",
    "--load_retry_interval_micros=1000000",
}


def texts_of_the_repository():
    """Every text that people read or run, with its name."""
    folders = ("features", "models", "serving", "pipeline", "tests", "docs", ".ci")
    for path in [*ROOT.glob("*"), *(p for f in folders for p in (ROOT / f).rglob("*"))]:
        binary = {".png", ".pyc", ".gz"}
        if path.is_file() and path.suffix not in binary and path != pathlib.Path(__file__):
            yield str(path.relative_to(ROOT)), path.read_text(encoding="utf-8")


def start_lines():
    """Every command that starts a model server, wherever it is written."""
    for name, text in texts_of_the_repository():
        for found in re.finditer(r"--model_config_file=", text):
            yield name, text[max(found.start() - 400, 0) : found.end() + 400]


def test_every_start_line_says_how_models_are_loaded():
    lines = list(start_lines())
    assert {
        "WORKSPACE.md",
        "serving/tf_serving_config.py",
        "serving/deployment/compose.yaml",
        "serving/deployment/kubernetes/model-server.yaml",
        "serving/deployment/systemd/watchnext-model-server.service",
    } <= {name for name, _ in lines}
    for name, line in lines:
        assert all(flag in line for flag in LOADING), name


def test_generated_configuration_has_the_files_that_are_named(tmp_path):
    from serving import tf_serving_config

    tf_serving_config.write(tmp_path, {"ranker": ["2", "1"]})
    names = {p.name for p in (tmp_path / tf_serving_config.DIRECTORY).iterdir()}
    assert names == {"models.config", "monitoring.config", "batching.config"}


def test_funnels_find_their_model_server():
    for name, command, _, _ in OURS:
        flags = flags_of(command)
        if "serve" in command[command.index("-m") + 1]:
            ports = {address.rpartition(":")[2] for address in flags["model_server"].split(",")}
            assert ports == {"8500"}, name
    services = yaml.safe_load((DEPLOYMENT / "compose.yaml").read_text())["services"]
    assert "model-server" in services


def test_kubernetes_names_fit_together():
    documents = list(kubernetes_documents())
    names = {(d["kind"], d["metadata"]["name"]) for _, d in documents}
    labels = [
        d["spec"]["template"]["metadata"]["labels"] for _, d in documents if "template" in d["spec"]
    ]
    for _, document in documents:
        spec = document["spec"]
        if document["kind"] == "Service":
            assert spec["selector"] in labels
        elif "selector" in spec:
            assert spec["selector"]["matchLabels"] == spec["template"]["metadata"]["labels"]
        pod = pod_of(document)
        for volume in (pod or {}).get("volumes", []):
            claim = volume["persistentVolumeClaim"]["claimName"]
            assert ("PersistentVolumeClaim", claim) in names
    (server,) = (
        d
        for _, d in documents
        if d["kind"] == "StatefulSet" and d["metadata"]["name"] == "watchnext-model-server"
    )
    text = (DEPLOYMENT / "kubernetes" / "funnel.yaml").read_text()
    for number in range(server["spec"]["replicas"]):
        assert f"watchnext-model-server-{number}.{server['spec']['serviceName']}:8500" in text


def test_units_name_units_that_exist():
    found = dict(units())
    assert set(found) == {
        "watchnext-model-server.service",
        "watchnext-funnel.service",
        "watchnext-retrain.service",
        "watchnext-retrain.timer",
    }
    assert found["watchnext-retrain.timer"]["Timer"]["Unit"] in found
    for unit in found.values():
        for relation in ("Wants", "After"):
            for other in unit["Unit"].get(relation, "").split():
                assert other in found or other == "network.target"
