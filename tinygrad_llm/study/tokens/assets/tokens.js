(() => {
"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const TINTS = 6, PAUSE = 1100;
const at = (id) => document.getElementById(id);
const state = { words: [], place: 0, step: 0, timer: 0 };
const starts = [];  // of each place of the text, the number of tokens before it: so neighbours differ in colour
data.text.reduce((sum, word, place) => { starts[place] = sum; return sum + data.words[word].ids.length; }, 0);

function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat(2).filter((child) => child !== null && child !== undefined));
  return element;
}

// -- tokens ------------------------------------------------------------------------------------------------------------
const KINDS = { t: "text", s: "sign", e: "escape" };
const joined = (shown) => shown.map(([, part]) => part).join("");
const plain = (id) => joined(data.tokens[id][1]);
const bytesOf = (id) => data.tokens[id][0];
const sizeOf = (id) => (bytesOf(id).length + 1) / 3;
const tint = (number) => `--tint: var(--t${number % TINTS})`;
const count = (n, what) => `${n.toLocaleString("en")} ${what}${n === 1 ? "" : "s"}`;

const drawn = (pieces) => pieces.map(([kind, shown]) => (kind === "t" ? shown : kind === "b" ? make("br") : make("span", { class: KINDS[kind] }, shown)));
const token = (id, style) => make("span", { class: "token", style }, drawn(data.tokens[id][1]));

// In the running text a line feed begins a new line; at the end of a token the break stands behind the token.
const BREAK = ["b", ""];
function inLines(id) {
  return data.tokens[id][1].flatMap(([kind, shown]) => {
    if (kind !== "s") return [[kind, shown]];
    return shown.match(/[^\u23ce]*\u23ce|[^\u23ce]+/gu).flatMap((part) => (part.endsWith("\u23ce") ? [["s", part], BREAK] : [["s", part]]));
  });
}

function runningToken(id, style) {
  const lines = inLines(id), ends = lines.at(-1) === BREAK;
  return [make("span", { class: "token", style }, drawn(ends ? lines.slice(0, -1) : lines)), ends ? make("br") : null];
}

function box(id, style, extra = "") {
  const hex = sizeOf(id) > 6 ? count(sizeOf(id), "byte") : bytesOf(id);
  return make("div", { class: `symbol ${extra}`, style, title: `bytes ${bytesOf(id)}` },
    make("span", { class: "glyph" }, drawn(data.tokens[id][1])), make("span", { class: "bytes number" }, hex), make("span", { class: "id" }, String(id)));
}

// -- the text ----------------------------------------------------------------------------------------------------------
function drawText() {
  state.words = data.text.map((number, place) => {
    const word = data.words[number];
    return make("span", {
      class: `word ${word.kind}`, role: "radio", "aria-checked": "false", tabindex: "-1", "data-place": place,
      "aria-label": `${joined(word.shown)}, ${word.kind === "special" ? "special token" : count(word.ids.length, "token")}`,
    }, word.ids.map((id, i) => runningToken(id, tint(starts[place] + i))));
  });
  at("text").append(...state.words.flatMap((word) => [word, make("wbr")]));
  at("text").addEventListener("click", (event) => {
    const word = event.target.closest(".word");
    if (word) choose(Number(word.dataset.place), true);
  });
  at("text").addEventListener("keydown", (event) => {
    const by = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    const to = event.key === "Home" ? 0 : event.key === "End" ? data.text.length - 1 : by ? state.place + by : -1;
    if (modified(event) || to < 0 || to >= data.text.length) return;
    event.preventDefault();
    choose(to, true);
  });
}

function choose(place, focus = false) {
  const { words } = state;
  words[state.place].setAttribute("aria-checked", "false");
  words[state.place].tabIndex = -1;
  state.place = place;
  words[place].setAttribute("aria-checked", "true");
  words[place].tabIndex = 0;
  if (focus) words[place].focus();
  else at("text").scrollTop = words[place].offsetTop - 60;
  halt();
  open();
}

// -- the word ----------------------------------------------------------------------------------------------------------
const word = () => data.words[data.text[state.place]];

