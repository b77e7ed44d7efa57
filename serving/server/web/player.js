// Stands in for a player: the part up to the handle of the seek bar is what was watched.

import { clock, make } from "./dom.js";
import { nameOf } from "./tiles.js";
import { picture } from "./thumbnails.js";

const UNKNOWN_S = 120;  // Of a video whose duration the site does not tell.
const TICK_MS = 250;
export const COMPLETE = .95;

export class Player {
  constructor(video, { onend } = {}) {
    this.video = video;
    this.duration = video.duration_s || UNKNOWN_S;
    this.timer = null;
    this.seek = make("input", { type: "range", id: "seek", min: 0, max: Math.ceil(this.duration), step: 1, value: 0, "aria-label": "Watched up to", oninput: () => this.told() });
    this.time = make("output", { for: "seek" });
    this.speed = make("select", { id: "speed", "aria-label": "Speed" },
      ["1", "10", "60"].map((times) => make("option", { value: times }, times + "×")));
    this.button = make("button", { class: "round", type: "button", id: "play", onclick: () => this.toggle() });
    this.onend = onend;
    this.element = make("section", { "aria-label": "Player" },
      make("div", { class: "screen" }, picture(video, { isNamed: false }), this.button),
      make("div", { class: "controls" }, this.seek, this.time, this.speed));
    this.told();
    this.pause();
  }

  get watched() { return Math.min(Number(this.seek.value), this.duration); }
  get isComplete() { return this.watched >= COMPLETE * this.duration; }

  told() {
    const text = clock(this.watched) + " of " + clock(this.duration);
    this.time.value = text;
    this.seek.setAttribute("aria-valuetext", text);
  }

  toggle() { if (this.timer === null) this.play(); else this.pause(); }

  play() {
    if (this.watched >= this.duration) this.seek.value = 0;
    let last = performance.now();
    this.timer = setInterval(() => {
      const now = performance.now();
      const position = Number(this.seek.value) + Number(this.speed.value) * (now - last) / 1000;
      if (Math.floor(position) === Number(this.seek.value)) return;  // The bar has whole seconds.
      last = now;
      this.seek.value = position;
      this.told();
      if (position < this.duration) return;
      this.pause();
      this.onend?.();
    }, TICK_MS);
    this.shown("❚❚", "Pause ");
  }

  pause() {
    clearInterval(this.timer);
    this.timer = null;
    this.shown("▶", "Play ");
  }

  shown(sign, word) {
    this.button.textContent = sign;
    this.button.setAttribute("aria-label", word + nameOf(this.video));
  }
}
