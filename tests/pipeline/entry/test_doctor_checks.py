import json
import pathlib

import pytest
from packaging import requirements

from pipeline.entry import doctor_checks

OK, WARNING, PROBLEM = doctor_checks.Status


@pytest.mark.parametrize(
    ("version", "status"),
    [((3, 9), PROBLEM), ((3, 10), OK), ((3, 13), OK), ((3, 14), PROBLEM)],
)
def test_python_is_supported_from_3_10_to_3_13(version, status):
    assert doctor_checks.check_python(version).status is status


def test_a_package_of_the_same_name_from_elsewhere_is_a_problem():
    home = pathlib.Path("/checkout")
    locations = {"features": home / "features", "models": pathlib.Path("/elsewhere/models")}
    finding = doctor_checks.check_packages(locations, home)
    assert finding.status is PROBLEM
    assert "/elsewhere/models" in finding.message
    assert "features" not in finding.message
    assert doctor_checks.check_packages({"features": home / "features"}, home).status is OK
    assert doctor_checks.check_packages({"features": None}, home).status is PROBLEM


REQUIRES = [
    "absl-py<2,>=1.4",
    'apache-beam>=2.75; extra == "preprocessing"',
    'fastapi>=0.115; extra == "serving"',
    'ruff>=0.12; extra == "dev"',
]


@pytest.mark.parametrize(
    ("role", "names"),
    [
        ("serving", ["absl-py", "fastapi"]),
        ("preprocessing", ["absl-py", "apache-beam"]),
        ("all", ["absl-py", "apache-beam", "fastapi"]),
    ],
)
def test_a_role_needs_the_base_and_its_own_extra(role, names):
    assert [r.name for r in doctor_checks.needed(REQUIRES, role)] == names


@pytest.mark.parametrize(
    ("installed", "status", "says"),
    [
        ("2.21.0", OK, "2.21.0"),
        ("2.20.1", PROBLEM, "2.20.1 is outside <2.22,>=2.21"),
        ("2.22.0", PROBLEM, "outside"),
        (None, PROBLEM, "not installed"),
    ],
)
def test_a_dependency_must_be_there_and_inside_its_range(installed, status, says):
    requirement = requirements.Requirement("tensorflow>=2.21,<2.22")
    finding = doctor_checks.check_dependency(requirement, installed)
    assert finding.status is status
    assert says in finding.message
    assert bool(finding.remedy) == (status is PROBLEM)


def test_versions_other_than_the_pinned_ones_are_named():
    hashes = " \\\n    --hash=sha256:00 \\\n    --hash=sha256:01\n"
    lines = ["numpy==2.4.6", "tf_keras==2.21.0", "old==1 ; python_full_version < '3.0'"]
    lock = hashes.join([*lines, ""])
    assert doctor_checks.check_lock(lock, {"numpy": "2.4.6", "tf-keras": "2.21.0"}).status is OK
    finding = doctor_checks.check_lock(lock, {"numpy": "2.0.0"})
    assert finding.status is WARNING
    assert "2 of 2" in finding.message
    assert "numpy 2.0.0 (==2.4.6)" in finding.message
    assert "tf_keras missing" in finding.message


@pytest.mark.parametrize(
    ("value", "status"), [(None, OK), ("1", OK), ("0", PROBLEM), ("", PROBLEM)]
)
def test_the_keras_switch_must_not_be_turned_off(value, status):
    assert doctor_checks.check_legacy_keras_switch(value).status is status


def stack(**report):
    text = "some log line\nREPORT " + json.dumps(report) + "\n"
    return doctor_checks.check_stack(0, text)


def test_a_good_trial_of_the_stack_gives_two_good_findings():
    findings = stack(scann_error="", scann_found=3, legacy_keras=True)
    assert [finding.status for finding in findings] == [OK, OK]


def test_a_scann_that_cannot_load_is_a_problem_that_says_why():
    (scann, keras) = stack(scann_error="ImportError: libfoo", legacy_keras=True)
    assert scann.status is PROBLEM
    assert "ImportError: libfoo" in scann.message
    assert keras.status is OK


