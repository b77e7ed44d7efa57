"""The deployment files: they parse, and what they name exists and fits together."""

import configparser
import contextlib
import os
import pathlib
import re
import shlex
import socket
import subprocess
import time

import pytest
import redis
import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
DEPLOYMENT = ROOT / "serving" / "deployment"
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


def compose():
    return yaml.safe_load((DEPLOYMENT / "compose.yaml").read_text())


def compose_services():
    for name, service in compose()["services"].items():
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
                f"kubernetes {name} {container['name']}",
                command,
                [v["mountPath"] for v in volumes],
                writable,
            )


def units():
    directory = DEPLOYMENT / "systemd"
    for path in sorted([*directory.glob("*.service"), *directory.glob("*.timer")]):
        parser = configparser.ConfigParser(strict=True, interpolation=None)
        parser.optionxform = str
        parser.read_string(path.read_text().replace("\\\n", " "))
        yield path.name, parser


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
    secrets = {"token_file", "history_password_file"}
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
        "watchnext-failed@.service",
    }
    assert found["watchnext-retrain.timer"]["Timer"]["Unit"] in found
    for unit in found.values():
        for relation in ("Wants", "After"):
            for other in unit["Unit"].get(relation, "").split():
                assert other in found or other == "network.target"


# ---- systemd -------------------------------------------------------------------------------------

SERVICES = [n for n, u in units() if n.endswith(".service") and not n.endswith("@.service")]


@pytest.mark.parametrize("name", SERVICES)
def test_a_unit_that_fails_is_said_so(name):
    unit = dict(units())[name]
    assert unit["Unit"]["OnFailure"] == "watchnext-failed@%n.service"
    if unit["Service"].get("Restart") == "always":  # It fails only where its starts are counted.
        starts = int(unit["Unit"]["StartLimitIntervalSec"]) / int(unit["Service"]["RestartSec"])
        assert int(unit["Unit"]["StartLimitBurst"]) <= starts


def test_what_units_write_to_is_made_by_systemd_and_what_they_read_by_another_unit():
    made = {d for _, unit in units() if "Service" in unit
            for d in unit["Service"].get("StateDirectory", "").split()}  # fmt: skip
    assert {f"watchnext/{d}" for d in ("logs", "work", "serving_root", "state")} == made
    for name in SERVICES:
        text = (DEPLOYMENT / "systemd" / name).read_text()
        assert set(re.findall(r"/var/lib/(watchnext/\w+)", text)) <= made
        assert "/srv/" not in text
    sysusers = (DEPLOYMENT / "systemd" / "watchnext.sysusers").read_text()
    assert {dict(units())[n]["Service"]["User"] for n in SERVICES} == {"watchnext"}
    assert re.search(r"^u watchnext ", sysusers, re.MULTILINE)


def test_units_are_what_systemd_understands(needs_program, tmp_path):
    program = needs_program("systemd-analyze")
    for path in (DEPLOYMENT / "systemd").iterdir():
        text = path.read_text()
        for missing in ("/opt/watchnext/bin/python", "/usr/bin/tensorflow_model_server"):
            text = text.replace(missing, "/bin/true")  # It asks whether programs are there.
        (tmp_path / path.name).write_text(text)
    for name, _ in units():
        instance = name.replace("@.", "@watchnext-funnel.service.")
        (tmp_path / instance).write_text((tmp_path / name).read_text())
        done = subprocess.run(
            [program, "verify", "--man=no", str(tmp_path / instance)],
            capture_output=True,
            text=True,
            check=False,
        )
        said = [line for line in (done.stdout + done.stderr).splitlines() if "watchnext" in line]
        assert not said


# ---- images --------------------------------------------------------------------------------------


def dockerfile():
    return (DEPLOYMENT / "Dockerfile").read_text()


def test_what_images_are_made_of_goes_to_the_builder_and_nothing_else():
    rules = (ROOT / ".dockerignore").read_text().split("\n")
    assert "*" in rules
    passed = {rule[1:] for rule in rules if rule.startswith("!")}
    copied = set()
    for path in (DEPLOYMENT / "Dockerfile", ROOT / "pipeline" / "deployment" / "Dockerfile"):
        for line in re.findall(r"^COPY (.+)$", path.read_text(), re.MULTILINE):
            copied |= set(line.split()[:-1])
    assert copied == passed
    assert all((ROOT / name).exists() for name in passed)


def test_the_image_of_a_funnel_holds_nothing_of_training():
    targets = re.split(r"^FROM ", dockerfile(), flags=re.MULTILINE)
    (serving,) = (t for t in targets if t.startswith("sources AS serving"))
    (extras,) = re.findall(r"'\.\[(.+)\]'", serving)
    assert set(extras.split(",")) <= {"serving", "tracing"}
    (retrain,) = (t for t in targets if t.startswith("sources AS retrain"))
    assert "preprocessing,training" in retrain


def test_images_take_nothing_whose_hash_is_not_in_the_lock():
    (checked,) = re.findall(r"pip wheel (.+)", dockerfile())
    assert {"--no-deps", "--require-hashes"} <= set(checked.split())
    assert "requirements.lock" in checked
    for command in re.findall(r"pip install (.+)", dockerfile()):
        assert "--no-index --find-links /wheels" in command


