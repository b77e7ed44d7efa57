"""What a viewer sees first, in a real browser."""

import itertools
import time

import pytest

from features.tables import logs
from tests.serving.server.browsing import (
    DESKTOP,
    PHONE,
    heading,
    press,
    shown,
    titles,
    wait_for_heading,
    watch,
)

TOKEN = "0123456789abcdef-token"
ENTER = "\ue007"


def pages(site):
    """How many pages the server has made."""
    lines = site.client.get("/metrics").text.splitlines()
    return sum(float(s.split()[1]) for s in lines if s.startswith("watchnext_pages_total{"))


@pytest.fixture
def look(chromium):
    """Opens the page as one user sees it, and waits for it; nothing complains meanwhile."""
    chromium.complaints()

    def opened(site, user, *, width=DESKTOP, is_dark=False):
        chromium.look(width=width, is_dark=is_dark)
        chromium.open("about:blank")
        chromium.open(f"{site.url}/#user={user}")
        wait_for_heading(chromium, f"Home of {user}")
        return chromium

    yield opened
    assert chromium.complaints() == []


def test_markup_in_ids_and_titles_is_text(site, chromium):
    watch(site, "<b>Ada</b>")
    chromium.look(width=DESKTOP)
    chromium.open(f"{site.url}/")
    wait_for_heading(chromium, "Home of <b>Ada</b>")
    assert chromium.text("#status") == "20 videos."
    assert len(titles(chromium)) == 20
    assert chromium.text("#rung") == "full"
    assert not chromium.run("return document.querySelector('h2 b, li b, summary b')")
    chromium.click("#who-is")
    assert chromium.text("#watched li:first-child div") == "Video 1"


def test_pictures_are_drawn_the_same_each_time_and_differ_from_video_to_video(site, look):
    watch(site, "u")
    script = """
    return [...document.querySelectorAll('#grid > li')].map(
      (tile) => [tile.dataset.video, tile.querySelector('svg.picture').outerHTML])
    """
    browser = look(site, "u")
    first = dict(browser.run(script))
    assert len(first) == len(set(first.values())) == 20
    again = dict(look(site, "u").run(script))
    assert {video: again[video] for video in first.keys() & again.keys()} == first


def test_pages_go_on_without_repeats_until_everything_was_shown(site, tiny, look):
    watch(site, "u")
    browser = look(site, "u")
    for count in (40, tiny.count - 1):  # What was watched is left out.
        browser.run("document.getElementById('more').scrollIntoView()")
        browser.wait(lambda: len(shown(browser)) == count)  # noqa: B023
        assert len(set(shown(browser))) == count
    browser.wait(lambda: "that is all there is" in browser.text("#status"))
    assert browser.run("return document.getElementById('more').hidden")


def test_focus_comes_back_to_the_video_that_was_opened_with_the_keys(site, look):
    watch(site, "u")
    browser = look(site, "u")
    before = titles(browser)
    browser.run("document.querySelectorAll('#grid .open')[2].focus()")
    browser.press(ENTER)
    wait_for_heading(browser, before[2])
    browser.back()
    browser.wait(lambda: titles(browser) == before)
    focused = "return document.activeElement.closest('li')?.dataset.video"
    assert browser.run(focused) == shown(browser)[2]


def test_back_leads_to_the_page_before_as_it_was_and_asks_for_nothing(site, look):
    watch(site, "u")
    browser = look(site, "u")
    first = titles(browser)
    browser.click("#logo")
    browser.wait(lambda: "are new" in browser.text("#status"))
    browser.click("#who-is")
    browser.click("#somebody")
    browser.wait(lambda: heading(browser).startswith("Home of visitor-"))
    made = pages(site)
    for _ in range(2):
        browser.back()
        browser.wait(lambda: titles(browser) == first)
        assert heading(browser) == "Home of u"
        assert browser.run("return document.getElementById('user').value") == "u"
        assert browser.run("return location.hash") == "#user=u"
    assert pages(site) == made


def test_user_typed_into_the_address_is_shown_and_back_leads_away_again(site, look):
    for number, user in enumerate(("u", "w")):
        watch(site, user, f"v{number}", event_id=str(number))
    browser = look(site, "u")
    browser.run("location.hash = '#user=w'")
    wait_for_heading(browser, "Home of w")
    browser.back()
    wait_for_heading(browser, "Home of u")


