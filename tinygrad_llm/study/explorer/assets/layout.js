// Where the boxes of the graph stand: layers from top to bottom, folded groups as one box, unfolded ones as frames.
//
// Every unfolded group is laid out by itself, from the inside out: layers by longest path, an order within each layer
// that avoids crossings (barycentres), then places that keep edges straight (least squares under the order). An edge
// that passes through a layer, or through the border of a frame, has a place of its own there.

const SIZES = { box: [152, 71], leaf: [128, 62], group: [202, 75] };
const GAP = 26, RANK = 31, PADDING = 18, TITLE = 38;

const parts = data.groups.map(() => []); // of each group: keys "g3" and "b7", in the order of creation
const groupPath = data.boxes.map((box) => pathOf(box.group)); // groups around each box, outermost first
const members = data.groups.map(() => []); // all boxes inside each group

function pathOf(group) {
  const path = [];
  for (let g = group; g >= 0; g = data.groups[g].parent) path.unshift(g);
  return path;
}

data.boxes.forEach((box, number) => {
  groupPath[number].forEach((g, depth, path) => {
    const part = depth + 1 < path.length ? `g${path[depth + 1]}` : `b${number}`;
    if (parts[g][parts[g].length - 1] !== part && !parts[g].includes(part)) parts[g].push(part);
    members[g].push(number);
  });
});

// Every way that a value takes from the box that makes it to one that uses it.
const flows = [];
data.boxes.forEach((box, to) => {
  const given = box.inputs.filter((input) => input.value !== undefined);
  given.forEach((input, port) => {
    const from = data.values[input.value].box;
    flows.push({ from, to, value: input.value, input: input.name, port, ports: given.length });
  });
});

const isGroup = (key) => key[0] === "g";
const numberOf = (key) => Number(key.slice(1));
const orderOf = (key) => (isGroup(key) ? members[numberOf(key)][0] : numberOf(key));

// What stands for a box while some groups are folded: itself, or the outermost folded group around it.
function standsFor(box, open) {
  const folded = groupPath[box].find((g) => g !== 0 && !open.has(g));
  return folded === undefined ? `b${box}` : `g${folded}`;
}

function sizeOf(key) {
  if (isGroup(key)) return SIZES.group;
  return data.boxes[numberOf(key)].op ? SIZES.box : SIZES.leaf;
}

// {boxes: Map key -> {x, y, w, h}, frames: the same for unfolded groups, edges: [{from, to, value, path, flows}], width, height}
function layout(open) {
  const levels = new Map(); // group -> its segments, "from>to" -> {from, to}
  const edges = new Map();
  const segment = (group, from, to) => {
    if (!levels.has(group)) levels.set(group, new Map());
    levels.get(group).set(`${from}>${to}`, { from, to });
    return [group, `${from}>${to}`];
  };
  for (const flow of flows) {
    const from = standsFor(flow.from, open), to = standsFor(flow.to, open);
    if (from === to) continue;
    const wide = !isGroup(to) && flow.ports > 1 ? `#${flow.port}/${flow.ports}` : "";
    const outputs = isGroup(from) ? [] : data.boxes[flow.from].values;
    const many = outputs.length > 1 ? `#${outputs.indexOf(flow.value)}/${outputs.length}` : "";
    const id = `${from}${many}>${to}${wide}>${isGroup(from) && isGroup(to) ? "" : flow.value}`;
    if (edges.has(id)) {
      edges.get(id).flows.push(flow);
      continue;
    }
    const around = (box) => groupPath[box].filter((g, k, path) => path.slice(1, k + 1).every((h) => open.has(h)));
    const up = around(flow.from), down = around(flow.to);
    let common = 0;
    while (common + 1 < Math.min(up.length, down.length) && up[common + 1] === down[common + 1]) common++;
    const segments = [];
    let at = from + many;
    for (let k = up.length - 1; k > common; k--) {
      segments.push(segment(up[k], at, `o${flow.value}`));
      at = `g${up[k]}|o${flow.value}`;
    }
    for (let k = common; k < down.length; k++) {
      const next = k + 1 < down.length ? `g${down[k + 1]}|i${flow.value}` : to + wide;
      segments.push(segment(down[k], at, next));
      at = `i${flow.value}`;
    }
    edges.set(id, { from, to, value: flow.value, flows: [flow], segments });
  }
  const root = arrange(0, open, levels);
  const placed = { boxes: new Map(), frames: new Map(), width: root.w, height: root.h, edges: [] };
  const lines = new Map();
  place(root, 0, 0, placed, lines);
  for (const edge of edges.values()) {
    const points = edge.segments.flatMap(([group, id]) => lines.get(`${group}:${id}`));
    placed.edges.push({ ...edge, path: curve(points) });
  }
  return placed;
}

