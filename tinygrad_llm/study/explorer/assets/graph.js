// The drawing of the graph: boxes that can be clicked, edges between them, zoom and pan.

const state = { mode: "forward", open: new Set(), box: null, trail: [], time: Infinity };
const stage = document.getElementById("stage"), world = document.getElementById("world");
const edgeLayer = document.getElementById("edges"), boxLayer = document.getElementById("boxes");
const camera = { x: 0, y: 0, k: 1 };
const elements = new Map(); // key -> element of a box or a frame
let picture = null; // the layout that is shown
const still = () => window.matchMedia("(prefers-reduced-motion: reduce)").matches;

// The value that stands for a box or a folded group: the last that it makes.
function valueOf(key) {
  const box = data.boxes[isGroup(key) ? members[numberOf(key)].filter((b) => data.boxes[b].op).at(-1) ?? members[numberOf(key)].at(-1) : numberOf(key)];
  return data.values[box.values.at(-1)];
}

const arrayOf = (value) => (state.mode === "forward" ? value.array : value.gradient);

// Magnitudes on a logarithmic scale from 0 to 1, over all values or over all gradients.
const scales = Object.fromEntries(["array", "gradient"].map((field) => {
  const logs = data.values.map((v) => v[field]).filter((i) => i !== undefined).map((i) => data.arrays[i].rms).filter((r) => r > 0).map(Math.log10);
  return [field, logs.length ? [Math.min(...logs), Math.max(...logs)] : [0, 0]];
}));
function level(i) {
  if (i === undefined || !(data.arrays[i].rms > 0)) return 0;
  const [low, high] = scales[state.mode === "forward" ? "array" : "gradient"];
  return high > low ? 0.08 + (0.92 * (Math.log10(data.arrays[i].rms) - low)) / (high - low) : 0.5;
}

const shortName = (name) => name.split(".").at(-1);
const ownName = (box) => (box.op && new RegExp(`^${box.op}(_\\d+)?$`).test(box.name) ? "" : box.name);

function groupTitle(g) {
  const group = data.groups[g];
  if (!group.chunk) return group.name;
  const operations = members[g].filter((b) => data.boxes[b].op);
  return operations.length ? `ops ${operationNumber[operations[0]]}\u2013${operationNumber[operations.at(-1)]}` : "leaves";
}
const operationNumber = [];
data.boxes.reduce((count, box, number) => (operationNumber[number] = count + (box.op ? 1 : 0)), 0);

function groupCount(g, all = true) {
  const operations = members[g].filter((b) => data.boxes[b].op).length;
  const leaves = members[g].length - operations;
  const counts = [operations ? plural(operations, all ? "operation" : "op") : "", leaves && (all || !operations) ? plural(leaves, "leaf", "leaves") : ""];
  return counts.filter(Boolean).join(", ");
}

function boxElement(key) {
  const n = numberOf(key);
  const thumb = make("canvas", { class: "thumb", "aria-hidden": "true" });
  if (isGroup(key)) {
    return make("button", { type: "button", class: "box group", "data-key": key, tabindex: -1, "aria-expanded": "false", onclick: () => unfold(n) },
      make("span", { class: "head" }, make("b", {}, groupTitle(n)), make("span", { class: "fold", "aria-hidden": "true" }, "+")),
      thumb, make("span", { class: "foot" }, make("span", {}, data.groups[n].title), make("span", {}, groupCount(n, false))));
  }
  const box = data.boxes[n];
  const shape = data.arrays[data.values[box.values.at(-1)].array].shape;
  const sizes = box.values.length > 1 ? `${box.values.length} \u00d7 (${shapeText(shape)})` : shapeText(shape);
  return make("button", {
    type: "button", class: `box ${box.op ? "operation" : "leaf"}`, "data-key": key, tabindex: -1, title: box.name, onclick: () => select(n),
  }, make("span", { class: "head" }, make("b", {}, box.op || shortName(box.name))), thumb, make("b", { class: "figure number", "aria-hidden": "true" }),
    make("span", { class: "foot" }, make("span", {}, box.op ? ownName(box) : ""), make("span", {}, sizes)));
}

