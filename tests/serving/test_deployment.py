"""Deployment files parse, and the commands, paths and names in them exist and fit together."""

import pathlib
import re
import shlex

import pytest
import yaml

from tests.serving.deployment_files import (
    DEPLOYMENT,
    ROOT,
    compose,
    dockerfile,
    kubernetes_documents,
    pod_of,
    texts_of_the_repository,
    units,
)
from tests.test_commands import all_flags

SHARED = {
    "compose": "/srv/watchnext",
    "kubernetes": "/srv/watchnext",
    "systemd": "/var/lib/watchnext",
}


USER = 10001


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
    for name, service in compose()["services"].items():
        command = [*service.get("entrypoint", []), *service["command"]]
        mounts = [volume.split(":")[1] for volume in service["volumes"]]
        writable = [v.split(":")[1] for v in service["volumes"] if not v.endswith(":ro")]
        yield f"compose {name}", command, mounts, writable


def kubernetes_containers():
    for name, document in kubernetes_documents():
        pod = pod_of(document)
        for container in pod["containers"] if pod else []:
            command = [*container.get("command", []), *container.get("args", [])]
            volumes = container["volumeMounts"]
            writable = [v["mountPath"] for v in volumes if not v.get("readOnly")]
            yield (
                f"kubernetes {name} {container['name']}",
                command,
                [v["mountPath"] for v in volumes],
                writable,
            )


def unit_commands():
    for name, unit in units():
        if "Service" in unit:
            service = unit["Service"]
            writable = [f"/var/lib/{name}" for name in service.get("StateDirectory", "").split()]
            yield f"systemd {name}", shlex.split(service["ExecStart"]), ["/"], writable


COMMANDS = [*compose_services(), *kubernetes_containers(), *unit_commands()]


OURS = [entry for entry in COMMANDS if "-m" in entry[1]]


MODEL_SERVERS = [entry for entry in COMMANDS if entry[1][0].endswith("tensorflow_model_server")]


def flags_of(command):
    return dict(part[2:].split("=", 1) for part in command if re.match(r"--\w+=", part))


def is_under(path, directories):
    return any(pathlib.PurePath(path).is_relative_to(directory) for directory in directories)


def test_every_way_to_deploy_has_all_parts():
    assert len(OURS) == 9  # Funnel, guard and retraining, three ways.
    assert len(MODEL_SERVERS) == 3


@pytest.mark.parametrize(("name", "command", "mounts", "writable"), OURS)
def test_our_commands_have_flags_that_exist_and_paths_that_are_there(
    name, command, mounts, writable
):
    module = command[command.index("-m") + 1]
    flags = flags_of(command)
    assert set(flags) <= set(all_flags()[module]), name
    secrets = {"token_file", "admin_token_file", "history_password_file"}
    paths = {f: value for f, value in flags.items() if value.startswith("/") and f not in secrets}
    shared = SHARED[name.split()[0]]
    assert all(path.startswith(shared) and is_under(path, mounts) for path in paths.values())
    written = {"logs", "history"} if module == "serving.serve" else {"logs", "work", "serving_root"}
    for flag in written & set(paths):
        assert is_under(paths[flag], writable), (name, flag)


@pytest.mark.parametrize(("name", "command", "mounts", "writable"), MODEL_SERVERS)
def test_model_servers_read_the_files_that_releases_write(name, command, mounts, writable):
    from serving.release import tf_serving_config

    flags = flags_of(command)
    assert set(flags) == MODEL_SERVER_FLAGS, name
    shared = SHARED[name.split()[0]]
    directory = pathlib.PurePath(shared, "serving_root", tf_serving_config.DIRECTORY)
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


def start_lines():
    """Every command that starts a model server, wherever it is written."""
    for name, text in texts_of_the_repository():
        for found in re.finditer(r"--model_config_file=", text):
            yield name, text[max(found.start() - 400, 0) : found.end() + 400]


