"""What holds of all commands: help, flags, refusals, and the lines that texts tell to type."""

import ast
import dataclasses
import functools
import json
import pathlib
import re
import subprocess
import sys

import pytest

from features import config as declaring
from models import config
from models.evaluation.config import EvaluationConfig
from pipeline.entry import table
from pipeline.preprocessing.config import PreprocessConfig
from pipeline.site.config import SiteConfig
from pipeline.steps import declared
from serving.building.config import BuildConfig, Inputs
from serving.server.config import ServiceConfig

ROOT = pathlib.Path(__file__).resolve().parent.parent
PACKAGES = ("features", "models", "serving", "pipeline")
SOURCES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
BINARIES = [path for path in SOURCES if re.search(r"^    command\.run\(", path.read_text(), re.M)]
# Which command asks for which settings, and what it does not let one choose.
SETTINGS = [
    ("models.train_candidate", config.CandidateConfig, set()),
    ("models.train_candidate", config.TrainingConfig, set()),
    ("models.train_ranker", config.RankerConfig, set()),
    ("models.train_ranker", config.TrainingConfig, set()),
    ("models.refit", config.RefitConfig, set()),
    ("models.evaluate", EvaluationConfig, set()),
    ("serving.build_release", Inputs, set()),
    ("serving.build_release", BuildConfig, set()),
    (
        "serving.serve",
        ServiceConfig,
        # Secrets come from files, hosts from lists that are checked, the others from the process
        # that starts this one.
        {
            *("history_password", "token", "admin_token", "hosts", "image_hosts"),
            *("ask_for_successor", "is_successor"),
        },
    ),
    ("pipeline.preprocess", PreprocessConfig, set()),
    ("pipeline.simulate", SiteConfig, set()),
]


def module(path):
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


