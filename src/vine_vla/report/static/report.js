// The decision tree: a tidy left-to-right layout in SVG, opened by click or keyboard.
// Data come from the page's JSON block; every text is set as text, never as markup.
(function () {
  "use strict";
  const SVG = "http://www.w3.org/2000/svg";
  const WIDE = 178, HIGH = 42, COLUMN = 222, GAP = 8, EDGE = 14;
  const OUTCOMES = [["goal", "goal"], ["reached", "win"], ["slipped", "half"], ["dead", "loss"]];

  function make(name, attributes, ...children) {
    const node = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes || {})) node.setAttribute(key, value);
    node.append(...children);
    return node;
  }
  function html(name, className, ...children) {
    const node = document.createElement(name);
    if (className) node.className = className;
    node.append(...children);
    return node;
  }
  const show = (value, digits = 2) => (value === null || value === undefined ? "–" : value.toFixed(digits));
  const clip = (text, length) => (text.length > length ? text.slice(0, length - 1) + "…" : text);
  const spoken = (node) =>
    node.name + (node.via === "slipped" ? ", after a slip" : "") + (node.pruned ? ", pruned" : node.v === null ? "" : ", feasibility " + show(node.v)) +
    (node.visits === null ? "" : ", " + node.visits + " visits");

  class TreeView {
    constructor(box, panel, tree) {
      this.box = box; this.panel = panel; this.nodes = tree.nodes; this.title = tree.title;
      this.children = this.nodes.map(() => []);
      this.nodes.forEach((node, i) => { if (i) this.children[node.parent].push(i); });
      this.expanded = new Set([0]);
      this.nodes.forEach((node) => { if (node.best) this.expanded.add(node.parent); });
      const usual = this.children[0].reduce((a, b) => (a < 0 || this.nodes[b].prior > this.nodes[a].prior ? b : a), -1);
      if (usual > 0) this.expanded.add(usual); // what demonstrators would do: the tree shows what comes of it
      this.chosen = this.nodes.findIndex((node) => node.best && node.parent === 0);
      if (this.chosen < 0) this.chosen = 0;
      this.focused = this.chosen;
      this.draw();
      this.open(this.chosen, false);
    }
    layout() {
      const place = new Map();
      let row = 0, deepest = 0;
      const walk = (i, depth) => {
        deepest = Math.max(deepest, depth);
        const inner = this.expanded.has(i) ? this.children[i] : [];
        const rows = inner.map((child) => walk(child, depth + 1));
        const at = rows.length ? (rows[0] + rows[rows.length - 1]) / 2 : row++;
        place.set(i, { x: EDGE + depth * COLUMN, y: EDGE + at * (HIGH + GAP) });
        return at;
      };
      walk(0, 0);
      this.place = place;
      return { width: 2 * EDGE + deepest * COLUMN + WIDE + 26, height: 2 * EDGE + row * (HIGH + GAP) };
    }
    order() {
      return [...this.place.keys()].sort((a, b) => {
        const p = this.place.get(a), q = this.place.get(b);
        return p.y - q.y || p.x - q.x;
      });
    }
    draw() {
      const size = this.layout();
      const canvas = make("svg", {
        viewBox: `0 0 ${size.width} ${size.height}`, width: size.width, height: size.height,
        role: "tree", "aria-label": this.title,
      });
      this.shapes = new Map();
      for (const [i, at] of this.place) if (i) canvas.append(this.link(i, at));
      for (const i of this.order()) canvas.append(this.card(i, this.place.get(i)));
      this.box.replaceChildren(canvas);
      this.mark();
    }
    link(i, at) {
      const node = this.nodes[i], from = this.place.get(node.parent);
      const x1 = from.x + WIDE, y1 = from.y + HIGH / 2, x2 = at.x, y2 = at.y + HIGH / 2, middle = (x1 + x2) / 2;
      const path = make("path", {
        d: `M${x1} ${y1}C${middle} ${y1} ${middle} ${y2} ${x2} ${y2}`,
        class: "link" + (node.best ? " best" : "") + (node.via === "slipped" ? " slipped" : ""),
      });
      return path;
    }
    card(i, at) {
      const node = this.nodes[i], many = this.children[i].length;
      const kind = "node" + (node.best ? " best" : "") + (node.pruned ? " cut" : "");
      const group = make("g", {
        class: kind, transform: `translate(${at.x} ${at.y})`, role: "treeitem", tabindex: "-1", id: "node-" + i,
        "aria-label": spoken(node), "aria-selected": "false", "aria-level": String(node.depth + 1),
      });
      group.append(make("rect", { class: "body", width: WIDE, height: HIGH, rx: 8 }));
      if (node.via === "slipped") group.append(make("rect", { class: "slip", x: 1, y: 8, width: 4, height: HIGH - 16, rx: 2 }));
      group.append(make("title", {}, (node.text || node.name) + (node.pruned ? "\n" + node.pruned : "")));
      group.append(make("text", { class: "name", x: 10, y: 16 }, clip(node.name, 25)));
      if (i === 0) {
        group.append(make("text", { class: "sub", x: 10, y: 32 }, `${many} options considered`));
      } else {
        const said = node.pruned ? "pruned: " + clip(node.short, 30)
          : `${show(node.v)}${node.visits === null ? "" : " · " + node.visits + (node.visits === 1 ? " visit" : " visits")}`;
        group.append(make("text", { class: "sub", x: 10, y: 32 }, said));
        if (!node.pruned && node.v !== null) group.append(this.bar(node));
      }
      if (many && i) group.append(this.toggle(i, many));
      group.addEventListener("click", () => { this.focus(i); this.open(i, true); });
      group.addEventListener("keydown", (event) => this.key(event, i));
      this.shapes.set(i, group);
      return group;
    }
    bar(node) {
      const x = WIDE - 54, wide = 44;
      const group = make("g", { transform: `translate(${x} 26)` });
      group.append(make("rect", { class: "track", width: wide, height: 5 }));
      group.append(make("rect", { class: "fill", width: Math.max(0, Math.min(1, node.v)) * wide, height: 5 }));
      if (node.lo !== null && node.hi !== null)
        group.append(make("line", { class: "range", x1: node.lo * wide, x2: node.hi * wide, y1: 2.5, y2: 2.5 }));
      return group;
    }
    toggle(i, many) {
      const open = this.expanded.has(i);
      const group = make("g", { class: "toggle", transform: `translate(${WIDE + 11} ${HIGH / 2})` });
      group.append(make("circle", { r: 9 }));
      group.append(make("text", { "text-anchor": "middle", y: 3.5 }, open ? "−" : many > 9 ? "+" : "+" + many));
      group.addEventListener("click", (event) => { event.stopPropagation(); this.focused = i; this.expand(i, !open); });
      return group;
    }
    mark() {
      for (const [i, shape] of this.shapes) {
        shape.setAttribute("tabindex", i === this.focused ? "0" : "-1");
        shape.setAttribute("aria-selected", String(i === this.chosen));
        shape.classList.toggle("open", i === this.chosen);
        if (this.children[i].length) shape.setAttribute("aria-expanded", String(this.expanded.has(i)));
      }
    }
    expand(i, open) {
      if (!this.children[i].length) return;
      if (open) this.expanded.add(i); else this.expanded.delete(i);
      const inside = (node) => { while (node > 0 && node !== i) node = this.nodes[node].parent; return node === i; };
      if (!open && inside(this.focused)) this.focused = i;
      this.draw();
      this.shapes.get(this.focused).focus({ preventScroll: true });
    }
    focus(i) {
      this.focused = i;
      this.mark();
      this.shapes.get(i).focus();
      this.shapes.get(i).scrollIntoView({ block: "nearest", inline: "nearest" });
    }
    key(event, i) {
      const order = this.order(), at = order.indexOf(i), inner = this.expanded.has(i) ? this.children[i] : [];
      const moves = {
        ArrowDown: () => this.focus(order[Math.min(at + 1, order.length - 1)]),
        ArrowUp: () => this.focus(order[Math.max(at - 1, 0)]),
        ArrowRight: () => (inner.length ? this.focus(inner[0]) : this.expand(i, true)),
        ArrowLeft: () => (inner.length && i ? this.expand(i, false) : this.focus(i ? this.nodes[i].parent : 0)),
        Home: () => this.focus(order[0]),
        End: () => this.focus(order[order.length - 1]),
        Enter: () => this.open(i, true),
        " ": () => this.open(i, true),
      };
      if (!(event.key in moves) || event.ctrlKey || event.metaKey || event.altKey) return;
      event.preventDefault();
      moves[event.key]();
    }
    open(i, asked) {
      this.chosen = i;
      this.mark();
      this.panel.replaceChildren(...describe(this.nodes[i], i));
      this.panel.dataset.node = String(i);
      if (asked && window.innerWidth < 860) this.panel.scrollIntoView({ block: "nearest" });
    }
  }

  function describe(node, i) {
    const parts = [html("h4", "", node.text || node.name)];
    if (node.text && node.text !== node.name) parts.push(html("p", "faint", node.name));
    if (node.pruned) parts.push(html("p", "reason", "Pruned: " + node.pruned));
    else if (node.note) parts.push(html("p", "reason fine", node.note));
    if (i) {
      const rows = [
        ["feasibility Q", show(node.v, 3)],
        ["interval", node.lo === null || node.hi === null ? null : `${show(node.lo)} to ${show(node.hi)}`],
        ["spread between members", node.spread === null ? null : show(node.spread, 3)],
        ["score it was ranked by", node.score === null ? null : show(node.score, 3)],
        ["visits", node.visits === null ? null : String(node.visits)],
        ["prior of the demonstrators", node.prior === null ? null : show(node.prior, 3)],
        ["support by the data", node.support === null ? null : show(node.support)],
        ["upper bound of P(reach)", node.u === null ? null : show(node.u)],
      ];
      const list = html("dl");
      for (const [name, value] of rows) if (value !== null) list.append(html("dt", "", name), html("dd", "", value));
      parts.push(list);
      if (node.p) parts.push(...outcomes(node.p));
    }
    for (const [title, text] of node.graphs || []) {
      const details = html("details", "", html("summary", "", title), html("pre", "", text));
      if (i === 0) details.open = true;
      parts.push(details);
    }
    return parts;
  }
  function outcomes(p) {
    const bar = html("div", "outcomes");
    const said = OUTCOMES.map(([name], k) => `${name} ${show(p[k])}`).join(", ");
    bar.setAttribute("role", "img");
    bar.setAttribute("aria-label", said);
    OUTCOMES.forEach(([name, tone], k) => {
      const part = html("i", tone);
      part.style.width = 100 * p[k] + "%";
      part.title = `${name} ${show(p[k])}`;
      bar.append(part);
    });
    return [bar, html("p", "faint", said)];
  }
  const data = document.getElementById("trees");
  const box = document.getElementById("tree");
  if (!data || !box) return;
  const trees = JSON.parse(data.textContent);
  const panel = document.getElementById("panel");
  const chooser = document.getElementById("chooser");
  const images = document.querySelectorAll("[data-tree]");
  const start = (which) => {
    images.forEach((image) => { image.hidden = image.dataset.tree !== String(which); });
    return new TreeView(box, panel, trees[which]);
  };
  if (chooser) chooser.addEventListener("change", () => start(Number(chooser.value)));
  const view = start(0);
  const wanted = /^#node-(\d+)$/.exec(window.location.hash);
  if (wanted && Number(wanted[1]) < view.nodes.length) {
    for (let i = view.nodes[Number(wanted[1])].parent; i > 0; i = view.nodes[i].parent) view.expanded.add(i);
    view.draw();
    view.focus(Number(wanted[1]));
    view.open(Number(wanted[1]), true);
  }
})();
