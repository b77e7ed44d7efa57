// The console: one tab at a time, each in a module of its own.

import { hasToken, setToken } from "./api.js";
import { $, make } from "./dom.js";

const TABS = {
  health: ["Health", () => import("./console_health.js")],
  releases: ["Releases", () => import("./console_releases.js")],
  experiment: ["Experiment", () => import("./console_experiment.js")],
  pages: ["Side by side", () => import("./console_pages.js")],
  lookup: ["Look up", () => import("./console_lookup.js")],
};

let loading = 0;
let leave = () => {};

const asked = () => new URLSearchParams(location.hash.slice(1));
const tabOf = () => asked().get("tab") in TABS ? asked().get("tab") : "health";

export const say = (text) => { $("status").textContent = text; };

export function fail(failure) {
  $("main").setAttribute("aria-busy", "false");
  $("error").textContent = failure.message;
  $("error").hidden = false;
  $("token-form").hidden = failure.status !== 401;
  if (failure.status === 401) {
    say(hasToken() ? "The token is not the one of the console." : "The console asks for a token.");
    $("token").focus();
  }
}

// Runs what a button does; what cannot be done is told, and nothing else happens.
export const politely = (work) => async (event) => {
  event?.preventDefault();
  $("error").hidden = true;
  try { await work(event); } catch (failure) { fail(failure); }
};

async function show() {
  const number = ++loading;
  leave();
  leave = () => {};
  $("error").hidden = true;
  $("token-form").hidden = true;
  $("main").setAttribute("aria-busy", "true");
  say("Loading.");
  const name = tabOf();
  for (const link of document.querySelectorAll("#tabs a"))
    if (link.dataset.tab === name) link.setAttribute("aria-current", "page"); else link.removeAttribute("aria-current");
  document.title = TABS[name][0] + " - watchnext console";
  try {
    const module = await TABS[name][1]();
    const view = make("div", { id: "tab", "data-tab": name });
    const left = await module.show(view, asked());
    if (number !== loading) { left?.(); return; }
    leave = left ?? leave;
    $("view").replaceChildren(view);
    $("main").setAttribute("aria-busy", "false");
    if ($("status").textContent === "Loading.") say("");
  } catch (failure) {
    if (number === loading) { $("view").replaceChildren(); fail(failure); }
  }
}

$("tabs").append(...Object.entries(TABS).map(([name, [title]]) =>
  make("li", {}, make("a", { href: "#tab=" + name, "data-tab": name }, title))));
$("token-form").addEventListener("submit", (sent) => {
  sent.preventDefault();
  setToken($("token").value.trim());
  show();
});
window.addEventListener("hashchange", show);
show();
