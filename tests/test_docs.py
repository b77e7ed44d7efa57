"""What README, WORKSPACE and docs/ say must be there: paths, links, targets, tables of results."""

import ast
import importlib.util
import json
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "WORKSPACE.md", *sorted(DOCS.rglob("*.md"))]
RESULTS = sorted((DOCS / "results").glob("*.json"))
# Tables of before a command wrote them; each names the one that does. None may be added.
CARRIED = {
    *(f"candidate.{name}" for name in ("kuairand", "second_day", "simulated")),
    *("cost.preprocessing", "cost.training", "figures.figure_6", "figures.choices"),
    *("load.load", "page.page"),
    *("ranking.kuairand", "ranking.calibration", "ranking.inputs"),
    *("table-1.base", "table-1.situations", "table-1.kuairand", "vector-index.index"),
    *(f"worlds.{name}" for name in ("headlines", "bare_news", "music", "course")),
}


def page_id(path):
    return str(path.relative_to(ROOT))


@pytest.fixture(scope="module")
def result_tables():
    spec = importlib.util.spec_from_file_location("result_tables", DOCS / "result_tables.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("path", PAGES, ids=page_id)
def test_what_a_page_names_in_the_tree_is_there(path):
    named = re.findall(
        r"`((?:features|models|serving|pipeline|tests|docs)/[\w./-]*)`", path.read_text()
    )
    missing = sorted({name for name in named if not (ROOT / name).exists()})
    assert not missing


@pytest.mark.parametrize("path", PAGES, ids=page_id)
def test_links_between_pages_lead_somewhere(path):
    for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text()):
        if "://" in target:
            continue
        file, _, anchor = target.partition("#")
        linked = (path.parent / file).resolve() if file else path
        assert linked.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.+)$", linked.read_text(), re.MULTILINE)
            anchors = {
                re.sub(r"[^\w -]", "", h.lower()).strip().replace(" ", "-") for h in headings
            }
            assert anchor in anchors, target


@pytest.mark.parametrize("path", PAGES, ids=page_id)
def test_targets_of_make_exist(path):
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    told = re.findall(r"(?:^    |`)make ([a-z-]+)", path.read_text(), re.MULTILINE)
    assert set(told) <= targets


def test_the_front_page_and_the_map_can_be_read_in_one_sitting():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150
    assert len((ROOT / "WORKSPACE.md").read_text().splitlines()) <= 200


TASKS = {
    "add a candidate source",
    "add a filter",
    "add a rung",
    "change the ranker's loss",
    "change how quantiles are interpolated",
    "add a history feature",
    "add an importer",
    "add an API field",
    "change a gate's threshold",
    "change SQLite to something else",
}


def places():
    """Each task of the map with its one file or folder, and the names that it says are there."""
    text = (ROOT / "WORKSPACE.md").read_text()
    table = text.partition("## Where is ...")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (.+?) \| `([^`]+)` \| (.+?) \|$", table, re.MULTILINE)
    for task, place, there in rows:
        yield task, place, [name for name in re.findall(r"`([^`]+)`", there) if "/" not in name]


def defined(path):
    """Names that a module defines at its top; of a folder also those of its files."""
    files = sorted(path.glob("*.py")) if path.is_dir() else [path]
    names = {file.stem for file in path.iterdir()} if path.is_dir() else set()
    for file in files:
        for node in ast.parse(file.read_text()).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                names.add(node.name)
            elif isinstance(node, ast.Assign | ast.AnnAssign):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                names.update(n.id for t in targets for n in ast.walk(t) if isinstance(n, ast.Name))
    return names


def test_the_map_names_a_place_for_each_task_once():
    tasks = [task for task, _, _ in places()]
    assert set(tasks) >= TASKS
    assert len(tasks) == len(set(tasks))


@pytest.mark.parametrize(
    ("place", "names"), [pytest.param(place, names, id=task) for task, place, names in places()]
)
def test_what_the_map_says_is_in_a_place_is_there_and_nowhere_else(place, names):
    assert names
    assert set(names) <= defined(ROOT / place)
    # A gate, a loss, a rung that had its number in a second place would be changed in one of two.
    for path in ROOT.glob(f"{place.partition('/')[0]}/**/*.py"):
        if not path.is_relative_to(ROOT / place) and "benchmarks" not in path.parts:
            assert not set(names) & defined(path), path


def test_every_page_of_the_docs_is_in_the_navigation():
    navigation = (ROOT / "mkdocs.yml").read_text()
    for path in DOCS.rglob("*.md"):
        assert str(path.relative_to(DOCS)) in navigation


@pytest.mark.parametrize("path", RESULTS, ids=page_id)
def test_a_table_of_results_has_its_setting_and_is_shown(path, result_tables):
    shown = "".join(page.read_text() for page in DOCS.rglob("*.md"))
    for name, table in json.loads(path.read_text()).items():
        assert {"data", "protocol", "seed", "interval", "again", "measured"} <= set(
            table["setting"]
        )
        lines = result_tables.rendered(path.stem, name).splitlines()
        assert sum(line.startswith("|") for line in lines) == len(table["rows"]) + 2
        assert f"{{{{ table {path.stem}.{name} }}}}" in shown


@pytest.mark.parametrize("path", RESULTS, ids=page_id)
def test_a_table_of_results_is_written_by_a_command(path):
    typed = {
        f"{path.stem}.{name}"
        for name, table in json.loads(path.read_text()).items()
        if table.get("written_by") != "pipeline.record_results"
    }
    assert typed <= CARRIED, "write it with pipeline.record_results; figures are never typed"


def test_every_table_that_a_page_asks_for_is_there(result_tables):
    for page in DOCS.rglob("*.md"):
        assert "{{" not in result_tables.on_page_markdown(page.read_text())
