// Why a video is on a viewer's page, or why not: the stages, one after the other.

import { call } from "./api.js";
import { diverging } from "./charts.js";
import { figure, make, moment, plural, soft, span, table } from "./dom.js";

const STAGES = { retrieval: "Nearest to the viewer", ranker: "Expected watch time", order: "Order of the page", page: "Page" };
const GROUPS = {
  user: "who the viewer is", context: "device and hour", history: "what the viewer did",
  video: "the video itself", nomination: "how it was found",
};
const FILTERS = {
  watched: "not watched already", shown_too_often: "not shown too often", blocked_video: "video not blocked",
  blocked_channel: "channel not blocked", hidden_video: "video not hidden", hidden_channel: "channel not hidden",
  excluded: "not left out by the request", withdrawn: "not withdrawn", region: "allowed in the region", age: "allowed at this age",
  custom: "the site's own filter", topic: "on a topic asked for", language: "in a language asked for",
};

const stage = (is, title, ...parts) => make("li", { class: is ? "passed" : "dropped" }, make("h3", {}, title), ...parts);

function filters(why) {
  const failed = why.filters.filter((filter) => !filter.passed);
  const chips = why.filters.map((filter) => make("span", { class: "chip " + (filter.passed ? "good" : "bad") },
    (filter.passed ? "✓ " : "✗ ") + (FILTERS[filter.name] ?? filter.name)));
  const resting = failed.length > 0 && failed.every((filter) => filter.name === "shown_too_often");
  return stage(!failed.length || resting, failed.length ? resting ? "Shown often: comes last" : "Held back by a filter" : "Passed all filters",
    make("div", { class: "chips" }, chips));
}

function sources(why) {
  const named = why.sources.filter((source) => source.place !== null);
  return stage(named.length, named.length ? "Named by " + plural(named.length, "source") : "Named by no source",
    table("Candidate sources", ["Source", "Score", "Place", "Of"],
      why.sources.map((source) => [source.source, source.score, source.place, source.of])));
}

function ranks(why) {
  if (!why.standings.length) return null;
  return stage(why.standings.every((standing) => standing.place !== null), "Place after each stage",
    table("Place after each stage", ["Stage", "Place", "Of", "What moved it"],
      why.standings.map((standing) => [STAGES[standing.stage], standing.place, standing.of, standing.moved_by || "-"])));
}

function contributions(why, told) {
  if (!why.contributions.length) return told ? [make("h3", {}, "What counts"), make("p", { class: "soft" }, "Not told: " + told + ".")] : [];
  const rows = [...why.contributions].sort((one, other) => Math.abs(other.seconds) - Math.abs(one.seconds));
  return [
    make("h3", {}, "What counts"),
    make("p", {}, `Expected watch time: ${span(why.expected_watch_time_s)}. Without each group of features it would be:`),
    diverging(rows.map((row) => ({ name: GROUPS[row.group] ?? row.group, value: row.seconds })), { unit: " s" }),
    table("Contribution of groups of features", ["Without", "Expected watch, s", "Contribution, s"],
      rows.map((row) => [GROUPS[row.group] ?? row.group, row.without_s, row.seconds])),
  ];
}

function order(why) {
  if (!why.order_parts.length) return [];
  return [make("h3", {}, "What counts in the learned order"),
    table("Parts of the learned order", ["Column", "Adds"], why.order_parts.map((part) => [part.name, part.value]))];
}

function near(why) {
  if (!why.near.length) return [];
  return [make("h3", {}, "Nearest of what was watched"),
    table("Nearest watched videos", ["Video", "Similarity", "Watched"],
      why.near.map((one) => [one.title || one.video_id, one.similarity, moment(one.time)]))];
}

function shown(why) {
  if (!why.shown) return [];
  const { times, lately, last, window_s: window, rests_from: limit } = why.shown;
  const text = times ? `${plural(times, "time")}, ${lately} in the last ${span(window)}, last at ${moment(last)}.` : "Never.";
  return [make("h3", {}, "Shown to this viewer"), make("p", {}, text + (limit ? ` From ${limit} on it comes last.` : ""))];
}

function told(why, explanation) {
  return [
    make("p", { class: why.outcome === "shown" ? "notice calm" : "notice", id: "verdict" }, why.told),
    why.outcome === "unknown" ? null : make("ol", { class: "stages" }, filters(why), sources(why), ranks(why)),
    contributions(why, explanation.groups_told), order(why), near(why), shown(why),
    make("p", {}, soft(`As of now, ${moment(explanation.now)}: release ${explanation.release_id}, rung ${explanation.rung}, ${plural(explanation.candidates, "candidate")}. Retrieval score ${figure(why.retrieval_score)}.`)),
  ].flat();
}

// Asks about a video, and puts the answer into an element.
export async function answer(into, user, videoId, context) {
  const explanation = await call("/v1/why", { user_id: user, video_ids: [videoId], context });
  into.replaceChildren(...told(explanation.videos[0], explanation).filter(Boolean));
  return explanation.videos[0];
}

export async function explain(dialog, user, videoId, context) {
  const title = make("h2", { id: "why-title" }, "Why?");
  const body = make("div", { id: "why-body" });
  const input = make("input", { id: "why-other", required: true, maxlength: 256, autocomplete: "off" });
  const error = make("p", { class: "error", role: "alert", hidden: true });
  const form = make("form", { class: "row", onsubmit: async (sent) => {
    sent.preventDefault();
    error.hidden = true;
    try { await ask(input.value.trim()); } catch (failure) { error.textContent = failure.message; error.hidden = false; }
  } }, make("label", {}, "Why not another video? Its id", input), make("button", { class: "plain" }, "Ask"));
  const ask = async (id) => {
    const why = await answer(body, user, id, context);
    title.textContent = (why.outcome === "shown" ? "Why " : "Why not ") + (why.title || why.video_id) + "?";
    title.focus();
  };
  await ask(videoId);
  title.tabIndex = -1;
  dialog.replaceChildren(make("div", { class: "dialog" },
    make("header", {}, title, make("button", { class: "plain", type: "button", id: "why-close", onclick: () => dialog.close() }, "Close")),
    error, body, form));
  if (!dialog.open) dialog.showModal();
}
