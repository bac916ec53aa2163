// Heat maps: diverging colours with zero neutral, the number under the pointer or under the keyboard's cursor.

const PAGE = 64; // rows and columns shown at once

let colours = {};

// The colours of the current theme, as numbers.
function readColours() {
  const style = getComputedStyle(document.body);
  const probe = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  for (const name of ["plus", "minus", "zero", "card", "bad"]) {
    probe.clearRect(0, 0, 1, 1);
    probe.fillStyle = style.getPropertyValue(`--${name}`).trim();
    probe.fillRect(0, 0, 1, 1);
    colours[name] = [...probe.getImageData(0, 0, 1, 1).data.slice(0, 3)];
  }
}

// The colour of x on a scale from -top to top; the root makes small numbers visible.
function shade(x, top) {
  if (x === undefined) return colours.card;
  if (Number.isNaN(x)) return colours.bad;
  if (!Number.isFinite(x)) return x > 0 ? colours.plus : colours.minus;
  const share = top > 0 ? Math.min(1, Math.abs(x) / top) ** 0.7 : 0;
  const towards = x < 0 ? colours.minus : colours.plus;
  return colours.zero.map((zero, k) => Math.round(zero + (towards[k] - zero) * share));
}

function paint(canvas, rows, columns, at, top) {
  canvas.width = Math.max(columns, 1);
  canvas.height = Math.max(rows, 1);
  const context = canvas.getContext("2d");
  const image = context.createImageData(canvas.width, canvas.height);
  for (let r = 0; r < rows; r++) {
    for (let c = 0; c < columns; c++) {
      const [red, green, blue] = shade(at(r, c), top);
      image.data.set([red, green, blue, 255], 4 * (r * columns + c));
    }
  }
  context.putImageData(image, 0, 0);
}

// A small picture of an array for a box: its last axis from left to right, all others from top to bottom.
function thumbnail(canvas, i) {
  const array = numbers(i);
  const columns = array.kept.length ? array.kept[array.kept.length - 1] : 1;
  const rows = columns ? array.values.length / columns : 0;
  const w = Math.min(columns, 48), h = Math.min(rows, 16);
  const at = (r, c) => array.values[Math.floor((r * rows) / h) * columns + Math.floor((c * columns) / w)];
  paint(canvas, h, w, at, array.top);
}

// Which part of an array is shown: two axes, the others fixed, and a window of at most PAGE by PAGE entries.
class View {
  constructor(shape, axes) {
    this.shape = shape;
    this.axes = axes || shape.map(() => "");
    this.cursor = shape.map(() => 0);
    const n = shape.length;
    this.column = n - 1;
    const token = this.axes.indexOf("token");
    this.row = n < 2 ? -1 : token >= 0 && token !== n - 1 ? token : n - 2;
  }
  get fixed() {
    return this.shape.map((_, axis) => axis).filter((axis) => axis !== this.row && axis !== this.column);
  }
  window(axis) { // the first place shown, and how many
    if (axis < 0) return [0, 1];
    const first = Math.floor(this.cursor[axis] / PAGE) * PAGE;
    return [first, Math.max(0, Math.min(PAGE, this.shape[axis] - first))];
  }
  index(r, c) {
    const index = [...this.cursor];
    if (this.row >= 0) index[this.row] = this.window(this.row)[0] + r;
    if (this.column >= 0) index[this.column] = this.window(this.column)[0] + c;
    return index;
  }
  move(axis, step) {
    if (axis < 0) return;
    this.cursor[axis] = Math.max(0, Math.min(this.shape[axis] - 1, this.cursor[axis] + step));
  }
}

// What stands beside row or column number i of an axis.
const axisLabel = (view, axis, i) => axisWord(view.axes[axis], i, view.cursor[view.axes.indexOf("batch")] || 0) || String(i);