// Symbols and the ranks of their pairs after so many merges.
function standing(step) {
  const symbols = [...word().start], ranks = [...word().ranks];
  for (const [i, , made, before, after] of word().merges.slice(0, step)) {
    symbols.splice(i, 2, made);
    ranks.splice(i, 1);
    if (i > 0) ranks[i - 1] = before;
    if (i < ranks.length) ranks[i] = after;
  }
  return { symbols, ranks };
}

// The colour of each symbol is that of the token it ends up in; where it is looked up, that of the only one.
function tints(symbols) {
  const ends = [];
  const merged = standing(word().merges.length).symbols;
  merged.reduce((sum, id) => { ends.push(sum + sizeOf(id)); return sum + sizeOf(id); }, 0);
  let begin = 0, own = 0;
  return symbols.map((id) => {
    while (begin >= ends[own]) own += 1;
    begin += sizeOf(id);
    return tint(starts[state.place] + own);
  });
}

const NOTES = {
  special: "This is the name of a special token: it gets its id as a whole, and is never cut or merged.",
  long: "This word is too long to be stepped through here; its tokens stand below.",
};

function noteOf() {
  if (word().kind !== "whole") return NOTES[word().kind] ?? "";
  const merged = standing(word().merges.length).symbols;
  const same = merged.length === 1 && merged[0] === word().ids[0];
  return `This vocabulary looks a word up before it merges: this one is there, as token ${word().ids[0]}. ` +
    (same ? "Merging would lead to the same token, in these steps:" : `Merging would lead elsewhere, to ${count(merged.length, "token")}, in these steps:`);
}

function open() {
  const steps = word().merges.length, stepped = word().start.length > 0;
  at("word").replaceChildren(make("span", { class: "token" }, drawn(word().shown)));
  at("note").textContent = noteOf();
  at("note").hidden = !at("note").textContent;
  for (const id of ["controls", "said", "symbols", "legend"]) at(id).hidden = !stepped;
  at("results").firstElementChild.hidden = !stepped;
  at("slider").max = steps;
  at("slider").disabled = steps === 0;
  at("ids").replaceChildren(...word().ids.slice(0, 500).map((id, i) => make("li", {}, box(id, tint(starts[state.place] + i)))));
  if (word().ids.length > 500) at("ids").append(make("li", { class: "soft" }, `and ${count(word().ids.length - 500, "more token")}`));
  at("symbols").style.minHeight = "";
  go(0);
  // On a wide screen nothing jumps when rows become fewer; on a narrow one that would leave a hole.
  if (matchMedia("(min-width: 40rem)").matches) at("symbols").style.minHeight = `${at("symbols").offsetHeight}px`;
}

const steps = () => word().merges.length;

function go(step) {
  state.step = Math.max(0, Math.min(steps(), step));
  const { symbols, ranks } = standing(state.step);
  const next = word().merges[state.step], last = word().merges[state.step - 1];
  drawSymbols(symbols, ranks, next, last);
  at("said").replaceChildren(...sentence(symbols, ranks, next, last));
  drawMerges();
  at("slider").value = state.step;
  at("slider").setAttribute("aria-valuetext", `${state.step} of ${count(steps(), "merge")} done`);
  at("count").textContent = `${state.step} of ${steps()}`;
  at("first").disabled = at("previous").disabled = state.step === 0;
  at("next").disabled = at("last").disabled = state.step === steps();
  at("play").disabled = steps() === 0;
}

function drawSymbols(symbols, ranks, next, last) {
  const colours = tints(symbols);
  at("symbols").replaceChildren(...symbols.map((id, i) => {
    const joins = next && (i === next[0] || i === next[0] + 1), made = last && i === last[0];
    const rank = ranks[i], inner = i < symbols.length - 1, best = next && i === next[0];
    const told = !inner ? "" : rank === null ? "; with the next: never merged" : `; with the next: rank ${rank}${best ? ", the lowest" : ""}`;
    return make("li", { class: "cell", "aria-label": `${plain(id)}, bytes ${bytesOf(id)}, id ${id}${made ? ", just made" : ""}${told}` },
      box(id, colours[i], `${joins ? "joins" : ""} ${made ? "made" : ""}`),
      inner ? make("div", { class: `pair ${rank === null ? "" : "ranked"} ${best ? "best" : ""}`, "aria-hidden": "true" }, make("span", { class: "rank" }, rank === null ? "\u2013" : String(rank))) : null);
  }));
}