def images():
    for name, service in compose()["services"].items():
        yield f"compose {name}", service["image"]
    for name, document in kubernetes_documents():
        pod = pod_of(document)
        for container in [*pod["containers"], *pod.get("initContainers", [])] if pod else []:
            yield f"kubernetes {name}", container["image"]


def test_every_image_has_a_tag_and_ours_are_built():
    tagged = dict(re.findall(r"--target (\w+) +-t (\S+)", dockerfile()))
    for name, image in images():
        repository, _, tag = image.partition(":")
        assert re.match(r"\d", tag), (name, image)
        if repository.startswith("watchnext"):
            assert image in tagged.values(), name
    for service in compose()["services"].values():
        if service["image"].startswith("watchnext"):
            assert tagged[service["build"]["target"]] == service["image"]
            context = (DEPLOYMENT / service["build"]["context"]).resolve()
            assert context == ROOT
            assert (context / service["build"]["dockerfile"]).exists()


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


def redis_scripts():
    """The shell that starts Redis, and how it is given its password."""
    text = compose()["services"]["redis"]["command"][0].replace("$$", "$")
    yield pytest.param(text, id="compose")
    for name, document in kubernetes_documents():
        pod = pod_of(document)
        if pod and name == "redis.yaml":
            yield pytest.param(pod["containers"][0]["args"][0], id="kubernetes")


@pytest.mark.parametrize("script", list(redis_scripts()))
def test_redis_keeps_what_it_acknowledged_and_shows_its_password_to_nobody(
    script, needs_program, tmp_path
):
    needs_program("redis-server")
    with contextlib.closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (tmp_path / "password").write_text("of-redis\n")
    for path, own in {
        "/data": str(tmp_path),
        "/run/secrets/redis_password": str(tmp_path / "password"),
        "/tmp/redis.conf": str(tmp_path / "redis.conf"),
    }.items():
        script = script.replace(path, own)
    script = script.replace("umask 077\n", f"umask 077\nexport PORT={port}\n")
    script = script.replace('echo "appendonly yes"', 'echo "port $PORT"; echo "appendonly yes"')
    process = subprocess.Popen(
        ["sh", "-c", script],
        env={**os.environ, "REDISCLI_AUTH": "of-redis"},
        stdout=subprocess.DEVNULL,
    )
    client = redis.Redis(port=port, password="of-redis")
    while True:
        assert process.poll() is None
        with contextlib.suppress(redis.ConnectionError):
            settings = client.config_get()
            break
        time.sleep(0.02)
    assert (settings["maxmemory-policy"], settings["appendonly"]) == ("noeviction", "yes")
    assert settings["maxmemory"] == str(3 << 30)
    with redis.Redis(port=port) as stranger, pytest.raises(redis.AuthenticationError):
        stranger.ping()
    assert "of-redis" not in pathlib.Path(f"/proc/{process.pid}/cmdline").read_text()
    assert (tmp_path / "redis.conf").stat().st_mode & 0o077 == 0
    process.terminate()  # It is Redis itself that is told to stop, and saves.
    assert process.wait(60) == 0
    client.close()


def test_no_password_stands_in_an_address_or_on_a_command_line():
    for name, text in texts_of_the_repository():
        if not name.startswith("tests/"):
            assert not re.search(r"redis://[^\s@/]*:[^\s@/]+@", text), name
            assert "--requirepass" not in text, name


@pytest.mark.parametrize(("command", "has_failed"), [("exit 0", False), ("exit 3", True)])
def test_the_nightly_run_begins_at_once_and_ends_when_it_is_told(tmp_path, command, has_failed):
    script = (
        (DEPLOYMENT / "nightly.sh").read_text().replace("/tmp/failed", str(tmp_path / "failed"))
    )
    (tmp_path / "nightly.sh").write_text(script)
    (tmp_path / "failed").touch()
    with subprocess.Popen(
        ["sh", tmp_path / "nightly.sh", "sh", "-c", f"echo made; {command}"],
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout.readline() == "made\n"
        (seconds,) = re.fullmatch(r"Next run in (\d+) s\.\n", process.stdout.readline()).groups()
        at = time.gmtime(time.time() + int(seconds))
        assert (at.tm_hour, at.tm_min) in {(3, 0), (2, 59)}
        assert (tmp_path / "failed").exists() == has_failed
        process.terminate()
        assert process.wait(60) == 0


# ---- installing ----------------------------------------------------------------------------------

TOLD = re.compile(r"\b(?:pip3?|pipx|uv(?: pip)?|poetry|conda)\s+(?:install|add|download)\b(.*)")
OURS_BY_NAME = re.compile(r"""(?<![\w./@:-])["'`]?watchnext(?=\[|[<=>~!]=|["'`\s.,;:)]|$)""")


def test_nobody_is_told_to_install_the_package_from_an_index():
    """Its name is on none, so whoever took it there would be installed."""
    for name, text in texts_of_the_repository():
        for line in text.replace("\\\n", " ").splitlines():
            for arguments in TOLD.findall(line):
                assert not OURS_BY_NAME.search(arguments), (name, line)
        if pathlib.PurePath(name).name.startswith(("requirements", "constraints")):
            assert not OURS_BY_NAME.search(text), name


@pytest.mark.parametrize("line", ["pip install watchnext", "pip install -U 'watchnext[serving]'",
                                  "pip install watchnext==0.1"])  # fmt: skip
def test_the_search_for_such_lines_finds_them(line):
    assert OURS_BY_NAME.search(TOLD.findall(line)[0])
