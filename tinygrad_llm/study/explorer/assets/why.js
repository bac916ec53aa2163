// Why one entry of one gradient is what it is: by the chain rule a sum, over all consumers of the value and all their
// output entries, of local derivative times upstream gradient. Every upstream gradient can be asked about in turn.

const SHOWN = 8; // terms of one consumer at first

// The parts of the gradient of a value at an index: for each consumer its total and, where embedded, its terms.
function pathsOf(valueNumber, index) {
  const value = data.values[valueNumber];
  const shape = data.arrays[value.array].shape;
  return value.uses.map((use) => {
    const sent = use.sent === undefined ? undefined : entry(numbers(use.sent), index);
    const terms = use.jacobian === undefined ? null : termsOf(use, placeOf(index, shape));
    return { use, sent, terms, total: terms ? sum(terms.map((t) => t.product)) : sent };
  }).filter((path) => path.use.sent !== undefined);
}

function termsOf(use, place) {
  const [starts, places, local] = data.jacobians[use.jacobian].map((i) => numbers(i).values);
  const outputs = data.boxes[use.box].values;
  const sizes = outputs.map((v) => product(data.arrays[data.values[v].array].shape));
  const terms = [];
  for (let k = starts[place]; k < starts[place + 1]; k++) {
    let output = 0, at = places[k];
    while (at >= sizes[output]) at -= sizes[output++];
    const value = data.values[outputs[output]];
    const index = indexOf(at, data.arrays[value.array].shape);
    const upstream = value.gradient === undefined ? 0 : entry(numbers(value.gradient), index);
    terms.push({ value: outputs[output], index, local: local[k], upstream, product: local[k] * upstream });
  }
  return terms.filter((t) => t.product !== 0).sort((a, b) => Math.abs(b.product) - Math.abs(a.product));
}

const nameOf = (value) => (data.values[value].name.length > 28 ? shortName(data.values[value].name) : data.values[value].name);

function whyTab(box, value) {
  if (value.gradient === undefined) return [make("p", { class: "empty-note" }, "No gradient arrives at this value: the output does not depend on it.")];
  const index = open.view.cursor;
  if (open.view.shape.includes(0)) return [make("p", { class: "empty-note" }, "This array has no entries.")];
  const gradient = entry(numbers(value.gradient), index);
  const content = [breadcrumbs(), make("div", { class: "why-head" },
    make("p", { class: "why-name" }, "\u2202", make("i", {}, "L"), " / \u2202", make("b", {}, nameOf(open.value)), make("span", { class: "at" }, index.length ? indexText(index, value.axes) : "")),
    make("p", { class: "why-gradient number", "data-number": String(gradient) }, full(gradient)),
    make("p", { class: "soft" }, `the value there is ${short(entry(numbers(value.array), index), 6)}`))];
  if (gradient === undefined) return [...content, make("p", { class: "empty-note" }, "This page holds only a part of this array, and the entry is not in it.")];
  const paths = pathsOf(open.value, index);
  if (!paths.length) {
    const start = !value.uses.length;
    return [...content, make("p", { class: "empty-note" }, start
      ? "Backward began here. The derivative of the output with respect to itself is 1, unless another cotangent was given."
      : "None of the consumers of this value sends a gradient back.")];
  }
  content.push(make("p", { class: "why-lead" }, paths.length === 1
    ? "It comes back from the one operation that uses this value. By the chain rule it is the sum of local derivative times upstream gradient:"
    : `This value is used ${paths.length === 2 ? "twice" : `${paths.length} times`}. What comes back from each use is added:`));
  const scale = Math.max(...paths.flatMap((p) => (p.terms || []).map((t) => Math.abs(t.product))), 0);
  content.push(...paths.map((path) => pathCard(path, scale, paths.length)));
  const total = sum(paths.map((p) => p.total));
  const difference = Math.abs(total - gradient);
  const precision = data.arrays[value.gradient].dtype === "float64" ? 1e-12 : 1e-5;
  const exact = !(difference > precision * Math.max(1e-300, ...paths.flatMap((p) => (p.terms || [{ product: p.total }]).map((t) => Math.abs(t.product)))));
  content.push(make("div", { class: "why-sum", "data-total": String(total), "data-gradient": String(gradient) },
    make("span", {}, paths.length > 1 ? "all paths together" : paths[0].terms ? "the sum of all terms" : "what comes back"), make("span", { class: "number" }, full(total)),
    make("span", { class: exact ? "good" : "bad" }, exact ? "\u2713 the entry" : "\u2717 not the entry"), make("span", { class: "soft number" }, `difference ${short(difference, 2)}`)));
  return content;
}

