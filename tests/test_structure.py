"""What holds of the repository as a whole: lists that must be true, commands that must answer."""

import ast
import pathlib
import re
import runpy
import subprocess
import sys

import pytest
import setuptools
from packaging import requirements, utils

from pipeline.steps import declared

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = pathlib.Path(__file__).resolve().parent.parent
PACKAGES = ("features", "models", "serving", "pipeline")
SOURCES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
BINARIES = [path for path in SOURCES if re.search(r"^    command\.run\(", path.read_text(), re.M)]
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]


def module(path):
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


def imported(path):
    """Returns the names of the modules that a file imports, wherever in the file."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.update({node.module, *(f"{node.module}.{a.name}" for a in node.names)})
    return names


@pytest.fixture(scope="module")
def distribution(monkeypatch_module):
    """What setup.py hands to setuptools."""
    given = {}
    monkeypatch_module.setattr(setuptools, "setup", given.update)
    runpy.run_path(str(ROOT / "setup.py"))
    return given


@pytest.fixture(scope="module")
def monkeypatch_module():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["setup.py"])
        yield patch


@pytest.fixture(scope="module")
def ranges(distribution):
    # The peers of a benchmark are no part of what is tested: one of them wants a compiler.
    extras = {n: group for n, group in distribution["extras_require"].items() if n != "bench"}
    lists = [distribution["install_requires"], *extras.values()]
    return {requirements.Requirement(text) for group in lists for text in group}


@pytest.fixture(scope="module")
def lock():
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    pins = [line.removesuffix("\\") for line in lines if not line.startswith(" ")]
    return [requirements.Requirement(line) for line in pins]


# Steps


def test_each_artefact_of_a_retraining_is_written_once_and_before_it_is_read():
    written = [declared.LOGS]
    for step in declared.STEPS:
        assert set(step.reads.values()) <= set(written), step.name
        assert step.writes[1] not in written, step.name
        written.append(step.writes[1])
    assert declared.SERVING_ROOT in written


def test_the_code_that_a_step_depends_on_is_what_its_layer_may_import():
    may = {
        "pipeline": {"features", "pipeline"},
        "models": {"features", "models"},
        "serving": {"features", "models", "serving"},
    }
    for step in declared.STEPS:
        assert set(step.packages) == may[step.binary.partition(".")[0]], step.name


def test_only_binaries_are_exempt_from_the_ban_on_flags():
    exempt = {
        path
        for path, rules in SETTINGS["ruff"]["lint"]["per-file-ignores"].items()
        if "TID251" in rules and path.endswith(".py")
    }
    assert exempt == {str(path.relative_to(ROOT)) for path in BINARIES}


def test_a_funnel_replica_loads_neither_beam_nor_tf_transform():
    code = (
        "import sys, serving.serve, serving.server.run, serving.server.service\n"
        "heavy = {'apache_beam', 'tensorflow_transform', 'tfx_bsl', 'jinja2', 'pytest'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout.strip() == "[]"


# Layers


def test_every_module_that_imports_beam_is_in_the_contract_for_beam_modules():
    (contract,) = [c for c in SETTINGS["importlinter"]["contracts"] if c["type"] == "forbidden"]
    with_beam = {
        module(path)
        for path in SOURCES
        if any(name.split(".")[0] == "apache_beam" for name in imported(path))
    }
    named = tuple(contract["source_modules"])
    assert {m for m in with_beam if not f"{m}.".startswith(tuple(f"{n}." for n in named))} == set()
    assert all(name.startswith("pipeline.") for name in with_beam)


def test_scann_and_recommenders_are_imported_in_one_place():
    places = {
        module(path)
        for path in SOURCES
        if {"scann", "tensorflow_recommenders"} & {n.split(".")[0] for n in imported(path)}
    }
    assert places <= {"models.environment"}


# Files


@pytest.mark.parametrize("path", SOURCES, ids=module)
def test_a_source_file_is_short_and_has_a_name_that_says_something(path):
    assert len(path.read_text().splitlines()) <= 400
    vague = {"util", "utils", "helper", "helpers", "common", "base", "misc", "v2"}
    assert not vague & set(path.stem.split("_"))


def functions(node):
    """Yields the functions of a module; a closure is a part of the one that it stands in."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            yield child
        else:
            yield from functions(child)


