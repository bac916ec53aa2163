// The panel of one box: its numbers, why a gradient is what it is, the algebra, the source, the attention pattern.

const panel = document.getElementById("panel");
const open = { tab: "numbers", value: null, view: null, input: 0, head: 0, sequence: 0 };

const TABS = [["numbers", "Numbers"], ["why", "Why"], ["algebra", "Algebra"], ["source", "Source"], ["attention", "Attention"]];

// Open the panel for a box. `value` chooses one of its outputs, `index` an entry of it.
function select(box, { value = data.boxes[box].values[0], index = null, tab = null, keepTrail = false } = {}) {
  if (state.box !== box || open.value !== value) {
    open.value = value;
    open.input = 0;
    const array = data.arrays[data.values[value].array];
    open.view = new View(array.kept || array.shape, data.values[value].axes);
    if (!index) open.view.cursor = loudest(data.values[value]);
  }
  if (index) open.view.cursor = [...index];
  state.box = box;
  if (!keepTrail) state.trail = [];
  open.tab = tab || (available(box).includes(open.tab) ? open.tab : "numbers");
  if (open.tab === "why" && !state.trail.length) state.trail = [{ value: open.value, index: [...open.view.cursor] }];
  reachable(box);
  const opening = panel.hidden;
  panel.hidden = false;
  document.body.classList.add("with-panel");
  renderPanel();
  refresh();
  if (opening) requestAnimationFrame(() => reveal(`b${box}`));
  else reveal(`b${box}`);
  setHash(data.boxes[box].address);
}

// Unfold the groups around a box, so that it can be seen.
function reachable(box) {
  const folded = groupPath[box].filter((g) => g !== 0 && !state.open.has(g));
  if (!folded.length) return;
  folded.forEach((g) => state.open.add(g));
  redraw();
}

// The entry of the largest gradient, or of the largest value: a good place to begin.
function loudest(value) {
  const array = numbers(value.gradient === undefined ? value.array : value.gradient);
  let best = 0;
  for (let k = 1; k < array.values.length; k++) if (Math.abs(array.values[k]) > Math.abs(array.values[best])) best = k;
  return array.values.length ? indexOf(best, array.kept) : array.shape.map(() => 0);
}

function closePanel() {
  if (panel.hidden) return;
  const box = state.box;
  panel.hidden = true;
  document.body.classList.remove("with-panel");
  state.box = null;
  state.trail = [];
  refresh();
  setHash("");
  focusBox(standsFor(box, state.open));
}

const available = (box) => TABS.map(([key]) => key).filter((key) =>
  (key !== "attention" || data.boxes[box].attention) && (!["algebra", "source"].includes(key) || data.boxes[box].op));

function renderPanel() {
  const box = data.boxes[state.box], value = data.values[open.value];
  const array = data.arrays[value.array];
  const place = groupPath[state.box].slice(1).map(groupTitle).join(" \u203a ");
  document.getElementById("panel-place").textContent = place;
  document.getElementById("panel-title").replaceChildren(box.op || box.name, ...(box.op && ownName(box) ? [make("span", { class: "soft" }, ` ${box.name}`)] : []));
  const facts = [box.op ? box.name : "leaf", `${shapeText(array.shape)} ${array.dtype}`, ...(box.options || [])];
  document.getElementById("panel-facts").replaceChildren(...facts.filter((fact) => fact !== "mask = None").map((fact) => make("span", {}, fact)));
  const tabs = available(state.box);
  document.getElementById("tabs").replaceChildren(...TABS.filter(([key]) => tabs.includes(key)).map(([key, text]) =>
    make("button", {
      type: "button", role: "tab", id: `tab-${key}`, "aria-selected": String(key === open.tab), "aria-controls": "panel-body",
      tabindex: key === open.tab ? 0 : -1, onclick: () => chooseTab(key),
    }, text)));
  const body = document.getElementById("panel-body");
  body.setAttribute("aria-labelledby", `tab-${open.tab}`);
  body.scrollTop = 0;
  body.replaceChildren(...{ numbers: numbersTab, why: whyTab, algebra: algebraTab, source: sourceTab, attention: attentionTab }[open.tab](box, value).filter(Boolean));
}

function chooseTab(key, focus = true) {
  open.tab = key;
  if (key === "why") {
    const last = state.trail.at(-1);
    if (!last || last.value !== open.value || String(last.index) !== String(open.view.cursor)) state.trail = [{ value: open.value, index: [...open.view.cursor] }];
  }
  renderPanel();
  refresh();
  if (focus) document.getElementById(`tab-${key}`).focus({ preventScroll: true });
}

document.getElementById("tabs").addEventListener("keydown", (event) => {
  const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  if (!step) return;
  event.preventDefault();
  const keys = available(state.box);
  chooseTab(keys[(keys.indexOf(open.tab) + step + keys.length) % keys.length]);
});