// One level: the parts of a group in layers, unfolded groups among them arranged first.
function arrange(group, open, levels) {
  const segments = [...(levels.get(group) || new Map()).entries()].map(([id, s]) => ({ id, ...s }));
  const nodes = new Map();
  for (const key of parts[group]) {
    const inner = isGroup(key) && open.has(numberOf(key)) ? arrange(numberOf(key), open, levels) : null;
    const [w, h] = inner ? [inner.w, inner.h] : sizeOf(key);
    nodes.set(key, { key, w, h, inner, order: orderOf(key), rank: 0, x: 0, links: [] });
  }
  const border = (id) => {
    if (!nodes.has(id)) nodes.set(id, { key: id, w: 8, h: 0, order: id[0] === "i" ? -1 : Infinity, rank: 0, x: 0, links: [] });
  };
  for (const s of segments) {
    if (s.from[0] === "i") border(s.from);
    if (s.to[0] === "o") border(s.to);
  }
  const links = segments.map((s) => ({ id: s.id, from: s.from, a: end(nodes, s.from), b: end(nodes, s.to) }));
  rank([...nodes.values()], links, group);
  const ranks = [];
  for (const node of nodes.values()) (ranks[node.rank] = ranks[node.rank] || []).push(node);
  for (let r = 0; r < ranks.length; r++) ranks[r] = (ranks[r] || []).sort((a, b) => a.order - b.order);
  for (const { a, b } of links) {
    a.node.out = (a.node.out || 0) + 1;
    b.node.into = (b.node.into || 0) + 1;
  }
  const bends = new Map();
  const chains = links.map((link) => chain(link, ranks, bends));
  untangle(ranks);
  straighten(ranks);
  snap(ranks);
  const heights = ranks.map((row) => Math.max(0, ...row.map((n) => n.h)));
  let y = group ? TITLE : 0;
  let left = Infinity, right = -Infinity;
  for (const node of ranks.flat()) {
    left = Math.min(left, node.x - node.w / 2);
    right = Math.max(right, node.x + node.w / 2);
  }
  if (!ranks.length) left = right = 0;
  const pad = group ? PADDING : 0;
  const w = Math.max(right - left + 2 * pad, group ? 180 : 0);
  const shift = pad - left + (w - (right - left + 2 * pad)) / 2;
  ranks.forEach((row, r) => {
    const port = row.every((n) => n.key[0] === "i" || n.key[0] === "o");
    for (const node of row) {
      node.x += shift;
      node.top = y;
      node.bottom = y + heights[r];
      node.y = node.key[0] === "i" ? 0 : y + (heights[r] - node.h) / 2;
    }
    y += heights[r] + (r + 1 < ranks.length ? (port ? RANK / 3 : RANK) : 0);
  });
  const h = y + pad;
  for (const node of ranks.flat()) if (node.key[0] === "o") node.y = h;
  return { group, w, h, nodes: [...nodes.values()], chains, ports: new Map([...nodes.values()].filter((n) => "io".includes(n.key[0])).map((n) => [n.key, n.x - w / 2])) };
}

// Where an edge touches a part: the part, and how far from its middle.
function end(nodes, text) {
  const [key, port] = text.split("|");
  if (port !== undefined) {
    const node = nodes.get(key);
    return { node, offset: node.inner.ports.get(port) || 0 };
  }
  const [plain, share] = text.split("#");
  const node = nodes.get(plain);
  if (share === undefined) return { node, offset: 0 };
  const [k, n] = share.split("/").map(Number);
  return { node, offset: ((k + 1) / (n + 1) - 0.5) * node.w };
}