function sentence(symbols, ranks, next, last) {
  const parts = [];
  if (last) parts.push("Made ", token(last[2]), ". ");
  else if (state.step === 0) parts.push(`The word begins as ${symbols.length === 1 ? "a single byte" : `its ${symbols.length} bytes`}. `);
  if (!next) {
    const end = symbols.length === 1 ? "nothing is left to merge: the word is one token." : `none of the pairs is ever merged: the word is ${symbols.length} tokens.`;
    return [...parts, make("b", {}, end[0].toUpperCase() + end.slice(1))];
  }
  const ranked = ranks.filter((rank) => rank !== null);
  const equal = ranked.filter((rank) => rank === next[1]).length;
  const lead = ranked.length === 1 ? `One pair of ${ranks.length} has a rank, ` : `${ranked.length} of ${count(ranks.length, "pair")} have a rank; the lowest is `;
  return [...parts, lead, make("b", {}, String(next[1])), equal > 1 ? `, ${equal} times, and the leftmost goes first: ` : ": ",
    token(symbols[next[0]]), " + ", token(symbols[next[0] + 1]), " \u2192 ", token(next[2]), "."];
}

function drawMerges() {
  const { symbols } = standing(0), rows = [];
  word().merges.slice(0, state.step).forEach(([i, rank, made], number) => {
    const [left, right] = symbols.splice(i, 2, made);
    rows.push(make("li", {}, make("button", { type: "button", "aria-current": number === state.step - 1 && "step", onclick: () => { halt(); go(number + 1); } },
      make("span", { class: "order" }, `${number + 1}.`), make("span", {}, token(left), " + ", token(right), " \u2192 ", token(made)),
      make("span", { class: "rank" }, `rank ${rank}, id ${made}`))));
  });
  at("merges").replaceChildren(...rows);
  at("merges").scrollTop = at("merges").scrollHeight;
  at("none").textContent = rows.length ? "" : steps() ? "None yet." : "This word has none.";
  at("none").hidden = rows.length > 0;
}

// -- moving ------------------------------------------------------------------------------------------------------------
function halt() {
  clearInterval(state.timer);
  state.timer = 0;
  delete at("play").dataset.playing;
  at("play").setAttribute("aria-label", "Play");
  at("said").setAttribute("aria-live", "polite");
}

function play() {
  if (state.timer) return halt();
  if (state.step === steps()) go(0);
  at("play").dataset.playing = "";
  at("play").setAttribute("aria-label", "Pause");
  at("said").setAttribute("aria-live", "off");  // a reader could not keep up
  state.timer = setInterval(() => {
    if (state.step === steps() - 1) halt();
    go(state.step + 1);
  }, PAUSE);
}

const move = (step) => { halt(); go(step); };
const modified = (event) => event.ctrlKey || event.altKey || event.metaKey || event.shiftKey;
const MOVES = { first: () => 0, previous: () => state.step - 1, next: () => state.step + 1, last: steps };
const KEYS = { Home: "first", ArrowLeft: "previous", ArrowRight: "next", End: "last" };
for (const [id, target] of Object.entries(MOVES)) at(id).addEventListener("click", () => move(target()));
at("play").addEventListener("click", play);
at("slider").addEventListener("input", () => move(Number(at("slider").value)));
document.addEventListener("keydown", (event) => {
  if (modified(event) || event.defaultPrevented || !word().start.length || event.target.closest("#text")) return;
  if (event.key === "p" && steps()) return play();
  if (!(event.key in KEYS)) return;
  event.preventDefault();
  move(MOVES[KEYS[event.key]]());
});

drawText();
// It begins with a word near the start that has something to show, and fits on a screen.
const early = data.text.slice(0, 60).map((number) => data.words[number]);
const worth = early.map(({ start, merges }) => (start.length > 16 ? 0 : merges.length));
choose(worth.indexOf(Math.max(...worth)));
document.body.dataset.ready = "yes";
})();
