// Elements, and numbers as people read them. Text never becomes markup.

const SVG = "http://www.w3.org/2000/svg";

export const $ = (id) => document.getElementById(id);

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return node;
}

export const make = (tag, attributes = {}, ...children) =>
  fill(document.createElement(tag), attributes, children);

export const draw = (tag, attributes = {}, ...children) =>
  fill(document.createElementNS(SVG, tag), attributes, children);

export const soft = (...children) => make("span", { class: "soft" }, ...children);

// A table: heads, and rows of cells; a number is aligned, a null is a dash.
export function table(caption, heads, rows) {
  const cell = (value) => typeof value === "object" && value !== null ? make("td", {}, value) :
    make("td", typeof value === "number" ? { class: "number" } : {}, typeof value === "number" ? figure(value) : value ?? "-");
  const made = make("table", {},
    make("caption", { class: "spoken" }, caption),
    make("thead", {}, make("tr", {}, heads.map((head) => make("th", { scope: "col" }, head)))),
    make("tbody", {}, rows.map((row) => make("tr", {}, row.map(cell)))));
  return make("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": caption }, made);
}

export function span(seconds) {
  if (seconds < 90) return Math.round(seconds) + " s";
  if (seconds < 5400) return Math.round(seconds / 60) + " min";
  if (seconds < 129600) return Math.round(seconds / 3600) + " h";
  if (seconds < 86400 * 60) return Math.round(seconds / 86400) + " days";
  if (seconds < 86400 * 730) return Math.round(seconds / 86400 / 30.4) + " months";
  return Math.round(seconds / 86400 / 365) + " years";
}

export function clock(seconds) {
  const whole = Math.round(seconds);
  const parts = [Math.floor(whole / 60) % 60, whole % 60].map((part) => String(part).padStart(2, "0"));
  const hours = Math.floor(whole / 3600);
  return hours ? hours + ":" + parts.join(":") : Number(parts[0]) + ":" + parts[1];
}

export const moment = (seconds) =>
  new Date(1000 * seconds).toISOString().slice(0, 16).replace("T", " ") + " UTC";

// Three digits that count.
export function figure(value) {
  if (value === null || value === undefined) return "-";
  if (Number.isInteger(value)) return value.toLocaleString("en");
  const size = Math.abs(value);
  return size >= 1000 ? Math.round(value).toLocaleString("en") :
    size && size < .001 ? value.toExponential(1) : String(Number(value.toPrecision(3)));
}

export const plural = (count, word) => figure(count) + " " + word + (count === 1 ? "" : "s");

export function notice(id, text) {
  $(id).textContent = text;
  $(id).hidden = !text;
}

export function newId() {
  const bytes = crypto.getRandomValues(new Uint8Array(12));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