const panelWidth = () => Math.min(panel.clientWidth || 460, 720) - 40;

function explain(value, index) {
  state.trail = [{ value, index: [...index] }];
  select(data.values[value].box, { value, index, tab: "why", keepTrail: true });
}

// ---------------------------------------------------------------------------------------------------------------
// Numbers

function numbersTab(box, value) {
  const content = [];
  if (box.values.length > 1) {
    content.push(choices("Output", box.values.map((v, k) => ({ key: String(v), text: `output ${k}` })), String(open.value), (key) => select(state.box, { value: Number(key) })));
  }
  content.push(make("div", { class: "pair" }, ...pairOfMaps(value)));
  if (box.inputs.length) {
    content.push(make("h3", {}, "Inputs"), make("div", { class: "inputs" }, box.inputs.map(inputCard)));
  }
  if (value.uses.length) {
    content.push(make("h3", {}, "Used by"), make("div", { class: "uses" }, value.uses.map((use) => {
      const user = data.boxes[use.box];
      return make("button", { type: "button", class: "link-card", onclick: () => select(use.box) }, make("b", {}, user.op), make("span", { class: "soft" }, ` as ${use.input}`));
    })));
  }
  return content;
}

// Value and gradient with one cursor, and the numbers at it.
function pairOfMaps(value) {
  const view = open.view, empty = view.shape.includes(0);
  const readout = make("div", { class: "readout", role: "status", "aria-live": "polite" });
  const maps = [];
  const tell = (index, hovering) => {
    const at = index || view.cursor;
    const x = entry(numbers(value.array), at);
    const dx = value.gradient === undefined ? null : entry(numbers(value.gradient), at);
    readout.dataset.index = JSON.stringify(at);
    readout.dataset.hovering = String(hovering);
    readout.replaceChildren(
      make("span", { class: "at" }, at.length ? indexText(at, view.axes) : "a number"),
      make("span", { class: "number value", "data-number": String(x) }, make("i", {}, "value"), full(x)),
      make("span", { class: "number gradient", "data-number": String(dx) }, make("i", {}, "gradient"), dx === null ? "none arrives here" : full(dx)),
      dx === null ? null : make("button", { type: "button", class: "why-button", onclick: () => explain(open.value, view.cursor) }, "Why?"));
  };
  const hooks = {
    hover: (index) => {
      maps.forEach((map) => map.point(index));
      tell(index, index !== null);
    },
    pick: (index) => {
      view.cursor = index;
      maps.forEach((map) => map.select());
      tell(null, false);
    },
    moved: (paged) => {
      if (paged) return again();
      maps.forEach((map) => map.select());
      tell(null, false);
    },
    enter: () => value.gradient !== undefined && explain(open.value, view.cursor),
  };
  const again = () => {
    const which = maps.findIndex((map) => map.contains(document.activeElement));
    renderPanel();
    if (which >= 0) document.querySelectorAll(".pair .field")[which]?.focus({ preventScroll: true });
  };
  if (empty) return [make("p", { class: "empty-note" }, `This array of shape ${shapeText(view.shape)} has no entries.`)];
  if (product(view.shape) === 1) { // a picture of one number would say nothing
    tell(null, false);
    return [readout];
  }
  const width = panelWidth();
  maps.push(heatMap("value", value.array, view, hooks, { width }));
  if (value.gradient !== undefined) maps.push(heatMap("gradient", value.gradient, view, hooks, { width }));
  tell(null, false);
  return [slices(view, again), readout, cropped(value.array), make("div", { class: "maps" }, maps.map((map, k) => make("div", {}, map, statistics([value.array, value.gradient][k]))))];
}

function cropped(i) {
  const { shape, kept } = data.arrays[i];
  if (!kept) return null;
  return make("p", { class: "note" }, `Of ${shapeText(shape)} entries this page holds the first ${shapeText(kept)}; colours and statistics are those of all.`);
}

function statistics(i) {
  const a = data.arrays[i];
  const facts = [`min ${short(a.low)}`, `max ${short(a.high)}`, `rms ${short(a.rms)}`];
  const size = product(a.shape);
  if (a.zeros) facts.push(`${a.zeros.toLocaleString("en")} of ${size.toLocaleString("en")} are 0`);
  const odd = [a.nan ? `${a.nan.toLocaleString("en")} NaN` : "", a.inf ? `${a.inf.toLocaleString("en")} infinite` : ""].filter(Boolean);
  return make("p", { class: "statistics" }, facts.map((fact) => make("span", {}, fact)), odd.map((fact) => make("span", { class: "bad" }, fact)));
}