def test_a_scann_that_finds_the_wrong_neighbour_is_a_problem():
    assert stack(scann_error="", scann_found=5, legacy_keras=True)[0].status is PROBLEM


def test_keras_3_is_a_problem():
    assert stack(scann_error="", scann_found=3, legacy_keras=False)[1].status is PROBLEM


def test_the_symbol_clash_is_called_by_its_name():
    output = "Traceback\nNotFoundError: _scann_ops.so: undefined symbol: _ZN10tensorflow\n"
    (finding,) = doctor_checks.check_stack(1, output)
    assert finding.status is PROBLEM
    assert "symbol clash" in finding.message
    assert "requirements.lock" in finding.remedy


def test_a_trial_killed_by_an_illegal_instruction_points_at_the_processor():
    (finding,) = doctor_checks.check_stack(-4, "")
    assert "SIGILL" in finding.message
    assert "AVX" in finding.remedy


def test_a_trial_that_says_nothing_is_a_problem():
    (finding,) = doctor_checks.check_stack(0, "")
    assert finding.status is PROBLEM
    assert "no output" in finding.message


@pytest.mark.parametrize(
    ("machine", "features", "status"),
    [
        ("x86_64", {"avx", "avx2", "fma"}, OK),
        ("x86_64", {"avx", "avx2", "fma", "avx512f"}, OK),
        ("x86_64", {"avx", "fma"}, WARNING),
        ("x86_64", {"avx", "avx2"}, PROBLEM),
        ("x86_64", set(), PROBLEM),
        ("aarch64", {"avx", "avx2", "fma"}, PROBLEM),
    ],
)
def test_the_processor_needs_avx_and_fma(machine, features, status):
    assert doctor_checks.check_processor(machine, frozenset(features)).status is status


@pytest.mark.parametrize(
    ("have", "status"), [(8, OK), (7.9, WARNING), (4, WARNING), (3.9, PROBLEM)]
)
def test_an_amount_is_good_tight_or_too_little(have, status):
    finding = doctor_checks.check_amount(
        "memory", have, minimum_gb=4, comfortable_gb=8, remedy="get more"
    )
    assert finding.status is status
    assert finding.remedy == ("" if status is OK else "get more")


def test_the_limit_of_a_container_counts_where_it_is_lower_than_the_machine():
    meminfo = "MemTotal:       1000 kB\nMemFree:  1 kB\n"
    assert doctor_checks.memory_bytes(meminfo, "max\n") == 1_024_000
    assert doctor_checks.memory_bytes(meminfo, "") == 1_024_000
    assert doctor_checks.memory_bytes(meminfo, "5000\n") == 5000
    assert doctor_checks.memory_bytes(meminfo, "99999999999\n") == 1_024_000


@pytest.mark.parametrize(
    ("limit", "status"), [(-1, OK), (4096, OK), (4095, WARNING), (1024, WARNING)]
)
def test_a_low_limit_of_open_files_is_a_warning(limit, status):
    assert doctor_checks.check_open_files(limit).status is status


def test_a_busy_port_is_a_warning_with_the_reason():
    assert doctor_checks.check_port(8500, "").status is OK
    finding = doctor_checks.check_port(8500, "Address already in use")
    assert finding.status is WARNING
    assert "Address already in use" in finding.message


def test_an_optional_program_that_is_missing_is_only_a_warning():
    missing = doctor_checks.check_program("Java", None, purpose="Flink", remedy="install it")
    assert missing.status is WARNING
    assert "Flink" in missing.message
    assert doctor_checks.check_program("Java", "/bin/java", purpose="", remedy="").status is OK


def test_a_line_holds_status_check_message_and_remedy():
    finding = doctor_checks.Finding(check="disk", status=PROBLEM, message="full", remedy="tidy")
    assert finding.line().split() == ["problem", "disk", "full", "Remedy:", "tidy."]