def code_lines(text, function):
    """Counts the lines of a function, without docstrings and blank ones."""
    told = set()
    for node in ast.walk(function):
        scope = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        if scope and ast.get_docstring(node) is not None:
            told.update(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    numbers = range(function.lineno, function.end_lineno + 1)
    return sum(number not in told and bool(text[number - 1].strip()) for number in numbers)


@pytest.mark.parametrize("path", SOURCES, ids=module)
def test_a_function_fits_on_a_screen(path):
    lines = path.read_text().splitlines()
    counted = {f.name: code_lines(lines, f) for f in functions(ast.parse(path.read_text()))}
    assert {name: count for name, count in counted.items() if count > 60} == {}


def test_lines_of_code_are_counted_without_docstrings_and_with_closures():
    text = """\
def outer():
    '''Says
    what.'''

    # Why.
    def inner():
        '''Says it.'''
        return 1
    return inner
"""
    (outer,) = functions(ast.parse(text))
    assert (outer.name, code_lines(text.splitlines(), outer)) == ("outer", 5)


def test_the_packages_are_complete_and_the_tests_are_none(distribution):
    folders = {path.parent for path in SOURCES}
    assert set(distribution["packages"]) == {module(folder) for folder in folders}
    assert not list((ROOT / "tests").rglob("__init__.py"))


@pytest.mark.parametrize("folder", sorted({path.parent for path in SOURCES}), ids=module)
def test_a_folder_says_what_it_owns_and_can_be_taken_in_at_a_glance(folder):
    docstring = ast.get_docstring(ast.parse((folder / "__init__.py").read_text()))
    assert docstring, "what it owns; what it may import is a contract of pyproject.toml"
    assert len(list(folder.glob("*.py"))) - 1 <= 20


def test_every_file_beside_the_code_is_packaged(distribution):
    packaged = set()
    for package, patterns in distribution["package_data"].items():
        for pattern in patterns:
            matched = set((ROOT / package.replace(".", "/")).glob(pattern))
            assert matched, f"{package}: {pattern} matches nothing"
            packaged |= matched
    others = {
        path
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.is_file() and path.suffix != ".py" and "__pycache__" not in path.parts
    }
    assert others <= packaged


# Words


# Retired name -> what to say instead; WORKSPACE.md has the words that are in use.
RETIRED = {
    **dict.fromkeys(("found", "Found"), "what it is: rows, paths, match, ..."),
    "asked": "what it is: queries, body, keys, ...",
    "Settings": "a dataclass of declared values is a ...Config",
    "Stage": "a command of a retraining is a Step",
}


def names_in(tree):
    """Yields the names that a module defines or uses, as they are written."""
    for node in ast.walk(tree):
        for kind in ("id", "arg", "attr", "name", "asname"):
            name = getattr(node, kind, None)
            if isinstance(name, str):
                yield name


@pytest.mark.parametrize("path", SOURCES, ids=module)
def test_a_retired_word_does_not_come_back(path):
    used = {name.lstrip("_") for name in names_in(ast.parse(path.read_text()))}
    assert {name: RETIRED[name] for name in used & RETIRED.keys()} == {}


# A description is a noun phrase that can be read by itself.
POINTING = re.compile(
    r"^ +\*{0,2}(\w+): (?:Of|Likewise|The same|As above|As there)\b", re.MULTILINE
)


@pytest.mark.parametrize("path", SOURCES, ids=module)
def test_a_description_does_not_lean_on_the_one_before(path):
    assert POINTING.findall(path.read_text()) == []


def test_a_minute_an_hour_and_a_day_are_defined_once():
    lengths, numbers = {"MINUTE_S", "HOUR_S", "DAY_S"}, (3_600, 86_400)
    again = []
    for path in {*SOURCES} - {ROOT / "features" / "durations.py"}:
        for node in ast.walk(ast.parse(path.read_text())):
            is_set = isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
            if is_set and node.id.lstrip("_") in lengths:
                again.append(f"{module(path)}:{node.lineno}: {node.id}")
            if isinstance(node, ast.Constant) and node.value in numbers:
                again.append(f"{module(path)}:{node.lineno}: {node.value}")
    assert again == []


def test_to_take_is_to_choose_rows():
    for path in SOURCES:
        for function in ast.walk(ast.parse(path.read_text())):
            if isinstance(function, ast.FunctionDef) and function.name.lstrip("_") == "take":
                arguments = [argument.arg for argument in function.args.args]
                assert arguments in (["self", "rows"], ["self", "chosen"], ["self", "part"]), path


# Dependencies


def test_every_dependency_has_a_floor_and_a_ceiling(ranges):
    for requirement in ranges:
        operators = {specifier.operator for specifier in requirement.specifier}
        assert ">=" in operators, requirement
        assert "<" in operators, requirement


def test_a_dependency_has_the_same_range_in_every_extra(ranges):
    names = [utils.canonicalize_name(requirement.name) for requirement in ranges]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("python", ["3.10", "3.11", "3.12", "3.13"])
def test_the_lock_pins_each_dependency_once_and_inside_its_range(lock, ranges, python):
    environment = {"python_version": python, "python_full_version": f"{python}.9"}
    pins = {}
    for pin in lock:
        assert [s.operator for s in pin.specifier] == ["=="], pin
        if pin.marker is None or pin.marker.evaluate(environment):
            name = utils.canonicalize_name(pin.name)
            assert name not in pins, pin
            (pins[name],) = [specifier.version for specifier in pin.specifier]
    for requirement in ranges:
        if requirement.marker is not None and not requirement.marker.evaluate(environment):
            continue
        name = utils.canonicalize_name(requirement.name)
        assert requirement.specifier.contains(pins[name]), requirement


def test_the_lock_has_the_hashes_of_every_pin_and_names_no_host():
    text = (ROOT / "requirements.lock").read_text()
    blocks = re.split(r"\n(?=\S)", text.rstrip("\n"))
    for block in blocks:
        pin, *hashes = block.split(" \\\n    --hash=sha256:")
        assert hashes, pin
        assert all(re.fullmatch(r"[0-9a-f]{64}", one) for one in hashes), pin
        assert not re.search(r"https?:|://|--|@", pin)


@pytest.mark.parametrize(
    "path", ["Makefile", "pipeline/deployment/Dockerfile", "serving/deployment/Dockerfile"]
)
def test_whoever_installs_the_lock_asks_for_its_hashes(path):
    text = (ROOT / path).read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if re.search(r"pip (install|wheel)\b", line)]
    of_lock = [line for line in lines if "requirements.lock" in line]
    assert of_lock
    assert all(re.search(r"--require-hashes\s+-r \S*requirements\.lock", line) for line in of_lock)


def test_everything_that_the_code_imports_is_a_dependency(ranges):
    # Import name -> distribution, where they differ.
    renamed = {
        "absl": "absl-py",
        "apache_beam": "apache-beam",
        "google": "protobuf",
        "grpc": "grpcio",
        "mlflow": "mlflow-skinny",
        "opentelemetry": "opentelemetry-sdk",
        "tensorflow_serving": "tensorflow-serving-api",
    }
    known = {utils.canonicalize_name(requirement.name) for requirement in ranges}
    # A program that runs in an environment of its own, see models/paper/sequence_peers.py.
    elsewhere = ROOT / "models" / "paper" / "rectools_peer.py"
    for path in {*SOURCES} - {elsewhere}:
        tops = {name.split(".")[0] for name in imported(path)}
        foreign = tops - set(sys.stdlib_module_names) - set(PACKAGES)
        needed = {utils.canonicalize_name(renamed.get(name, name)) for name in foreign}
        assert needed <= known, path