function rank(nodes, links, group) {
  const first = nodes.some((n) => n.key[0] === "i") ? 1 : 0;
  const into = new Map(), out = new Map();
  for (const link of links) {
    if (link.a.node.order >= link.b.node.order) continue; // no edge goes back in time; a drawing must not hang if one did
    into.set(link.b.node, [...(into.get(link.b.node) || []), link.a.node]);
    out.set(link.a.node, [...(out.get(link.a.node) || []), link.b.node]);
  }
  const sorted = [...nodes].sort((a, b) => a.order - b.order);
  for (const node of sorted) {
    node.rank = node.key[0] === "i" ? 0 : Math.max(first, ...(into.get(node) || []).map((n) => n.rank + 1));
  }
  const last = Math.max(0, ...nodes.filter((n) => n.key[0] !== "o").map((n) => n.rank)) + 1;
  for (const node of nodes) if (node.key[0] === "o") node.rank = last;
  for (const node of sorted.reverse()) { // what comes from nowhere stands just above what it is for
    if ("io".includes(node.key[0]) || into.has(node) || !out.has(node)) continue;
    node.rank = Math.max(first, Math.min(...out.get(node).map((n) => n.rank)) - 1);
  }
}

// The nodes that an edge passes: its ends, and a place in each layer between, shared by all edges from the same start.
function chain(link, ranks, bends) {
  const nodes = [link.a];
  let known = 0;
  for (let r = link.a.node.rank + 1; r < link.b.node.rank; r++) {
    const id = `${link.from}@${r}`;
    if (bends.has(id)) known++;
    else {
      const bend = { key: "", run: link.from, w: 10, h: 0, order: (link.a.node.order + link.b.node.order) / 2, rank: r, x: 0, links: [] };
      bends.set(id, bend);
      ranks[r].push(bend);
    }
    nodes.push({ node: bends.get(id), offset: 0 });
  }
  nodes.push(link.b);
  for (let k = known; k + 1 < nodes.length; k++) {
    const a = nodes[k].node, b = nodes[k + 1].node;
    const bends = (a.key === "") + (b.key === "");
    const weight = bends ? [0, 0.3, 20][bends] : a.out === 1 && b.into === 1 ? 40 : a.out === 1 || b.into === 1 ? 4 : 1; // a lone line is straight
    nodes[k].node.links.push({ other: nodes[k + 1].node, shift: nodes[k + 1].offset - nodes[k].offset, weight, down: true });
    nodes[k + 1].node.links.push({ other: nodes[k].node, shift: nodes[k].offset - nodes[k + 1].offset, weight, down: false });
  }
  return { id: link.id, nodes };
}

// Order each layer by the mean place of the neighbours above, then below, and so on.
function untangle(ranks) {
  for (const row of ranks) row.forEach((node, k) => { node.x = (k + 0.5) / row.length; });
  for (let sweep = 0; sweep < 10; sweep++) {
    const down = sweep % 2 === 0;
    for (const row of down ? ranks : [...ranks].reverse()) {
      for (const node of row) {
        const near = node.links.filter((link) => link.down !== down);
        node.wish = near.length ? near.reduce((s, link) => s + link.other.x + link.shift * 1e-4, 0) / near.length : node.x;
      }
      row.sort((a, b) => a.wish - b.wish);
      row.forEach((node, k) => { node.x = (k + 0.5) / row.length; });
    }
  }
}

function straighten(ranks) {
  for (const row of ranks) spread(row, row.map(() => 0), row.map(() => 1));
  for (let sweep = 0; sweep < 60; sweep++) {
    const down = sweep % 2 === 0, both = sweep >= 40;
    for (const row of down ? ranks : [...ranks].reverse()) {
      const wishes = [], weights = [];
      for (const node of row) {
        const near = node.links.filter((link) => both || link.down !== down);
        const weight = near.reduce((s, link) => s + link.weight, 0);
        wishes.push(weight ? near.reduce((s, link) => s + link.weight * (link.other.x + link.shift), 0) / weight : node.x);
        weights.push(weight || 0.1);
      }
      spread(row, wishes, weights);
    }
  }
}