function breadcrumbs() {
  if (state.trail.length < 2) return null;
  return make("nav", { class: "crumbs", "aria-label": "The way here" }, make("ol", {}, state.trail.map(({ value, index }, k) => {
    const text = `${nameOf(value)}${index.length ? `[${index.join(", ")}]` : ""}`;
    const here = k === state.trail.length - 1;
    return make("li", {}, here ? make("span", { "aria-current": "step" }, text) : make("button", { type: "button", onclick: () => goBack(k) }, text));
  })));
}

function goBack(k) {
  state.trail = state.trail.slice(0, k + 1);
  const { value, index } = state.trail[k];
  select(data.values[value].box, { value, index, tab: "why", keepTrail: true });
  focusWhy();
}

function goOn(term) {
  state.trail.push({ value: term.value, index: term.index });
  select(data.values[term.value].box, { value: term.value, index: term.index, tab: "why", keepTrail: true });
  focusWhy();
}

// The keyboard follows: the first term of the next sum, or the way back.
function focusWhy() {
  (document.querySelector(".term") || document.querySelector(".crumbs button") || document.getElementById("tab-why")).focus({ preventScroll: true });
}

function pathCard({ use, terms, total, sent }, scale, count) {
  const user = data.boxes[use.box];
  const place = groupPath[use.box].slice(2).map(groupTitle).join(" \u203a ");
  const head = make("header", {}, make("span", {}, "through ", make("b", {}, user.op), ` as its input `, make("code", {}, use.input), place ? make("span", { class: "soft" }, ` in ${place}`) : null),
    make("span", { class: "number" }, short(total, 6)));
  if (!terms) {
    return make("section", { class: "path" }, head, make("p", { class: "empty-note" },
      "Its local derivatives are not in this page, which would be too large; the total is exact. ", make("button", { type: "button", class: "as-link", onclick: () => select(use.box) }, `Look at ${user.name}`)));
  }
  const list = make("ol", { class: "terms" });
  const fill = (shown) => {
    const rest = terms.slice(shown);
    list.replaceChildren(...terms.slice(0, shown).map((term) => make("li", {}, termButton(term, scale))),
      ...(rest.length ? [make("li", {}, make("button", { type: "button", class: "more", onclick: () => { fill(terms.length); list.querySelectorAll("button")[shown].focus(); } },
        make("span", {}, `${plural(rest.length, "smaller term")}, together`), make("span", { class: "number" }, short(sum(rest.map((t) => t.product)), 6)), make("span", { class: "soft" }, "show all")))] : []));
  };
  fill(terms.length <= SHOWN + 1 ? terms.length : SHOWN);
  const none = terms.length ? null : make("p", { class: "empty-note" }, "Every term is 0: no output entry with a gradient depends on this entry.");
  return make("section", { class: "path" }, head, none || make("div", { class: "term-head soft", "aria-hidden": "true" }, make("span", {}, "output entry"), make("span", {}, "local \u00d7 upstream"), make("span", {}, "= term")), list);
}

function termButton(term, scale) {
  const axes = data.values[term.value].axes;
  const name = `${nameOf(term.value)}`;
  const share = scale ? Math.abs(term.product) / scale : 0;
  return make("button", {
    type: "button", class: "term", "data-product": String(term.product), title: "go on: why is this upstream gradient what it is?", onclick: () => goOn(term),
    "aria-label": `${name} ${indexText(term.index, axes)}: local derivative ${short(term.local)} times upstream gradient ${short(term.upstream)} is ${short(term.product)}; go on`,
  }, make("span", { class: "term-at" }, name, make("span", { class: "at" }, term.index.length ? indexText(term.index, axes) : "")),
    make("span", { class: "number" }, make("span", {}, short(term.local)), make("span", { class: "soft" }, " \u00d7 "), make("span", { class: "upstream" }, short(term.upstream))),
    make("span", { class: "number strong" }, short(term.product)),
    make("span", { class: `bar ${term.product < 0 ? "minus" : "plus"}`, style: `--share:${share.toFixed(4)}`, "aria-hidden": "true" }));
}
