// What the server does just now: since the last look, and since it started.

import { call } from "./api.js";
import { sparkline } from "./charts.js";
import { figure, make, moment, span, table } from "./dom.js";
import { fail, say } from "./console.js";

const EVERY_MS = 5000;
const KEPT = 60;

// Quantile of a histogram, by interpolation within its bucket; null of nothing, Infinity beyond all.
export function quantile({ count, bounds_s: bounds, counts }, q) {
  if (!count) return null;
  const wanted = q * count;
  const place = counts.findIndex((upTo) => upTo >= wanted);
  if (place < 0) return Infinity;
  const low = place ? bounds[place - 1] : 0, below = place ? counts[place - 1] : 0;
  return low + (bounds[place] - low) * (wanted - below) / Math.max(counts[place] - below, 1);
}

const between = (now, before) => !before || now.count < before.count ? now : {
  count: now.count - before.count, sum_s: now.sum_s - before.sum_s, bounds_s: now.bounds_s,
  counts: now.counts.map((count, n) => count - before.counts[n]) };

const ms = (seconds) => seconds === null ? "-" : seconds === Infinity ? "beyond" : figure(1000 * seconds) + " ms";
const card = (title, ...parts) => make("section", { class: "card" }, make("h2", {}, title), ...parts);
const facts = (pairs) => make("dl", { class: "facts" }, pairs.flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, value)]));

function counts(title, counter, head) {
  const rows = Object.entries(counter ?? {}).filter(([, value]) => value).sort((one, other) => other[1] - one[1]);
  return card(title, rows.length ? table(title, [head, "Count"], rows) : make("p", { class: "soft" }, "None so far."));
}

function durations(title, now, before, head) {
  const rows = Object.entries(now ?? {}).filter(([, one]) => one.count).map(([name, one]) => {
    const lately = between(one, before?.[name]);
    return [name, one.count, ms(quantile(one, .5)), ms(quantile(one, .95)), ms(quantile(one, .99)), lately.count ? ms(quantile(lately, .5)) : "-"];
  });
  return card(title, rows.length ? table(title, [head, "Count", "p50", "p95", "p99", "p50 lately"], rows) : make("p", { class: "soft" }, "None so far."));
}

function drift(found) {
  if (!found) return card("Drift", make("p", { class: "soft" }, "This server has no live state to tell it from."));
  return card("Drift", facts([
    ["Topics", found.topics === null ? "nothing watched lately" : figure(found.topics) + " bits"],
    ["Channels", found.channels === null ? "nothing watched lately" : figure(found.channels) + " bits"],
    ["Watches of a day", figure(found.watches)],
    ["Of them on videos newer than the release", found.new_videos === null ? "-" : figure(100 * found.new_videos) + " %"],
  ]), make("p", { class: "soft" }, "Jensen-Shannon divergence between the watches of the last day and those that the release was built from: 0 is the same, 1 has nothing in common."));
}

function drawn(now, before, rates) {
  const { gauges } = now;
  const pages = Object.values(now.counters.pages ?? {}).reduce((sum, count) => sum + count, 0);
  const age = (value) => value === null || value === undefined ? "-" : span(value);
  return make("div", { class: "cards" },
    card("Release", facts([
      ["Serves", now.release_id], ["Age", age(gauges.release_age_seconds)], ["Videos", figure(now.videos)],
      ["Index", now.index], ["Recall of the index", figure(gauges.index_recall)], ["Models", now.models],
      ["Waiting for a release", age(gauges.release_waiting_seconds)], ["Loads that failed", figure(gauges.release_load_failures)],
      ["Looks for new videos that failed", figure(gauges.shelf_renewal_failures)],
    ])),
    card("Pages a second", sparkline(rates, "Pages a second in the last minutes"), facts([
      ["Just now", figure(rates.at(-1) ?? null)], ["Since the start", figure(pages)], ["In flight", figure(gauges.in_flight)],
      ["Turned away", figure(Object.values(now.counters.overloads ?? {})[0] ?? 0)],
    ])),
    card("Freshness", facts([
      ["Oldest event not in the tables", age(gauges.event_log_waiting_seconds)],
      ["Event lag, p50", ms(quantile(now.histograms.event_lag_seconds?.[""] ?? { count: 0 }, .5))],
      ["Event lag, p99", ms(quantile(now.histograms.event_lag_seconds?.[""] ?? { count: 0 }, .99))],
      ["History lost and filled again", figure(gauges.history_losses)],
    ])),
    drift(now.drift),
    durations("Stages", now.histograms.stage_seconds, before?.histograms.stage_seconds, "Stage"),
    durations("Sources", now.histograms.source_seconds, before?.histograms.source_seconds, "Source"),
    durations("Requests", now.histograms.request_seconds, before?.histograms.request_seconds, "Route"),
    counts("Rungs", now.counters.pages, "Rung"),
    counts("Parts that failed or were late", now.counters.degraded, "Part"),
    counts("Shown, by source", now.counters.shown, "Source"),
    counts("Candidates, by source", now.counters.candidates, "Source"),
    counts("Held back, by reason", now.counters.filtered, "Reason"),
    counts("Viewers known by", now.counters.viewers, "Known by"),
    counts("Events", now.counters.events, "Result"));
}

export async function show(view) {
  let before = null, timer = null, isLeft = false;
  const rates = [];
  const look = async () => {
    const now = await call("/v1/admin/vitals");
    if (before) {
      const sum = (vitals) => Object.values(vitals.counters.pages ?? {}).reduce((all, one) => all + one, 0);
      rates.push(Math.max(0, (sum(now) - sum(before)) / Math.max(now.now - before.now, 1e-3)));
      rates.splice(0, rates.length - KEPT);
    }
    if (isLeft) return;
    const focused = document.activeElement?.getAttribute?.("aria-label");
    view.replaceChildren(drawn(now, before, rates));
    if (focused) [...view.querySelectorAll("[aria-label]")].find((one) => one.getAttribute("aria-label") === focused)?.focus?.({ preventScroll: true });
    before = now;
    say("As of " + moment(now.now) + ", renewed every " + EVERY_MS / 1000 + " s.");
  };
  await look();
  timer = setInterval(() => look().catch((failure) => { clearInterval(timer); fail(failure); }), EVERY_MS);
  return () => { isLeft = true; clearInterval(timer); };
}