@functools.cache
def all_flags():
    """Returns module of a command -> name -> flag; asked once, of a process of its own."""
    code = (
        "import dataclasses, json\n"
        "from features import command\n"
        "from pipeline.entry import table\n"
        "found = {}\n"
        "for c in table.commands().values():\n"
        "    of = [dataclasses.asdict(f) for f in table.flags_of(c)]\n"
        "    found[c.module] = [f | {'use': command.PATHS.get(f['name'])} for f in of]\n"
        "    command.PATHS.clear()\n"
        "print(json.dumps(found))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    found = json.loads(done.stdout)
    return {name: {flag["name"]: flag for flag in flags} for name, flags in found.items()}


def flags_of(binary):
    return all_flags()[binary]


def all_declared(kind):
    for one in declaring.declared(kind):
        if dataclasses.is_dataclass(one.kind):
            yield from all_declared(one.kind)
        else:
            yield one


def test_the_table_has_every_command_once():
    assert {found.module for found in table.commands().values()} == {module(p) for p in BINARIES}
    assert all(found.summary for found in table.commands().values())


@pytest.mark.parametrize(("binary", "kind", "left_out"), SETTINGS)
def test_every_setting_is_a_flag_that_says_what_the_setting_says(binary, kind, left_out):
    known = flags_of(binary)
    named = {one.name: one for one in all_declared(kind)}
    assert left_out <= set(named)
    for one in named.values():
        assert one.text, one.name
        if one.name not in left_out:
            assert one.text in known[one.flag]["text"], one.name


@pytest.mark.parametrize("path", BINARIES, ids=module)
def test_every_flag_has_a_help_text_in_plain_words(path):
    for flag in flags_of(module(path)).values():
        assert re.fullmatch(r"\S.+\S", flag["text"]), flag
        assert not re.search(r"``|:\w+:`", flag["text"]), flag


def test_the_steps_of_a_retraining_are_binaries_and_their_flags_are_theirs():
    for stage in declared.STEPS:
        path = ROOT / (stage.binary.replace(".", "/") + ".py")
        assert path in BINARIES, stage.binary
        assert {*stage.reads, stage.writes[0]} <= set(flags_of(stage.binary)), stage.name


# Flags that name what is read or written. What they name may be in an object store.
PATH_FLAGS = {
    *("logs", "examples", "model", "output", "work", "serving_root", "queries", "candidates"),
    *("metrics", "page_order", "warm_start", "cache", "source", "experiment", "scores"),
    *("candidate_model", "ranker_model", "measured_examples", "rejected"),
    *("retraining", "report"),
}
# What they read and write is of this machine.
LOCAL = {"pipeline.demo", "pipeline.living_site", "pipeline.record_results"}


@pytest.mark.parametrize("path", BINARIES, ids=module)
def test_every_path_that_a_binary_takes_may_be_in_an_object_store(path):
    given = [flag for flag in flags_of(module(path)).values() if flag["kind"] != "boolean"]
    missing = [f["name"] for f in given if f["name"] in PATH_FLAGS and not f["use"]]
    assert not missing or module(path) in LOCAL, missing


def run_binary(path, *flags, python=()):
    line = [sys.executable, *python, "-m", module(path), *flags]
    return subprocess.run(line, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("path", BINARIES, ids=module)
def test_a_binary_answers_help_with_its_docstring_before_it_imports_what_is_heavy(path):
    docstring = ast.get_docstring(ast.parse(path.read_text()))
    helped = run_binary(path, "--help", python=["-X", "importtime"])
    assert helped.returncode == 0
    assert docstring.splitlines()[0] in helped.stdout
    assert f"    python -m {module(path)}" in helped.stdout, "an example to type"
    assert "Traceback" not in helped.stderr
    # Each line of that option ends in the name of a module, indented by depth.
    loaded = {
        line.rpartition("|")[2].strip().partition(".")[0] for line in helped.stderr.split("\n")
    }
    assert "absl" in loaded
    heavy = {"tensorflow", "tf_keras", "apache_beam", "tensorflow_transform", "scipy"}
    assert not heavy & loaded


@pytest.mark.parametrize("flag", ["-h", "-help", "--helpshort", "--helpfull", "--helpxml"])
def test_help_has_several_names(flag):
    helped = run_binary(ROOT / "serving" / "rollback.py", "--to=1", flag)
    assert helped.returncode == 0
    assert "serving_root" in helped.stdout
    assert helped.stderr == ""
    # These two tell of every module that has flags.
    assert ("absl.logging" in helped.stdout) == (flag in {"--helpfull", "--helpxml"})


@pytest.mark.parametrize("path", BINARIES, ids=module)
def test_a_binary_refuses_an_unknown_flag_and_what_is_no_flag(path):
    required = [flag for flag in flags_of(module(path)).values() if flag["is_required"]]
    given = [f"--{flag['name']}={(flag['choices'] or 'x')[0]}" for flag in required]
    for wrong in ("--no_such_flag=1", "no_such_flag"):
        refused = run_binary(path, *given, wrong)
        assert refused.returncode == 2, refused.stderr
        assert "no_such_flag" in refused.stderr
        assert "Traceback" not in refused.stderr


def told_lines():
    """Yields binary and flags of each command line that a message is made of."""
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "command.shell_line":
                (binary,) = [argument.value for argument in node.args]
                yield pytest.param(
                    binary, {k.arg for k in node.keywords if k.arg}, id=f"{module(path)}-{binary}"
                )


@pytest.mark.parametrize(("binary", "given"), list(told_lines()))
def test_a_command_that_a_message_tells_to_run_has_its_flags_and_all_that_it_needs(binary, given):
    assert ROOT / (binary.replace(".", "/") + ".py") in BINARIES
    known = flags_of(binary)
    assert given <= set(known)
    assert {name for name, flag in known.items() if flag["is_required"]} <= given


def mentioned_lines(text):
    """Yields binary and flags of each ``python -m`` line in a text; quoted flags are a value."""
    joined = re.sub(r"\\\n\s*", " ", text)
    for binary, rest in re.findall(r"python -m ([a-z]+(?:\.[a-z_]+)+)([^`\n#]*)", joined):
        unquoted = re.sub(r'"[^"]*"|\'[^\']*\'', "", rest)
        yield binary, set(re.findall(r"--(\w+)", unquoted))


@pytest.mark.parametrize(
    "path",
    [*SOURCES, *sorted(ROOT.glob("*.md")), *sorted(ROOT.glob("docs/**/*.md"))],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_a_command_in_a_text_is_there_and_has_the_flags_that_it_is_given(path):
    for binary, given in mentioned_lines(path.read_text()):
        source = ROOT / (binary.replace(".", "/") + ".py")
        if binary.partition(".")[0] not in PACKAGES:
            continue
        assert source.exists(), binary
        # Beam's flags are not ours.
        if source in BINARIES and "passes_unknown_flags" not in source.read_text():
            known = set(flags_of(binary))
            assert all({name, name.removeprefix("no")} & known for name in given), (
                binary,
                given,
            )
