// The tables, what the user has chosen, and the start.

const FIRST_LINES = 6; // whose curves are shown at first
const NARROW = "(max-width: 640px)"; // as in the style sheet
const UPDATE_MS = 2000;

const one = (selector, root = document) => root.querySelector(selector);
const all = (selector, root = document) => [...root.querySelectorAll(selector)];

// What survives an update of a served page.
const colours = new Map(); // key of a line whose curves are shown -> number of its colour
const sorting = {}; // id of a table -> {column, descending}
const seen = new Set(); // keys of the lines that were shown before
let data = null;
let stamp = ""; // of the page as it was last fetched

function start() {
  data = JSON.parse(one("#data").textContent);
  chooseNew();
  one("#filter").addEventListener("input", filterLines);
  document.addEventListener("click", clicked);
  document.addEventListener("change", changed);
  document.addEventListener("toggle", drawCharts, true);
  ["(prefers-color-scheme: dark)", NARROW].forEach((query) => matchMedia(query).addEventListener("change", draw));
  startMap();
  addEventListener("beforeprint", () => printing(true));
  addEventListener("afterprint", () => printing(false));
  fillMetrics();
  show();
  loadCharts().then(draw, () => all(".plot").forEach((plot) => (plot.textContent = "Charts need a browser of 2023 or later.")));
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

function draw() {
  drawCharts();
  drawMap();
}

// The curves of the first lines, and of new ones while there are few.
function chooseNew() {
  data.lines.forEach((line) => {
    const fresh = !seen.has(line.key) && line.runs.some((run) => run.columns.epoch);
    if (fresh && colours.size < FIRST_LINES) choose(line.key);
    if (fresh) seen.add(line.key);
  });
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

async function loadCharts() {
  const packed = Uint8Array.from(atob(one("#charts").textContent), (character) => character.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  const script = document.createElement("script");
  script.textContent = await new Response(stream).text();
  document.head.append(script);
}

function printing(now) {
  document.documentElement.classList.toggle("printing", now);
  draw();
}

// A served page: take over what has changed, and keep what the user has chosen.

async function update() {
  try {
    const answer = await fetch("update", { headers: { "If-None-Match": stamp }, cache: "no-store" });
    if (answer.ok) {
      stamp = answer.headers.get("ETag");
      replaceContent(new DOMParser().parseFromString(await answer.text(), "text/html"));
    }
    one("#live").textContent = "live";
  } catch {
    one("#live").textContent = "not connected";
  }
  setTimeout(update, UPDATE_MS);
}

function replaceContent(fresh) {
  const open = new Set(all("details.run[open]").map((each) => each.dataset.run));
  const active = document.activeElement;
  const [tag, line] = [active.tagName, active.closest("[data-line]")?.dataset.line];
  const place = active.closest("[data-live]");
  all("[data-live]").forEach((old) => old.replaceChildren(...one(`[data-live="${old.dataset.live}"]`, fresh).childNodes));
  all("details.run").forEach((each) => (each.open = open.has(each.dataset.run)));
  data = JSON.parse(one("#data").textContent);
  chooseNew();
  fillMetrics();
  fillMaps();
  show();
  drawMap();
  const again = place && line && all("[data-line]", place).find((each) => each.dataset.line === line);
  if (again) one(tag, again)?.focus();
}

start();
