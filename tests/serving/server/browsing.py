"""What the tests of the pages do in a browser."""

import json
import os
import pathlib

PHONE, DESKTOP = 390, 1280
SCREENS = [(width, is_dark) for width in (PHONE, DESKTOP) for is_dark in (False, True)]
_CHECKOUT = pathlib.Path(__file__).resolve().parents[3]
_IMAGES = _CHECKOUT / "docs" / "img"
# The rules of WCAG 2.2 A and AA, and axe's own best practices.
_RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]


def watch(site, user, video="v1", event_id="a"):
    """Reports a watch of a moment ago."""
    event = {"event_id": event_id, "type": "watch", "user_id": user, "video_id": video,
             "watch_time_s": 60, "time": site.clock() - 100}  # fmt: skip
    assert site.client.post("/v1/events", json={"events": [event]}).status_code == 200


def heading(browser):
    return browser.run("return document.getElementById('heading')?.textContent ?? ''")


def wait_for_heading(browser, text):
    browser.wait(lambda: heading(browser) == text)


def titles(browser):
    script = "return [...document.querySelectorAll('#grid .title')].map((t) => t.textContent)"
    return browser.run(script)


def shown(browser):
    """Ids of the videos in the list."""
    script = "return [...document.querySelectorAll('#grid > li')].map((t) => t.dataset.video)"
    return browser.run(script)


def text(browser, selector):
    """Text of an element that may not be there yet."""
    script = f"return document.querySelector({json.dumps(selector)})?.textContent ?? ''"
    return browser.run(script)


def press(browser, selector, containing=""):
    """Clicks the first such element with a text, also one outside the window."""
    script = f"""
    const found = [...document.querySelectorAll({json.dumps(selector)})]
      .find((one) => one.textContent.includes({json.dumps(containing)}));
    found?.click();
    return Boolean(found);
    """
    assert browser.run(script), (selector, containing)


def seek(browser, seconds):
    """Moves the handle of the player."""
    browser.run(
        f"const bar = document.getElementById('seek'); bar.value = {seconds};"
        "bar.dispatchEvent(new Event('input'))"
    )


def keep(browser, name, *, width, is_dark, directory):
    """Keeps a picture of the window: for the documentation with WRITE_SCREENSHOTS=1."""
    place = _IMAGES if os.environ.get("WRITE_SCREENSHOTS") else directory
    place.mkdir(parents=True, exist_ok=True)
    path = place / f"{name}-{width}-{'dark' if is_dark else 'light'}.webp"
    path.write_bytes(browser.picture())
    assert path.stat().st_size > 5000


def axe_script():
    """Path of axe-core: AXE_CORE, or what `make axe` installed; it may be missing."""
    installed = _CHECKOUT / "build" / "axe" / "node_modules" / "axe-core" / "axe.min.js"
    return pathlib.Path(os.environ.get("AXE_CORE") or installed)


def violations(browser, script):
    """Returns what axe finds wrong with the page: rule, and where."""
    options = json.dumps({"runOnly": _RULES, "resultTypes": ["violations"]})
    browser.run(script.read_text(encoding="utf-8"))
    found = browser.run(f"return axe.run(document, {options}).then((all) => all.violations)")
    return [(one["id"], [node["html"][:200] for node in one["nodes"]][:3]) for one in found]