// What is nearly straight becomes straight: the places of one edge in the layers it passes, and lone lines.
function snap(ranks) {
  const runs = new Map();
  for (const row of ranks) {
    row.forEach((node, k) => {
      if (node.key !== "") return;
      const apart = (other) => (other.w + node.w) / 2 + 8;
      const run = runs.get(node.run) || { low: -Infinity, high: Infinity, nodes: [] };
      if (row[k - 1]) run.low = Math.max(run.low, row[k - 1].x + apart(row[k - 1]));
      if (row[k + 1]) run.high = Math.min(run.high, row[k + 1].x - apart(row[k + 1]));
      run.nodes.push(node);
      runs.set(node.run, run);
    });
  }
  for (const { low, high, nodes } of runs.values()) {
    if (low > high) continue;
    const wish = nodes.map((n) => n.x).sort((a, b) => a - b)[nodes.length >> 1];
    for (const node of nodes) node.x = Math.min(high, Math.max(low, wish));
  }
  for (const row of ranks) {
    row.forEach((node, k) => {
      const lone = node.links.filter((link) => !link.down && link.weight === 40);
      if (lone.length !== 1) return;
      const x = lone[0].other.x + lone[0].shift;
      const clear = (other, side) => !other || side * (other.x - x) >= (other.w + node.w) / 2 + 8;
      if (Math.abs(x - node.x) < 40 && clear(row[k - 1], -1) && clear(row[k + 1], 1)) node.x = x;
    });
  }
}

// Places in the given order, apart from each other, and as near to the wishes as can be (pool adjacent violators).
function spread(row, wishes, weights) {
  const offsets = [0];
  for (let k = 1; k < row.length; k++) {
    const gap = row[k].key === "" || row[k - 1].key === "" ? GAP * 0.7 : GAP;
    offsets.push(offsets[k - 1] + (row[k - 1].w + row[k].w) / 2 + gap);
  }
  const blocks = [];
  row.forEach((_, k) => {
    blocks.push({ sum: (wishes[k] - offsets[k]) * weights[k], weight: weights[k], count: 1 });
    while (blocks.length > 1) {
      const [a, b] = blocks.slice(-2);
      if (a.sum / a.weight <= b.sum / b.weight) break;
      blocks.splice(-2, 2, { sum: a.sum + b.sum, weight: a.weight + b.weight, count: a.count + b.count });
    }
  });
  let k = 0;
  for (const block of blocks) {
    for (let c = 0; c < block.count; c++, k++) row[k].x = block.sum / block.weight + offsets[k];
  }
}

function place(level, x, y, placed, lines) {
  for (const node of level.nodes) {
    if (!"gb".includes(node.key[0])) continue;
    const spot = { x: x + node.x - node.w / 2, y: y + node.y, w: node.w, h: node.h };
    if (node.inner) {
      placed.frames.set(node.key, spot);
      place(node.inner, spot.x, spot.y, placed, lines);
    } else {
      placed.boxes.set(node.key, spot);
    }
  }
  for (const { id, nodes } of level.chains) {
    const points = nodes.flatMap(({ node, offset }, k) => {
      const px = x + node.x + offset;
      const from = k === 0 ? node.y + node.h : node.top, to = k === nodes.length - 1 ? node.y : node.bottom;
      return [[px, y + from], [px, y + to]]; // upright as long as there may be something beside it in the layer
    });
    lines.set(`${level.group}:${id}`, points);
  }
}

// A smooth line through the points, upright at each of them.
function curve(points) {
  let path = `M${points[0].map((v) => v.toFixed(1)).join(" ")}`;
  for (let k = 1; k < points.length; k++) {
    const [x0, y0] = points[k - 1], [x1, y1] = points[k];
    if (Math.abs(x0 - x1) < 0.5) path += `V${y1.toFixed(1)}`;
    else {
      const middle = ((y0 + y1) / 2).toFixed(1);
      path += `C${x0.toFixed(1)} ${middle} ${x1.toFixed(1)} ${middle} ${x1.toFixed(1)} ${y1.toFixed(1)}`;
    }
  }
  return path;
}
