"""Watching, searching, liking and hiding, clicked through in a real browser."""

import pytest

from tests.serving.server.browsing import (
    DESKTOP,
    SCREENS,
    heading,
    press,
    seek,
    shown,
    text,
    titles,
    wait_for_heading,
    watch,
)

IDS = [f"{width}-{'dark' if is_dark else 'light'}" for width, is_dark in SCREENS]


@pytest.fixture
def opened(site, chromium):
    """Opens the home of `u`, who watched v1; whatever a test does there, nothing complains."""
    chromium.complaints()
    watch(site, "u")

    def open_at(width=DESKTOP, *, is_dark=False, user="u"):
        chromium.look(width=width, is_dark=is_dark)
        chromium.open("about:blank")
        chromium.open(f"{site.url}/#user={user}")
        wait_for_heading(chromium, f"Home of {user}")
        return chromium

    yield open_at
    assert chromium.complaints() == []


def watches(site, user="u"):
    return site.history.read(user).watches.to_pylist()


@pytest.mark.parametrize(("width", "is_dark"), SCREENS, ids=IDS)
def test_part_before_the_handle_is_what_was_watched(site, opened, width, is_dark):
    browser = opened(width, is_dark=is_dark)
    video, title = shown(browser)[1], titles(browser)[1]
    press(browser, "#grid li:nth-child(2) .open")
    wait_for_heading(browser, title)
    minutes, seconds = divmod(100 + int(video[1:]), 60)
    assert text(browser, "output") == f"0:00 of {minutes}:{seconds:02d}"
    seek(browser, 42)
    assert text(browser, "output") == f"0:42 of {minutes}:{seconds:02d}"
    assert browser.run("return document.getElementById('seek').ariaValueText").startswith("0:42")
    press(browser, "#logo")
    browser.wait(lambda: text(browser, "#status").startswith("Watched 42 s of "))
    assert video not in shown(browser)
    last = watches(site)[-1]
    assert (last["video_id"], last["watch_time_s"], last["completed"]) == (video, 42.0, False)


def test_watch_belongs_to_the_page_that_showed_the_video(site, opened):
    browser = opened()
    browser.click("#who-is")
    browser.click("#record")
    browser.click("#choose button")
    browser.wait(lambda: site.history.read("u").impressions.num_rows == 20)
    browser.wait(lambda: text(browser, "#main[aria-busy=false] h2"))
    press(browser, "#grid li:nth-child(3) .open")
    browser.wait(lambda: text(browser, "output"))
    seek(browser, 1000)  # The end, wherever that is.
    browser.back()
    browser.wait(lambda: len(watches(site)) == 2)
    assert watches(site)[-1]["completed"]
    impressions = site.history.read("u").impressions.to_pylist()
    assert [i["watch_time_s"] > 0 for i in impressions].count(True) == 1
    assert [i["clicked"] for i in impressions].count(True) == 1


def test_it_plays(site, opened):
    browser = opened()
    press(browser, "#grid .open")
    browser.wait(lambda: text(browser, "output"))
    browser.run("document.getElementById('speed').value = '60'")
    browser.click("#play")
    assert browser.run("return document.getElementById('play').ariaLabel").startswith("Pause ")
    browser.wait(lambda: text(browser, "#status").startswith("That was the end of"))
    assert browser.run("return document.getElementById('play').ariaLabel").startswith("Play ")


def test_whoever_leaves_at_once_has_clicked_but_not_watched(site, opened):
    browser = opened()
    press(browser, "#grid .open")
    browser.wait(lambda: text(browser, "output"))
    browser.back()
    wait_for_heading(browser, "Home of u")
    assert len(watches(site)) == 1


def test_watched_part_is_reported_when_the_window_goes_elsewhere(site, opened):
    browser = opened()
    press(browser, "#grid .open")
    browser.wait(lambda: text(browser, "output"))
    seek(browser, 30)
    browser.open("about:blank")
    browser.wait(lambda: len(watches(site)) == 2)
    assert watches(site)[-1]["watch_time_s"] == 30


@pytest.mark.parametrize(("width", "is_dark"), SCREENS, ids=IDS)
def test_search_finds_videos_by_their_words_and_is_recorded(site, opened, width, is_dark):
    browser = opened(width, is_dark=is_dark)
    browser.type("#query", "Video 17")
    browser.click("#search button")
    wait_for_heading(browser, "Results for Video 17")
    assert titles(browser)[0] == "Video 17"
    assert "videos found" in text(browser, "#status")
    assert [s["query"] for s in site.history.read("u").searches.to_pylist()] == ["Video 17"]
    press(browser, "#grid .open")
    wait_for_heading(browser, "Video 17")
    assert browser.run("return document.documentElement.scrollWidth") <= width


