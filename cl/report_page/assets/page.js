"use strict";

const FIRST_LINES = 6; // whose curves are shown at first
const COLOURS = 8; // --c0 to --c7 of the style sheet
const DASHES = ["solid", "dash", "dot", "dashdot"]; // tells apart the lines that share a colour
const FIRST_METRICS = [["loss"], ["online_linear/val_top1", "offline_linear/val_top1", "finetuned/val_top1"]];
const POINTS = 30; // a curve of more epochs has no markers
const TOGETHER = 10; // curves whose values fit into one box
const UPDATE_MS = 2000;

const one = (selector, root = document) => root.querySelector(selector);
const all = (selector, root = document) => [...root.querySelectorAll(selector)];

// What survives an update of a served page.
const colours = new Map(); // key of a line whose curves are shown -> number of its colour
const sorting = {}; // id of a table -> {column, descending}
let data = null;

function start() {
  data = JSON.parse(one("#data").textContent);
  data.lines.filter((line) => line.runs.some((run) => run.columns.epoch)).slice(0, FIRST_LINES).forEach((line) => choose(line.key));
  one("#filter").addEventListener("input", filterLines);
  document.addEventListener("click", clicked);
  document.addEventListener("change", changed);
  document.addEventListener("toggle", drawCharts, true);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawCharts);
  addEventListener("beforeprint", () => printing(true));
  addEventListener("afterprint", () => printing(false));
  fillMetrics();
  show();
  loadCharts().then(drawCharts, () => all(".plot").forEach((plot) => (plot.textContent = "Charts need a browser of 2023 or later.")));
  if (document.body.dataset.served) setTimeout(update, UPDATE_MS);
}

// Everything that depends on the state: called once, and after each update.
function show() {
  all("#results input").forEach((box) => {
    const number = colours.get(box.closest("tr").dataset.line);
    box.checked = number !== undefined;
    box.style.setProperty("--colour", box.checked ? `var(--c${number % COLOURS})` : "");
  });
  Object.keys(sorting).forEach((id) => sortTable(one(`#${id}`)));
  filterLines();
  showLegend();
  drawCharts();
}

function choose(key) {
  const taken = new Set(colours.values());
  let number = 0;
  while (taken.has(number)) number += 1;
  colours.set(key, number);
}

function clicked(event) {
  const heading = event.target.closest(".sortable thead button");
  const link = event.target.closest("a[data-open]");
  const copy = event.target.closest(".copy");
  if (heading) {
    const table = heading.closest("table");
    const column = heading.closest("th").cellIndex;
    const now = sorting[table.id];
    sorting[table.id] = { column, descending: now?.column === column && !now.descending };
    sortTable(table);
  } else if (link) {
    event.preventDefault();
    openRun(link.dataset.open);
  } else if (copy) {
    copyText(copy);
  }
}

function changed(event) {
  const line = event.target.closest("#results tr");
  if (line) {
    if (event.target.checked) choose(line.dataset.line);
    else colours.delete(line.dataset.line);
    show();
  } else if (event.target.closest(".chart select")) {
    drawCharts();
  }
}

// Numbers first, by value; then text; empty cells last, in either direction.
function sortTable(table) {
  const { column, descending } = sorting[table.id];
  const rank = (cell) => (cell.dataset.order === "" ? 2 : cell.classList.contains("number") ? 0 : 1);
  const compare = (first, second) => {
    const [a, b] = [first.cells[column], second.cells[column]];
    if (rank(a) !== rank(b)) return rank(a) - rank(b);
    const order = rank(a) ? a.dataset.order.localeCompare(b.dataset.order, "en", { numeric: true }) : a.dataset.order - b.dataset.order;
    return descending ? -order : order;
  };
  const before = [...table.tBodies[0].rows];
  const after = [...before].sort(compare);
  if (after.some((row, place) => row !== before[place])) table.tBodies[0].append(...after); // a moved row loses the focus
  all("thead th", table).forEach((heading) => heading.removeAttribute("aria-sort"));
  table.tHead.rows[0].cells[column].setAttribute("aria-sort", descending ? "descending" : "ascending");
}

// A line is shown if its rows of both tables together contain every word.
function filterLines() {
  const words = one("#filter").value.toLowerCase().split(/\s+/).filter(Boolean);
  const texts = new Map();
  all("tr[data-line]").forEach((row) => texts.set(row.dataset.line, `${texts.get(row.dataset.line) ?? ""} ${row.textContent.toLowerCase()}`));
  const shown = new Set([...texts.keys()].filter((key) => words.every((word) => texts.get(key).includes(word))));
  all("[data-line]").forEach((element) => (element.hidden = !shown.has(element.dataset.line)));
  one("#count").textContent = words.length ? `${shown.size} of ${texts.size} rows` : "";
}

function openRun(key) {
  const runs = all("details.run").filter((each) => each.dataset.line === key);
  runs.forEach((each) => (each.open = true));
  one("summary", runs[0]).focus();
  runs[0].scrollIntoView({ block: "start" });
}

async function copyText(button) {
  const code = one("code", button.parentElement);
  try {
    await navigator.clipboard.writeText(code.textContent);
    button.textContent = "copied";
  } catch {
    getSelection().selectAllChildren(code); // a browser that lets no page write to the clipboard
  }
}

