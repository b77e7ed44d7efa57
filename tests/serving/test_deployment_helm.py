"""The chart: helm lints and renders it, and the plain files are what it renders by default."""

import os
import pathlib
import shutil
import subprocess

import pytest
import yaml

from tests.conftest import needs
from tests.serving.deployment_files import DEPLOYMENT

CHART = DEPLOYMENT / "helm"
KUBERNETES = "1.31.0"  # Helm built from source would else think of a very old one.


@pytest.fixture(scope="module")
def helm():
    cache = pathlib.Path.home() / ".cache" / "watchnext" / "bin"
    found = shutil.which("helm", path=f"{os.environ['PATH']}:{cache}")
    needs("helm", present=found is not None, remedy="make helm, or put helm on PATH")

    def run(*arguments):
        told = subprocess.run(
            [str(found), *map(str, arguments)], capture_output=True, text=True, check=False
        )
        assert told.returncode == 0, told.stderr + told.stdout
        return told.stdout

    return run


def documents(text):
    found = {}
    for document in yaml.safe_load_all(text):
        if document:
            found[document["kind"], document["metadata"]["name"]] = document
    return found


def render(helm, *values, name="watchnext"):
    given = [part for value in values for part in ("--set", value)]
    return documents(helm("template", name, CHART, f"--kube-version={KUBERNETES}", *given))


def test_the_linter_has_nothing_to_say(helm):
    said = helm("lint", "--strict", CHART, "--set", "monitoring.enabled=true")
    assert "[WARNING]" not in said and "[ERROR]" not in said


def test_the_plain_files_are_what_the_chart_renders_by_default(helm):
    plain = "\n---\n".join(
        path.read_text() for path in sorted((DEPLOYMENT / "kubernetes").glob("*.yaml"))
    )
    assert render(helm) == documents(plain)


def test_parts_that_are_there_already_are_not_run(helm):
    made = render(
        helm,
        "redis.address=redis://cache:6379/1",
        "modelServer.enabled=false",
        "storage.existingClaim=mine",
    )
    kinds = {kind for kind, _ in made}
    assert "StatefulSet" not in kinds and "PersistentVolumeClaim" not in kinds
    pod = made["Deployment", "watchnext-funnel"]["spec"]["template"]["spec"]
    arguments = pod["containers"][0]["args"]
    assert "--history=redis://cache:6379/1" in arguments
    assert not any(argument.startswith("--model_server") for argument in arguments)
    assert pod["volumes"][0]["persistentVolumeClaim"]["claimName"] == "mine"


def test_every_replica_of_the_model_server_is_named_and_names_follow_the_release(helm):
    made = render(helm, "modelServer.replicas=3", name="video")
    arguments = made["Deployment", "video-funnel"]["spec"]["template"]["spec"]["containers"][0][
        "args"
    ]
    (servers,) = (a for a in arguments if a.startswith("--model_server="))
    assert servers.partition("=")[2].split(",") == [
        f"video-model-server-{number}.video-model-server:8500" for number in range(3)
    ]


def test_scaling_and_monitoring_are_made_where_they_are_asked_for(helm):
    assert ("HorizontalPodAutoscaler", "watchnext-funnel") not in render(helm)
    made = render(helm, "funnel.autoscaling.enabled=true", "monitoring.enabled=true")
    assert "replicas" not in made["Deployment", "watchnext-funnel"]["spec"]
    scaler = made["HorizontalPodAutoscaler", "watchnext-funnel"]["spec"]
    assert (scaler["minReplicas"], scaler["maxReplicas"]) == (2, 8)
    labels = made["Service", "watchnext-funnel"]["metadata"]["labels"]
    wanted = made["ServiceMonitor", "watchnext-funnel"]["spec"]["selector"]["matchLabels"]
    assert wanted.items() <= labels.items()
    rules = made["PrometheusRule", "watchnext"]["spec"]
    assert rules == yaml.safe_load((CHART / "monitoring" / "alerts.yaml").read_text())
