"""Pictures of the pages for the documentation, of a site with real models; weight and times.

    WRITE_SCREENSHOTS=1 make test TESTS=tests/e2e/test_pictures.py      writes docs/img

Without it the pictures go to a temporary directory: that they can be made is what is tested. With
SCREENSHOT_SITE=http://... they are of a server that runs already, as after `make serve`, whose
admin token is in WATCHNEXT_ADMIN_TOKEN.
"""

import os
import shutil

import pytest

from tests.serving.server.browsing import SCREENS, keep, press, seek, shown, text, wait_for_heading
from tests.serving.server.console_site import ADMIN

# The page with all its files, packed, in bytes; it is 18 kB, and should not grow unnoticed.
MAX_WEIGHT = 40_000


@pytest.fixture(scope="module")
def site_url(world, tmp_path_factory):
    """A server of the tiny world, with a copy of all that it writes to."""
    given = os.environ.get("SCREENSHOT_SITE")
    if given:
        yield given, os.environ.get("WATCHNEXT_ADMIN_TOKEN", ADMIN)
        return
    from tests.serving.servers import Server

    directory = tmp_path_factory.mktemp("pictures")
    root = shutil.copytree(world.serving_root, directory / "serving_root")
    logs = shutil.copytree(world.logs, directory / "logs")
    token = directory / "token"
    token.write_text(ADMIN)
    server = Server(f"--serving_root={root}", f"--logs={logs}", f"--admin_token_file={token}")
    yield server.url, ADMIN
    server.stop()


@pytest.mark.parametrize(("width", "is_dark"), SCREENS)
def test_pictures_of_every_page(site_url, chromium, tmp_path, width, is_dark):
    url, token = site_url
    picture = {"width": width, "is_dark": is_dark, "directory": tmp_path}
    chromium.complaints()
    chromium.look(width=width, is_dark=is_dark)
    chromium.open("about:blank")
    chromium.open(f"{url}/#user=u000000")
    wait_for_heading(chromium, "Home of u000000")
    keep(chromium, "home", **picture)
    press(chromium, "#grid li:nth-child(2) .menu button", "Why this?")
    chromium.wait(lambda: text(chromium, "#verdict"))
    assert "What counts" in text(chromium, "#why-body")
    keep(chromium, "why", **picture)
    press(chromium, "#why-close")
    first = shown(chromium)[0]
    press(chromium, "#grid .open")
    chromium.wait(lambda: text(chromium, "output"))
    seek(chromium, 40)
    keep(chromium, "watch", **picture)
    assert first not in shown(chromium)
    chromium.open(f"{url}/console#tab=health&token={token}")
    for tab, there in (("health", "Stages"), ("releases", "Compare")):
        press(chromium, f"#tabs a[data-tab={tab}]")
        chromium.wait(lambda: there in text(chromium, f"#tab[data-tab={tab}]"))  # noqa: B023
        keep(chromium, f"console-{tab}", **picture)
    chromium.run("sessionStorage.clear()")
    assert chromium.complaints() == []


def test_weight_of_the_page_and_time_to_its_first_video(site_url, chromium, capsys):
    url, _ = site_url
    chromium.look(width=1280)
    chromium.open("about:blank")
    chromium.open(f"{url}/docs")  # The first connection is made.
    chromium.open(f"{url}/#user=u000000")
    wait_for_heading(chromium, "Home of u000000")
    paint, ready, sent, files = chromium.run("""
    const files = performance.getEntriesByType("resource");
    const page = performance.getEntriesByType("navigation")[0];
    const own = files.filter((file) => file.name.includes("/assets/"));
    const pages = files.filter((file) => file.name.includes("/v1/recommendations"));
    return [performance.getEntriesByName("first-contentful-paint")[0]?.startTime ?? null,
            Math.max(...pages.map((one) => one.responseEnd)),
            page.transferSize + own.reduce((sum, file) => sum + file.encodedBodySize + 300, 0),
            own.length + 1];
    """)
    with capsys.disabled():
        print(
            f"\nThe page: {files} files, {sent / 1000:.1f} kB packed; first paint after "
            f"{paint or float('nan'):.0f} ms, its videos are there after {ready:.0f} ms."
        )
    assert 5_000 < sent < MAX_WEIGHT
