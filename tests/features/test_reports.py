"""Reports escape every value, in whichever template."""

import html.parser
import pathlib
import re

import jinja2
import pytest

from features import charts, reports
from features.charts import Drawing
from features.reports import Cell, Table

ROOT = pathlib.Path(__file__).resolve().parents[2]
PACKAGES = ("features", "models", "serving", "pipeline")
TEMPLATES = sorted(path for name in PACKAGES for path in ROOT.glob(f"{name}/**/templates/*.html"))


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
        page = templates.from_string("{% from 'parts.html' import draw %}{{ draw(table) }}")
        return page.render(table=table)

    return draw


def test_a_cell_is_text_whatever_it_says(drawn):
    evil = '<script>alert(1)</script>"><img src=x onerror=alert(1)>'
    page = drawn(Table([evil], [[Cell(evil, below=evil, style=evil)]], [evil]))
    tags = parsed(page)
    assert {tag for tag, _ in tags} == {"div", "table", "thead", "tr", "th", "tbody", "td", "small"}
    allowed = {"class", "role", "tabindex", "aria-label", "data-head"}
    assert all(set(attributes) <= allowed for _, attributes in tags)
    assert "<script" not in page


def test_a_drawing_is_shapes_whatever_they_say(drawn):
    evil = '"><script>alert(1)</script>'
    one = charts.shape("rect", evil, {"x": 1.25, "d": evil}, text=evil, title=evil)
    page = drawn(
        Table([""], [[Cell(drawing=Drawing(label=evil, width=9, height=5, shapes=[one]))]])
    )
    by_tag = {tag: attributes for tag, attributes in parsed(page)}
    assert by_tag["rect"] == {"class": evil, "x": "1.2", "d": evil}
    assert by_tag["svg"]["viewbox"] == "0 0 9 5"
    assert by_tag["svg"]["aria-label"] == evil
    assert "script" not in by_tag


def test_a_value_that_a_template_names_and_nobody_gives_is_an_error():
    with pytest.raises(jinja2.UndefinedError, match="parts"):
        reports.render("models.evaluation", "evaluation.html", title="Report")


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.name)
def test_a_template_leaves_nothing_unescaped(path):
    assert not re.search(r"\bsafe\b|autoescape", path.read_text())


def test_the_templates_of_every_package_with_a_report_are_looked_at():
    assert {str(path.parent.parent.relative_to(ROOT)) for path in TEMPLATES} == {
        "features", "models/evaluation", "models/paper", "pipeline/living",
        "pipeline/statistics", "serving/batch", "serving/building",
    }  # fmt: skip
