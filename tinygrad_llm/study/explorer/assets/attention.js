// Attention patterns: for each head, which keys every query looks at, and the gradients that come back.

const KINDS = [["dp", "gradient of p"], ["ds", "gradient of the scores"]];

// The query and key of the largest probability but for those that are 1 because nothing else may be seen.
function busiest(p, sequence, head) {
  const [, , queries, keys] = p.kept;
  let best = [0, 0], most = 0;
  for (let t = 0; t < Math.min(queries, PAGE); t++) {
    for (let s = 0; s < Math.min(keys, PAGE); s++) {
      const x = entry(p, [sequence, head, t, s]);
      if (x > most && x < 0.999) [best, most] = [[t, s], x];
    }
  }
  return best;
}

function attentionTab(box) {
  const patterns = box.attention;
  const [batches, heads] = data.arrays[patterns.p].shape;
  open.head = Math.min(open.head, heads - 1);
  open.sequence = Math.min(open.sequence, batches - 1);
  const again = (label) => {
    renderPanel();
    document.querySelector(`.choices[aria-label="${label}"] [aria-checked=true]`)?.focus({ preventScroll: true });
  };
  const content = [];
  const row = make("div", { class: "controls" }, make("span", { class: "soft" }, "head"),
    choices("Head", Array.from({ length: heads }, (_, h) => ({ key: String(h), text: String(h) })), String(open.head), (key) => { open.head = Number(key); again("Head"); }));
  if (batches > 1) row.append(make("span", { class: "soft" }, "sequence"), choices("Sequence", Array.from({ length: Math.min(batches, 16) }, (_, b) => ({ key: String(b), text: String(b) })), String(open.sequence), (key) => { open.sequence = Number(key); again("Sequence"); }));
  content.push(row);
  const [, , queries, keys] = data.arrays[patterns.p].shape;
  if (!queries || !keys) return [...content, make("p", { class: "empty-note" }, "There are no queries or no keys.")];
  const view = new View(data.arrays[patterns.p].shape, ["batch", "head", "token", "token"]);
  view.row = 2;
  view.column = 3;
  view.cursor = [open.sequence, open.head, ...busiest(numbers(patterns.p), open.sequence, open.head)];
  const readout = make("div", { class: "readout", role: "status", "aria-live": "polite" });
  const looks = make("div", { class: "looks" });
  const maps = [];
  const tell = (index) => {
    const at = index || view.cursor;
    const [, , t, s] = at;
    readout.dataset.index = JSON.stringify(at);
    readout.replaceChildren(make("span", { class: "at" }, `head ${at[1]}, query ${axisLabel(view, 2, t)} \u2192 key ${axisLabel(view, 3, s)}`),
      make("span", { class: "number value", "data-number": String(entry(numbers(patterns.p), at)) }, make("i", {}, "p"), full(entry(numbers(patterns.p), at))),
      ...KINDS.filter(([kind]) => patterns[kind] !== undefined).map(([kind]) => make("span", { class: "number" }, make("i", {}, kind), short(entry(numbers(patterns[kind]), at), 6))));
    looks.replaceChildren(...Array.from({ length: Math.min(keys, PAGE) }, (_, key) => {
      const p = entry(numbers(patterns.p), [at[0], at[1], t, key]);
      return make("span", { class: `look${key === s ? " here" : ""}`, style: `--p:${Number.isFinite(p) ? p.toFixed(3) : 0}`, title: full(p) }, axisLabel(view, 3, key), " ", make("i", {}, p === undefined ? "" : p < 0.0005 ? "" : `${(100 * p).toFixed(0)}`));
    }));
  };
  const hooks = {
    hover: (index) => { maps.forEach((map) => map.point(index)); tell(index); },
    pick: (index) => { view.cursor = index; maps.forEach((map) => map.select()); tell(null); },
    moved: () => { maps.forEach((map) => map.select()); tell(null); },
  };
  const wide = panelWidth() >= 430;
  const options = { width: wide ? panelWidth() / 2 - 10 : panelWidth(), cell: 30 };
  maps.push(heatMap("p", patterns.p, view, hooks, options));
  for (const [kind, text] of KINDS) if (patterns[kind] !== undefined) maps.push(heatMap(text, patterns[kind], view, hooks, options));
  tell(null);
  content.push(readout, make("p", { class: "looks-title soft" }, "this query looks at, in percent"), looks, make("div", { class: "maps" }, maps),
    make("p", { class: "note" }, "Rows are queries, columns keys. p is recomputed from this node's q and k. The gradients follow from the cotangent dy: dp = dy v", make("sup", {}, "T"), ", ds = p (dp \u2212 rowsum(dp p))."));
  return content;
}