function inputCard(input) {
  if (input.text !== undefined) return make("div", { class: "input-card" }, make("b", {}, input.name), make("code", {}, input.text));
  const value = input.value === undefined ? null : data.values[input.value];
  const i = value ? value.array : input.array;
  const arrays = value && value.gradient !== undefined ? [["value", i], ["gradient", value.gradient]] : [["value", i]];
  const title = make("span", { class: "input-title" }, make("b", {}, input.name), make("span", { class: "soft" }, `${value ? value.name : "no gradient"} \u00b7 ${shapeText(data.arrays[i].shape)}`));
  const pictures = arrays.map(([kind, k]) => {
    const canvas = make("canvas", { class: "strip", title: kind, "aria-hidden": "true" });
    if (product(data.arrays[k].shape)) thumbnail(canvas, k);
    return make("span", { class: "strip-row" }, make("i", {}, kind), product(data.arrays[k].shape) === 1 ? make("span", { class: "number" }, short(numbers(k).values[0], 6)) : canvas);
  });
  if (!value) return make("div", { class: "input-card" }, title, pictures, wholeNumbers(i, input.axes));
  return make("button", { type: "button", class: "input-card", onclick: () => select(value.box, { value: input.value }) }, title, pictures);
}

// Ids and targets are shown as they are, in words where they have any.
function wholeNumbers(i, axes) {
  const array = numbers(i);
  if (array.dtype[0] === "f" || array.values.length > 64 || product(array.shape) > 64) return null;
  const words = data.story && data.story.ids && array.values.length === product([data.story.ids.length, data.story.ids[0].length]) && data.words.length;
  return make("span", { class: "soft ids" }, [...array.values].map((id) => (words ? wordOf(id) : String(id))).join(" "));
}

// ---------------------------------------------------------------------------------------------------------------
// Algebra and source

function algebraTab(box) {
  const about = data.operations[box.op];
  const content = [make("div", { class: "doc", html: about.doc || "<p class='soft'>This operation has no docstring here.</p>" })];
  if (!box.algebra.length) return content;
  const chosen = box.algebra[Math.min(open.input, box.algebra.length - 1)];
  content.push(make("h3", {}, "The gradient, step by step, with the numbers of this node"));
  if (box.algebra.length > 1) {
    content.push(choices("Gradient of", box.algebra.map((a, k) => ({ key: String(k), text: `d${a.input}` })), String(box.algebra.indexOf(chosen)), (key) => {
      open.input = Number(key);
      renderPanel();
      document.querySelector(".choices[aria-label='Gradient of'] [aria-checked=true]").focus({ preventScroll: true });
    }));
  }
  if (chosen.note) return [...content, make("p", { class: "empty-note" }, chosen.note)];
  return [...content, ...derivation(box, chosen)];
}

// The steps of a derivation: sentence, heat map, and the number at one entry that all of them share.
function derivation(box, chosen) {
  const input = box.inputs.find((i) => i.name === chosen.input);
  const shape = numbers(chosen.steps[0][1]).shape;
  const view = new View(shape, input && input.value !== undefined ? data.values[input.value].axes : null);
  const maps = [], cells = [];
  if (product(shape)) view.cursor = loudest({ array: chosen.steps.at(-1)[1] });
  const tell = (index) => cells.forEach((cell, k) => {
    const at = index || view.cursor;
    cell.replaceChildren(make("span", { class: "at" }, at.length ? indexText(at, view.axes) : ""), make("span", { class: "number" }, full(entry(numbers(chosen.steps[k][1]), at))));
  });
  const hooks = {
    hover: (index) => { maps.forEach((map) => map.point(index)); tell(index); },
    pick: (index) => { view.cursor = index; maps.forEach((map) => map.select()); tell(null); },
    moved: () => { maps.forEach((map) => map.select()); tell(null); },
  };
  const list = make("ol", { class: "steps" });
  const redo = () => {
    maps.length = cells.length = 0;
    list.replaceChildren(...chosen.steps.map(([text, i, change], k) => {
      const last = k === chosen.steps.length - 1;
      const map = product(shape) ? heatMap(`d${chosen.input}`, i, view, hooks, { width: panelWidth() - 34, cell: 18, legend: false, labels: false }) : make("p", { class: "empty-note" }, "no entries");
      if (product(shape)) maps.push(map);
      const cell = make("p", { class: "step-number" });
      cells.push(cell);
      return make("li", { class: last ? "last" : "" },
        make("p", { class: "sentence", html: last ? "what the <b>vjp</b> returns" : data.texts[text] }), map, cell,
        k ? make("p", { class: "change" }, `largest difference to the step before: ${change === null ? "not finite" : short(change, 2)}`) : null);
    }));
    if (product(shape)) tell(null);
  };
  redo();
  return [slices(view, redo), list];
}

function sourceTab(box) {
  const about = data.operations[box.op];
  return [
    make("h3", {}, "Backward: the vjp"), make("div", { html: about.vjp }),
    about.forward ? make("h3", {}, "Forward") : null, about.forward ? make("div", { html: about.forward }) : null,
  ];
}
