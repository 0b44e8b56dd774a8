// The curves of the chosen runs, as charts and as numbers.

const COLOURS = 8; // --c0 to --c7 of the style sheet
const DASHES = ["solid", "dash", "dot", "dashdot"]; // tells apart the lines that share a colour
const FIRST_METRICS = [["loss"], ["online_linear/val_top1", "offline_linear/val_top1", "finetuned/val_top1"]];
const POINTS = 30; // a curve of more epochs has no markers
const TOGETHER = 10; // curves whose values fit into one box

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
  return chosenLines().flatMap((line) => {
    const measured = line.runs.filter((run) => run.columns[metric]);
    const pretrained = measured.filter((run) => !run.evaluation); // the loss of an evaluation is another one
    return (pretrained.length ? pretrained : measured).map((run) => ({
      name: run.key,
      number: colours.get(line.key),
      epochs: run.columns.epoch ?? run.columns[metric].map((_, row) => row + 1),
      values: run.columns[metric],
    }));
  });
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
  const narrow = matchMedia(NARROW).matches;
  const axis = { gridcolor: style("--line"), zeroline: false, linecolor: style("--line"), automargin: true };
  return {
    uirevision: metric, // an update keeps the zoom
    font: { family: getComputedStyle(document.body).fontFamily, size: 12, color: style("--ink") },
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    margin: { l: 48, r: 12, t: 12, b: 40 },
    showlegend: false,
    hovermode: narrow || count > TOGETHER ? "closest" : "x unified",
    modebar: { bgcolor: "rgba(0,0,0,0)", color: style("--quiet"), activecolor: style("--ink") },
    hoverlabel: { bgcolor: style("--card"), bordercolor: style("--line"), font: { color: style("--ink") }, namelength: 40 },
    xaxis: { ...axis, title: { text: "epoch" }, tickformat: "d", spikecolor: style("--quiet"), spikethickness: -1 },
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
