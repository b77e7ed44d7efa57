"""The console, clicked through in a real browser."""

import pytest

from serving.release import manifest as release
from tests.serving.server.browsing import (
    DESKTOP,
    SCREENS,
    axe_script,
    press,
    text,
    violations,
    watch,
)
from tests.serving.server.console_site import ADMIN, console, experiment, publish, two_releases

IDS = [f"{width}-{'dark' if is_dark else 'light'}" for width, is_dark in SCREENS]


@pytest.fixture
def opened(running, chromium, tiny, tmp_path):
    """Opens a tab of a console whose server has two releases and an experiment."""
    chromium.complaints()
    root = tmp_path / "serving_root"

    def start(tab, *, width=DESKTOP, is_dark=False, token=ADMIN, **more):
        if not root.exists():
            two_releases(root)
        more.setdefault("admin_token", ADMIN)
        more.setdefault("console", console(root, tmp_path, tiny))
        site = running(**more)
        site.root = root
        watch(site, "u")
        chromium.look(width=width, is_dark=is_dark)
        chromium.open("about:blank")
        chromium.open(f"{site.url}/console#tab={tab}" + (f"&token={token}" if token else ""))
        chromium.wait(lambda: text(chromium, f"#main[aria-busy=false] [data-tab={tab}]"))
        return site

    yield start
    chromium.run("sessionStorage.clear()")
    assert chromium.complaints() == []


def tab(browser, name):
    press(browser, f"#tabs a[data-tab={name}]")
    browser.wait(lambda: text(browser, f"#main[aria-busy=false] #tab[data-tab={name}]"))


def fits(browser, width):
    assert browser.run("return document.documentElement.scrollWidth") <= width
    if axe_script().is_file():  # test_pages fails where it should be there and is not.
        assert violations(browser, axe_script()) == []


@pytest.mark.parametrize(("width", "is_dark"), SCREENS, ids=IDS)
def test_releases_are_compared_and_rolled_back(opened, chromium, width, is_dark):
    site = opened("releases", width=width, is_dark=is_dark)
    new, old = (v for v in reversed(release.versions(site.root)))
    press(chromium, f"[data-detail='{new}']")
    chromium.wait(lambda: "0.6 [0.55, 0.65]" in text(chromium, "#detail"))
    assert "pass" in text(chromium, "#detail")
    assert "worse for new_users than for all" in text(chromium, "#card")
    chromium.run(
        "document.querySelectorAll('#card details').forEach((one) => { one.open = true; })"
    )
    assert "popularity all" in text(chromium, "#card")
    fits(chromium, width)
    press(chromium, "#compare button")
    chromium.wait(lambda: "apart" in text(chromium, "#comparison"))
    assert chromium.run("return document.querySelectorAll('#comparison .interval').length") == 2
    fits(chromium, width)
    press(chromium, f"[data-back='{old}']")
    chromium.wait(lambda: f"Release {new} serves." in text(chromium, "#confirm"))
    fits(chromium, width)
    press(chromium, "#confirm-no")
    assert release.current(site.root) == new
    press(chromium, f"[data-back='{old}']")
    press(chromium, "#confirm-yes")
    chromium.wait(
        lambda: f"Release {old} serves now instead of {new}." in text(chromium, "#status")
    )
    assert release.current(site.root) == old


def test_report_opens_from_the_console_with_its_style_and_runs_nothing(opened, chromium):
    site = opened("releases")
    version = release.current(site.root)
    press(chromium, f"[data-detail='{version}']")
    chromium.wait(lambda: "Retraining" in text(chromium, "#reports"))
    link = "document.querySelector('#reports a')"
    assert chromium.run(f"return [{link}.target, {link}.rel]") == ["_blank", "noopener"]
    chromium.open(chromium.run(f"return {link}.href"))
    assert text(chromium, "h1") == f"Retraining: release {version}"
    # Its own style counts, though the policy of the console forbids such.
    assert chromium.run("return getComputedStyle(document.querySelector('.verdict')).padding") == (
        "8px 16px"
    )
    chromium.click(".summary a")
    chromium.wait(lambda: "Model card of release" in text(chromium, "body"))
    chromium.open(f"{site.url}/console")


@pytest.mark.parametrize(("width", "is_dark"), SCREENS, ids=IDS)
def test_health_lookups_and_pages_side_by_side(opened, chromium, width, is_dark):
    opened("health", width=width, is_dark=is_dark)
    for part in ("Stages", "Rungs", "Freshness", "Recall of the index", "Drift", "Event lag"):
        assert part in text(chromium, "#view")
    fits(chromium, width)
    tab(chromium, "pages")
    chromium.run("document.getElementById('other-per_channel').value = 1")
    press(chromium, "#side-by-side button")
    chromium.wait(lambda: "videos are on both pages" in text(chromium, "#two-pages"))
    assert chromium.run("return document.querySelectorAll('#two-pages li.alone').length") > 0
    fits(chromium, width)
    tab(chromium, "lookup")
    chromium.run("document.getElementById('look-user').value = 'u'")
    press(chromium, "#view form button")
    chromium.wait(lambda: "60 s" in text(chromium, "#found"))
    fits(chromium, width)
    press(chromium, "#found a", "Video 1")
    chromium.wait(lambda: "Nearest by embedding" in text(chromium, "#found"))
    fits(chromium, width)
    chromium.run("location.hash = '#tab=lookup&q=Video 7'")
    chromium.wait(lambda: "Recommended to somebody" in text(chromium, "#found"))


