"""The files of the pages: addresses, caching, the content policy, thumbnails from elsewhere."""

import gzip
import re

import pytest

from features import command
from serving.server import pages
from tests.serving.server import browsing


@pytest.fixture
def axe(chromium):
    """Returns what axe finds wrong with the page that is open."""
    from tests.conftest import needs

    script = browsing.axe_script()
    needs("axe", present=script.is_file(), remedy="make axe (npm), or set AXE_CORE")
    return lambda: browsing.violations(chromium, script)


def assets(site, path="/"):
    return re.findall(r'(?:href|src)="(/assets/[^"]+)"', site.client.get(path).text)


def test_files_are_kept_for_good_and_pages_are_asked_for_anew(site):
    page = site.client.get("/")
    assert page.headers["cache-control"] == "no-cache"
    again = site.client.get("/", headers={"if-none-match": f'"x", {page.headers["etag"]}'})
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["etag"] == page.headers["etag"]
    found = assets(site)
    assert len(found) > 5
    for path in found:
        file = site.client.get(path)
        assert file.status_code == 200
        assert file.headers["cache-control"] == "public, max-age=31536000, immutable"
        assert file.headers["x-content-type-options"] == "nosniff"
        known = site.client.get(path, headers={"if-none-match": file.headers["etag"]})
        assert known.status_code == 304


def test_file_of_another_version_is_this_version_and_nobody_keeps_it(site):
    """As while replicas are replaced one by one."""
    name = assets(site)[-1].rpartition("/")[2]
    file = site.client.get(f"/assets/0123456789abcdef/{name}")
    assert file.status_code == 200
    assert file.headers["cache-control"] == "no-store"
    missing = site.client.get("/assets/0123456789abcdef/nothing.js")
    assert missing.status_code == 404
    assert missing.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(
    "path", ["/assets/x/..%2Fapp.py", "/assets/x/home.html", "/assets/x/../app.py"]
)
def test_nothing_else_is_served(site, path):
    assert site.client.get(path).status_code == 404


@pytest.mark.parametrize(
    ("accepted", "is_packed"),
    [("gzip, br", True), ("br;q=1.0, gzip;q=0.5", True), ("gzip;q=0", False), ("", False)],
)
def test_files_are_packed_for_whoever_takes_that(site, accepted, is_packed):
    path = next(path for path in assets(site) if path.endswith("home.js"))
    with site.client.stream("GET", path, headers={"accept-encoding": accepted}) as answer:
        content = b"".join(answer.iter_raw())
        assert (answer.headers.get("content-encoding") == "gzip") is is_packed
        assert answer.headers["vary"] == "accept-encoding"
    if is_packed:
        content = gzip.decompress(content)
    assert content == site.client.get(path).content


@pytest.mark.parametrize("path", [*pages.PAGES, "/docs"])
def test_page_needs_nothing_from_elsewhere_and_has_nothing_inline(site, path):
    answer = site.client.get(path)
    assert answer.headers["content-type"].startswith("text/html")
    for text in (answer.text, *(site.client.get(one).text for one in assets(site, path))):
        assert "https://" not in text
        assert "http://" not in text.replace("http://www.w3.org/2000/svg", "").replace(
            "http://localhost", ""
        )
    assert not re.search(r"<style|\sstyle=|<script(?![^>]*\ssrc=)|\son\w+=", answer.text)
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'")
    assert "unsafe" not in policy
    assert "require-trusted-types-for 'script'" in policy


def test_inline_script_and_text_as_markup_are_refused_by_the_browser(site, chromium):
    chromium.open(f"{site.url}/docs")
    blocked = chromium.run("""
    const script = document.createElement("script");
    const told = [];
    const refused = (attempt) => { try { attempt(); } catch (error) { told.push(error.name); } };
    refused(() => { script.text = "window.ran = true"; });
    refused(() => { document.body.innerHTML = "<b>x</b>"; });
    return [told, window.ran ?? false];
    """)
    assert blocked == [["TypeError", "TypeError"], False]
    chromium.complaints()


# ---- thumbnails of the site's own ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "is_shown"),
    [
        ("https://i.example.org/a.jpg", True),
        ("https://i.example.org:443/a.jpg", True),
        ("https://a.b.example.net/a.jpg", True),
        ("https://example.net/a.jpg", False),
        ("http://i.example.org/a.jpg", False),
        ("https://i.example.org:8443/a.jpg", False),
        ("https://i.example.org.evil.org/a.jpg", False),
        ("https://i.example.org@evil.org/a.jpg", False),
        ("https://evil.org/i.example.org", False),
        ("https://[::1/a", False),
        ("javascript:alert(1)", False),
        ("data:image/png;base64,AAAA", False),
        ("", False),
        (None, False),
        (7, False),
    ],
)
def test_thumbnails_come_from_hosts_that_were_named(url, is_shown):
    hosts = pages.image_hosts(["i.Example.org.", "*.example.net"])
    assert pages.thumbnail(url, hosts) == (url if is_shown else None)
    assert pages.thumbnail(url, frozenset()) is None


@pytest.mark.parametrize(
    "name", ["https://a.org", "a.org/x", "a.org:80", "*", "a b", "127.0.0.1", "*.*"]
)
def test_host_that_is_none_is_refused(name):
    with pytest.raises(command.InputError, match="--image_hosts must be names of hosts"):
        pages.image_hosts([name])


def test_thumbnail_of_a_named_host_is_on_the_page_and_in_the_policy(running, tiny, chromium):
    site = running(image_hosts=frozenset({"i.example.invalid"}))
    release = site.releases.current
    url = "https://i.example.invalid/v.jpg"
    table = release.catalogue.table.append_column("thumbnail_url", [[url] * tiny.count])
    site.releases.current = tiny.release(catalogue=type(release.catalogue)(table))
    assert (
        "img-src 'self' https://i.example.invalid;"
        in site.client.get("/").headers["content-security-policy"]
    )
    page = site.client.post("/v1/recommendations", json={"user_id": "u", "k": 3}).json()
    assert [item["thumbnail_url"] for item in page["items"]] == [url] * 3
    # A picture that cannot be had is drawn.
    chromium.look(width=browsing.DESKTOP)
    chromium.open("about:blank")
    chromium.open(f"{site.url}/#user=u")
    chromium.wait(
        lambda: chromium.run("return document.querySelectorAll('svg.picture').length") > 8
    )
    chromium.complaints()  # Of the names that do not resolve.


# ---- axe -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("width", "is_dark"), browsing.SCREENS)
def test_axe_finds_nothing_wrong_with_home_results_video_and_api(
    site, chromium, axe, width, is_dark
):
    browsing.watch(site, "u")
    chromium.complaints()
    chromium.look(width=width, is_dark=is_dark)
    chromium.open("about:blank")
    chromium.open(f"{site.url}/#user=u")
    browsing.wait_for_heading(chromium, "Home of u")
    assert axe() == []
    chromium.click("#who-is")
    browsing.press(chromium, "#grid .menu summary")
    assert axe() == []
    chromium.open(f"{site.url}/#user=u&q=video")
    browsing.wait_for_heading(chromium, "Results for video")
    assert axe() == []
    chromium.open(f"{site.url}/#user=u&v=v3")
    browsing.wait_for_heading(chromium, "Video 3")
    assert axe() == []
    assert chromium.complaints() == []
    chromium.open(f"{site.url}/docs")
    assert axe() == []
