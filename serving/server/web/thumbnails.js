// Pictures of videos: the site's own where the videos table has one, else drawn. The colours are the
// channel's, the kind of drawing the topic's, everything else the video's own.

import { draw, make } from "./dom.js";

const WIDTH = 320, HEIGHT = 180;
const SKIPPED = new Set(["a", "an", "and", "at", "by", "for", "from", "in", "of", "on", "or", "the", "to", "with"]);

function hashed(text) {  // FNV-1a
  let hash = 2166136261;
  for (const character of text) hash = Math.imul(hash ^ character.codePointAt(0), 16777619);
  return hash >>> 0;
}

function numbers(seed) {  // mulberry32: the same in every browser.
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4294967296;
  };
}

const round = (value) => Math.round(10 * value) / 10;

// Each draws with next() in [0, 1) and colour(shift of lightness).
const KINDS = [
  function hills(next, colour) {
    return [0, 1, 2, 3].map((layer) => {
      const points = [`M0 ${HEIGHT}`];
      const phase = 7 * next(), tall = 14 + 30 * next(), base = 70 + 28 * layer;
      for (let x = 0; x <= WIDTH; x += 16) points.push(`L${x} ${round(base + tall * Math.sin(x / (38 + 9 * layer) + phase))}`);
      return draw("path", { d: points.join("") + `L${WIDTH} ${HEIGHT}Z`, fill: colour(12 - 7 * layer) });
    });
  },
  function discs(next, colour) {
    return Array.from({ length: 7 }, (_, n) => draw("circle", {
      cx: round(WIDTH * next()), cy: round(HEIGHT * next()), r: round(18 + 62 * next()), fill: colour(14 - 4 * n), opacity: .75 }));
  },
  function rays(next, colour) {
    const x = WIDTH * (.2 + .6 * next()), y = HEIGHT * (.3 + .5 * next()), turn = next();
    return Array.from({ length: 11 }, (_, n) => {
      const angle = (a) => 2 * Math.PI * (turn + a / 22);
      const end = (a) => `${round(x + 400 * Math.cos(angle(a)))} ${round(y + 400 * Math.sin(angle(a)))}`;
      return draw("path", { d: `M${round(x)} ${round(y)}L${end(2 * n)}L${end(2 * n + .4 + .6 * next())}Z`, fill: colour(8 + n % 3 * 5), opacity: .7 });
    });
  },
  function blocks(next, colour) {
    return Array.from({ length: 28 }, (_, n) => draw("rect", {
      x: n % 7 * 46, y: Math.floor(n / 7) * 46, width: 44, height: 44, rx: 6, fill: colour(20 * next() - 8), opacity: next() < .28 ? 0 : .85 }));
  },
  function towers(next, colour) {
    return Array.from({ length: 12 }, (_, n) => {
      const tall = 30 + 120 * next();
      return draw("rect", { x: n * 27, y: round(HEIGHT - tall), width: 23, height: round(tall), fill: colour(16 * next() - 4) });
    });
  },
  function bands(next, colour) {
    const lean = 80 * next() - 40;
    return Array.from({ length: 8 }, (_, n) => {
      const y = n * 26 - 20 + 14 * next();
      return draw("path", { d: `M0 ${round(y)}L${WIDTH} ${round(y + lean)}V${round(y + lean + 17)}L0 ${round(y + 17)}Z`, fill: colour(18 - 4 * n), opacity: .85 });
    });
  },
  function rings(next, colour) {
    const x = round(WIDTH * (.25 + .5 * next())), y = round(HEIGHT * (.25 + .5 * next()));
    return Array.from({ length: 9 }, (_, n) => draw("circle", {
      cx: x, cy: y, r: round(14 + 22 * n + 9 * next()), fill: "none", stroke: colour(20 - 4 * n), "stroke-width": round(4 + 8 * next()) }));
  },
  function shards(next, colour) {
    return Array.from({ length: 9 }, (_, n) => {
      const point = () => `${round(WIDTH * (1.2 * next() - .1))} ${round(HEIGHT * (1.2 * next() - .1))}`;
      return draw("path", { d: `M${point()}L${point()}L${point()}Z`, fill: colour(18 - 4 * n), opacity: .8 });
    });
  },
];

// Two words of the title that tell it from others: its longest one, and its number or its last.
function words(title) {
  const all = (title || "").match(/[\p{L}\p{N}']+/gu) || [];
  const telling = all.filter((word) => !SKIPPED.has(word.toLowerCase()));
  const number = telling.findLast((word) => /^\p{N}+$/u.test(word));
  const longest = telling.reduce((best, word) => word.length > best.length ? word : best, "");
  const second = number ?? telling.findLast((word) => word !== longest) ?? "";
  return [longest.slice(0, 14), second.slice(0, 14)].filter(Boolean);
}

export function drawn(video, { isNamed = true } = {}) {
  const next = numbers(hashed(video.video_id));
  const channel = hashed(video.channel_id || video.video_id);
  const hue = channel % 360, chroma = 38 + (channel >>> 9) % 28;
  const second = (hue + 25 + 60 * next()) % 360;
  const colour = (shift) => `hsl(${round(next() < .35 ? second : hue)} ${chroma}% ${round(34 + shift)}%)`;
  const kind = KINDS[hashed(video.topics[0] || video.channel_id || video.video_id) % KINDS.length];
  const lines = words(video.title).map((word, line) => draw("text", {
    x: 14, y: line ? 70 : 38, fill: "#fff", stroke: "#000", "stroke-width": 4, "stroke-opacity": .5, "paint-order": "stroke",
    "font-size": line ? 24 : 29, "font-weight": 800, "font-family": "system-ui, sans-serif" }, word));
  return draw("svg", { class: "picture", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "xMidYMid slice", "aria-hidden": "true", focusable: "false" },
    draw("rect", { width: WIDTH, height: HEIGHT, fill: `hsl(${hue} ${chroma}% 22%)` }), kind(next, colour), isNamed ? lines : null);
}

export function picture(video, options) {
  if (!video.thumbnail_url) return drawn(video, options);
  const image = make("img", { class: "picture", src: video.thumbnail_url, alt: "", loading: "lazy", decoding: "async", referrerpolicy: "no-referrer" });
  image.addEventListener("error", () => image.replaceWith(drawn(video, options)), { once: true });
  return image;
}
