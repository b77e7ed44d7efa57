// A user, a video, a query: what happened to them.

import { call, part, query } from "./api.js";
import { figure, make, moment, span, table } from "./dom.js";
import { politely } from "./console.js";
import { picture } from "./thumbnails.js";

const link = (kind, id, text) => make("a", { href: "#" + new URLSearchParams({ tab: "lookup", [kind]: id }) }, text ?? id);
const named = (one) => link("video", one.video_id, one.title || one.video_id);
const facts = (pairs) => make("dl", { class: "facts" }, pairs.flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, value)]));
const card = (title, ...parts) => make("section", { class: "card" }, make("h2", {}, title), ...parts);
const near = (title, list, head) => card(title, list.length
  ? table(title, ["Video", head], list.map((one) => [named(one), one.score])) : make("p", { class: "soft" }, "None."));

async function user(id) {
  const found = await call("/v1/admin/users/" + part(id));
  return make("div", { class: "cards", id: "found" },
    card("User " + found.user_id,
      found.is_known ? null : make("p", { class: "notice" }, "The history store has not met this user."),
      facts([["Arm", found.arm || "in no experiment"], ...Object.entries(found.profile).map(([name, value]) => [name, String(value)]),
        ...Object.entries(found.counts).map(([name, count]) => ["Times " + name, figure(count)]),
        ["Clicked of what was shown", found.click_rate === null ? "-" : figure(100 * found.click_rate) + " %"],
        ["Hidden or blocked", found.hidden.join(", ") || "nothing"]]),
      make("p", {}, make("a", { href: "/#" + new URLSearchParams({ user: found.user_id }) }, "Home of this user"), " · ",
        make("a", { href: "#" + new URLSearchParams({ tab: "pages", user: found.user_id }) }, "Pages side by side"))),
    make("section", { class: "card wide" }, make("h2", {}, "What was served, and what followed"),
      found.happened.length ? table("What happened, newest first", ["When", "What", "Video", "What followed"],
        found.happened.map((one) => [moment(one.time), one.kind, one.video_id ? named(one) : "-", one.told || "-"]))
        : make("p", { class: "soft" }, "Nothing is remembered.")));
}

async function video(id) {
  const found = await call("/v1/admin/videos/" + part(id));
  const shown = found.shown;
  const tile = await call("/v1/videos/" + part(id));
  return make("div", { class: "cards", id: "found" },
    card(found.columns.title || found.video_id, picture(tile),
      found.is_withdrawn ? make("p", { class: "notice" }, "It is withdrawn: nobody is shown it.") : null,
      facts(Object.entries(found.columns))),
    card("Who is shown it", shown ? [
      facts([["In the last", plural(shown.days)], ["Impressions", figure(shown.impressions)], ["Users", figure(shown.users)],
        ["Clicks", figure(shown.clicks)], ["Watched of them", span(shown.watch_time_s)]]),
      Object.entries(shown.by).map(([by, counts]) => Object.keys(counts).length
        ? table("By " + by, ["By " + by, "Impressions"], Object.entries(counts)) : null)]
      : make("p", { class: "soft" }, "This server has no logs to count it in.")),
    card("Statistics", table("Statistics", ["Statistic", "Value"], Object.entries(found.statistics))),
    near("Nearest by embedding", found.near, "Cosine"), near("Watched after it", found.watched_after, "Score"));
}

const plural = (days) => days + " days";

async function words(q) {
  const found = await call("/v1/admin/queries" + query({ q }));
  return make("div", { class: "cards", id: "found" },
    card("Found by their words", found.titles.length
      ? table("Found by their words", ["Video", "Channel"], found.titles.map((one) => [named(one), one.channel_id ?? "-"])) : make("p", { class: "soft" }, "None.")),
    near("Recommended to somebody who only searched this", found.near, "Retrieval score"));
}

const KINDS = { user: ["User id", user], video: ["Video id", video], q: ["Query", words] };

export async function show(view, asked) {
  const below = make("div", {});
  const forms = Object.entries(KINDS).map(([kind, [label, find]]) => {
    const input = make("input", { id: "look-" + kind, required: true, maxlength: 256, autocomplete: "off", value: asked.get(kind) ?? "" });
    return make("form", { class: "row", onsubmit: politely(async () => {
      const address = "#" + new URLSearchParams({ tab: "lookup", [kind]: input.value });
      if (location.hash === address) below.replaceChildren(await find(input.value));
      else location.hash = address;  // So that it can be sent to somebody, and gone back from.
    }) }, make("label", {}, label, input), make("button", { class: "plain" }, "Look up"));
  });
  view.replaceChildren(make("section", { class: "card row" }, forms), below);
  const kind = Object.keys(KINDS).find((one) => asked.get(one));
  if (kind) await politely(async () => below.replaceChildren(await KINDS[kind][1](asked.get(kind))))();
}
