"""Reports on the screens that people have, in a real browser."""

import pytest

from features import charts, reports
from features.charts import Plot, Series
from features.reports import Cell, Table
from models.evaluation import report_parts
from models.evaluation.intervals import Interval
from tests.conftest import needs
from tests.serving.server import browsing

# Whether each cell can be seen, or scrolled to within the box of its table.
REACHABLE = """
return [...document.querySelectorAll('th, td')].every((cell) => {
  const box = cell.closest('.scroll');
  const right = cell.getBoundingClientRect().right - box.getBoundingClientRect().left;
  return right + box.scrollLeft <= box.scrollWidth + 1;
});
"""
# Elements with words that end outside the page.
INSIDE = """
const seen = [...document.querySelectorAll('main *')].filter((one) => !one.closest('thead'));
const outside = seen.filter((one) => one.getBoundingClientRect().right > WIDTH + 1);
return outside.map((one) => one.outerHTML.slice(0, 90));
"""
COLOURS = "const s = getComputedStyle(document.body); return [s.color, s.backgroundColor]"


def figures(columns, *, title="Ranking", verdict="better.", settings=""):
    """A report with a table of so many figures, as the template of the evaluation makes it."""
    cell = reports.figure_cell(Interval(value=0.1234, low=0.1, high=0.2))
    rows = [[Cell(f"{name} by region"), *[cell] * columns] for name in "ab"]
    header = ["system", *(f"recall@{10 * n}" for n in range(columns))]
    names = ["a setting with a name that is as long as such names are", "short"]
    bars = Plot(kind=charts.BARS, x_label="", y_label="recall@100",
                series=[Series(name="recall@100", x=names, y=[0.5, 0.4])])  # fmt: skip
    rounds = [
        {"step": n, "epoch": n / 2, "train_loss": 1 / n, "holdout": {"map_at_100": n / 9}}
        for n in range(1, 6)
    ]
    part = {
        "anchor": "ranker", "title": title, "verdict": verdict, "style": "better", "subject": "",
        "plots": [charts.draw(bars)], "systems": Table(header, rows), "differences": None,
        "metric": "recall", "slices": Table(header[:3], [row[:3] for row in rows]),
        "learning": report_parts.learning_curves(rounds),
    }  # fmt: skip
    return reports.render(
        "models.evaluation",
        "evaluation.html",
        contents=[("ranker", "Ranking")],
        title="Report",
        parts=[part],
        protocol="",
        notes=["A note."],
        calibration=[],
        calibration_plots=[],
        heads=None,
        deciles=[],
        settings=settings,
    )


@pytest.fixture
def opened(chromium, tmp_path):
    def show(page, **screen):
        path = tmp_path / "report.html"
        path.write_text(page)
        chromium.look(**screen)
        chromium.open(path.as_uri())
        return chromium

    yield show
    chromium.look(width=1280)


def test_table_of_eight_figures_fits_a_small_screen(opened):
    browser = opened(figures(8), width=1280)
    box = browser.run(
        "const b = document.querySelector('.scroll'); return [b.scrollWidth, b.clientWidth]"
    )
    assert box[0] == box[1]


def test_wider_table_scrolls_in_its_box_and_the_page_does_not(opened):
    browser = opened(figures(20, settings="x" * 500), width=1280)
    assert browser.run("return document.documentElement.scrollWidth") <= 1280
    box = "document.querySelector('.scroll')"
    assert browser.run(f"return getComputedStyle({box}).overflowX") == "auto"
    assert browser.run(REACHABLE)
    # Scrolled to its end, the names of the rows are still there.
    browser.run(f"{box}.scrollLeft = 1e6")
    left = "return document.querySelector('{}').getBoundingClientRect().left"
    assert browser.run(left.format("td")) == browser.run(left.format(".scroll"))


def test_nothing_scrolls_sideways_on_a_phone(opened):
    browser = opened(figures(20, settings="x" * 500), width=390)
    assert browser.run("return document.documentElement.scrollWidth") == 390
    assert browser.run(INSIDE.replace("WIDTH", "390")) == []
    # Each figure stands beside what it is, and its interval is readable.
    line = "return getComputedStyle(document.querySelectorAll('td')[1], '::before').content"
    assert browser.run(line) == '"recall@0"'
    # Words of a chart are not smaller than small print.
    words = "return document.querySelector('svg text').getBoundingClientRect().height"
    assert browser.run(words) >= 11


def test_on_paper_all_is_open_and_light_and_inside_the_page(opened):
    # A4 less its margins has some 690 pixels across.
    browser = opened(figures(8, settings="SETTINGS"), width=690, is_dark=True, media="print")
    assert browser.run("return document.documentElement.scrollWidth") <= 690
    assert browser.run(INSIDE.replace("WIDTH", "690")) == []
    text, page = map(luminance, browser.run(COLOURS))
    assert page > 240 and text < 60
    assert browser.run("return document.querySelector('pre').getBoundingClientRect().height") > 5
    assert browser.run("return getComputedStyle(document.querySelector('nav')).display") == "none"


@pytest.mark.parametrize(("width", "is_dark"), browsing.SCREENS)
def test_axe_finds_nothing_wrong(opened, width, is_dark):
    script = browsing.axe_script()
    needs("axe", present=script.is_file(), remedy="make axe (npm), or set AXE_CORE")
    browser = opened(figures(9, settings="x"), width=width, is_dark=is_dark)
    assert browsing.violations(browser, script) == []


def luminance(colour):
    red, green, blue = (int(part) for part in colour[4:-1].split(","))
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("is_dark", [False, True])
def test_report_has_the_colours_that_its_reader_likes(opened, is_dark):
    browser = opened(figures(3), width=1280, is_dark=is_dark)
    text, page = map(luminance, browser.run(COLOURS))
    assert (page < 60 and text > 180) if is_dark else (page > 240 and text < 60)
    lines = "return getComputedStyle(document.querySelector('svg .line')).stroke"
    assert browser.run(lines) == ("rgb(127, 178, 255)" if is_dark else "rgb(31, 95, 191)")


def test_what_came_from_the_data_is_text_and_runs_nothing(opened):
    script = "<script>document.title = 'taken'</script>"
    browser = opened(figures(3, title=script, verdict="<b>best</b>", settings=script), width=390)
    assert browser.text(".verdict") == f"{script}: <b>best</b>"
    assert browsing.text(browser, "pre") == script
    assert browser.run("return document.title") == "Report"