@pytest.mark.parametrize(
    ("user", "told"),
    [
        ("u", ""),
        ("typo", "There is no user typo here: this is what somebody new would see."),
        ("old", "Nothing that old did is known, only a profile."),
    ],
)
def test_user_who_is_not_there_does_not_look_like_a_new_one(site, look, user, told):
    watch(site, "u")
    browser = look(site, user)
    assert browser.text("#who").startswith(told)
    assert bool(browser.text("#who")) is bool(told)
    unlike = browser.run("return document.getElementById('who').className")
    browser.click("#who-is")
    browser.click("#somebody")
    browser.wait(lambda: browser.text("#who") == "A new visitor, of whom nothing is known yet.")
    assert browser.run("return document.getElementById('who').className") != unlike


@pytest.mark.parametrize("width", [320, PHONE, DESKTOP])
def test_badges_do_not_cover_each_other_and_nothing_sticks_out(site, look, width):
    watch(site, "u")
    browser = look(site, "u", width=width)
    watch(site, "u", "v2", event_id="b")
    press(browser, "#logo")
    browser.wait(lambda: "are new" in browser.text("#status"))
    assert browser.run("return document.querySelectorAll('.badge.new').length") > 0
    boxes = """
    return [...document.querySelectorAll(".frame")].map((frame) =>
      [...frame.querySelectorAll(".badge")].map((child) => {
        const box = child.getBoundingClientRect();
        return [box.left, box.top, box.right, box.bottom];
      }));
    """
    for found in browser.run(boxes):
        for (l1, t1, r1, b1), (l2, t2, r2, b2) in itertools.combinations(found, 2):
            assert r1 <= l2 or r2 <= l1 or b1 <= t2 or b2 <= t1
    assert browser.run("return document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("width", [PHONE, DESKTOP])
def test_page_of_the_api_fits_the_screen(site, chromium, width):
    chromium.look(width=width)
    chromium.open(f"{site.url}/docs")
    assert chromium.text("h1") == "watchnext API"
    assert chromium.run("return document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("width", [PHONE, DESKTOP])
def test_lower_rung_is_told_before_anybody_scrolls(site, tiny, look, width):
    watch(site, "u")
    site.releases.current = tiny.release(ranker=tiny.broken())
    browser = look(site, "u", width=width)
    assert browser.text("#lower").startswith("Lower rung no_ranker: ordered by retrieval score")
    assert bottom(browser, "lower") < 844


def bottom(browser, name):
    return browser.run(f"return document.getElementById('{name}').getBoundingClientRect().bottom")


def test_slow_answer_is_told_while_it_lasts_and_afterwards(running, look):
    site = running()
    recommend = site.funnel.recommend

    def slow(request):
        time.sleep(1.5)
        return recommend(request)

    watch(site, "u")
    browser = look(site, "u")
    site.funnel.recommend = slow
    browser.click("#logo")
    browser.wait(lambda: browser.text("#slow") == "Still waiting for an answer.")
    browser.wait(lambda: browser.text("#slow").startswith("A slow answer: "))
    assert bottom(browser, "slow") < 844
    site.funnel.recommend = recommend


def test_looking_is_not_recorded_unless_somebody_says_so(site, look):
    watch(site, "u")
    browser = look(site, "u")
    browser.click("#logo")
    browser.wait(lambda: pages(site) == 2)
    assert site.history.read("u").impressions.num_rows == 0
    browser.click("#who-is")
    browser.click("#record")
    browser.click("#choose button")
    browser.wait(lambda: site.history.read("u").impressions.num_rows == 20)
    site.log.compact(flush=True)
    assert logs.read_table(site.log.logs_dir, "impressions").num_rows == 20


def test_token_is_no_user_and_outlives_a_reload(running, chromium):
    site = running(token=TOKEN)
    chromium.look(width=DESKTOP)
    chromium.open("about:blank")
    chromium.open(f"{site.url}/#token={TOKEN}")
    for _ in range(2):
        chromium.wait(lambda: heading(chromium).startswith("Home of visitor-"))
        assert TOKEN not in chromium.run("return location.href")
        chromium.run("document.getElementById('heading').textContent = ''; location.reload()")
    chromium.run("sessionStorage.clear()")


def test_failure_leaves_the_page_and_says_whose_it_is(site, chromium):
    watch(site, "u")
    chromium.look(width=DESKTOP)
    chromium.open("about:blank")
    chromium.open(f"{site.url}/#user=u")
    wait_for_heading(chromium, "Home of u")
    site.releases.current = None
    chromium.click("#who-is")
    chromium.type("#user", "w")
    chromium.click("#choose button")
    chromium.wait(lambda: chromium.text("#error").startswith("Unavailable: no release is loaded"))
    assert heading(chromium) == "Home of u"
    chromium.complaints()  # Of the 503 alone: it is the test's own.
