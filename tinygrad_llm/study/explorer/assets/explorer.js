// Bringing it together: modes, search, themes, addresses, keys.

// -- forward and backward -------------------------------------------------------------------------------------------
const modes = choices("Direction", [{ key: "forward", text: "Forward" }, { key: "backward", text: "Backward" }], "forward", setMode);
document.getElementById("modes").append(modes);

function setMode(mode) {
  state.mode = mode;
  document.getElementById("scale-title").textContent = mode === "forward" ? "size of the value" : "size of the gradient";
  const [low, high] = scales[mode === "forward" ? "array" : "gradient"];
  document.getElementById("scale-low").textContent = short(10 ** low, 2);
  document.getElementById("scale-high").textContent = short(10 ** high, 2);
  refresh();
}

// -- the pass in slow motion ------------------------------------------------------------------------------------------
// Time runs over all boxes in the order of creation, and then back: a box is shown once its turn has come.
const clock = document.getElementById("clock"), player = document.getElementById("play");
clock.max = String(2 * data.boxes.length);
clock.value = clock.max;

function arrived(key) {
  if (state.time === Infinity) return true;
  const order = isGroup(key) ? members[numberOf(key)] : [numberOf(key)];
  const count = data.boxes.length;
  return state.time <= count ? order[0] < state.time : 2 * count - order.at(-1) <= state.time;
}

function setTime(time) {
  const count = data.boxes.length, mode = time <= count ? "forward" : "backward";
  state.time = time >= 2 * count ? Infinity : time;
  clock.value = String(time);
  const step = time <= count ? time : 2 * count - time;
  const box = data.boxes[Math.max(0, Math.min(count - 1, time <= count ? step - 1 : step))];
  clock.setAttribute("aria-valuetext", `${mode}, ${box.name}`);
  if (state.mode !== mode) modes.choose(mode);
  else refresh();
}

let playing = 0;
function play() {
  if (playing) return pause();
  const count = data.boxes.length;
  let time = Number(clock.value) >= 2 * count ? 0 : Number(clock.value), before = performance.now();
  player.setAttribute("aria-pressed", "true");
  player.textContent = "\u275a\u275a";
  const seconds = Math.min(14, 4 + count / 20);
  const tick = (now) => {
    time += ((now - before) / 1000) * ((2 * count) / seconds);
    before = now;
    setTime(Math.min(Math.floor(time), 2 * count));
    if (time >= 2 * count) pause();
    else playing = requestAnimationFrame(tick);
  };
  playing = requestAnimationFrame(tick);
}
function pause() {
  cancelAnimationFrame(playing);
  playing = 0;
  player.setAttribute("aria-pressed", "false");
  player.textContent = "\u25b6";
}
player.addEventListener("click", () => (still() ? setTime(Number(clock.value) >= Number(clock.max) ? 0 : Number(clock.value) + 1) : play()));
clock.addEventListener("input", () => { pause(); setTime(Number(clock.value)); });

// -- search -----------------------------------------------------------------------------------------------------------
const search = document.getElementById("search"), results = document.getElementById("results");
const texts = data.boxes.map((box, n) => `${box.name} ${box.op} ${groupPath[n].map(groupTitle).join(" ")}`.toLowerCase());
let found = [], active = -1;

function find() {
  const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
  found = words.length ? data.boxes.map((_, n) => n).filter((n) => words.every((word) => texts[n].includes(word))) : [];
  const rank = (n) => (data.boxes[n].name.toLowerCase().startsWith(words[0]) ? 0 : data.boxes[n].op.startsWith(words[0]) ? 1 : 2);
  found.sort((a, b) => rank(a) - rank(b) || a - b);
  const more = found.length - 40;
  found = found.slice(0, 40);
  active = found.length ? 0 : -1;
  results.replaceChildren(...found.map((n, k) => make("li", { role: "option", id: `result-${k}`, "aria-selected": String(k === active), onpointerdown: (event) => { event.preventDefault(); choose(k); } },
    make("b", {}, data.boxes[n].op || shortName(data.boxes[n].name)), make("span", { class: "soft" }, [ownName(data.boxes[n]) || (data.boxes[n].op ? data.boxes[n].name : ""), groupPath[n].slice(1).map(groupTitle).join(" \u203a ")].filter(Boolean).join(" \u00b7 ")))),
    ...(words.length && !found.length ? [make("li", { class: "none" }, "nothing has that name")] : []),
    ...(more > 0 ? [make("li", { class: "none" }, `and ${more.toLocaleString("en")} more`)] : []));
  showResults(words.length > 0);
}

function showResults(on) {
  results.hidden = !on;
  search.setAttribute("aria-expanded", String(on));
  if (on && active >= 0) search.setAttribute("aria-activedescendant", `result-${active}`);
  else search.removeAttribute("aria-activedescendant");
}

