// Small drawings of numbers. Each stands beside the same numbers as text.

import { draw, figure } from "./dom.js";

// Bars to the left and right of a line: [{name, value}], of one unit.
export function diverging(rows, { unit = "" } = {}) {
  const most = Math.max(...rows.map((row) => Math.abs(row.value)), 1e-9);
  const height = 22 * rows.length;
  return draw("svg", { class: "chart", viewBox: `0 0 400 ${height}`, role: "img",
    "aria-label": rows.map((row) => `${row.name} ${figure(row.value)}${unit}`).join(", ") },
    draw("line", { x1: 250, x2: 250, y1: 0, y2: height, class: "axis" }),
    rows.map((row, n) => {
      const wide = 140 * Math.abs(row.value) / most;
      return draw("g", {},
        draw("text", { x: 0, y: 22 * n + 15, class: "label" }, row.name),
        draw("rect", { x: row.value < 0 ? 250 - wide : 250, y: 22 * n + 4, width: wide, height: 14, rx: 2, class: row.value < 0 ? "down" : "up" }));
    }));
}

// A value with its interval on a common scale: [{name, value, low, high}].
export function intervals(rows) {
  const ends = rows.flatMap((row) => [row.low ?? row.value, row.high ?? row.value]).filter(Number.isFinite);
  const low = Math.min(...ends), wide = Math.max(...ends) - low || 1;
  const x = (value) => 150 + 240 * (value - low) / wide;
  const height = 24 * rows.length;
  return draw("svg", { class: "chart", viewBox: `0 0 400 ${height}`, role: "img",
    "aria-label": rows.map((row) => `${row.name} ${figure(row.value)} from ${figure(row.low)} to ${figure(row.high)}`).join(", ") },
    rows.map((row, n) => draw("g", {},
      draw("text", { x: 0, y: 24 * n + 16, class: "label" }, row.name),
      Number.isFinite(row.value) ? [
        draw("line", { x1: x(row.low ?? row.value), x2: x(row.high ?? row.value), y1: 24 * n + 12, y2: 24 * n + 12, class: "interval c" + n }),
        draw("circle", { cx: x(row.value), cy: 24 * n + 12, r: 5, class: "point c" + n })] : null)));
}

// A line over time: values, newest last.
export function sparkline(values, label) {
  const known = values.filter(Number.isFinite);
  const most = Math.max(...known, 1e-9);
  const points = values.map((value, n) => Number.isFinite(value) ? `${(200 * n / Math.max(values.length - 1, 1)).toFixed(1)},${(34 - 30 * value / most).toFixed(1)}` : null);
  return draw("svg", { class: "spark", viewBox: "0 0 200 36", preserveAspectRatio: "none", role: "img", "aria-label": label },
    draw("polyline", { points: points.filter(Boolean).join(" "), class: "line" }));
}