@pytest.mark.parametrize(("width", "is_dark"), SCREENS, ids=IDS)
def test_experiment_tells_arms_and_result(opened, chromium, tmp_path, width, is_dark):
    more = {"funnel_options": {"experiment": experiment(tmp_path)}}
    site = opened("experiment", width=width, is_dark=is_dark, **more)
    assert "narrow" in text(chromium, "#view")
    fits(chromium, width)
    # As long as there is nothing to tell, it says so.
    press(chromium, "#ask-result")
    chromium.wait(lambda: text(chromium, "#error:not([hidden])"))
    assert all("409" in told for told in chromium.complaints())
    fits(chromium, width)
    for number in range(20):
        body = {"user_id": f"user-{number}", "k": 3, "context": {"region": "de"}}
        assert site.client.post("/v1/recommendations", json=body).status_code == 200
    press(chromium, "#ask-result")
    chromium.wait(lambda: "watch s per page" in text(chromium, "#result"))
    assert not text(chromium, "#error:not([hidden])")
    fits(chromium, width)


@pytest.mark.parametrize(("width", "is_dark"), SCREENS, ids=IDS)
def test_token_is_asked_for_and_a_wrong_one_told(opened, chromium, running, width, is_dark):
    site = running(admin_token=ADMIN)
    chromium.look(width=width, is_dark=is_dark)
    chromium.open("about:blank")
    chromium.open(f"{site.url}/console")
    chromium.wait(lambda: text(chromium, "#status") == "The console asks for a token.")
    fits(chromium, width)
    for token, told in ((f"{ADMIN}x", "The token is not the one"), (ADMIN, "As of ")):
        chromium.type("#token", token)
        press(chromium, "#token-form button")
        chromium.wait(lambda: text(chromium, "#status").startswith(told))  # noqa: B023
    assert len([c for c in chromium.complaints() if "401" in c]) >= 2


def test_every_button_says_why_it_cannot(opened, chromium, tiny, tmp_path):
    root = tmp_path / "one_release"
    version = publish(root)
    opened("releases", token="", admin_token=None, console=console(root, tmp_path, tiny))

    def refused(selector, told):
        press(chromium, selector)
        chromium.wait(lambda: told in text(chromium, "#error:not([hidden])"))

    refused(f"[data-back='{version}']", "asks nobody for an admin token")
    refused("#compare button", "no second release")
    tab(chromium, "experiment")
    refused("#ask-result", "no experiment runs on this server")
    tab(chromium, "lookup")
    chromium.run("location.hash = '#tab=lookup&video=nothing'")
    chromium.wait(lambda: "is not in release" in text(chromium, "#error:not([hidden])"))
    assert all("409" in told or "404" in told for told in chromium.complaints())


def test_page_of_a_release_that_cannot_be_had_is_refused(opened, chromium, tiny, tmp_path):
    root = tmp_path / "two"
    old, new = two_releases(root)
    opened("pages", console=console(root, tmp_path, tiny, limit_bytes=10))

    def refused(told):
        chromium.wait(lambda: told in text(chromium, "#error:not([hidden])"))

    chromium.run(f"document.getElementById('other-release').value = {old!r}")
    press(chromium, "#side-by-side button")
    refused("a server loads at most")
    chromium.run("document.getElementById('other-release').value = ''")
    chromium.run("document.getElementById('other-retrieved').value = 10001")
    press(chromium, "#side-by-side button")
    assert not text(chromium, "#two-pages")  # The browser itself says what is too much.
    tab(chromium, "releases")
    release.manifest_path(root, old).write_text("{}")
    press(chromium, f"[data-detail='{old}']")
    refused("cannot be used")
    release.manifest_path(root, new).unlink()  # Gone since the page was made.
    press(chromium, f"[data-detail='{new}']")
    refused("there is no release")
    assert all("409" in told for told in chromium.complaints())


def test_server_without_a_serving_root_says_so(opened, chromium):
    opened("releases", console=None)
    assert "given no serving root" in text(chromium, "#view")
    press(chromium, "#compare button")
    chromium.wait(lambda: "no second release" in text(chromium, "#error:not([hidden])"))
    tab(chromium, "experiment")
    press(chromium, "#ask-result")
    chromium.wait(lambda: "given no serving root" in text(chromium, "#error:not([hidden])"))
    tab(chromium, "pages")
    chromium.run("document.getElementById('viewer').value = 'u'")
    press(chromium, "#side-by-side button")
    chromium.wait(lambda: "videos are on both pages" in text(chromium, "#two-pages"))
    assert all("409" in told for told in chromium.complaints())


def test_rollback_without_one_before_it_is_refused(opened, chromium, tiny, tmp_path):
    root = tmp_path / "one_release"
    version = publish(root)
    opened("releases", console=console(root, tmp_path, tiny))
    press(chromium, f"[data-back='{version}']")
    press(chromium, "#confirm-yes")
    chromium.wait(lambda: "serves already" in text(chromium, "#error:not([hidden])"))
    assert all("409" in told for told in chromium.complaints())
