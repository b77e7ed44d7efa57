// A video among others: picture, what is known of it, and a menu.

import { clock, draw, make, soft, span } from "./dom.js";
import { picture } from "./thumbnails.js";

export const nameOf = (video) => video.title || video.video_id;

// How much of it was watched, as a line at the foot of its picture.
function seen(part) {
  return draw("svg", { class: "seen", viewBox: "0 0 100 4", preserveAspectRatio: "none", "aria-hidden": "true" },
    draw("rect", { width: 100, height: 4, fill: "#fff", opacity: .5 }),
    draw("rect", { width: Math.round(100 * part), height: 4, fill: "#e0244f" }));
}

function menu(video, actions) {
  const made = make("details", { class: "menu" },
    make("summary", { "aria-label": "More about " + nameOf(video) }, "⋮"),
    make("ul", {}, actions.map(({ text, run }) => make("li", {},
      make("button", { type: "button", onclick: () => { close(); run(video); } }, text)))));
  const close = () => { made.open = false; };
  made.addEventListener("keydown", (event) => {
    if (event.key !== "Escape" || !made.open) return;
    close();
    made.firstChild.focus();
  });
  made.addEventListener("focusout", (event) => { if (!made.contains(event.relatedTarget)) close(); });
  return made;
}

// isNew marks what was not on the page before; part is how much of it was watched, in [0, 1].
export function tile(video, { now, part = 0, isNew = false, open, actions }) {
  const facts = [video.channel_id, now ? span(Math.max(now - video.upload_time, 0)) + " old" : null];
  const frame = make("span", { class: "frame" }, picture(video),
    video.duration_s ? make("span", { class: "badge length" }, clock(video.duration_s)) : null,
    isNew ? make("span", { class: "badge new" }, "new here") : null,
    part ? seen(part) : null);
  const button = make("button", { class: "open", type: "button", onclick: () => open(video) },
    make("span", { class: "spoken" }, "Watch" + (part ? `, ${Math.round(100 * part)} % watched` : "")),
    frame,
    make("span", { class: "text" },
      make("span", { class: "title" }, nameOf(video)),
      soft(facts.filter(Boolean).join(" · ")),
      typeof video.expected_watch_time_s === "number" ? soft("expected watch: " + span(video.expected_watch_time_s)) : null));
  const nominated = video.sources.filter((source) => !["search", "catalogue"].includes(source));
  const chips = make("span", { class: "chips" }, nominated.map((source) => make("span", { class: "chip" }, source)));
  return make("li", { class: "tile", "data-video": video.video_id }, button, make("div", { class: "under" }, chips, menu(video, actions)));
}
