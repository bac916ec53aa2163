// The data of the page, and how numbers are read from it and written down.

const data = JSON.parse(document.getElementById("data").textContent);
const TYPES = { f8: Float64Array, f4: Float32Array, i4: Int32Array, u1: Uint8Array };
const decoded = new Map();

// Array number i of the page: {shape, kept, values, ...}, decoded when it is first needed.
function numbers(i) {
  if (!decoded.has(i)) {
    const packed = data.arrays[i];
    const text = atob(packed.data);
    const bytes = new Uint8Array(text.length);
    for (let k = 0; k < text.length; k++) bytes[k] = text.charCodeAt(k);
    decoded.set(i, { ...packed, data: null, kept: packed.kept || packed.shape, values: new TYPES[packed.type](bytes.buffer) });
  }
  return decoded.get(i);
}

const product = (sizes) => sizes.reduce((a, b) => a * b, 1);

// The flat place of an index in an array of that shape; -1 if it lies outside.
function placeOf(index, shape) {
  let place = 0;
  for (let axis = 0; axis < shape.length; axis++) {
    if (index[axis] >= shape[axis]) return -1;
    place = place * shape[axis] + index[axis];
  }
  return place;
}

function indexOf(place, shape) {
  const index = new Array(shape.length);
  for (let axis = shape.length - 1; axis >= 0; axis--) {
    index[axis] = place % shape[axis];
    place = Math.floor(place / shape[axis]);
  }
  return index;
}

// The entry at an index; undefined where the page does not hold it.
function entry(array, index) {
  const place = placeOf(index, array.kept);
  return place < 0 ? undefined : array.values[place];
}

// A sum that loses no digits to cancellation (Neumaier).
function sum(terms) {
  let total = 0, lost = 0;
  for (const term of terms) {
    const next = total + term;
    lost += Math.abs(total) >= Math.abs(term) ? total - next + term : term - next + total;
    total = next;
  }
  return Number.isFinite(total) ? total + lost : total;
}

const signed = (text) => text.replace("-", "\u2212").replace(/e([+-]?)0*(\d)/, (_, s, d) => `e${s === "-" ? "\u2212" : ""}${d}`);

// A number as one would write it on paper, with at most so many significant digits.
function short(x, digits = 4) {
  if (x === undefined) return "not in this page";
  if (x === null || Number.isNaN(x)) return "NaN";
  if (!Number.isFinite(x)) return x > 0 ? "\u221e" : "\u2212\u221e";
  if (x === 0) return "0";
  const size = Math.abs(x);
  const text = size >= 1e6 || size < 1e-4 ? x.toExponential(digits - 1) : x.toPrecision(digits);
  const [mantissa, power] = text.split("e");
  const plain = mantissa.includes(".") ? mantissa.replace(/\.?0+$/, "") : mantissa;
  return signed(power === undefined ? plain : `${plain}e${power}`);
}

// All the digits that a number has.
const full = (x) => (typeof x === "number" && Number.isFinite(x) ? signed(String(x)) : short(x));

const shapeText = (shape) => (shape.length ? shape.join("\u00d7") : "number");
const plural = (n, word, words = `${word}s`) => `${n.toLocaleString("en")} ${n === 1 ? word : words}`;

// The word that stands at place i of an axis of that kind, if there is one.
function axisWord(kind, i, batch = 0) {
  const ids = data.story && data.story.ids;
  if (kind === "token" && ids && ids[batch] && i < ids[batch].length) return wordOf(ids[batch][i]);
  if (kind === "vocabulary" && i < data.words.length) return data.words[i];
  return "";
}

const wordOf = (id) => (id < 0 ? "\u2013" : data.words[id] === undefined ? `#${id}` : data.words[id]);

// "[0, 3 dog, 5]"
function indexText(index, axes = []) {
  const batch = index[axes.indexOf("batch")] || 0;
  return `[${index.map((i, axis) => [i, axisWord(axes[axis], i, batch)].filter((x) => x !== "").join("\u2009")).join(", ")}]`;
}

// ---------------------------------------------------------------------------------------------------------------
// Elements

// An element with attributes (functions are listeners, "html" is trusted markup) and children (text is text).
function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (name === "html") element.innerHTML = value;
    else if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

// Buttons of which one is chosen: left and right arrows go from one to the next.
function choices(label, options, chosen, onchoose) {
  const buttons = options.map((option) =>
    make("button", {
      type: "button", role: "radio", class: "choice", "aria-checked": String(option.key === chosen), "data-key": option.key,
      tabindex: option.key === chosen ? 0 : -1, title: option.title, onclick: () => choose(option.key),
    }, option.text));
  function choose(key) {
    for (const button of buttons) {
      const on = button.dataset.key === String(key);
      button.setAttribute("aria-checked", String(on));
      button.tabIndex = on ? 0 : -1;
    }
    onchoose(key);
  }
  const group = make("div", { role: "radiogroup", class: "choices", "aria-label": label }, buttons);
  group.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    event.stopPropagation();
    const at = buttons.findIndex((button) => button.tabIndex === 0);
    const next = (at + step + options.length) % options.length;
    choose(options[next].key);
    const button = group.isConnected ? buttons[next] : document.querySelector(`[role=radiogroup][aria-label="${label}"] [aria-checked=true]`);
    if (button) button.focus();
  });
  group.choose = choose;
  return group;
}
