// The experiment that runs: arms, exposure, and what it showed so far.

import { call } from "./api.js";
import { intervals } from "./charts.js";
import { figure, make, plural, table } from "./dom.js";
import { politely } from "./console.js";

const settings = (arm) => Object.entries(arm.settings).map(([name, value]) => `${name} ${value}`).join(", ") || "those of the server";

// However often one looks, this says "differs" of equal arms with 5 % at most.
const verdict = ({ low, excludes_zero: differs }) => low === null ? ", too few users to tell" : differs ? ", differs" : ", no difference shown";

function result({ split, pages_waiting: waiting, arms, differences }) {
  const metrics = Object.keys(Object.values(arms)[0].metrics);
  return make("section", { class: "card", id: "result" }, make("h2", {}, "What it showed so far"),
    make("p", { class: split.is_mismatch ? "notice" : "notice calm" }, split.is_mismatch
      ? `The arms do not have their shares of the users (p = ${figure(split.p)}): something else differs between them, so no difference is read.`
      : `The arms have their shares of the users (p = ${figure(split.p)}).`),
    waiting ? make("p", { class: "soft" }, plural(waiting, "page") + " still wait in the event log: more may come of them.") : null,
    metrics.map((metric) => make("div", {}, make("h3", {}, metric.replaceAll("_", " ")),
      intervals(Object.entries(arms).map(([name, arm]) => ({ name, ...arm.metrics[metric] }))),
      table(metric, ["Arm", "Value", "95 % interval", "Minus the control"], Object.entries(arms).map(([name, arm]) => {
        const { value, low, high } = arm.metrics[metric];
        const apart = differences[name]?.[metric];
        return [name, value, `${figure(low)} to ${figure(high)}`,
          apart ? `${figure(apart.value)} [${figure(apart.low)}, ${figure(apart.high)}]${verdict(apart.at_any_time)}` : "-"];
      })))));
}

export async function show(view) {
  const found = await call("/v1/admin/experiment");
  const below = make("div", {});
  const ask = politely(async () => below.replaceChildren(result(await call("/v1/admin/experiment/result"))));
  view.replaceChildren(make("section", { class: "card" },
    make("h2", {}, found.name ? "Experiment " + found.name : "No experiment"),
    found.name
      ? table("Arms", ["Arm", "Share of users", "Release", "Settings", "Pages shown by this process"],
        found.arms.map((arm) => [arm.name, figure(100 * arm.share) + " %", arm.release_id ?? "the current one", settings(arm), arm.pages]))
      : make("p", { class: "soft" }, "Start the server with --experiment=FILE to split users between releases or settings."),
    make("button", { class: "plain", type: "button", id: "ask-result", onclick: ask }, "What did it show so far?")), below);
}