function frameElement(key) {
  const n = numberOf(key);
  return make("div", { class: "frame", "data-key": key },
    make("button", { type: "button", class: "frame-title", "data-key": key, tabindex: -1, "aria-expanded": "true", onclick: () => fold(n) },
      make("span", { class: "fold", "aria-hidden": "true" }, "\u2212"), make("b", {}, groupTitle(n)), make("span", { class: "soft" }, data.groups[n].title)));
}

function unfold(g) {
  state.open.add(g);
  redraw(`g${g}`);
  const first = parts[g].find((part) => elements.has(part));
  if (first) focusBox(first);
}

function fold(g) {
  state.open.delete(g);
  for (const inner of [...state.open]) if (pathOf(inner).includes(g)) state.open.delete(inner);
  redraw(`g${g}`);
  focusBox(`g${g}`);
}

// Lay out and draw; the part `anchor` stays where it is on the screen.
function redraw(anchor) {
  const spot = (key) => picture && (picture.boxes.get(key) || picture.frames.get(key));
  const before = anchor && spot(anchor);
  picture = layout(state.open);
  const after = anchor && spot(anchor);
  if (before && after) {
    camera.x += (before.x + before.w / 2 - after.x - after.w / 2) * camera.k;
    camera.y += (before.y - after.y) * camera.k;
  }
  world.style.width = `${picture.width}px`;
  world.style.height = `${picture.height}px`;
  const wanted = new Map([...[...picture.frames].map(([key, at]) => [`frame ${key}`, key, at]), ...[...picture.boxes].map(([key, at]) => [key, key, at])].map((row) => [row[0], row]));
  for (const [id, element] of elements) {
    if (!wanted.has(id)) {
      element.remove();
      elements.delete(id);
    }
  }
  let last = null;
  for (const [id, [, key, at]] of wanted) {
    let element = elements.get(id);
    if (!element) {
      element = id === key ? boxElement(key) : frameElement(key);
      elements.set(id, element);
      boxLayer.append(element);
      if (id === key) lazily.observe(element);
    }
    if (last && id === key && last.nextSibling !== element) last.after(element); // the order of creation is the order of reading
    if (id === key) last = element;
    element.style.transform = `translate(${at.x}px, ${at.y}px)`;
    element.style.width = `${at.w}px`;
    element.style.height = `${at.h}px`;
  }
  drawEdges();
  refresh();
  moveCamera();
}

function drawEdges() {
  edgeLayer.setAttribute("viewBox", `0 0 ${Math.max(picture.width, 1)} ${Math.max(picture.height, 1)}`);
  edgeLayer.style.width = `${picture.width}px`;
  edgeLayer.style.height = `${picture.height}px`;
  edgeLayer.querySelectorAll("path.edge").forEach((path) => path.remove());
  for (const edge of picture.edges) {
    const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
    path.setAttribute("d", edge.path);
    path.setAttribute("class", "edge");
    edge.element = path;
    edgeLayer.append(path);
  }
}

// What depends on the mode, the selection, the trail and the time, without a new layout.
function refresh() {
  document.body.dataset.mode = state.mode;
  const trail = new Set(state.trail.map(({ value }) => standsFor(data.values[value].box, state.open)));
  const chosen = state.box === null ? null : standsFor(state.box, state.open);
  for (const [id, element] of elements) {
    if (id.startsWith("frame")) continue;
    const value = valueOf(id), i = arrayOf(value);
    element.style.setProperty("--level", level(i).toFixed(3));
    element.classList.toggle("chosen", id === chosen);
    element.classList.toggle("on-trail", trail.has(id) && state.trail.length > 1);
    element.classList.toggle("pending", !arrived(id));
    if (!isGroup(id)) {
      if (id === chosen) element.setAttribute("aria-current", "true");
      else element.removeAttribute("aria-current");
    }
    element.setAttribute("aria-label", describeBox(id, i));
    if (element.dataset.seen) drawThumb(id, element);
  }
  for (const edge of picture.edges) {
    const value = data.values[edge.value];
    const strength = level(arrayOf(value));
    edge.element.style.strokeWidth = (1 + 2.4 * strength).toFixed(2);
    edge.element.classList.toggle("near", edge.from === chosen || edge.to === chosen);
    edge.element.classList.toggle("on-trail", trail.has(edge.from) && trail.has(edge.to) && state.trail.length > 1);
    edge.element.classList.toggle("pending", !arrived(edge.from) || !arrived(edge.to));
    edge.element.classList.toggle("none", arrayOf(value) === undefined);
  }
  const focused = boxLayer.querySelector("[tabindex='0']");
  if (!focused) {
    const first = (chosen && elements.get(chosen)) || [...elements].find(([id]) => !id.startsWith("frame"))?.[1];
    if (first) first.tabIndex = 0;
  }
}

