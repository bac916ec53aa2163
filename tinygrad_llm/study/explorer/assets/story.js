// What the model reads and predicts, and how much each position adds to the loss.

function tellStory() {
  const story = data.story, strip = document.getElementById("story");
  if (!story) return;
  strip.hidden = false;
  const sequence = Math.min(open.sequence, story.targets.length - 1);
  const [batch, length, vocabulary] = story.shape;
  const loss = story.targets.flatMap((row, b) => row.map((target, t) => (target < 0 ? null : -Math.log(story.chosen[b][t])))).filter((x) => x !== null);
  const most = Math.max(...loss.filter(Number.isFinite), 1e-9);
  const cards = story.targets[sequence].map((target, t) => {
    const p = story.chosen[sequence][t];
    const guesses = story.best[sequence][t].slice(0, 3).map((id, k) => make("span", { class: `guess${id === target ? " right" : ""}`, style: `--p:${story.likely[sequence][t][k] ?? 0}` },
      make("span", {}, wordOf(id)), make("i", {}, percent(story.likely[sequence][t][k]))));
    const read = story.ids ? wordOf(story.ids[sequence][t]) : `position ${t}`;
    const own = target < 0 ? 0 : -Math.log(p);
    return make("li", {}, make("button", {
      type: "button", class: "token", disabled: story.value === null, onclick: () => readToken(sequence, t, target),
      "aria-label": `position ${t}: reads ${read}; should predict ${wordOf(target)}, to which it gives ${percent(p)}`,
    }, make("span", { class: "read" }, read), make("span", { class: "target" }, "\u2192 ", wordOf(target)),
      make("span", { class: "guesses" }, guesses), make("span", { class: "own-loss", style: `--share:${Math.min(1, own / most)}`, title: `\u2212log p = ${short(own)}` })));
  });
  document.getElementById("tokens").replaceChildren(...cards);
  document.getElementById("loss").replaceChildren(make("span", { class: "soft" }, "loss"), make("b", { class: "number" }, typeof story.loss === "number" ? short(story.loss, 5) : story.loss), make("span", { class: "soft" }, "nats"));
  const parts = [];
  if (batch > 1) parts.push(choices("Shown sequence", story.targets.map((_, b) => ({ key: String(b), text: String(b) })), String(sequence), (key) => { open.sequence = Number(key); tellStory(); }));
  const shown = [story.targets.length < batch ? `${story.targets.length} of ${batch} sequences` : "", story.targets[0].length < length ? `${story.targets[0].length} of ${length} positions` : ""].filter(Boolean).join(", ");
  document.getElementById("story-note").replaceChildren(...parts, make("p", {}, `${shown ? `${shown} \u00b7 ` : ""}each column reads a token and predicts the next of ${vocabulary.toLocaleString("en")}`));
}

const percent = (p) => (p === null || p === undefined ? "NaN" : p >= 0.0995 ? `${Math.round(100 * p)} %` : p >= 0.001 ? `${(100 * p).toFixed(1)} %` : "0 %");

// The gradient of the logits at a position: where the backward pass begins in earnest.
function readToken(sequence, t, target) {
  const value = data.values[data.story.value];
  const shape = data.arrays[value.array].shape;
  const flat = sequence * data.story.shape[1] + t;
  const index = shape.length === 3 ? [sequence, t, Math.max(target, 0)] : [flat, Math.max(target, 0)];
  select(value.box, { value: data.story.value, index });
}