// Curves

function chosenLines() {
  return data.lines.filter((line) => colours.has(line.key));
}

function showLegend() {
  const entries = chosenLines().map((line) => {
    const number = colours.get(line.key);
    const entry = document.createElement("li");
    const dash = { solid: "", dash: "6 3", dot: "2 3", dashdot: "6 3 2 3" }[dashOf(number)];
    entry.innerHTML = `<svg width="22" height="8" aria-hidden="true"><path d="M0 4H22" stroke="var(--c${number % COLOURS})" stroke-width="3" stroke-dasharray="${dash}"/></svg><span></span>`;
    one("span", entry).textContent = line.key + (line.runs.length > 1 ? ` + ${line.runs.length - 1}` : "");
    return entry;
  });
  if (!entries.length) {
    entries.push(document.createElement("li"));
    entries[0].textContent = "Tick runs in the table above.";
  }
  one("#legend").replaceChildren(...entries);
}

const dashOf = (number) => DASHES[Math.floor(number / COLOURS) % DASHES.length];

function fillMetrics() {
  const names = new Set(data.lines.flatMap((line) => line.runs.flatMap((run) => Object.keys(run.columns))));
  ["epoch", "step"].forEach((name) => names.delete(name));
  all(".chart select").forEach((select, number) => {
    const before = select.value || FIRST_METRICS[number].find((name) => names.has(name));
    select.replaceChildren(...[...names].map((name) => new Option(name, name, false, name === before)));
  });
}

// [{name, colour, dash, epochs, values}] of the chosen runs that have the metric.
function curves(metric) {
  return chosenLines().flatMap((line) =>
    line.runs
      .filter((run) => run.columns[metric])
      .map((run) => ({
        name: run.key,
        number: colours.get(line.key),
        epochs: run.columns.epoch ?? run.columns[metric].map((_, row) => row + 1),
        values: run.columns[metric],
      })),
  );
}

function drawCharts() {
  all(".chart").forEach((chart) => {
    const metric = one("select", chart).value;
    const shown = curves(metric);
    if (one("details", chart).open) fillNumbers(one("table", chart), shown);
    if (window.Plotly) Plotly.react(one(".plot", chart), shown.map(trace), layout(metric, shown.length), CONFIG);
  });
}

const CONFIG = {
  responsive: true,
  displaylogo: false,
  modeBarButtons: [["zoom2d", "pan2d", "resetScale2d", "toImage"]],
};
const style = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const plain = (text) => text.replace(/&/g, "&amp;").replace(/</g, "&lt;"); // plotly reads tags in names

function trace({ name, number, epochs, values }) {
  return {
    x: epochs,
    y: values.map((value) => (typeof value === "number" ? value : null)),
    name: plain(name),
    mode: values.length > POINTS ? "lines" : "lines+markers",
    line: { color: style(`--c${number % COLOURS}`), dash: dashOf(number), width: 2 },
    marker: { size: 5 },
    connectgaps: true,
    hovertemplate: "%{y}<extra>%{fullData.name}</extra>",
  };
}

function layout(metric, count) {
  const axis = { gridcolor: style("--line"), zeroline: false, linecolor: style("--line"), automargin: true };
  return {
    uirevision: metric, // an update keeps the zoom
    font: { family: getComputedStyle(document.body).fontFamily, size: 12, color: style("--ink") },
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    margin: { l: 48, r: 12, t: 12, b: 40 },
    showlegend: false,
    hovermode: count > TOGETHER ? "closest" : "x unified",
    modebar: { bgcolor: "rgba(0,0,0,0)", color: style("--quiet"), activecolor: style("--ink") },
    hoverlabel: { bgcolor: style("--card"), bordercolor: style("--line"), font: { color: style("--ink") }, namelength: 40 },
    xaxis: { ...axis, title: { text: "epoch" }, tickformat: "d" },
    yaxis: { ...axis, exponentformat: "power" },
  };
}

function fillNumbers(table, shown) {
  const epochs = [...new Set(shown.flatMap((curve) => curve.epochs))].sort((a, b) => a - b);
  const columns = shown.map((curve) => new Map(curve.epochs.map((epoch, row) => [epoch, curve.values[row]])));
  table.replaceChildren();
  const head = table.createTHead().insertRow();
  ["epoch", ...shown.map((curve) => curve.name)].forEach((name) => {
    const cell = head.appendChild(document.createElement("th"));
    cell.scope = "col";
    cell.className = "number";
    cell.textContent = name;
  });
  const body = table.createTBody();
  epochs.forEach((epoch) => {
    const row = body.insertRow();
    [epoch, ...columns.map((column) => column.get(epoch) ?? "")].forEach((value) => {
      const cell = row.insertCell();
      cell.className = "number";
      cell.textContent = value;
    });
  });
}

async function loadCharts() {
  const packed = Uint8Array.from(atob(one("#charts").textContent), (character) => character.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  const script = document.createElement("script");
  script.textContent = await new Response(stream).text();
  document.head.append(script);
}

function printing(now) {
  document.documentElement.classList.toggle("printing", now);
  drawCharts();
}

start();
