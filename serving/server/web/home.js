// What is on the screen: home, search results, or a video; how one leads to the next and back.

import { call, part, query } from "./api.js";
import { $, make, newId, notice, plural, soft, span } from "./dom.js";
import { event, give, report, showAll, standing, stands, takeBack } from "./feedback.js";
import { Player } from "./player.js";
import { nameOf, tile } from "./tiles.js";

const PAGE = 20;
const MOST_EXCLUDED = 1000;
const SLOW_MS = 500;
const VISITOR = "visitor-";
const RUNGS = {
  part_of_index: "retrieved in a part of the videos: shards of the index do not answer",
  no_ranker: "ordered by retrieval score, not by expected watch time",
  no_history: "made without what the user did: the history store does not answer",
  last_embedding: "retrieved with the user's last embedding: the query tower does not answer",
  no_retrieval: "co-watched and popular videos: nothing was retrieved",
  popular: "popular videos of the region",
};

let view = null;        // What is on the screen: {kind, user, ...}, see the functions below.
let player = null;      // Of the video that is open.
let loading = 0;        // Number of the newest load; older answers are dropped.
const kept = new Map(); // Views by the key of their entry in the browser's history.

const newVisitor = () => VISITOR + newId().slice(0, 6);
const asked = () => Object.fromEntries(new URLSearchParams(location.hash.slice(1)));
const device = () => matchMedia("(max-width: 760px)").matches ? "phone" : "desktop";
const busy = (is) => $("main").setAttribute("aria-busy", is);
const say = (text) => { $("status").textContent = text; };

function fail(failure) {
  $("error").textContent = failure.message;
  $("error").hidden = false;
  notice("slow", "");
  busy(false);
}

// ---- asking ---------------------------------------------------------------------------------------

const historyOf = (user) => call("/v1/users/" + part(user) + "/history?limit=100");

// The videos of an answer, which know what page showed them.
const from = (answer) => answer.items.map((video) => ({ ...video, page_id: answer.page_id }));

async function pageOf(user, excluded) {
  const start = performance.now();
  const answer = await call("/v1/recommendations", {
    user_id: user, k: PAGE, record: $("record").checked, context: { surface: "home", device: device() },
    exclude: excluded.slice(-MOST_EXCLUDED),
  });
  return { answer, items: from(answer), milliseconds: performance.now() - start };
}

const ask = {
  async home({ user }) {
    const before = view?.kind === "home" && view.user === user ? view.items : null;
    const { answer, items, milliseconds } = await pageOf(user, []);
    const ids = before && new Set(before.map((video) => video.video_id));
    return { answer, milliseconds, items, before: ids, more: items.length === PAGE };
  },
  async search({ user, q }) {
    const answer = await call("/v1/search" + query({ q, user_id: user, k: PAGE }));
    return { q, items: answer.items, more: answer.more };
  },
  async watch({ user, v }, video) {
    // First, and alone: of a video that is not there both would complain, the faster one aloud.
    const found = video ?? await call("/v1/videos/" + part(v));
    const answer = await call("/v1/related", { video_id: v, user_id: user, k: PAGE, record: $("record").checked, context: { surface: "watch", device: device() } });
    return { video: found, answer, items: from(answer) };
  },
};

const further = {
  async home(shown) {
    const { items } = await pageOf(shown.user, shown.items.map((video) => video.video_id));
    return { items, more: items.length === PAGE };
  },
  search: (shown) => call("/v1/search" + query({ q: shown.q, user_id: shown.user, k: PAGE, offset: shown.items.length })),
};

// ---- going somewhere ------------------------------------------------------------------------------

const kindOf = (to) => to.v ? "watch" : to.q ? "search" : "home";

