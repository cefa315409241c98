// A cell opens its details; arrows walk through the matrix; Escape closes and goes back.
// Words reach the page as textContent only.
const data = JSON.parse(document.getElementById("data").textContent);
const panel = document.getElementById("panel");
const content = document.getElementById("panel-content");
let opened = null;

for (const matrix of document.querySelectorAll(".matrix")) {
  for (const span of matrix.querySelectorAll(".cell")) span.replaceWith(asButton(span));
  const first = matrix.querySelector("button.cell");
  if (first) first.tabIndex = 0;
  matrix.addEventListener("keydown", walk);
  matrix.addEventListener("click", (event) => {
    const button = event.target.closest("button.cell");
    if (button) openCell(button);
  });
}
document.getElementById("close").addEventListener("click", closePanel);
document.addEventListener("keydown", (event) => { if (event.key === "Escape" && opened) closePanel(); });

// One stop for the tab key in each matrix: hundreds of cells would bar the way to the rest.
function asButton(span) {
  const button = document.createElement("button");
  button.type = "button";
  button.className = "cell";
  button.tabIndex = -1;
  button.dataset.cell = span.dataset.cell;
  button.setAttribute("aria-label", span.dataset.label);
  button.setAttribute("aria-haspopup", "dialog");
  button.setAttribute("aria-expanded", "false");
  button.append(...span.childNodes);
  return button;
}

function walk(event) {
  const steps = { ArrowRight: [0, 1], ArrowLeft: [0, -1], ArrowDown: [1, 0], ArrowUp: [-1, 0] };
  const button = event.target.closest("button.cell");
  if (!(event.key in steps) || !button) return;
  const [down, along] = steps[event.key];
  const cell = button.parentElement, row = cell.parentElement;
  const target = row.parentElement.rows[row.sectionRowIndex + down]?.cells[cell.cellIndex + along];
  const next = target?.querySelector("button.cell");
  event.preventDefault();
  if (!next) return;
  makeStop(next);
  next.focus();
}

function makeStop(button) {
  for (const other of button.closest(".matrix").querySelectorAll("button.cell")) other.tabIndex = -1;
  button.tabIndex = 0;
}

function openCell(button) {
  if (opened) opened.setAttribute("aria-expanded", "false");
  opened = button;
  makeStop(button);
  button.setAttribute("aria-expanded", "true");
  showCell(data.cells[Number(button.dataset.cell)]);
  holdStill(button, () => {
    panel.hidden = false;
    document.body.classList.add("open");
  });
  button.scrollIntoView({ block: "nearest", inline: "nearest" });
  panel.scrollTop = 0;
  panel.focus({ preventScroll: true });
}

function closePanel() {
  holdStill(opened, () => {
    panel.hidden = true;
    document.body.classList.remove("open");
  });
  opened.setAttribute("aria-expanded", "false");
  opened.focus();
  opened = null;
}

// The page becomes narrower or wider: what was clicked stays where it was on the screen.
function holdStill(button, change) {
  const before = button.getBoundingClientRect().top;
  change();
  window.scrollBy({ top: button.getBoundingClientRect().top - before, behavior: "instant" });
}

function showCell(cell) {
  const title = make("h2", cell.title);
  title.id = "panel-title";
  content.replaceChildren(title, make("p", cell.where, "quiet"), make("p", cell.say, "say"));
  const level = data.levels[cell.level];
  const drawn = cell.curves.some((curve) => curve.points.some((point) => point[1] !== null));
  if (drawn) content.append(make("h3", "Loss, each seed"), drawCurve(cell.curves, level, cell.log));
  if (cell.dropped.length) content.append(make("h3", "Rounds in which a client was dropped"));
  for (const [label, share] of cell.dropped) content.append(bar(label, share));
  if (cell.facts.length) content.append(make("h3", "Figures"), list(cell.facts));
  if (cell.commands.length) content.append(make("h3", "The command"));
  for (const command of cell.commands) content.append(commandBox(command));
  addCopyButtons(content);
}

function list(facts) {
  const all = make("dl", undefined, "facts");
  for (const [label, text] of facts) {
    const row = make("div");
    row.append(make("dt", label), make("dd", text));
    all.append(row);
  }
  return all;
}

function bar(label, share) {
  const row = make("div", undefined, "bar"), track = make("div", undefined, "track");
  if (share === null) {
    row.append(make("span", label), make("span", "not known: the rule gives no weights"));
    return row;
  }
  const fill = make("div", undefined, "fill");
  fill.style.width = `${100 * Math.min(1, Math.max(0, share))}%`;
  track.append(fill);
  row.append(make("span", label), track, make("span", `${Math.round(100 * share)} %`));
  return row;
}

function commandBox(command) {
  const box = make("div", undefined, "command"), pre = make("pre");
  pre.tabIndex = 0;
  pre.append(make("code", command));
  box.append(pre);
  return box;
}

function make(name, text, kind) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  if (kind) made.className = kind;
  return made;
}
