// Releases: figures with intervals, gates, origin; two side by side; rolling back.

import { call, part, query } from "./api.js";
import { intervals } from "./charts.js";
import { $, figure, make, table } from "./dom.js";
import { politely, say } from "./console.js";
import { card, reports } from "./console_card.js";

const megabytes = (bytes) => figure(bytes / 1048576) + " MB";
const range = (found) => !found || found.value === null ? "-" :
  figure(found.value) + (found.low === null ? "" : ` [${figure(found.low)}, ${figure(found.high)}]`);
const verdict = (text) => make("span", { class: text === "pass" ? "good" : text === "FAIL" ? "bad" : "soft" }, text);

// What most want to know first.
const MAIN = [/^candidate\.model\.all\.(recall_at_(10|100)|map_at_100)$/, /^ranker\..*per_user_loss/, /^page\./];
const isMain = (name) => MAIN.some((pattern) => pattern.test(name));

function state(one) {
  const words = [one.is_current ? "serves" : null, one.pinned_by.length ? "pinned by " + one.pinned_by.join(", ") : null,
    one.forced ? "forced: " + one.forced : null, one.fault ? "broken: " + one.fault : null].filter(Boolean);
  return make("span", { class: one.fault ? "bad" : one.is_current ? "good" : "soft" }, words.join("; ") || "kept");
}

function listed(found, detail, back) {
  return table("Releases", ["Release", "State", "Gates passed", "Size", "Before it", "Actions"], found.releases.map((one) => [
    one.release_id, state(one), one.fault ? "-" : `${one.gates_passed} of ${one.gates}`, one.fault ? "-" : megabytes(one.size_bytes), one.previous ?? "-",
    make("span", { class: "row" },
      make("button", { class: "plain", type: "button", "data-detail": one.release_id, onclick: politely(() => detail(one.release_id)) }, "Details"),
      make("button", { class: "plain", type: "button", "data-back": one.release_id, onclick: politely(() => back(one.release_id)) }, "Roll back to it"))]));
}

function details({ summary, figures, gates, origin, reports: held }, made) {
  const main = figures.filter((one) => isMain(one.name));
  const rest = figures.filter((one) => !isMain(one.name));
  const rows = (list) => list.map((one) => [one.name, range(one), one.n ?? "-"]);
  return make("section", { class: "card wide", id: "detail" }, make("h2", {}, "Release " + summary.release_id),
    make("h3", {}, "Reports"), reports(held),
    make("h3", {}, "Figures, with 95 % intervals"),
    main.length ? [intervals(main.map((one) => ({ ...one, name: one.name.split(".").at(-1) }))), table("Main figures", ["Figure", "Value", "n"], rows(main))] : null,
    rest.length ? make("details", {}, make("summary", {}, `All ${figures.length} figures`), table("All figures", ["Figure", "Value", "n"], rows(rest)))
      : main.length ? null : make("p", { class: "soft" }, "It was published without figures."),
    make("h3", {}, "Gates"),
    gates.length ? table("Gates", ["Rule", "Value", "Threshold", "Verdict"], gates.map((gate) => [gate.rule, gate.value, gate.threshold, verdict(gate.verdict)]))
      : make("p", { class: "soft" }, "It passed none: it was published without."),
    made ? card(made) : null,
    make("details", {}, make("summary", {}, "Where it comes from"), table("Origin", ["What", "Value"], Object.entries(origin))));
}

function comparison({ one, other, pairs, origins }) {
  const main = pairs.filter((pair) => isMain(pair.name) && pair.one && pair.other);
  const told = (pair) => pair.apart === null ? "-" : pair.apart ? make("b", {}, "apart") : "overlap";
  const rows = (list) => list.map((pair) => [pair.name, range(pair.one), range(pair.other), pair.difference, told(pair)]);
  const heads = ["Figure", one.release_id, other.release_id, "Difference", "Intervals"];
  return make("section", { class: "card wide", id: "comparison" },
    make("h2", {}, "Releases ", make("span", { class: "one" }, one.release_id), " and ", make("span", { class: "two" }, other.release_id)),
    main.map((pair) => make("div", {}, make("h3", {}, pair.name), intervals([{ ...pair.one, name: one.release_id }, { ...pair.other, name: other.release_id }]))),
    pairs.length ? table("Figures of two releases", heads, rows(pairs)) : make("p", { class: "soft" }, "Neither has figures."),
    make("h3", {}, "What differs in where they come from"),
    origins.length ? table("Origins", ["What", one.release_id, other.release_id], origins.map((line) => [line.name, line.one ?? "-", line.other ?? "-"]))
      : make("p", { class: "soft" }, "Nothing."));
}

function undone(list) {
  return list.length ? [make("h3", {}, "Rolled back"), table("Rolled back", ["When", "From", "To", "By", "Why"],
    list.slice(0, 20).map((one) => [one.time, one.old, one.new, one.by, one.reason || "-"]))] : null;
}

function confirm(text, act) {
  const dialog = $("confirm");
  dialog.replaceChildren(make("div", { class: "dialog" },
    make("h2", { id: "confirm-title" }, "Roll back?"), make("p", {}, text),
    make("div", { class: "row" },
      make("button", { class: "plain strong", type: "button", id: "confirm-yes", onclick: politely(async () => { dialog.close(); await act(); }) }, "Roll back"),
      make("button", { class: "plain", type: "button", id: "confirm-no", onclick: () => dialog.close() }, "Leave it"))));
  dialog.showModal();
}

export async function show(view) {
  const below = make("div", { class: "cards" });
  const table_ = make("div", { id: "releases" });
  let found = null;
  const detail = async (version) => {
    const place = "/v1/admin/releases/" + part(version);
    const told = await call(place);
    below.replaceChildren(details(told, told.has_card ? await call(place + "/card") : null));
  };
  const back = async (version) => {
    if (!found.can_roll_back) throw new Error("Not possible: " + found.why_not);
    const current = found.releases.find((one) => one.is_current)?.release_id ?? "nothing";
    confirm(`Release ${current} serves. Release ${version} would serve instead, after every file of it is verified; servers follow within seconds.`, async () => {
      const done = await call("/v1/admin/rollback", { seen: current, to: version });
      await renew();
      say(`Release ${done.new} serves now instead of ${done.old}.`);
    });
  };
  const select = (id, label) => {
    const made = make("select", { id }, found.releases.map((one) => make("option", { value: one.release_id }, one.release_id)));
    return [made, make("label", {}, label, made)];
  };
  const choose = make("div", {});
  async function renew() {
    found = await call("/v1/admin/releases");
    table_.replaceChildren(found.releases.length ? listed(found, detail, back) : make("p", { class: "notice calm" }, found.why_not || "Nothing was published yet."),
      ...(undone(found.rollbacks) ?? []));
    const [one, first] = select("one", "Release");
    const [other, second] = select("other", "beside");
    if (found.releases.length > 1) one.selectedIndex = 1;
    choose.replaceChildren(make("form", { class: "row", id: "compare", onsubmit: politely(async () => {
      if (found.releases.length < 2) throw new Error("Not possible: there is no second release to compare with.");
      below.replaceChildren(comparison(await call("/v1/admin/comparison" + query({ one: one.value, other: other.value }))));
    }) }, first, second, make("button", { class: "plain" }, "Compare")));
  }
  await renew();
  view.replaceChildren(make("section", { class: "card" }, make("h2", {}, "Releases"), table_, choose,
    found.why_not ? make("p", { class: "soft" }, "Rolling back: " + found.why_not) : null), below);
}
