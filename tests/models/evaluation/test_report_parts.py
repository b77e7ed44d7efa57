"""Reports on the screens that people have, in a real browser."""

import pytest

from features import reports
from features.reports import Cell, Table
from models.evaluation import report_parts
from models.evaluation.intervals import Interval

# Whether each cell can be seen, or scrolled to within the box of its table.
REACHABLE = """
return [...document.querySelectorAll('th, td')].every((cell) => {
  const box = cell.closest('.scroll');
  const right = cell.getBoundingClientRect().right - box.getBoundingClientRect().left;
  return right + box.scrollLeft <= box.scrollWidth + 1;
});
"""
COLOURS = "const s = getComputedStyle(document.body); return [s.color, s.backgroundColor]"


def figures(columns, *, title="Ranking", verdict="better.", settings=""):
    """A report with a table of so many figures, as the template of the evaluation makes it."""
    cell = report_parts.figure_cell(Interval(value=0.1234, low=0.1, high=0.2))
    rows = [[Cell(f"{name} by region"), *[cell] * columns] for name in "ab"]
    header = ["", *(f"recall@{10 * n}" for n in range(columns))]
    part = {
        "title": title, "verdict": verdict, "style": "better", "subject": "", "plot": "",
        "systems": Table(header, rows), "differences": None, "metric": "",
        "slices": Table([], []),
    }  # fmt: skip
    return reports.render(
        "models.evaluation",
        "evaluation.html",
        title="Report",
        parts=[part],
        protocol="",
        notes=[],
        calibration=[],
        heads=None,
        deciles=[],
        settings=settings,
    )


@pytest.fixture
def opened(chromium, tmp_path):
    def show(page, *, width, is_dark=False):
        path = tmp_path / "report.html"
        path.write_text(page)
        chromium.look(width=width, is_dark=is_dark)
        chromium.open(path.as_uri())
        return chromium

    return show


def test_table_of_eight_figures_fits_a_small_screen(opened):
    browser = opened(figures(8), width=1280)
    box = browser.run(
        "const b = document.querySelector('.scroll'); return [b.scrollWidth, b.clientWidth]"
    )
    assert box[0] == box[1]


@pytest.mark.parametrize("width", [390, 1280])
def test_wider_table_scrolls_in_its_box_and_the_page_does_not(opened, width):
    browser = opened(figures(20, settings="x" * 500), width=width)
    assert browser.run("return document.documentElement.scrollWidth") <= width
    box = "document.querySelector('.scroll')"
    assert browser.run(f"return getComputedStyle({box}).overflowX") == "auto"
    assert browser.run(REACHABLE)
    # Scrolled to its end, the names of the rows are still there.
    browser.run(f"{box}.scrollLeft = 1e6")
    left = "return document.querySelector('{}').getBoundingClientRect().left"
    assert browser.run(left.format("td")) == browser.run(left.format(".scroll"))


def luminance(colour):
    red, green, blue = (int(part) for part in colour[4:-1].split(","))
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("is_dark", [False, True])
def test_report_has_the_colours_that_its_reader_likes(opened, is_dark):
    browser = opened(figures(3), width=1280, is_dark=is_dark)
    text, page = map(luminance, browser.run(COLOURS))
    assert (page < 60 and text > 180) if is_dark else (page > 240 and text < 60)
    plots = (
        "const s = document.createElementNS('http://www.w3.org/2000/svg', 'svg');"
        "document.body.append(s); return getComputedStyle(s).filter"
    )
    assert ("invert" in browser.run(plots)) is is_dark


def test_what_came_from_the_data_is_text_and_runs_nothing(opened):
    script = "<script>document.title = 'taken'</script>"
    browser = opened(figures(3, title=script, verdict="<b>best</b>", settings=script), width=390)
    assert browser.text(".verdict") == f"{script}: <b>best</b>"
    assert browser.text("pre") == script
    assert browser.run("return document.title") == "Report"