// Loads what an address names and puts it on the screen; returns whether it is there.
async function go(to, { replace = false, stay = false, video, told = "" } = {}) {
  const number = ++loading;
  const waiting = setTimeout(() => { if (number === loading) notice("slow", "Still waiting for an answer."); }, 2 * SLOW_MS);
  busy(true);
  try {
    told = await leave() || told;
    const kind = kindOf(to);
    const [found, history] = await Promise.all([ask[kind](to, video), historyOf(to.user)]);
    if (number !== loading) return false;
    const address = "#" + new URLSearchParams(to);
    const key = stay && history.state?.key || newId();
    if (view) view.scroll = scrollY;
    if (!stay) window.history[replace || !view ? "replaceState" : "pushState"]({ key }, "", address);
    view = { kind, user: to.user, history, ...found };
    kept.set(window.history.state?.key ?? key, view);
    show();
    if (told) say(told + " " + $("status").textContent);
    if (kind === "watch") begin();
    return true;
  } catch (failure) {
    if (number === loading) fail(failure);
    return false;
  } finally {
    clearTimeout(waiting);
  }
}

// What of the open video was watched is an event, as soon as somebody leaves it.
async function leave(options) {
  if (!player) return "";
  const { video, watched, duration, isComplete, user } = player;
  player.pause();
  player = null;
  if (watched < 1) return "";
  await report([event("watch", user, video, { source: "page", watch_time_s: Math.min(watched, 86400), completed: isComplete })], options);
  return `Watched ${span(watched)} of ${span(duration)} of ${nameOf(video)}.`;
}

function begin() {
  report([event("click", view.user, view.video)]).catch(fail);
}

window.addEventListener("pagehide", () => { leave({ keepalive: true }).catch(() => {}); });

window.addEventListener("popstate", async (popped) => {
  const number = ++loading;  // Of what is under way nothing is wanted any more.
  const before = kept.get(popped.state?.key);
  if (!before) {
    if (asked().user) await go(asked(), { replace: true });  // Typed into the address.
    return;
  }
  const told = await leave().catch(fail);
  if (number !== loading) return;
  view = before;
  show();
  if (told) say(told);
  scrollTo(0, view.scroll ?? 0);
});

// ---- showing --------------------------------------------------------------------------------------

const parts = () => new Map(view.history.watches.toReversed().map((watch) => [watch.video_id, watch.watch_time_s]));

const actions = () => [
  { text: "Why this?", run: (video) => why(video.video_id) },
  { text: "Not interested in this video", run: (video) => notInterested("video_id", video.video_id, nameOf(video)) },
  { text: "Not interested in this channel", run: (video) => video.channel_id
    ? notInterested("channel_id", video.channel_id, video.channel_id)
    : say(nameOf(video) + " has no channel that could be hidden.") },
];

function tiles(videos) {
  const watched = parts();
  const now = view.answer?.now ?? Date.now() / 1000;
  return videos.map((video) => tile(video, {
    now, actions: actions(),
    part: watched.has(video.video_id) ? Math.min(1, Math.max(.02, watched.get(video.video_id) / (video.duration_s || 120))) : 0,
    isNew: Boolean(view.before) && !view.before.has(video.video_id),
    open: (chosen) => { view.focus = chosen.video_id; go({ user: view.user, v: chosen.video_id }, { video: chosen }); },
  }));
}

function heading(text) {
  document.title = text + " - watchnext";
  return make("h2", { id: "heading", tabindex: -1 }, text);
}

// A list of tiles that goes on for as long as there are videos.
function list(className) {
  const shown = view;
  const grid = make("ul", { class: "grid " + className, id: "grid" }, tiles(shown.items));
  const more = make("button", { class: "plain further", type: "button", id: "more", hidden: !shown.more }, "More");
  const observer = new IntersectionObserver((seen) => { if (seen.some((one) => one.isIntersecting)) more.click(); }, { rootMargin: "200px" });
  more.addEventListener("click", async () => {
    if (more.disabled) return;
    more.disabled = true;
    try {
      const found = await further[shown.kind](shown);
      const have = new Set(shown.items.map((video) => video.video_id));
      const fresh = found.items.filter((video) => !have.has(video.video_id));
      shown.items = [...shown.items, ...fresh];
      shown.more = found.more && fresh.length > 0;
      if (shown !== view) return;
      shown.before = null;
      grid.append(...tiles(fresh));
      more.hidden = !shown.more;
      say(plural(shown.items.length, "video") + (shown.more ? "." : ", and that is all there is."));
    } catch (failure) {
      observer.disconnect();  // Whoever wants to try again presses the button.
      fail(failure);
    } finally {
      more.disabled = false;
    }
  });
  observer.observe(more);
  return [grid, more];
}

