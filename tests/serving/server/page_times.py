"""How heavy a page is and how soon it is there, measured in the browser itself."""

import json
import statistics

# In each new page: when the element that people came for is there, and when the first press on it
# was answered on the screen. The press is one by the page's own means, so nothing is changed by it.
_WATCH = """
(() => {
  const [there, pressed] = [%s, %s];
  const seen = window.seen = {};
  const look = new MutationObserver(() => {
    if (!document.querySelector(there)) return;
    look.disconnect();
    seen.content = performance.now();
    requestAnimationFrame(() => {
      document.querySelector(pressed)?.click();
      requestAnimationFrame(() => setTimeout(() => { seen.interaction = performance.now(); }));
    });
  });
  look.observe(document, { childList: true, subtree: true });
})();
"""
_READ = """
const files = performance.getEntriesByType("resource");
const page = performance.getEntriesByType("navigation")[0];
const own = files.filter((file) => file.name.includes("/assets/"));
return { files: own.length + 1,
         sent: own.reduce((sum, file) => sum + file.encodedBodySize, page.encodedBodySize),
         paint: performance.getEntriesByName("first-contentful-paint")[0]?.startTime ?? null,
         ...window.seen };
"""
# What DevTools calls a slow phone: a quarter of this processor, slow 4G.
_SLOW = {"latency": 150, "downloadThroughput": 1.6e6 / 8, "uploadThroughput": 7.5e5 / 8}
_FAST = {"latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}


class Measured:
    """What visits to a page came to: ``files``, ``sent`` (bytes), and medians of times, ms."""

    def __init__(self, visits):
        self.files, self.sent = visits[0]["files"], visits[0]["sent"]
        self.times = {
            name: (statistics.median(values), min(values), max(values))
            for name in ("paint", "content", "interaction")
            for values in [[visit[name] for visit in visits]]
        }

    def cells(self):
        """Numbers as a table writes them."""
        times = (f"{m:,.0f} [{low:,.0f}, {high:,.0f}]" for m, low, high in self.times.values())
        return [str(self.files), f"{self.sent / 1000:.1f}", *times]


def measure(browser, url, *, there, pressed, visits=5, is_first=True, is_slow=False):
    """Visits a page some times, each time from an empty page.

    Args:
        browser: The browser.
        url: Address of the page.
        there: Selector of what people came for.
        pressed: Selector of what is pressed as soon as that is there.
        visits: Number of visits.
        is_first: Whether nothing of an earlier visit is kept.
        is_slow: Whether processor and network are those of a slow phone.
    """
    script = _WATCH % (json.dumps(there), json.dumps(pressed))
    added = browser.protocol("Page.addScriptToEvaluateOnNewDocument", source=script)
    browser.protocol("Network.enable")
    network = _SLOW if is_slow else _FAST
    browser.protocol("Network.emulateNetworkConditions", offline=False, **network)
    browser.protocol("Emulation.setCPUThrottlingRate", rate=4 if is_slow else 1)
    try:
        seen = []
        for _ in range(visits + 1):  # The first warms the server, and what a second visit keeps.
            browser.open("about:blank")
            if is_first:
                browser.protocol("Network.clearBrowserCache")
            browser.open(url)
            browser.wait(lambda: browser.run("return window.seen?.interaction ?? null") is not None)
            seen.append(browser.run(_READ))
        return Measured(seen[1:])
    finally:
        browser.protocol("Network.emulateNetworkConditions", offline=False, **_FAST)
        browser.protocol("Emulation.setCPUThrottlingRate", rate=1)
        browser.protocol("Page.removeScriptToEvaluateOnNewDocument", identifier=added["identifier"])