function choose(k) {
  const box = found[k];
  if (box === undefined) return;
  search.value = "";
  showResults(false);
  select(box);
  show(`b${box}`);
  focusBox(`b${box}`);
}

search.addEventListener("input", find);
search.addEventListener("focus", () => search.value && find());
search.addEventListener("blur", () => showResults(false));
search.addEventListener("keydown", (event) => {
  if (event.key === "ArrowDown" || event.key === "ArrowUp") {
    if (!found.length) return;
    active = (active + (event.key === "ArrowDown" ? 1 : -1) + found.length) % found.length;
    [...results.children].forEach((li, k) => li.setAttribute("aria-selected", String(k === active)));
    results.children[active].scrollIntoView({ block: "nearest" });
    showResults(true);
    event.preventDefault();
  } else if (event.key === "Enter") {
    choose(active);
  } else if (event.key === "Escape") {
    if (!search.value) return;
    search.value = "";
    showResults(false);
    event.stopPropagation();
  }
});

// -- light and dark ---------------------------------------------------------------------------------------------------
const darkRules = [...document.styleSheets].flatMap((sheet) => [...sheet.cssRules]).filter((rule) => rule.media && /prefers-color-scheme/.test(rule.media.mediaText));
const wantsDark = window.matchMedia("(prefers-color-scheme: dark)");
let dark = wantsDark.matches;

function setTheme(on) {
  dark = on;
  for (const rule of darkRules) rule.media.mediaText = on ? "all" : "not all";
  document.body.style.colorScheme = document.documentElement.style.colorScheme = on ? "dark" : "light";
  document.body.dataset.theme = on ? "dark" : "light";
  document.getElementById("theme").setAttribute("aria-pressed", String(on));
  readColours();
  if (picture) refresh();
  if (!panel.hidden) renderPanel();
}
document.getElementById("theme").addEventListener("click", () => setTheme(!dark));
wantsDark.addEventListener("change", (event) => setTheme(event.matches));

// -- addresses --------------------------------------------------------------------------------------------------------
// The part of the address after # is the open box. A page inside a notebook has no address of its own.
function setHash(address) {
  const hash = address ? `#${encodeURIComponent(address)}` : "";
  if (decodeURIComponent(location.hash) === decodeURIComponent(hash)) return;
  try {
    history.pushState(null, "", hash || location.pathname + location.search);
  } catch { /* not allowed here */ }
}

function openHash() {
  let address = "";
  try { address = decodeURIComponent(location.hash.slice(1)); } catch { return; }
  const box = data.boxes.findIndex((b) => b.address === address);
  if (box >= 0 && box !== state.box) {
    select(box);
    show(`b${box}`, false);
  } else if (!address) closePanel();
}
window.addEventListener("popstate", openHash);
window.addEventListener("hashchange", openHash);

// -- keys and buttons -------------------------------------------------------------------------------------------------
document.getElementById("zoom-in").addEventListener("click", () => zoom(1.25, undefined, undefined, true));
document.getElementById("zoom-out").addEventListener("click", () => zoom(0.8, undefined, undefined, true));
document.getElementById("zoom-fit").addEventListener("click", () => fit(true));
document.getElementById("close").addEventListener("click", closePanel);
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") closePanel();
  if (event.target.closest("input, select") || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "/") {
    event.preventDefault();
    search.focus();
  } else if (event.key === "+" || event.key === "=") zoom(1.25, undefined, undefined, true);
  else if (event.key === "-") zoom(0.8, undefined, undefined, true);
  else if (event.key === "0") fit(true);
  else if (event.key === "f") modes.choose("forward");
  else if (event.key === "b") modes.choose("backward");
});
let resized = 0;
window.addEventListener("resize", () => {
  clearTimeout(resized);
  resized = setTimeout(() => { if (!panel.hidden && !panel.contains(document.activeElement)) renderPanel(); }, 150);
});

// -- begin ------------------------------------------------------------------------------------------------------------
// Unfold from the outside as long as the picture stays small enough to take in.
function unfoldFirst() {
  for (let queue = parts[0].filter(isGroup); queue.length;) {
    const inside = queue.flatMap((key) => parts[numberOf(key)]);
    const visible = [...state.open, 0].flatMap((g) => parts[g]).length + inside.length;
    if (visible > 16) return;
    queue.forEach((key) => state.open.add(numberOf(key)));
    queue = inside.filter(isGroup);
  }
}

const operationCount = data.boxes.filter((box) => box.op).length;
document.getElementById("counts").textContent = `${plural(operationCount, "operation")} \u00b7 ${plural(data.boxes.length - operationCount, "leaf", "leaves")}`;
unfoldFirst();
setTheme(dark);
tellStory();
redraw();
setMode("forward");
home();
if (location.hash.length > 1) openHash();
document.body.dataset.ready = "yes";
