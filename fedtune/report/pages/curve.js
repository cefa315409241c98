// Loss by round as SVG: one line per seed, the untrained base and the honest alone as levels.
function drawCurve(curves, level, log) {
  const width = 460, height = 230, left = 46, right = 8, top = 10, bottom = 28;
  const known = curves.flatMap((curve) => curve.points).filter(([, loss]) => loss !== null);
  const svg = element("svg", { viewBox: `0 0 ${width} ${height}`, class: "curve", role: "img" });
  svg.setAttribute("aria-label", "Held-out loss by round, one line per seed");
  const losses = known.map(([, loss]) => loss).concat(level.base ?? []);
  const rounds = known.map(([round]) => round);
  // On a log scale an oracle of error 1e-15 has no place.
  const oracle = log && level.oracle < Math.min(...losses) / 30 ? null : level.oracle;
  const low = Math.min(...losses, oracle ?? Infinity), high = Math.max(...losses, oracle ?? -Infinity);
  const bend = log ? Math.log10 : (value) => value;
  const pad = (bend(high) - bend(low) || 1) * 0.08;
  const floor = bend(low) - pad, span = bend(high) + pad - floor;
  const first = Math.min(0, ...rounds), last = Math.max(1, ...rounds);
  const x = (round) => left + ((round - first) / (last - first)) * (width - left - right);
  const y = (loss) => top + (1 - (bend(loss) - floor) / span) * (height - top - bottom);

  for (const loss of log ? decades(low, high) : ticks(floor, floor + span)) {
    svg.append(element("line", { class: "grid", x1: left, x2: width - right, y1: y(loss), y2: y(loss) }));
    svg.append(element("text", { x: left - 7, y: y(loss) + 4, "text-anchor": "end" }, short(loss)));
  }
  const stride = Math.max(1, Math.ceil((last - first) / 8));
  for (let round = first; round <= last; round += stride) {
    svg.append(element("text", { x: x(round), y: height - 8, "text-anchor": "middle" }, String(round)));
  }
  svg.append(element("text", { x: left, y: height - 8, "text-anchor": "end", dx: -12 }, "round"));
  for (const [name, loss, words] of [["base", level.base, "untrained base"], ["oracle", oracle, "honest alone, at the end"]]) {
    if (loss === null) continue;
    svg.append(element("line", { class: name, x1: left, x2: width - right, y1: y(loss), y2: y(loss) }));
    svg.append(element("text", { x: width - right, y: y(loss) - 5, "text-anchor": "end" }, words));
  }
  for (const { seed, label, points } of curves) drawRun(svg, label ?? `seed ${seed}`, points, x, y);
  return svg;
}

// A loss that is not finite leaves a gap: the line is not drawn across it.
function drawRun(svg, label, points, x, y) {
  let path = "", pen = "M";
  for (const [round, loss] of points) {
    if (loss === null) { pen = "M"; continue; }
    path += `${pen}${x(round).toFixed(1)} ${y(loss).toFixed(1)}`;
    pen = "L";
  }
  if (!path) return;
  const line = element("path", { class: "run", d: path });
  line.append(element("title", {}, label));
  svg.append(line);
  const [round, loss] = points.filter((point) => point[1] !== null).pop();
  const dot = element("circle", { class: "run", cx: x(round), cy: y(loss), r: 3 });
  dot.append(element("title", {}, `${label}: ${short(loss)} after round ${round}`));
  svg.append(dot);
}

function ticks(low, high) {
  const raw = (high - low) / 4, power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 2.5, 5, 10].map((factor) => factor * power).find((size) => size >= raw);
  const found = [];
  for (let i = Math.ceil(low / step); i * step <= high; i += 1) found.push(i * step);
  return found;
}

function decades(low, high) {
  const found = [], first = Math.ceil(Math.log10(low)), stride = Math.ceil(Math.log10(high / low) / 6);
  for (let power = first; 10 ** power <= high; power += stride) found.push(10 ** power);
  return found;
}

function short(value) {
  const size = Math.abs(value);
  if (size >= 1e4 || (size > 0 && size < 1e-3)) return value.toExponential(0);
  return String(Number(value.toPrecision(3)));
}

function element(name, attributes, text) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
}