const draws = {
  home() {
    $("view").replaceChildren(heading("Home of " + view.user), ...list("home"));
    const fresh = view.before ? view.items.filter((video) => !view.before.has(video.video_id)).length : null;
    say(fresh === null ? plural(view.items.length, "video") + "." : `${fresh} of ${plural(view.items.length, "video")} are new.`);
  },
  search() {
    $("view").replaceChildren(heading("Results for " + view.q), ...list("results"));
    say(view.items.length ? plural(view.items.length, "video") + " found." :
      "Nothing is found: titles, channels and topics have none of these words.");
  },
  watch() {
    const { video, user } = view;
    player = new Player(video, { onend: () => say("That was the end of " + nameOf(video) + ".") });
    player.user = user;
    const facts = [video.channel_id, span(Math.max(Date.now() / 1000 - video.upload_time, 0)) + " old", ...video.topics];
    const column = make("aside", { "aria-labelledby": "next" },
      make("h3", { id: "next" }, "Watch next"),
      make("ul", { class: "grid", id: "grid" }, tiles(view.items)));
    $("view").replaceChildren(make("div", { class: "watch" },
      make("div", {}, player.element, heading(nameOf(video)), soft(facts.filter(Boolean).join(" · ")), opinions(video)),
      column));
    say("");
    scrollTo(0, 0);
  },
};

function show() {
  $("error").hidden = true;
  busy(false);
  const focused = document.activeElement?.closest?.("[data-video]");
  draws[view.kind]();
  const { user, history, answer, milliseconds } = view;
  $("who-is").textContent = user;
  $("user").value = user;
  $("query").value = view.q ?? "";
  notice("who", whoIs(user, history));
  $("who").classList.toggle("calm", user.startsWith(VISITOR));
  const rung = answer?.rung ?? "full";
  notice("lower", rung === "full" ? "" : "Lower rung " + rung + ": " + RUNGS[rung] + ".");
  notice("slow", milliseconds > SLOW_MS ? "A slow answer: " + Math.round(milliseconds) + " ms." : "");
  if (answer) {
    $("rung").textContent = rung;
    $("rung").className = rung === "full" ? "good" : "warn";
    $("release").textContent = answer.release_id;
    $("took").textContent = Math.round(milliseconds) + " ms";
    $("took").className = milliseconds > SLOW_MS ? "warn" : "";
  }
  showHistory(history);
  const again = [...document.querySelectorAll("[data-video]")].find((one) => one.dataset.video === view.focus);
  if (again) again.querySelector(".open").focus({ preventScroll: true });
  else if (focused) $("heading").focus({ preventScroll: true });
}

function whoIs(user, history) {
  if (history.is_known) return "";
  if (Object.keys(history.profile).length) return "Nothing that " + user + " did is known, only a profile.";
  if (user.startsWith(VISITOR)) return "A new visitor, of whom nothing is known yet.";
  return "There is no user " + user + " here: this is what somebody new would see. Is the id right?";
}

function showHistory({ watches, searches, blocked, feedback }) {
  $("watched").replaceChildren(...watches.slice(0, 8).map((watched) => make("li", {},
    make("div", {}, watched.title || watched.video_id),
    soft([watched.topics[0], span(watched.watch_time_s) + " watched"].filter(Boolean).join(" · ")))));
  $("searched").replaceChildren(...searches.slice(0, 8).map((search) => make("li", {}, search.query)));
  $("unblock").hidden = !blocked.videos.length && !blocked.channels.length && !standing(feedback, "hide").length;
}

// ---- saying what one thinks of it -----------------------------------------------------------------

