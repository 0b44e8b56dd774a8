// A map of the features of a run; its images are shown under the pointer and by search.

const FOUND = 24; // images that a search lists
const SHAPES = ["circle", "x-thin-open", "triangle-up-open"]; // each in all colours
const NAMED = 20; // classes in the legend; the others are grey
const ENLARGED = 96; // pixels of a thumbnail under the pointer

const theMap = () => data.embeddings.find((each) => each.key === one("#map-run").value);

function startMap() {
  one("#embedding").addEventListener("input", drawMap); // of the choices, too; "change" comes when the focus leaves
  one("#map-found").addEventListener("focusin", (event) => showImage(event.target.closest("button")));
  one("#map-found").addEventListener("mouseover", (event) => showImage(event.target.closest("button")));
  ["focusout", "mouseleave"].forEach((kind) => one("#map-found").addEventListener(kind, hideImage));
  fillMaps();
}

function fillMaps() {
  const select = one("#map-run");
  const before = select.value;
  select.replaceChildren(...data.embeddings.map((each) => new Option(each.key, each.key, false, each.key === before)));
  one("#embedding").hidden = !data.embeddings.length;
}

// The points in which the search is found; all of them for an empty search.
function foundPoints(map) {
  const text = one("#map-search").value.trim().toLowerCase();
  const names = data.images[map.images].names;
  const matches = (point) => names[point].toLowerCase().includes(text) || className(map, point).toLowerCase().includes(text);
  return map.x.map((_, point) => point).filter(matches);
}

const className = (map, point) => map.classes[map.class[point]] ?? "";

function drawMap() {
  const map = theMap();
  if (!map) return;
  const found = foundPoints(map);
  const searched = one("#map-search").value.trim() !== "";
  one("#map-count").textContent = searched ? `${found.length} of ${map.x.length} images` : "";
  one("#map-found").replaceChildren(...(searched ? found.slice(0, FOUND) : []).map((point) => foundImage(map, point)));
  if (!window.Plotly) return;
  const plot = one("#embedding .plot");
  Plotly.react(plot, groups(map).map((group) => dots(map, group, searched ? new Set(found) : null)), mapLayout(map), CONFIG);
  if (plot.listening) return;
  plot.listening = true;
  plot.on("plotly_hover", (event) => showImage(null, event.points[0]));
  plot.on("plotly_unhover", hideImage);
}

// The points of each entry of the legend, the largest classes or clusters first.
function groups(map) {
  const by = one("#map-colours").value;
  const points = new Map();
  map[by].forEach((value, point) => points.set(value, [...(points.get(value) ?? []), point]));
  const sizes = [...points.keys()].filter((value) => value >= 0).sort((a, b) => points.get(b).length - points.get(a).length);
  const named = sizes.slice(0, NAMED).sort((a, b) => a - b);
  const label = (value) => (by === "class" ? map.classes[value] : `cluster ${value + 1}`);
  const others = [...points.keys()].filter((value) => !named.includes(value)).flatMap((value) => points.get(value));
  const entries = named.map((value, number) => ({ name: label(value), number, points: points.get(value) }));
  return others.length ? [{ name: named.length ? "others" : "images", number: null, points: others }, ...entries] : entries;
}

function dots(map, { name, number, points }, found) {
  const selected = found && points.map((point, place) => (found.has(point) ? place : -1)).filter((place) => place >= 0);
  return {
    type: "scatter",
    mode: "markers",
    name: plain(name.length > 28 ? `${name.slice(0, 27)}…` : name),
    x: points.map((point) => map.x[point]),
    y: points.map((point) => map.y[point]),
    customdata: points,
    hoverinfo: "none",
    marker: {
      size: 7,
      symbol: SHAPES[Math.floor((number ?? 0) / COLOURS) % SHAPES.length],
      color: style(number === null ? "--quiet" : `--c${number % COLOURS}`),
      line: { width: number >= COLOURS ? 1.5 : 0, color: style(`--c${(number ?? 0) % COLOURS}`) },
    },
    selectedpoints: selected,
    unselected: { marker: { opacity: 0.08 } },
  };
}

function mapLayout(map) {
  const axis = { visible: false, automargin: false };
  const narrow = matchMedia(NARROW).matches;
  return {
    ...layout(`${map.key} ${map.title}`, 0),
    title: { text: plain(map.title), font: { size: 13 }, x: 0.01 },
    hovermode: "closest",
    showlegend: true,
    legend: narrow ? { orientation: "h", y: -0.02 } : { y: 0.5, itemsizing: "constant" },
    margin: { l: 4, r: 4, t: 34, b: 8 },
    xaxis: axis,
    yaxis: axis,
  };
}

// A part of the JPEG with all thumbnails, or nothing if the point has none.
function thumbnail(map, point, size) {
  const { tiles, columns, side, jpeg } = data.images[map.images];
  const image = document.createElement("div");
  if (tiles[point] < 0) return image;
  const [row, column] = [Math.floor(tiles[point] / columns), tiles[point] % columns];
  image.className = "thumbnail";
  image.style.width = image.style.height = `${size}px`;
  image.style.backgroundImage = `url("data:image/jpeg;base64,${jpeg}")`;
  image.style.backgroundSize = `${columns * size}px auto`;
  image.style.backgroundPosition = `${-column * size}px ${-row * size}px`;
  return image;
}

function described(map, point, size) {
  const text = document.createElement("span");
  const parts = [data.images[map.images].names[point], className(map, point), `cluster ${map.cluster[point] + 1}`];
  text.textContent = parts.filter(Boolean).join(" · ");
  return [thumbnail(map, point, size), text];
}

function foundImage(map, point) {
  const button = document.createElement("button");
  button.type = "button";
  button.dataset.point = point;
  button.append(...described(map, point, 32));
  const entry = document.createElement("li");
  entry.append(button);
  return entry;
}

// The image of a point under the pointer, or of an entry of the list of found images, beside its point.
function showImage(button, hovered) {
  if (!button && !hovered) return;
  const map = theMap();
  const point = hovered ? hovered.customdata : Number(button.dataset.point);
  const { xaxis, yaxis } = one("#embedding .plot")._fullLayout;
  const image = one("#map-image");
  image.replaceChildren(...described(map, point, ENLARGED));
  image.hidden = false;
  const [x, y] = [xaxis.l2p(map.x[point]) + xaxis._offset, yaxis.l2p(map.y[point]) + yaxis._offset];
  const width = one(".map").clientWidth;
  image.style.left = `${Math.max(0, Math.min(x + 12, width - image.offsetWidth))}px`;
  image.style.top = `${Math.max(0, y - image.offsetHeight - 12)}px`;
}

function hideImage() {
  one("#map-image").hidden = true;
}
