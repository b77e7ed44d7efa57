"""Pictures of the pages for the documentation, of a site with real models; weight and times.

    make pictures        writes docs/img and docs/results/pages.json

Without WRITE_SCREENSHOTS=1 the pictures go to a temporary directory: that they can be made is what
is tested. With SCREENSHOT_SITE=http://... they are of a server that runs already, as after
`make serve`, whose admin token is in WATCHNEXT_ADMIN_TOKEN.
"""

import functools
import json
import os
import pathlib
import shlex
import shutil

import pytest

from features import reports
from pipeline.benchmarks import measured, results
from serving.release import manifest as release
from tests.serving.server import page_times
from tests.serving.server.browsing import SCREENS, keep, press, seek, shown, text, wait_for_heading
from tests.serving.server.console_site import ADMIN

_RESULTS = pathlib.Path(__file__).resolve().parents[2] / "docs" / "results"
_ARMS = [
    {"name": "control", "share": 0.5},
    {"name": "one-per-channel", "share": 0.5, "settings": {"per_channel": 1}},
]
# The page with all its files, packed, in bytes; it is 20 kB, and should not grow unnoticed.
MAX_WEIGHT = 40_000


def build_again(world, root, run_command):
    """Builds the release of the world once more, so that there are two to compare."""
    steps = json.loads((world.work / "retrain.json").read_text())["steps"]
    arguments = shlex.split(steps[-1]["command"])[2:]
    kept = [one for one in arguments if not one.startswith(("--serving_root=", "--report="))]
    done = run_command(*kept, f"--serving_root={root}")
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def site_url(world, run_command, tmp_path_factory):
    """A server of the tiny world, with a copy of all that it writes to."""
    given = os.environ.get("SCREENSHOT_SITE")
    if given:
        yield given, os.environ.get("WATCHNEXT_ADMIN_TOKEN", ADMIN)
        return
    from tests.serving.servers import Server

    directory = tmp_path_factory.mktemp("pictures")
    root = shutil.copytree(world.serving_root, directory / "serving_root")
    logs = shutil.copytree(world.logs, directory / "logs")
    if os.environ.get("WRITE_SCREENSHOTS") and len(release.versions(root)) < 2:
        build_again(world, root, run_command)
    token, experiment = directory / "token", directory / "experiment.json"
    token.write_text(ADMIN)
    experiment.write_text(json.dumps({"name": "channels", "arms": _ARMS}))
    server = Server(
        f"--serving_root={root}",
        f"--logs={logs}",
        f"--admin_token_file={token}",
        f"--experiment={experiment}",
    )
    yield server.url, ADMIN
    server.stop()


@pytest.fixture(params=SCREENS, ids=lambda screen: f"{screen[0]}-{screen[1]}")
def picture(request, chromium, tmp_path):
    """Keeps a picture of what is open, on each screen."""
    width, is_dark = request.param
    chromium.complaints()
    chromium.look(width=width, is_dark=is_dark)
    chromium.open("about:blank")
    return functools.partial(keep, chromium, width=width, is_dark=is_dark, directory=tmp_path)


def test_pictures_of_what_a_viewer_sees(site_url, chromium, picture):
    url, _ = site_url
    chromium.open(f"{url}/#user=u000000")
    wait_for_heading(chromium, "Home of u000000")
    picture("home")
    press(chromium, "#grid li:nth-child(2) .menu button", "Why this?")
    chromium.wait(lambda: text(chromium, "#verdict"))
    assert "What counts" in text(chromium, "#why-body")
    picture("why")
    press(chromium, "#why-close")
    first = shown(chromium)[0]
    press(chromium, "#grid .open")
    chromium.wait(lambda: text(chromium, "output"))
    seek(chromium, 40)
    picture("watch")
    assert first not in shown(chromium)
    assert chromium.complaints() == []


def test_pictures_of_the_console_and_of_a_report(site_url, chromium, picture):
    url, token = site_url
    chromium.open(f"{url}/console#tab=health&token={token}")
    for tab, there in (("health", "Stages"), ("releases", "Compare"), ("experiment", "control")):
        press(chromium, f"#tabs a[data-tab={tab}]")
        chromium.wait(lambda: there in text(chromium, f"#tab[data-tab={tab}]"))  # noqa: B023
        picture(f"console-{tab}")
    press(chromium, "#tabs a[data-tab=pages]")
    chromium.wait(lambda: text(chromium, "#side-by-side"))
    chromium.run("document.getElementById('other-per_channel').value = 1")
    press(chromium, "#side-by-side button")
    chromium.wait(lambda: "videos are on both pages" in text(chromium, "#two-pages"))
    chromium.run("document.getElementById('two-pages').scrollIntoView()")
    picture("console-pages")
    press(chromium, "#tabs a[data-tab=releases]")
    chromium.wait(lambda: text(chromium, "#tab[data-tab=releases] [data-detail]"))
    press(chromium, "[data-detail]")
    chromium.wait(lambda: text(chromium, "#reports"))
    address = chromium.run("return document.querySelector('#reports a').href")
    assert chromium.complaints() == []
    chromium.run("sessionStorage.clear()")
    chromium.open(address)
    assert text(chromium, "h1").startswith("Retraining: release")
    picture("report")
    chromium.open(f"{url}/docs")  # A report is sandboxed: nothing runs there.


# Of each: address, what people came for, what is pressed then.
_HOME = ("/#user=u000000", "#grid > li", "#grid .menu summary")
_CONSOLE = ("/console#tab=health&token={token}", "#tab .card", "#tabs a")
_VISITS = {
    "home, first visit": (_HOME, {}),
    "home, again": (_HOME, {"is_first": False}),
    "home, first visit, slow phone": (_HOME, {"is_slow": True}),
    "console, first visit": (_CONSOLE, {}),
}


def test_weight_of_pages_and_time_to_their_content_and_to_interaction(
    site_url, chromium, capsys, tmp_path
):
    url, token = site_url
    rows = []
    for name, ((path, there, pressed), more) in _VISITS.items():
        chromium.look(width=390 if more.get("is_slow") else 1280)
        place = url + path.format(token=token)
        visited = page_times.measure(chromium, place, there=there, pressed=pressed, **more)
        rows.append([name, *visited.cells()])
        assert 3_000 < visited.sent < MAX_WEIGHT
        order = [visited.times[key][0] for key in ("paint", "content", "interaction")]
        assert order[1] <= order[2] and order[0] <= order[2]
    chromium.run("sessionStorage.clear()")
    assert chromium.complaints() == []
    columns = ["", "files", "kB packed", "first paint, ms", "content, ms", "interaction, ms"]
    table = measured.Measured(columns=columns, rows=rows, facts={})
    told = {
        "data": "the tiny simulated world of the tests (200 users, 300 videos), its server beside "
        "the browser on one machine that other work keeps busy",
        "protocol": "headless Chromium, 5 visits each from an empty page; content: the first tile "
        "or card is there; interaction: a press on it was answered on the screen; slow phone: a "
        "quarter of the processor, 150 ms, 1.6 Mbit/s",
        "seed": "1",
        "interval": "median [least, most] of the visits",
        "again": "make pictures",
        "measured": ", ".join(filter(None, reports.stamp().values())),
    }
    place = _RESULTS if os.environ.get("WRITE_SCREENSHOTS") else tmp_path
    results.record(place, "pages.times", table, told)
    with capsys.disabled():
        print("\n" + "\n".join("  ".join(row) for row in rows))
