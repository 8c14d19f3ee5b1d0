"use strict";
// Columns, charts, changes between runs, pictures and copied commands. Without it the page has all tables and pictures.
const all = (selector, node = document) => [...node.querySelectorAll(selector)];
const text = (value, digits = 4) => value.toLocaleString("en", { maximumSignificantDigits: digits });

// The columns of all tables of metrics.
const columns = document.getElementById("columns");
const ofColumns = all("[data-column]");
for (const name of columns ? new Set(ofColumns.map((cell) => cell.dataset.column)) : []) {
  const cells = ofColumns.filter((cell) => cell.dataset.column === name);
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = name.replaceAll("_", " ");
  button.dataset.name = name;
  const press = (shown) => {
    button.setAttribute("aria-pressed", String(shown));
    for (const cell of cells) cell.hidden = !shown;
    markScrollers();
  };
  press(cells.some((cell) => !cell.hidden));
  button.addEventListener("click", () => press(cells[0].hidden));
  columns.append(button);
  columns.hidden = false;
}

// What there is to the right of a table is announced by a shadow.
function markScrollers() {
  for (const each of all(".scroll")) {
    each.parentNode.classList.toggle("more", each.scrollLeft + each.clientWidth < each.scrollWidth - 2);
  }
}
for (const each of all(".scroll")) each.addEventListener("scroll", markScrollers, { passive: true });
addEventListener("resize", markScrollers);
addEventListener("load", markScrollers);

// Charts: 340 x 210 units, which style.css scales.
const LEFT = 46, RIGHT = 330, TOP = 10;

function axis(values, room, start, end) {
  let low = Math.min(...values), high = Math.max(...values);
  const space = high > low ? (high - low) * room : Math.abs(high) * 0.1 || 1;
  [low, high] = [low - space, high + space];
  return { low, high, place: (value) => start + (value - low) / (high - low) * (end - start) };
}

function ticks({ low, high }, most) {
  const size = 10 ** Math.floor(Math.log10((high - low) / most));
  const step = size * [1, 2, 2.5, 5, 10].find((each) => size * each * most >= high - low);
  const found = [];
  for (let k = Math.ceil(low / step - 1e-9); k * step <= high + 1e-9 * step; k++) found.push(Number((k * step).toPrecision(12)));
  return found;
}

function draw(figure) {
  const { series, kind, x: xName } = JSON.parse(figure.dataset.chart);
  const svg = figure.querySelector("svg"), front = kind === "front", bottom = front ? 172 : 184;
  const points = series.flatMap((each) => each.points);
  const x = axis(points.map((point) => point[0]), front ? 0.25 : 0, LEFT, RIGHT);
  const y = axis(points.map((point) => point[1]), front ? 0.25 : 0.04, bottom, TOP);
  const add = (tag, attributes, content = "") => {
    const node = document.createElementNS(svg.namespaceURI, tag);
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    node.textContent = content;
    svg.append(node);
    return node;
  };
  const path = (line) => line.map(([a, b]) => `${x.place(a).toFixed(1)},${y.place(b).toFixed(1)}`).join(" ");
  for (const tick of ticks(y, 5)) {
    const at = y.place(tick);
    add("line", { class: "grid", x1: LEFT, x2: RIGHT, y1: at, y2: at });
    add("text", { x: LEFT - 6, y: at + 3.5, "text-anchor": "end" }, text(tick, 6));
  }
  add("line", { class: "axis", x1: LEFT, x2: RIGHT, y1: bottom, y2: bottom });
  for (const tick of ticks(x, 5)) {
    const at = x.place(tick);
    add("text", { x: at, y: bottom + 16, "text-anchor": "middle" }, text(tick, 6));
  }
  if (front) {
    const best = points.filter(([a, b]) => !points.some(([c, d]) => (c !== a || d !== b) && c >= a && d >= b));
    add("polyline", { class: "front", points: path(best.sort((one, other) => one[0] - other[0])) });
    add("text", { x: (LEFT + RIGHT) / 2, y: 208, "text-anchor": "middle" }, xName);
  }
  for (const each of series) {
    if (each.points.length > 1) add("polyline", { class: each.class, points: path(each.points) });
    for (const [a, b] of kind === "steps" && each.points.length > 1 ? [] : each.points) {
      const dot = add("circle", { class: each.class, cx: x.place(a), cy: y.place(b), r: front ? 5 : 3 });
      if (!front) continue;
      const name = add("text", { class: "name", x: x.place(a) + 9, y: y.place(b) + 4 }, each.name);
      if (x.place(a) + 9 + 6 * each.name.length > 340) { // it would leave the chart on the right
        name.setAttribute("x", x.place(a) - 9);
        name.setAttribute("text-anchor", "end");
      }
      dot.append(Object.assign(document.createElementNS(svg.namespaceURI, "title"), { textContent: `${each.name}: ${text(a)} ${xName}, ${text(b)}` }));
    }
  }
  if (!front) readable(figure, svg, series, x, add("line", { class: "cursor", y1: TOP, y2: bottom, visibility: "hidden" }));
}

