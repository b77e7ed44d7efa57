"""What README, WORKSPACE and docs/ say must be there: paths, links, targets, tables of results."""

import importlib.util
import json
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "WORKSPACE.md", *sorted(DOCS.rglob("*.md"))]
RESULTS = sorted((DOCS / "results").glob("*.json"))


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


def test_what_one_wants_to_change_is_in_one_place_named_on_the_map():
    text = (ROOT / "WORKSPACE.md").read_text()
    table = text.partition("## Where is ...")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (.+?) \| `([^`]+)` \|$", table, re.MULTILINE)
    assert len(rows) >= 10
    assert all((ROOT / place).exists() for _, place in rows)


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


def test_every_table_that_a_page_asks_for_is_there(result_tables):
    for page in DOCS.rglob("*.md"):
        assert "{{" not in result_tables.on_page_markdown(page.read_text())