def test_every_start_line_says_how_models_are_loaded():
    lines = list(start_lines())
    assert {
        "docs/deploy.md",
        "serving/release/tf_serving_config.py",
        "serving/deployment/compose.yaml",
        "serving/deployment/kubernetes/model-server.yaml",
        "serving/deployment/systemd/watchnext-model-server.service",
    } <= {name for name, _ in lines}
    for name, line in lines:
        assert all(flag in line for flag in LOADING), name


def test_generated_configuration_has_the_files_that_are_named(tmp_path):
    from serving.release import tf_serving_config

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
        elif document["kind"] == "PodDisruptionBudget":
            assert spec["selector"]["matchLabels"] in labels
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
        "watchnext-guard.service",
        "watchnext-retrain.service",
        "watchnext-retrain.timer",
        "watchnext-failed@.service",
    }
    assert found["watchnext-retrain.timer"]["Timer"]["Unit"] in found
    for unit in found.values():
        for relation in ("Wants", "After"):
            for other in unit["Unit"].get(relation, "").split():
                assert other in found or other == "network.target"


# ---- compose and Kubernetes ----------------------------------------------------------------------


def test_compose_makes_directories_for_the_user_of_the_images_before_anything_starts():
    services = compose()["services"]
    making = services["directories"]["command"]
    assert {"--owner=10001", "--group=10001"} <= set(making)
    assert f"--uid {USER} --gid {USER}" in dockerfile()
    for name, service in services.items():
        bound = {v.split(":")[0] for v in service["volumes"] if v.startswith("/")}
        if name != "directories":
            assert bound <= set(making), name
        if bound and name != "directories":
            needed = service["depends_on"]["directories"]
            assert needed == {"condition": "service_completed_successfully"}
            assert "mem_limit" in service


def test_compose_gives_secrets_by_files_and_retrains_every_night():
    services = compose()["services"]
    assert set(compose()["secrets"]) == {"token", "redis_password"}
    for service in services.values():
        for flag, value in flags_of(service["command"]).items():
            if value.startswith("/run/secrets/"):
                assert value.removeprefix("/run/secrets/") in service["secrets"], flag
    nightly = services["retrain"]["command"][1]
    assert (ROOT / pathlib.PurePath(nightly).relative_to("/opt/watchnext")).exists()
    assert services["retrain"]["restart"] == "unless-stopped"
    assert "profiles" not in services["retrain"]


def test_pods_run_as_a_user_to_whom_their_files_belong():
    for name, document in kubernetes_documents():
        pod = pod_of(document)
        if pod is None:
            continue
        context = pod["securityContext"]
        assert context["runAsNonRoot"] is True, name
        assert context["fsGroup"] == context["runAsGroup"] == context["runAsUser"]
        assert context["runAsUser"] == (999 if "redis" in name else USER)
        for container in pod["containers"]:
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert container["resources"]["limits"]["memory"]


def test_secrets_of_pods_are_those_that_are_made():
    (made,) = re.findall(
        r"create secret generic (\w+) (.+?)\n    kubectl apply",
        (DEPLOYMENT / "README.md").read_text(),
        re.DOTALL,
    )
    keys = set(re.findall(r"--from-literal=([\w-]+)=", made[1]))
    wanted = set()
    for path in (DEPLOYMENT / "kubernetes").glob("*.yaml"):
        wanted |= set(re.findall(r"secretKeyRef: \{name: (\w+), key: ([\w-]+)\}", path.read_text()))
    assert wanted == {(made[0], key) for key in keys}


def test_readiness_is_a_real_prediction_through_the_funnel():
    for name, document in kubernetes_documents():
        for container in (pod_of(document) or {"containers": []})["containers"]:
            probes = {n: p for n, p in container.items() if n.endswith("Probe")}
            assert "/v1/models" not in str(probes), name
            if container["name"] == "model-server":
                assert {str(p["tcpSocket"]) for p in probes.values()} == {str({"port": "grpc"})}
            if container["name"] == "funnel":
                assert probes["startupProbe"]["httpGet"]["path"] == "/readyz"
    assert "/readyz" in str(compose()["services"]["funnel"]["healthcheck"])