function describeBox(key, i) {
  const rms = i === undefined ? "none" : short(data.arrays[i].rms, 3);
  const size = `root mean square of its ${state.mode === "forward" ? "value" : "gradient"}: ${rms}`;
  if (isGroup(key)) return `${groupTitle(numberOf(key))} ${data.groups[numberOf(key)].title}, folded, ${groupCount(numberOf(key))}, ${size}`;
  const box = data.boxes[numberOf(key)];
  return `${box.op ? `${box.op}, ${box.name}` : `leaf ${box.name}`}, ${size}`;
}

function drawThumb(key, element) {
  const i = arrayOf(valueOf(key)), canvas = element.querySelector("canvas");
  canvas.classList.toggle("empty", i === undefined);
  const signature = `${i} ${colours.zero}`;
  if (canvas.dataset.shown === signature) return;
  canvas.dataset.shown = signature;
  const figure = element.querySelector(".figure");
  const single = figure && i !== undefined && product(data.arrays[i].shape) === 1; // one number is a number, not a picture
  element.classList.toggle("single", Boolean(single));
  if (single) figure.textContent = short(numbers(i).values[0], 5);
  else if (i === undefined) paint(canvas, 1, 1, () => undefined, 1);
  else thumbnail(canvas, i);
}

// Pictures are drawn when their box comes into sight: a large graph opens at once.
const lazily = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) {
    if (!isIntersecting) continue;
    lazily.unobserve(target);
    target.dataset.seen = "yes";
    drawThumb(target.dataset.key, target);
  }
}, { root: stage, rootMargin: "300px" });

// ---------------------------------------------------------------------------------------------------------------
// Zoom and pan

function moveCamera(smooth = false) {
  world.classList.toggle("gliding", smooth && !still());
  world.style.transform = `translate(${camera.x}px, ${camera.y}px) scale(${camera.k})`;
  document.getElementById("zoom-level").textContent = `${Math.round(camera.k * 100)} %`;
}

function zoom(factor, x = stage.clientWidth / 2, y = stage.clientHeight / 2, smooth = false) {
  const k = Math.max(0.05, Math.min(3, camera.k * factor));
  camera.x = x - ((x - camera.x) * k) / camera.k;
  camera.y = y - ((y - camera.y) * k) / camera.k;
  camera.k = k;
  moveCamera(smooth);
}

function fit(smooth = false) {
  const { width, height } = picture, w = stage.clientWidth, h = stage.clientHeight;
  camera.k = Math.max(0.05, Math.min(1, (w - 40) / width, (h - 90) / height));
  camera.x = (w - width * camera.k) / 2;
  camera.y = Math.max(20, (h - 50 - height * camera.k) / 2);
  moveCamera(smooth);
}

// The beginning of the graph, large enough to read.
function home() {
  const w = stage.clientWidth, h = stage.clientHeight - (w < 500 ? 110 : 40); // what the tools at the bottom leave free
  camera.k = Math.max(0.5, Math.min(1, (w - 40) / picture.width, (h - 40) / picture.height));
  camera.x = (w - picture.width * camera.k) / 2;
  camera.y = Math.max(20, (h - picture.height * camera.k) / 2);
  moveCamera();
}

function show(key, smooth = true) {
  const at = picture.boxes.get(key) || picture.frames.get(key);
  if (!at) return;
  if (camera.k < 0.5) camera.k = 0.8;
  camera.x = stage.clientWidth / 2 - (at.x + at.w / 2) * camera.k;
  camera.y = stage.clientHeight / 2 - (at.y + at.h / 2) * camera.k;
  moveCamera(smooth);
}

