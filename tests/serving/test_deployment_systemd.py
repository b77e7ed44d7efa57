"""Units of systemd."""

import re
import subprocess

import kubernetes_validate
import pytest

from features import command
from tests.serving.deployment_files import DEPLOYMENT, kubernetes_documents, units

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


def test_a_refusal_is_not_tried_again_and_a_fault_is_in_every_schedule():
    """Exit codes mean the same to systemd and to Kubernetes, and are those of the code."""
    unit = dict(units())["watchnext-retrain.service"]["Service"]
    final = {command.InputError.exit_code, command.RefusedError.exit_code}
    assert {int(code) for code in unit["RestartPreventExitStatus"].split()} == final
    assert unit["Restart"] == "on-failure"
    (job,) = (d for _, d in kubernetes_documents() if d["kind"] == "CronJob")
    spec = job["spec"]["jobTemplate"]["spec"]
    rules = {rule["action"]: rule for rule in spec["podFailurePolicy"]["rules"]}
    assert set(rules["FailJob"]["onExitCodes"]["values"]) == final
    name = rules["FailJob"]["onExitCodes"]["containerName"]
    assert name in {c["name"] for c in spec["template"]["spec"]["containers"]}
    assert spec["template"]["spec"]["restartPolicy"] == "Never"  # Else the policy is refused.


def test_manifests_are_what_kubernetes_takes():
    """By the schemas of Kubernetes itself; the CRDs of an operator are in none."""
    for _, document in kubernetes_documents():
        kubernetes_validate.validate(document, "1.31", strict=True)