// The values of a chart's lines where the pointer or the arrow keys are.
function readable(figure, svg, series, x, cursor) {
  const tip = document.createElement("div");
  tip.className = "tip";
  tip.hidden = true;
  tip.setAttribute("role", "status");
  figure.append(tip);
  const places = [...new Set(series.flatMap((each) => each.points.map((point) => point[0])))].sort((a, b) => a - b);
  const nearest = (values, at) => values.reduce((best, each) => Math.abs(each - at) < Math.abs(best - at) ? each : best);
  let shown = places.length - 1;
  const show = (place) => {
    shown = places.indexOf(place);
    const at = x.place(place);
    cursor.setAttribute("x1", at);
    cursor.setAttribute("x2", at);
    cursor.setAttribute("visibility", "visible");
    tip.replaceChildren(`after ${place.toLocaleString("en")}`);
    for (const each of series) {
      const own = nearest(each.points.map((point) => point[0]), place);
      if (Math.abs(own - place) > (x.high - x.low) / 20) continue; // it has not come so far
      const line = document.createElement("div"), value = document.createElement("b");
      line.className = `value ${each.class}`;
      value.textContent = text(each.points.find((point) => point[0] === own)[1]);
      line.append(value, ` ${each.name}`);
      tip.append(line);
    }
    tip.classList.toggle("left", at > (LEFT + RIGHT) / 2);
    tip.hidden = false;
  };
  const hide = () => {
    tip.hidden = true;
    cursor.setAttribute("visibility", "hidden");
  };
  const follow = (event) => {
    const box = svg.getBoundingClientRect();
    const part = ((event.clientX - box.left) / box.width * 340 - LEFT) / (RIGHT - LEFT);
    show(nearest(places, x.low + part * (x.high - x.low)));
  };
  const enlarge = () => figure.classList.toggle("large");
  svg.addEventListener("pointermove", follow);
  svg.addEventListener("pointerdown", follow);
  svg.addEventListener("pointerleave", hide);
  svg.addEventListener("blur", hide);
  svg.addEventListener("click", (event) => { if (event.pointerType !== "touch") enlarge(); });
  svg.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (event.key === "Enter") enlarge();
    else if (event.key === "Escape") hide();
    else if (step) show(places[Math.min(Math.max(shown + (tip.hidden ? 0 : step), 0), places.length - 1)]);
    else return;
    event.preventDefault();
  });
}
all("[data-chart]").forEach(draw);

// Classes: the change between two runs, the greatest gain first.
for (const form of all(".compare")) {
  const table = form.parentNode.querySelector("table"), body = table.tBodies[0];
  const rows = [...body.rows];
  const compare = () => {
    const [from, to] = all("select", form).map((select) => select.value);
    const value = (row, run) => parseFloat(all("[data-value]", row)[run].dataset.value);
    const changes = new Map(rows.map((row) => [row, from === "" ? NaN : value(row, to) - value(row, from)]));
    const known = [...changes.values()].filter((each) => !Number.isNaN(each));
    const largest = Math.max(...known.map(Math.abs), 1e-9);
    for (const cell of all(".change", table)) cell.hidden = from === "";
    for (const [row, change] of changes) {
      const cell = row.querySelector(".change");
      const rounded = Number(change.toFixed(1));
      cell.classList.toggle("none", Number.isNaN(change));
      cell.textContent = Number.isNaN(change) ? "n/a" : `${rounded > 0 ? "+" : ""}${rounded.toFixed(1)}`.replace("-", "−");
      cell.dataset.sign = String(Math.sign(rounded) || 0);
      const bar = document.importNode(document.getElementById("change-bar").content, true);
      const width = Math.abs(change || 0) / largest * 50;
      bar.querySelector("rect").setAttribute("x", change < 0 ? 50 - width : 50);
      bar.querySelector("rect").setAttribute("width", width);
      cell.prepend(bar);
    }
    const rank = (row) => Number.isNaN(changes.get(row)) ? -Infinity : changes.get(row);
    body.append(...(from === "" ? rows : [...rows].sort((a, b) => rank(b) - rank(a) || 0)));
    markScrollers();
  };
  form.addEventListener("change", compare);
  form.hidden = false;
  compare();
}