// Move the picture only if the box is not in sight.
function reveal(key) {
  const at = picture.boxes.get(key);
  if (!at) return;
  const x = at.x * camera.k + camera.x, y = at.y * camera.k + camera.y;
  const inside = x > 0 && y > 0 && x + at.w * camera.k < stage.clientWidth && y + at.h * camera.k < stage.clientHeight;
  if (!inside) show(key);
}

const fingers = new Map();
let dragged = false;
stage.addEventListener("pointerdown", (event) => {
  if (event.target.closest("#zoom")) return;
  fingers.set(event.pointerId, [event.clientX, event.clientY]);
  dragged = false;
});
window.addEventListener("pointermove", (event) => {
  const before = fingers.get(event.pointerId);
  if (!before) return;
  const now = [event.clientX, event.clientY];
  if (fingers.size === 1) {
    if (!dragged && Math.hypot(now[0] - before[0], now[1] - before[1]) < 5) return;
    dragged = true;
    camera.x += now[0] - before[0];
    camera.y += now[1] - before[1];
    moveCamera();
  } else if (fingers.size === 2) {
    dragged = true;
    const other = [...fingers].find(([id]) => id !== event.pointerId)[1];
    const area = stage.getBoundingClientRect();
    const apart = (p) => Math.hypot(p[0] - other[0], p[1] - other[1]) || 1;
    zoom(apart(now) / apart(before), (now[0] + other[0]) / 2 - area.left, (now[1] + other[1]) / 2 - area.top);
  }
  fingers.set(event.pointerId, now);
});
for (const name of ["pointerup", "pointercancel"]) window.addEventListener(name, (event) => fingers.delete(event.pointerId));
stage.addEventListener("click", (event) => { // the end of a drag is no click
  if (dragged) event.stopPropagation();
  dragged = false;
}, true);
stage.addEventListener("wheel", (event) => {
  event.preventDefault();
  const area = stage.getBoundingClientRect();
  if (event.ctrlKey || event.metaKey) zoom(Math.exp(-event.deltaY * 0.01), event.clientX - area.left, event.clientY - area.top);
  else {
    camera.x -= event.shiftKey ? event.deltaY : event.deltaX;
    camera.y -= event.shiftKey ? 0 : event.deltaY;
    moveCamera();
  }
}, { passive: false });

// ---------------------------------------------------------------------------------------------------------------
// Keyboard: one box is in the tab order, arrows go to the nearest box in their direction

function focusBox(key) {
  const element = elements.get(key) || elements.get(`frame ${key}`)?.querySelector("button");
  if (!element) return;
  boxLayer.querySelectorAll("[tabindex='0']").forEach((other) => { other.tabIndex = -1; });
  element.tabIndex = 0;
  element.focus({ preventScroll: true });
  reveal(key);
}

const middle = (at, isFrame) => [at.x + at.w / 2, isFrame ? at.y + TITLE / 2 : at.y + at.h / 2];
boxLayer.addEventListener("keydown", (event) => {
  const direction = { ArrowUp: [0, -1], ArrowDown: [0, 1], ArrowLeft: [-1, 0], ArrowRight: [1, 0] }[event.key];
  const key = event.target.dataset.key;
  if (!direction || !key) return;
  event.preventDefault();
  event.stopPropagation();
  const spots = [...[...picture.boxes].map(([k, at]) => [k, middle(at, false)]), ...[...picture.frames].map(([k, at]) => [k, middle(at, true)])];
  const here = spots.find(([k]) => k === key)[1];
  let best = null, least = Infinity;
  for (const [other, [x, y]] of spots) {
    const along = (x - here[0]) * direction[0] + (y - here[1]) * direction[1];
    const across = Math.abs((x - here[0]) * direction[1]) + Math.abs((y - here[1]) * direction[0]);
    if (other === key || along < 4) continue;
    const far = along + 2.5 * across;
    if (far < least) [best, least] = [other, far];
  }
  if (best) focusBox(best);
});
