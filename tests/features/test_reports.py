"""Reports escape every value, in whichever template."""

import html.parser
import pathlib
import re

import jinja2
import pytest

from features import reports
from features.reports import Cell, Table

ROOT = pathlib.Path(__file__).resolve().parents[2]
PACKAGES = ("features", "models", "serving", "pipeline")
TEMPLATES = sorted(path for name in PACKAGES for path in ROOT.glob(f"{name}/**/templates/*.html"))
# Drawings that our own code makes, and nothing else, are put in as they are.
DRAWINGS = {"cell.svg", "part.plot", "calibration_plot", "plot"}


class Tags(html.parser.HTMLParser):
    def __init__(self):
        super().__init__()
        self.seen = []

    def handle_starttag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))


def parsed(page):
    tags = Tags()
    tags.feed(page)
    return tags.seen


@pytest.fixture
def drawn():
    """Draws a table by the template that all reports share."""

    def draw(table):
        templates = reports._templates("models.evaluation")
        page = templates.from_string("{% from 'table.html' import draw %}{{ draw(table) }}")
        return page.render(table=table)

    return draw


def test_a_cell_is_text_whatever_it_says(drawn):
    evil = '<script>alert(1)</script>"><img src=x onerror=alert(1)>'
    page = drawn(Table([evil], [[Cell(evil, below=evil, style=evil)]], [evil]))
    tags = parsed(page)
    assert {tag for tag, _ in tags} == {"div", "table", "thead", "tr", "th", "tbody", "td", "small"}
    assert all(set(attributes) <= {"class"} for _, attributes in tags)
    assert "<script" not in page


def test_a_drawing_stays_a_drawing(drawn):
    assert ("svg", {}) in parsed(drawn(Table([""], [[Cell(svg="<svg></svg>")]])))


def test_a_value_that_a_template_names_and_nobody_gives_is_an_error():
    with pytest.raises(jinja2.UndefinedError, match="parts"):
        reports.render("models.evaluation", "evaluation.html", title="Report")


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.name)
def test_a_template_leaves_nothing_unescaped_but_our_own_drawings(path):
    text = path.read_text()
    assert set(re.findall(r"\{\{\s*([\w.]+)\s*\|\s*safe", text)) <= DRAWINGS
    assert len(re.findall(r"\bsafe\b", text)) == len(re.findall(r"\{\{[^}]*\|\s*safe", text))
    assert "autoescape" not in text


def test_the_templates_are_those_of_four_packages():
    assert {str(path.parent.parent.relative_to(ROOT)) for path in TEMPLATES} == {
        "features", "models/evaluation", "models/paper", "pipeline/statistics",
    }  # fmt: skip