// Pictures: what the tiles of runs show. The page holds each image and ground truth once: a tile borrows them.
const kinds = ["prediction", "truth", "image"];
const words = { prediction: "prediction", truth: "ground truth", image: "image" };
const toolbar = document.querySelector(".toolbar");
const said = document.getElementById("shown");
const following = (kind, step) => kinds[(kinds.indexOf(kind) + step + kinds.length) % kinds.length];

function show(tile, kind) {
  const picture = tile.querySelector("img");
  tile.prediction ??= picture.src;
  const lent = tile.closest(".example").querySelector(`img[data-kind="${kind}"]`);
  if (kind !== "prediction" && !lent) return;
  picture.src = kind === "prediction" ? tile.prediction : lent.src;
  tile.dataset.shows = kind;
  tile.querySelector(".badge").textContent = words[kind];
  tile.setAttribute("aria-label", `${tile.dataset.run}: ${words[kind]} of ${tile.dataset.name}`);
}

function showAll(kind) {
  for (const tile of all(".tile")) show(tile, kind);
  for (const button of all("button", toolbar)) {
    button.setAttribute("aria-pressed", String(button.dataset.show === kind));
  }
  said.textContent = `The pictures of runs show the ${words[kind]}.`;
}

function stepAll(step) {
  showAll(following(toolbar.querySelector('[aria-pressed="true"]').dataset.show, step));
}

if (toolbar) {
  const gallery = document.getElementById("gallery");
  toolbar.addEventListener("click", (event) => {
    const kind = event.target.closest("button")?.dataset.show;
    if (kind) showAll(kind);
  });
  for (const tile of all(".tile")) {
    tile.addEventListener("click", () => {
      show(tile, following(tile.dataset.shows ?? "prediction", 1));
      said.textContent = tile.getAttribute("aria-label");
    });
  }
  document.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!step || event.altKey || event.ctrlKey || event.metaKey || event.shiftKey) return;
    const box = gallery.getBoundingClientRect();
    const seen = box.top < innerHeight / 2 && box.bottom > innerHeight / 2;
    const nowhere = event.target === document.body || event.target.id === "content";
    if (!(event.target.closest?.("#gallery") || (nowhere && seen))) return;
    event.preventDefault();
    stepAll(step);
  });
  let start = null; // of a finger
  gallery.addEventListener("touchstart", (event) => {
    start = event.touches.length === 1 && event.target.closest(".tiles") ? event.touches[0] : null;
  }, { passive: true });
  gallery.addEventListener("touchend", (event) => {
    if (!start) return;
    const end = event.changedTouches[0];
    const across = end.clientX - start.clientX, down = end.clientY - start.clientY;
    start = null;
    if (Math.abs(across) < 40 || Math.abs(across) < 2 * Math.abs(down)) return;
    stepAll(across < 0 ? 1 : -1);
  });
}

function select(node) {
  const range = document.createRange();
  range.selectNodeContents(node);
  const selection = getSelection();
  selection.removeAllRanges();
  selection.addRange(range);
}

for (const button of all(".copy")) {
  button.addEventListener("click", async () => {
    const code = button.parentElement.querySelector("code");
    let copied = false;
    try {
      await navigator.clipboard.writeText(code.textContent);
      copied = true;
    } catch { // pages of a file may be refused: the old way, else the text stays selected
      select(code);
      copied = document.execCommand("copy");
    }
    button.textContent = copied ? "Copied" : "Press Ctrl+C";
    setTimeout(() => { button.textContent = "Copy"; }, 2000);
  });
}

// A link to a run opens it.
function openTarget() {
  const target = document.getElementById(location.hash.slice(1));
  if (target instanceof HTMLDetailsElement) target.open = true;
}
addEventListener("hashchange", openTarget);
openTarget();
addEventListener("beforeprint", () => {
  for (const details of all("details")) details.open = true;
});
