// Lays out what the server has put into words, and asks for it again every two seconds.
const POLL_MS = 2000, PATIENCE_MS = 10000;
const part = (id) => document.getElementById(id);
const seen = new Map();
let asking = false, heard = new Date();

// Run `lay` only where what it lays out has changed, so that a selection and a scroll stay.
function update(key, value, lay) {
  const text = JSON.stringify(value);
  if (seen.get(key) === text) return;
  seen.set(key, text);
  lay(value);
}

function make(name, text, className) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  return made;
}

function say(id, text) {
  part(id).textContent = text ?? "";
  part(id).hidden = !text;
}

function show(view) {
  document.title = `${view.state}: ${view.name}`;
  document.body.classList.toggle("stopped-run", view.state === "stopped");
  update("state", view.state, (state) => { part("state").textContent = state; part("state").className = state; });
  update("say", view.say, (text) => say("say", text));
  const readable = view.state !== "gone" && view.state !== "damaged";
  document.body.classList.toggle("old", !readable);
  if (!readable) {
    if (!part("name").textContent) part("name").textContent = view.name;
    update("why", null, (text) => say("why", text));
    update("commands", [], showCommands);
    return;
  }
  update("name", view.name, (text) => say("name", text));
  update("rule", view.rule, (text) => say("rule", text));
  update("why", view.why, (text) => say("why", text));
  update("silenced", view.silenced, (lines) => say("silenced", lines.join(" ")));
  update("share", view.share, (share) => { part("share").value = share; });
  update("commands", view.commands, showCommands);
  update("facts", view.facts, showFacts);
  update("curve", [view.curve_title, view.chart], showCurve);
  update("stages", view.stages, (rows) => showRows("stages", rows.map((cells) => ({ cells, mark: cells[2] }))));
  update("clients", view.clients, (rows) => showRows("clients", rows));
  update("left-out", view.left_out, (count) => {
    say("clients-left-out", count ? `${count} clients refused and dropped less often are in metrics.jsonl.` : "");
  });
  update("refusals", view.refusals, showRefusals);
}

function showCommands(commands) {
  part("commands").replaceChildren(...commands.map((command) => {
    const box = make("div", undefined, "command"), pre = make("pre");
    pre.tabIndex = 0;
    pre.append(make("code", command));
    box.append(pre);
    return box;
  }));
  addCopyButtons(part("commands"));
}

function showFacts(facts) {
  part("facts").replaceChildren(...facts.map(([label, text]) => {
    const row = make("div");
    row.append(make("dt", label), make("dd", text));
    return row;
  }));
}

// The picture is drawn by the server, from numbers alone.
function showCurve([title, chart]) {
  part("curve-title").textContent = title || "Held-out loss";
  if (!chart) {
    part("curve").replaceChildren(make("p", "Nothing was measured yet.", "quiet"));
    return;
  }
  const svg = new DOMParser().parseFromString(chart, "image/svg+xml").documentElement;
  svg.setAttribute("aria-label", `${title} by round`);
  part("curve").replaceChildren(document.importNode(svg, true));
}

// A row is its cells, the first of them its head, and how it stands: the cell that says so is coloured.
function showRows(id, rows) {
  part(`${id}-part`).hidden = rows.length === 0;
  part(id).replaceChildren(...rows.map(({ cells, mark }) => {
    const line = make("tr");
    cells.forEach((cell, place) => {
      const made = make(place ? "td" : "th", cell, place && cell === mark ? mark.replace(" ", "-") : undefined);
      if (!place) made.scope = "row";
      line.append(made);
    });
    return line;
  }));
}

function showRefusals(refusals) {
  part("refusals-part").hidden = refusals.length === 0;
  part("refusals").replaceChildren(...refusals.map(([who, when, reason]) => {
    const line = make("li");
    if (who) line.append(make("strong", `${who}, ${when}: `));
    line.append(reason);
    return line;
  }));
}

async function ask() {
  if (asking || document.hidden) return;
  asking = true;
  try {
    const answer = await fetch("data.json", { cache: "no-store", signal: AbortSignal.timeout(PATIENCE_MS) });
    if (!answer.ok) throw new Error(String(answer.status));
    show(await answer.json());
    heard = new Date();
    update("lost", "", () => say("lost", ""));
  } catch {
    const words = `The server of this page does not answer. What stands here is of ${heard.toLocaleTimeString()}.`;
    update("lost", words, () => say("lost", words));
  } finally {
    asking = false;
  }
}

show(JSON.parse(part("data").textContent));
setInterval(ask, POLL_MS);
document.addEventListener("visibilitychange", ask);
