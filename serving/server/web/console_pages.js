// One viewer's page from two releases, or with two settings, side by side.

import { call } from "./api.js";
import { figure, make, soft, table } from "./dom.js";
import { politely, say } from "./console.js";

const SETTINGS = { retrieved: "Retrieved", trending: "Trending", per_source: "Per other source", per_channel: "Per channel", max_shown: "Times shown" };

function side(name, title, releases) {
  const release = make("select", { id: name + "-release" }, make("option", { value: "" }, "the one that serves"),
    releases.map((one) => make("option", { value: one.release_id }, one.release_id)));
  const inputs = Object.entries(SETTINGS).map(([key, label]) => {
    const input = make("input", { id: `${name}-${key}`, type: "number", min: key === "retrieved" || key === "per_channel" ? 1 : 0, max: 10000, placeholder: "as is" });
    return [key, input, make("label", {}, label, input)];
  });
  return {
    element: make("fieldset", { class: "card" }, make("legend", { class: name === "one" ? "one" : "two" }, title),
      make("label", {}, "Release", release), make("div", { class: "row" }, inputs.map(([, , label]) => label))),
    value: () => ({ release_id: release.value || null,
      settings: Object.fromEntries(inputs.filter(([, input]) => input.value !== "").map(([key, input]) => [key, Number(input.value)])) }),
  };
}

function list(page, other) {
  const there = new Map(other.items.map((item) => [item.video_id, item.position]));
  return make("div", {}, soft(`release ${page.release_id}, rung ${page.rung}, ${figure(page.debug.candidates)} candidates, ranked in ${figure(page.debug.stages_ms.ranking)} ms`),
    make("ol", {}, page.items.map((item) => {
      const at = there.get(item.video_id);
      const moved = at === undefined ? "only here" : at === item.position ? "" : `there ${at + 1}`;
      return make("li", { class: at === undefined ? "alone" : null }, (item.title || item.video_id) + " ",
        soft([item.expected_watch_time_s === null ? null : figure(item.expected_watch_time_s) + " s", moved].filter(Boolean).join(" · ")));
    })));
}

export async function show(view, asked) {
  const [{ releases }, { users }] = await Promise.all([call("/v1/admin/releases"), call("/v1/users?limit=200")]);
  const user = make("input", { id: "viewer", list: "viewers", required: true, maxlength: 256, autocomplete: "off", value: asked.get("user") ?? users[0] ?? "" });
  const one = side("one", "One", releases), other = side("other", "The other", releases);
  const below = make("div", { id: "two-pages" });
  view.replaceChildren(
    make("form", { id: "side-by-side", onsubmit: politely(async () => {
      say("Asking; a release that is not in memory is loaded first.");
      const found = await call("/v1/admin/pages", { user_id: user.value, one: one.value(), other: other.value() });
      const sources = [...new Set([...Object.keys(found.one.debug.nominated), ...Object.keys(found.other.debug.nominated)])];
      below.replaceChildren(make("section", { class: "card" }, make("h2", {}, `${found.both} of ${found.one.items.length} videos are on both pages`),
        make("div", { class: "pair" }, list(found.one, found.other), list(found.other, found.one)),
        make("h3", {}, "Candidates"), table("Candidates by source", ["Source", "One", "The other"],
          sources.map((name) => [name, found.one.debug.nominated[name] ?? 0, found.other.debug.nominated[name] ?? 0]))));
      say("Nothing of this was recorded.");
    }) },
    make("div", { class: "row" }, make("label", {}, "Viewer", user), make("datalist", { id: "viewers" }, users.map((id) => make("option", { value: id }))), make("button", { class: "plain strong" }, "Compare")),
    make("div", { class: "pair" }, one.element, other.element)), below);
}