def test_search_without_a_hit_says_so(opened):
    browser = opened()
    browser.type("#query", "<i>nothing</i>")
    browser.click("#search button")
    wait_for_heading(browser, "Results for <i>nothing</i>")
    assert text(browser, "#status").startswith("Nothing is found")
    assert shown(browser) == []


def test_watched_videos_show_how_far(opened):
    browser = opened()
    browser.type("#query", "Video 1")
    browser.click("#search button")
    wait_for_heading(browser, "Results for Video 1")
    assert text(browser, "[data-video=v1] .spoken") == "Watch, 59 % watched"  # 60 s of 101.


@pytest.mark.parametrize("kind", ["video", "channel"])
def test_what_does_not_interest_goes_and_comes_back(site, opened, kind):
    browser = opened()
    video = shown(browser)[0]
    channel = f"c{int(video[1:]) % 8}"
    press(browser, "#grid li:first-child .menu button", f"Not interested in this {kind}")
    browser.wait(lambda: "is not shown any more" in text(browser, "#status"))
    gone = [v for v in shown(browser) if v == video or f"c{int(v[1:]) % 8}" == channel]
    assert video not in gone
    assert not gone or kind == "video"
    hidden = site.history.read("u").hidden
    assert (hidden.videos, hidden.channels) == (
        ((video,), ()) if kind == "video" else ((), (channel,))
    )
    browser.click("#logo")
    browser.wait(lambda: "are new" in text(browser, "#status"))
    assert video not in shown(browser)
    press(browser, "#unblock")
    browser.wait(lambda: "Nothing is hidden any more" in text(browser, "#status"))
    assert video in shown(browser)


def test_hiding_is_undone_at_once(site, opened):
    browser = opened()
    video = shown(browser)[0]
    press(browser, "#grid li:first-child .menu button", "Not interested in this video")
    browser.wait(lambda: text(browser, "#undo"))
    browser.click("#undo")
    browser.wait(lambda: "is shown again" in text(browser, "#status"))
    assert video in shown(browser)
    assert site.history.read("u").hidden.videos == ()


def test_likes_follows_and_shares_are_noted_and_taken_back(site, opened):
    browser = opened()
    press(browser, "#grid .open")
    browser.wait(lambda: text(browser, "output"))
    video = browser.run("return new URLSearchParams(location.hash.slice(1)).get('v')")
    for button in ("Like", "Follow", "Share"):
        press(browser, ".actions button", button)
        browser.wait(lambda: text(browser, "#status").startswith(button))  # noqa: B023
    given = site.history.read("u").feedback.to_pylist()
    assert [row["kind"] for row in given] == ["like", "follow", "share"]
    assert given[0]["video_id"] == video
    assert given[1]["channel_id"] == f"c{int(video[1:]) % 8}"
    browser.back()
    wait_for_heading(browser, "Home of u")
    press(browser, "#grid .open")
    browser.wait(lambda: text(browser, ".actions [aria-pressed=true]") == "Like")
    press(browser, ".actions button", "Like")
    browser.wait(lambda: text(browser, "#status") == "Like: taken back.")
    assert site.history.read("u").feedback.to_pylist()[-1]["value"] == 0


def test_videos_beside_a_video_lead_on(site, opened):
    browser = opened()
    press(browser, "#grid .open")
    browser.wait(lambda: text(browser, "output"))
    first = heading(browser)
    beside = titles(browser)
    assert text(browser, "aside h3") == "Watch next"
    assert len(beside) > 5 and first not in beside
    press(browser, "aside .open")
    wait_for_heading(browser, beside[0])
    browser.back()
    wait_for_heading(browser, first)


def test_menu_closes_with_escape_and_gives_the_focus_back(opened):
    browser = opened()
    browser.run("document.querySelector('.menu summary').focus()")
    browser.press("\ue007")
    browser.press("\ue004")  # Tab: the first entry.
    assert browser.run("return document.activeElement.textContent") == "Why this?"
    browser.press("\ue00c")  # Escape.
    assert browser.run("return document.activeElement.matches('.menu summary')")
    assert not browser.run("return document.querySelector('.menu[open]')")


def test_video_of_an_address_is_opened_and_one_that_is_not_there_is_told(site, chromium):
    watch(site, "u")
    chromium.look(width=DESKTOP)
    chromium.open("about:blank")
    chromium.open(f"{site.url}/#user=u&v=v7")
    wait_for_heading(chromium, "Video 7")
    chromium.run("location.hash = '#user=u&v=nothing'")
    chromium.wait(lambda: "has no video 'nothing'" in text(chromium, "#error"))
    assert heading(chromium) == "Video 7"
    chromium.complaints()  # Of the 404 alone.