// A heat map of one array under a view that several may share. hooks: hover(index or null), pick(index), moved().
function heatMap(title, i, view, hooks, options = {}) {
  const array = numbers(i);
  const top = array.top !== undefined ? array.top : Math.max(0, ...array.values.map(Math.abs).filter(Number.isFinite));
  const [r0, rows] = view.window(view.row), [c0, columns] = view.window(view.column);
  const canvas = make("canvas", { class: "cells" });
  paint(canvas, rows, columns, (r, c) => entry(array, view.index(r, c)), top);
  const cursor = make("div", { class: "cursor" }), pointer = make("div", { class: "pointer", hidden: true });
  const field = make("div", {
    class: "field", tabindex: 0, role: "application", "aria-roledescription": "heat map",
    "aria-label": `${title}, ${shapeText(view.shape)}; arrow keys move, Enter explains the gradient`,
  }, canvas, cursor, pointer);
  const room = options.width || 420;
  const labels = view.row >= 0 && options.labels !== false;
  const width = room - (labels ? 54 : 0);
  const cell = Math.min(options.cell || 30, width / Math.max(columns, 1));
  const height = Math.max(Math.min(cell, 24), Math.min(12, 300 / Math.max(rows, 1)), 3);
  field.style.width = `${Math.max(cell * columns, 12)}px`;
  field.style.height = `${Math.max(height * rows, view.row < 0 ? 22 : 8)}px`;
  const put = (mark, index) => {
    const r = view.row < 0 ? 0 : index[view.row] - r0, c = view.column < 0 ? 0 : index[view.column] - c0;
    mark.style.left = `${(100 * c) / Math.max(columns, 1)}%`;
    mark.style.top = `${(100 * r) / Math.max(rows, 1)}%`;
    mark.style.width = `${100 / Math.max(columns, 1)}%`;
    mark.style.height = `${100 / Math.max(rows, 1)}%`;
  };
  put(cursor, view.cursor);
  const under = (event) => {
    const box = canvas.getBoundingClientRect();
    const c = Math.floor(((event.clientX - box.left) / box.width) * columns);
    const r = Math.floor(((event.clientY - box.top) / box.height) * rows);
    return r >= 0 && c >= 0 && r < rows && c < columns ? view.index(r, c) : null;
  };
  field.addEventListener("pointermove", (event) => hooks.hover(under(event)));
  field.addEventListener("pointerleave", () => hooks.hover(null));
  field.addEventListener("click", (event) => {
    const index = under(event);
    if (index) hooks.pick(index);
  });
  field.addEventListener("keydown", (event) => {
    const steps = {
      ArrowRight: [view.column, 1], ArrowLeft: [view.column, -1], ArrowDown: [view.row, 1], ArrowUp: [view.row, -1],
      Home: [view.column, -Infinity], End: [view.column, Infinity], PageUp: [view.row, -8], PageDown: [view.row, 8],
    };
    if (event.key === "Enter" && hooks.enter) hooks.enter();
    else if (steps[event.key]) {
      const [r, c] = [view.window(view.row)[0], view.window(view.column)[0]];
      view.move(...steps[event.key]);
      put(cursor, view.cursor);
      hooks.moved(r !== view.window(view.row)[0] || c !== view.window(view.column)[0]);
    } else return;
    event.preventDefault();
    event.stopPropagation();
  });
  const across = Math.max(cell * columns + (labels ? 54 : 0), Math.min(room, 190));
  const figure = make("figure", { class: across < 250 ? "map narrow" : "map", style: `width:${across}px` },
    make("figcaption", {}, make("span", { class: "map-title" }, title), options.legend === false ? null : legend(top, array.low !== undefined && array.low >= 0)),
    labels ? make("div", { class: "with-labels" }, rowLabels(view, r0, rows, height), make("div", {}, field, columnLabels(view, c0, columns, cell)))
           : make("div", {}, field, columnLabels(view, c0, columns, cell)));
  figure.point = (index) => {
    pointer.hidden = index === null || !inWindow(view, index);
    if (!pointer.hidden) put(pointer, index);
  };
  figure.select = () => put(cursor, view.cursor);
  figure.field = field;
  return figure;
}

const inWindow = (view, index) => [view.row, view.column].every((axis) => {
  const [first, count] = view.window(axis);
  return axis < 0 || (index[axis] >= first && index[axis] < first + count);
});

function legend(top, positive) {
  if (!top) return make("span", { class: "legend" }, "all 0");
  return make("span", { class: "legend", "aria-hidden": "true" }, positive ? "0" : short(-top, 3), make("span", { class: `ramp${positive ? " positive" : ""}` }), short(top, 3));
}

function rowLabels(view, first, rows, height) {
  const every = Math.max(1, Math.ceil(13 / height));
  const labels = [];
  for (let r = 0; r < rows; r++) {
    const text = r % every === 0 ? axisLabel(view, view.row, first + r) : "";
    labels.push(make("span", { style: `height:${height}px;line-height:${height}px`, title: text }, text));
  }
  return make("div", { class: "row-labels", "aria-hidden": "true" }, labels);
}

function columnLabels(view, first, columns, cell) {
  if (view.column < 0) return null;
  const words = axisWord(view.axes[view.column], first) !== "";
  const every = Math.max(1, Math.ceil((words ? 15 : 24) / cell));
  const labels = [];
  for (let c = 0; c < columns; c += every) {
    labels.push(make("span", { style: `left:${(c + 0.5) * cell}px` }, axisLabel(view, view.column, first + c)));
  }
  const slanted = words && cell < 46 ? " slanted" : "";
  return make("div", { class: `column-labels${slanted}`, style: `width:${cell * columns}px`, "aria-hidden": "true" }, labels);
}

// Which entries of the other axes are shown, and which window of a large array.
function slices(view, changed) {
  const controls = view.fixed.filter((axis) => view.shape[axis] > 1).map((axis) => {
    const select = make("select", { onchange: () => { view.cursor[axis] = Number(select.value); changed(); } });
    for (let i = 0; i < Math.min(view.shape[axis], 512); i++) {
      select.append(make("option", { value: i, selected: i === view.cursor[axis] }, [i, axisWord(view.axes[axis], i)].filter((x) => x !== "").join(" ")));
    }
    return make("label", { class: "slice" }, view.axes[axis] || `axis ${axis}`, select);
  });
  for (const axis of [view.row, view.column]) {
    if (axis < 0 || view.shape[axis] <= PAGE) continue;
    const [first, count] = view.window(axis);
    const go = (step) => () => { view.cursor[axis] = Math.max(0, Math.min(view.shape[axis] - 1, first + step)); changed(); };
    const name = view.axes[axis] || (axis === view.row ? "row" : "column");
    controls.push(make("span", { class: "slice" }, `${name}s ${first}\u2013${first + count - 1} of ${view.shape[axis].toLocaleString("en")}`,
      make("button", { type: "button", class: "small", "aria-label": `earlier ${name}s`, disabled: first === 0, onclick: go(-PAGE) }, "\u2039"),
      make("button", { type: "button", class: "small", "aria-label": `later ${name}s`, disabled: first + count >= view.shape[axis], onclick: go(PAGE) }, "\u203a")));
  }
  return controls.length ? make("div", { class: "slices" }, controls) : null;
}
