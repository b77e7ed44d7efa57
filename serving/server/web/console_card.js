// The model card of a release, and the reports that it holds.

import { figure, make, table } from "./dom.js";

const range = (found) => !found || found.value === null || found.value === undefined ? "-" :
  figure(found.value) + (found.low === null || found.low === undefined ? "" : ` [${figure(found.low)}, ${figure(found.high)}]`);
const folded = (title, ...inside) => make("details", {}, make("summary", {}, title), ...inside);
const words = (text) => text.replaceAll("_", " ");

// Links open for an hour; after that the release is asked for anew.
export function reports(list) {
  if (!list.length) return make("p", { class: "soft" }, "It holds no reports: an older version built it.");
  return make("ul", { class: "links", id: "reports" }, list.map((one) => make("li", {},
    make("a", { href: one.address, target: "_blank", rel: "noopener" }, one.title), " ",
    make("span", { class: "soft" }, figure(Math.ceil(one.size_bytes / 1024)) + " kB"))));
}

export function card(made) {
  const { data } = made;
  return make("div", { id: "card" },
    make("h3", {}, "Model card"),
    make("p", {}, made.use.intended), make("p", { class: "soft" }, "Not for: " + made.use.not_for),
    make("dl", { class: "facts" }, [
      ["Learnt from", `${data.from ?? "the beginning"} to ${data.until ?? "-"}`],
      ["Figures are of what came after", data.measured_from ?? "-"],
      ["Videos", figure(data.videos)],
      ["Seeds", Object.entries(made.seeds).map(([name, seed]) => `${name} ${seed ?? "-"}`).join(", ")],
      ["Code", made.made.commit || "unknown"],
    ].flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, value)])),
    make("h4", {}, "Limits"), make("ul", {}, made.limits.map((limit) => make("li", {}, limit))),
    folded("Beside baselines", table("Beside baselines", ["Part", "Baseline", "Figure", "Value", "Model minus it"],
      made.baselines.map((one) => [one.part, words(one.system), words(one.metric), range(one), range(one.model_minus_it)]))),
    folded("By slice", table("By slice", ["Part", "Slice", "Figure", "Value", "n"],
      made.slices.map((one) => [one.part, words(one.slice), words(one.metric), range(one), one.n ?? "-"]))),
    folded("Data", table("Data", ["Table", "Rows read", "Accepted", "Files", "First", "Last"],
      Object.entries(data.rows).map(([name, rows]) => {
        const listed = data.log_files[name] ?? {};
        return [name, rows.read ?? "-", rows.accepted ?? "-", listed.files ?? "-", listed.first || "-", listed.last || "-"];
      }))),
    folded("Features", table("Features", ["Feature", "Kind", "Side", "Models", "Source"],
      made.features.map((one) => [one.name, one.kind, one.side, one.models.join(", "), one.source]))));
}