// Buttons that are pressed for as long as what they say stands.
function opinions(video) {
  const { user, history } = view;
  const button = (type, text, kind, id) => {
    const made = make("button", { class: "plain", type: "button", "aria-pressed": String(stands(history.feedback, type, kind, id)) }, text);
    made.addEventListener("click", async () => {
      const is = made.getAttribute("aria-pressed") === "true";
      try {
        await (is ? takeBack : give)(type, user, kind, id);
        history.feedback.unshift({ type, [kind]: id, value: is ? 0 : null });
        made.setAttribute("aria-pressed", String(!is));
        say(is ? `${text}: taken back.` : `${text}: noted.`);
      } catch (failure) {
        fail(failure);
      }
    });
    return made;
  };
  const share = make("button", { class: "plain", type: "button", onclick: async () => {
    try {
      const address = location.origin + "/#" + new URLSearchParams({ v: video.video_id });
      await navigator.clipboard?.writeText(address).catch(() => {});
      await give("share", user, "video_id", video.video_id);
      say("Shared: " + address);
    } catch (failure) {
      fail(failure);
    }
  } }, "Share");
  return make("div", { class: "actions" },
    button("like", "Like", "video_id", video.video_id), button("dislike", "Dislike", "video_id", video.video_id),
    video.channel_id ? button("follow", "Follow " + video.channel_id, "channel_id", video.channel_id) : null, share,
    actions().map(({ text, run }) => make("button", { class: "plain", type: "button", onclick: () => run(video) }, text)));
}

async function notInterested(kind, id, name) {
  const { user } = view;
  try {
    await give("hide", user, kind, id);
    view.history.feedback.unshift({ type: "hide", [kind]: id, value: null });
    if (view.items) {
      view.items = view.items.filter((video) => video[kind] !== id);
      for (const cell of document.querySelectorAll("#grid > li"))
        if (!view.items.some((video) => video.video_id === cell.dataset.video)) cell.remove();
    }
    const undo = make("button", { class: "plain", type: "button", id: "undo", onclick: async () => {
      try {
        await takeBack("hide", user, kind, id);
        if (await go(asked(), { replace: true })) say(name + " is shown again.");
      } catch (failure) {
        fail(failure);
      }
    } }, "Undo");
    $("status").replaceChildren(name + " is not shown any more. ", undo);
    undo.focus();
    showHistory(view.history);
  } catch (failure) {
    fail(failure);
  }
}

async function why(videoId) {
  try {
    const { explain } = await import("./why.js");  // Most never ask.
    await explain($("why"), view.user, videoId, { device: device() });
  } catch (failure) {
    fail(failure);
  }
}

// ---- the header -----------------------------------------------------------------------------------

const closePanel = () => { $("who-panel").open = false; };

$("logo").addEventListener("click", (clicked) => {
  clicked.preventDefault();
  if (view) go({ user: view.user });
});
$("choose").addEventListener("submit", (sent) => { sent.preventDefault(); closePanel(); go({ user: $("user").value }); });
$("somebody").addEventListener("click", () => { closePanel(); go({ user: newVisitor() }); });
$("unblock").addEventListener("click", async () => {
  try {
    await showAll(view.user, view.history);
    closePanel();
    if (await go({ user: view.user })) say("Nothing is hidden any more.");
  } catch (failure) {
    fail(failure);
  }
});
$("search").addEventListener("submit", async (sent) => {
  sent.preventDefault();
  const q = $("query").value.trim();
  if (!view || !q) return;
  try {
    await report([{ event_id: newId(), type: "search", user_id: view.user, query: q }]);
    await go({ user: view.user, q });
  } catch (failure) {
    fail(failure);
  }
});
document.addEventListener("keydown", (pressed) => { if (pressed.key === "Escape") closePanel(); });
document.addEventListener("click", (clicked) => { if (!$("who-panel").contains(clicked.target)) closePanel(); });

async function start() {
  try {
    const { users } = await call("/v1/users?limit=200");
    $("users").replaceChildren(...users.map((user) => make("option", { value: user })));
    const to = asked();
    await go({ ...to, user: to.user || users[0] || newVisitor() }, { replace: true });
  } catch (failure) {
    fail(failure);
  }
}
start();
