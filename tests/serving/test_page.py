"""The page that people look at, in a real browser."""

import itertools
import time

import pytest

from features import logs

TOKEN = "0123456789abcdef-token"
PHONE, DESKTOP = 390, 1280
BOXES = """
return [...document.querySelectorAll(".tile")].map((tile) => [...tile.children].map((child) => {
  const box = child.getBoundingClientRect();
  return [box.left, box.top, box.right, box.bottom];
}));
"""


def watch(site, user, video="v1", event_id="a"):
    event = {"event_id": event_id, "type": "watch", "user_id": user, "video_id": video,
             "watch_time_s": 60, "time": site.clock() - 100}  # fmt: skip
    assert site.client.post("/v1/events", json={"events": [event]}).status_code == 200


def pages(site):
    """How many pages the server has made."""
    lines = site.client.get("/metrics").text.splitlines()
    return sum(float(s.split()[1]) for s in lines if s.startswith("watchnext_pages_total{"))


@pytest.fixture
def look(chromium):
    """Opens the page as one user sees it, and waits for it."""

    def opened(site, user, *, width=DESKTOP, is_dark=False):
        chromium.look(width=width, is_dark=is_dark)
        chromium.open("about:blank")
        chromium.open(f"{site.url}/#user={user}")
        chromium.wait(lambda: chromium.text("#home") == f"Home of {user}")
        return chromium

    return opened


def click_and_wait(browser, selector):
    browser.click(selector)
    browser.wait(lambda: browser.text("#status").startswith("Watched "))


def titles(browser):
    return browser.run("return [...document.querySelectorAll('.title')].map((t) => t.textContent)")


def test_it_shows_recommendations_and_what_was_watched(site, chromium):
    watch(site, "<b>Ada</b>")
    chromium.look(width=DESKTOP)
    chromium.open(f"{site.url}/")
    chromium.wait(lambda: chromium.text("#status") == "20 videos.")
    assert len(titles(chromium)) == 20
    assert chromium.text("#home") == "Home of <b>Ada</b>"
    assert chromium.text("#rung") == "full"
    assert chromium.text("#watched li:first-child div") == "Video 1"
    assert not chromium.run("return document.querySelector('b b, h2 b, li b')")


def test_focus_stays_where_somebody_works_with_the_keys(site, look):
    watch(site, "u")
    browser = look(site, "u")
    place = 2
    browser.run(f"document.querySelectorAll('.card')[{place}].focus()")
    for _ in range(2):
        before = titles(browser)
        browser.press("\ue007")  # Enter, on whatever has the focus.
        browser.wait(lambda: f"Watched {before[place]}." in browser.text("#status"))  # noqa: B023
        focused = "return [...document.querySelectorAll('.card')].indexOf(document.activeElement)"
        assert browser.run(focused) == place


def test_back_leads_to_the_page_before_as_it_was_and_asks_for_nothing(site, look):
    watch(site, "u")
    browser = look(site, "u")
    first = titles(browser)
    click_and_wait(browser, "#grid li:nth-child(2) button")
    second = titles(browser)
    assert first[1] not in second
    browser.click("#somebody")
    browser.wait(lambda: browser.text("#home").startswith("Home of visitor-"))
    made = pages(site)
    for user, expected in (("u", second), ("u", first)):
        browser.back()
        browser.wait(lambda: titles(browser) == expected)  # noqa: B023
        assert browser.text("#home") == f"Home of {user}"
        assert browser.run("return document.getElementById('user').value") == user
        assert browser.run("return location.hash") == f"#user={user}"
    browser.run("window.history.forward()")
    browser.wait(lambda: titles(browser) == second)
    assert pages(site) == made


def test_user_typed_into_the_address_is_shown_and_back_leads_away_again(site, look):
    for number, user in enumerate(("u", "w")):
        watch(site, user, f"v{number}", event_id=str(number))
    browser = look(site, "u")
    browser.run("location.hash = '#user=w'")
    browser.wait(lambda: browser.text("#home") == "Home of w")
    browser.back()
    browser.wait(lambda: browser.text("#home") == "Home of u")


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
    browser.click("#somebody")
    browser.wait(lambda: browser.text("#who") == "A new visitor, of whom nothing is known yet.")
    assert browser.run("return document.getElementById('who').className") != unlike
    click_and_wait(browser, "#grid li:nth-child(1) button")
    assert browser.text("#who") == ""  # What was watched is known now.


@pytest.mark.parametrize("width", [320, PHONE, DESKTOP])
def test_badges_cover_no_topics_and_nothing_sticks_out(site, look, width):
    watch(site, "u")
    browser = look(site, "u", width=width)
    click_and_wait(browser, "#grid li:nth-child(3) button")
    assert browser.run("return document.querySelectorAll('.new').length") > 0
    browser.run(
        "for (const topic of document.querySelectorAll('.topic')) "
        "topic.textContent = 'Theoretical electrodynamics and other long names';"
    )
    for boxes in browser.run(BOXES):
        for (l1, t1, r1, b1), (l2, t2, r2, b2) in itertools.combinations(boxes, 2):
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
    assert bottom(browser, "took") < 844


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
    browser.click("#choose button")
    browser.wait(lambda: browser.text("#slow") == "Still waiting for an answer.")
    browser.wait(lambda: browser.text("#slow").startswith("A slow answer: "))
    assert bottom(browser, "slow") < 844
    site.funnel.recommend = recommend


def test_looking_is_not_recorded_unless_somebody_says_so(site, look):
    watch(site, "u")
    browser = look(site, "u")
    browser.click("#choose button")
    browser.wait(lambda: pages(site) == 2)
    assert site.history.read("u").impressions.num_rows == 0
    browser.click("#record")
    browser.click("#choose button")
    browser.wait(lambda: site.history.read("u").impressions.num_rows == 20)
    site.log.compact(flush=True)
    assert logs.read_table(site.log.logs_dir, "impressions").num_rows == 20


def test_search_says_that_it_is_recorded(site, look):
    watch(site, "u")
    browser = look(site, "u")
    browser.type("#query", "<i>cats</i>")
    browser.click("#search button")
    browser.wait(lambda: "Recorded the search <i>cats</i>." in browser.text("#status"))
    assert browser.text("#searched") == "<i>cats</i>"
    assert [s["query"] for s in site.history.read("u").searches.to_pylist()] == ["<i>cats</i>"]


def test_second_click_while_one_is_under_way_is_none(site, look):
    watch(site, "u")
    browser = look(site, "u")
    browser.run(
        "for (const card of [...document.querySelectorAll('.card')].slice(0, 3)) card.click()"
    )
    browser.wait(lambda: browser.text("#status").startswith("Watched "))
    assert site.history.read("u").watches.num_rows == 2


def test_token_is_no_user_and_outlives_a_reload(running, chromium):
    site = running(token=TOKEN)
    chromium.look(width=DESKTOP)
    chromium.open("about:blank")
    chromium.open(f"{site.url}/#token={TOKEN}")
    for _ in range(2):
        chromium.wait(lambda: chromium.text("#home").startswith("Home of visitor-"))
        assert TOKEN not in chromium.run("return location.href")
        chromium.run("document.getElementById('home').textContent = ''; location.reload()")
    chromium.run("sessionStorage.clear()")


def test_failure_leaves_the_page_and_says_whose_it_is(site, look):
    watch(site, "u")
    browser = look(site, "u")
    site.releases.current = None
    browser.type("#user", "w")
    browser.click("#choose button")
    browser.wait(lambda: browser.text("#error").startswith("Unavailable: no release is loaded"))
    assert browser.text("#home") == "Home of u"
