// Figures with sliders. They draw numbers that the package computed and exported; none is computed here.
//
// A figure is <div class="sliders" data-kind="lemma1"> with its numbers in a <script type="application/json"> inside.
// Sliders are range inputs: arrow keys, Home, End and Page Up/Down work, labels and values are read aloud.
"use strict";

(() => {
  const SVG = "http://www.w3.org/2000/svg";
  const COLOURS = ["#0173b2", "#de8f05", "#029e73", "#d55e00", "#cc78bc", "#949494"];
  let figures = 0;

  function element(parent, name, attributes = {}, text = "") {
    const node = parent.namespaceURI === SVG || name === "svg"
      ? document.createElementNS(SVG, name) : document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    if (text) node.textContent = text;
    parent.append(node);
    return node;
  }

  function short(value) {
    if (value === 0) return "0";
    const size = Math.abs(value);
    return size >= 1e5 || size < 1e-3 ? value.toExponential(1).replace("e+", "e") : String(+value.toPrecision(3));
  }

  function steps(low, high, count) {
    const rough = (high - low) / count, power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].map((factor) => factor * power).find((candidate) => candidate >= rough);
    const marks = [];
    for (let mark = Math.ceil(low / step) * step; mark <= high + step * 1e-9; mark += step) marks.push(+mark.toFixed(12));
    return marks;
  }

  function decades(low, high) {
    const marks = [], first = Math.ceil(Math.log10(low) - 1e-9), last = Math.floor(Math.log10(high) + 1e-9);
    const skip = Math.max(1, Math.ceil((last - first + 1) / 8));
    for (let power = first; power <= last; power += skip) marks.push(10 ** power);
    return marks;
  }

  // Axes with a name each, in a drawing that scales with the page. `log` is a pair of booleans.
  class Plot {
    constructor(parent, { x, y, labels, log = [false, false], title }) {
      this.range = { x, y };
      this.log = { x: log[0], y: log[1] };
      this.box = { left: 62, right: 628, top: 12, bottom: 322 };
      this.svg = element(parent, "svg", { viewBox: "0 0 640 372", role: "img", "aria-label": title });
      this.clip = `clip-${++figures}`;
      const clip = element(element(this.svg, "defs"), "clipPath", { id: this.clip });
      const { left, right, top, bottom } = this.box;
      element(clip, "rect", { x: left, y: top, width: right - left, height: bottom - top });
      for (const axis of ["x", "y"]) this.axis(axis);
      element(this.svg, "text", { x: (left + right) / 2, y: 364, "text-anchor": "middle" }, labels[0]);
      element(this.svg, "text", { transform: `translate(14 ${(top + bottom) / 2}) rotate(-90)`, "text-anchor": "middle" },
        labels[1]);
      this.layer = element(this.svg, "g", { "clip-path": `url(#${this.clip})` });
    }

    at(axis, value) {
      const [low, high] = this.range[axis].map((end) => (this.log[axis] ? Math.log(end) : end));
      const share = ((this.log[axis] ? Math.log(value) : value) - low) / (high - low);
      const { left, right, top, bottom } = this.box;
      return axis === "x" ? left + share * (right - left) : bottom - share * (bottom - top);
    }

    axis(axis) {
      const { left, right, top, bottom } = this.box, [low, high] = this.range[axis];
      for (const mark of this.log[axis] ? decades(low, high) : steps(low, high, 6)) {
        const place = this.at(axis, mark);
        if (axis === "x") {
          element(this.svg, "line", { x1: place, x2: place, y1: top, y2: bottom, class: "grid" });
          element(this.svg, "text", { x: place, y: bottom + 20, "text-anchor": "middle" }, short(mark));
        } else {
          element(this.svg, "line", { x1: left, x2: right, y1: place, y2: place, class: "grid" });
          element(this.svg, "text", { x: left - 8, y: place + 5, "text-anchor": "end" }, short(mark));
        }
      }
    }

    clear() {
      this.layer.replaceChildren();
    }

    line(xs, ys, colour, extra = {}) {
      const points = xs.map((x, i) => `${this.at("x", x).toFixed(1)},${this.at("y", ys[i]).toFixed(1)}`).join(" ");
      return element(this.layer, "polyline", { points, stroke: colour, fill: "none", "stroke-width": 2.5, ...extra });
    }

    dot(x, y, colour, extra = {}) {
      return element(this.layer, "circle", { cx: this.at("x", x), cy: this.at("y", y), r: 6, fill: colour, ...extra });
    }
  }

  // A slider over the positions of a list. Calls back with the index.
  function slider(parent, { name, label, values, start, shown, moved }) {
    const row = element(parent, "p", { class: "slider-row" });
    const id = `slider-${++figures}`;
    element(row, "label", { for: id }, label);
    const input = element(row, "input", { type: "range", id, name, min: 0, max: values.length - 1, step: 1, value: start });
    const output = element(row, "output", { for: id });
    const update = () => {
      const text = shown(values[+input.value]);
      output.textContent = text;
      input.setAttribute("aria-valuetext", text);
    };
    input.addEventListener("input", () => { update(); moved(); });
    update();
    return () => +input.value;
  }

  function legend(parent, entries) {
    const list = element(parent, "ul", { class: "slider-legend" });
    for (const [colour, text, style = "solid"] of entries) {
      const item = element(list, "li");
      element(item, "span", { class: `swatch ${style}`, style: `--swatch: ${colour}`, "aria-hidden": "true" });
      item.append(text);
    }
  }

  function nearest(values, wanted) {
    return values.reduce((best, value, i) => (Math.abs(value - wanted) < Math.abs(values[best] - wanted) ? i : best), 0);
  }

  const KINDS = {
    lemma1(root, data) {
      const all = [...data.loss, ...data.own.map((point) => point[1])];
      const low = Math.min(...all), high = Math.max(...all), room = 0.12 * (high - low);
      const plot = new Plot(root, {
        x: [data.x[0], data.x.at(-1)], y: [low - 2 * room, high + room], labels: ["x", "loss"],
        title: `The loss ${data.formula} before and after one gradient step, with their stationary points`,
      });
      legend(root, [
        [COLOURS[5], "L: the loss", "dashed"], [COLOURS[0], "L ∘ θ′: the loss after the step"],
        [COLOURS[2], "stationary points of both", "dot"], [COLOURS[3], "new ones, of L ∘ θ′ only", "dot"],
      ]);
      const position = slider(root, {
        name: "inner_lr", label: "inner_lr", values: data.inner_lr,
        start: nearest(data.inner_lr, 1.5 * data.threshold), moved: () => draw(),
        shown: (rate) => `${short(rate)} = ${short(rate * data.l1)} / ℓ₁`,
      });
      const said = element(root, "p", { class: "slider-said", "aria-live": "polite" });
      function draw() {
        const i = position();
        plot.clear();
        plot.line(data.x, data.loss, COLOURS[5], { "stroke-dasharray": "6 5" });
        plot.line(data.x, data.composed[i], COLOURS[0]);
        for (const [x, value, kind, extra] of data.stationary[i]) {
          const dot = plot.dot(x, value, extra ? COLOURS[3] : COLOURS[2], { class: data.kinds[kind] });
          element(dot, "title", {}, `${data.kinds[kind]} at ${short(x)}`);
        }
        const added = data.stationary[i].filter((point) => point[3]).length;
        const below = data.inner_lr[i] < data.threshold;
        said.textContent = `${data.stationary[i].length} stationary points, ${added} of them new; inner_lr is ` +
          `${below ? "below" : "at or above"} 1/ℓ₁ = ${short(data.threshold)}.`;
      }
      draw();
    },

    bounds(root, data) {
      const roots = data.experiments.flatMap((one) => one.root.flat());
      const plot = new Plot(root, {
        x: [data.alpha[0], data.alpha.at(-1)], log: [true, true],
        y: [Math.max(0.01, Math.min(...roots)), Math.max(...roots)],
        labels: ["radius α", "root term of (18)"],
        title: "The root term of Theorem 2's bound against the radius",
      });
      legend(root, [
        ...data.experiments.map((one, j) => [COLOURS[j], `${one.name}, k = ${one.n_params.toLocaleString("en")}`]),
        ["currentColor", "1: from here up the bound says nothing", "dashed"],
      ]);
      const size = slider(root, {
        name: "n_images", label: "images n·M", values: data.n_images,
        start: nearest(data.n_images.map(Math.log), Math.log(38400)), moved: () => draw(),
        shown: (n) => Math.round(n).toLocaleString("en"),
      });
      const radius = slider(root, {
        name: "alpha", label: "radius α", values: data.alpha,
        start: nearest(data.alpha.map(Math.log), Math.log(0.05)), moved: () => draw(), shown: short,
      });
      const said = element(root, "p", { class: "slider-said", "aria-live": "polite" });
      function draw() {
        const n = size(), a = radius();
        plot.clear();
        plot.line([data.alpha[0], data.alpha.at(-1)], [1, 1], "currentColor", { "stroke-dasharray": "6 5", "stroke-width": 1.5 });
        const words = data.experiments.map((one, j) => {
          plot.line(data.alpha, one.root.map((row) => row[n]), COLOURS[j]);
          plot.dot(data.alpha[a], one.root[a][n], COLOURS[j]);
          return `${one.name}: ${short(one.root[a][n])}`;
        });
        said.textContent = `At α = ${short(data.alpha[a])} with ${Math.round(data.n_images[n]).toLocaleString("en")} images: ` +
          `${words.join("; ")}.`;
      }
      draw();
    },
  };

  // Filled contours of a grid [i][j], i along x, painted once per grid and laid under the drawing.
  function contours(plot, grid, levels) {
    const size = 300, canvas = document.createElement("canvas");
    canvas.width = canvas.height = size;
    const context = canvas.getContext("2d"), image = context.createImageData(size, size);
    const flat = grid.flat(), low = Math.min(...flat), high = Math.max(...flat);
    const [across, up] = [grid.length - 1, grid[0].length - 1];
    for (let row = 0; row < size; row += 1) {
      for (let column = 0; column < size; column += 1) {
        const u = (column / (size - 1)) * across, v = (1 - row / (size - 1)) * up;
        const i = Math.min(Math.floor(u), across - 1), j = Math.min(Math.floor(v), up - 1), a = u - i, b = v - j;
        const value = (1 - a) * ((1 - b) * grid[i][j] + b * grid[i][j + 1]) +
          a * ((1 - b) * grid[i + 1][j] + b * grid[i + 1][j + 1]);
        // Levels are closer together where the loss is low: that is where the minima are.
        const level = Math.floor(levels * Math.sqrt((value - low) / (high - low || 1))) / levels;
        const shade = [247 - 190 * (1 - level), 251 - 140 * (1 - level), 255 - 75 * (1 - level)];
        image.data.set([...shade, 255], 4 * (row * size + column));
      }
    }
    context.putImageData(image, 0, 0);
    return canvas.toDataURL();
  }

  function arrow(plot, from, by, colour) {
    if (Math.hypot(...by) === 0) return;
    const to = [from[0] + by[0], from[1] + by[1]];
    plot.line([from[0], to[0]], [from[1], to[1]], colour, { "stroke-width": 3, "marker-end": `url(#${plot.clip}-head-${colour.slice(1)})` });
  }

  KINDS.alpha = (root, data) => {
    const plot = new Plot(root, {
      x: data.window[0], y: data.window[1], labels: data.axes,
      title: `${data.title}: the loss after adaptation, and the way of the meta-parameters across it`,
    });
    for (const colour of [COLOURS[1], COLOURS[3]]) {
      const head = element(plot.svg.querySelector("defs"), "marker", {
        id: `${plot.clip}-head-${colour.slice(1)}`, viewBox: "0 0 8 8", refX: 6, refY: 4, markerWidth: 4, markerHeight: 4,
        orient: "auto-start-reverse",
      });
      element(head, "path", { d: "M0,0 L8,4 L0,8 z", fill: colour });
    }
    const { left, right, top, bottom } = plot.box;
    const ground = element(plot.svg, "image", {
      x: left, y: top, width: right - left, height: bottom - top, preserveAspectRatio: "none",
    });
    plot.svg.insertBefore(ground, plot.layer);
    legend(root, [
      ["#1a1a1a", "θ, step by step"], [COLOURS[3], "ε: the upper perturbation, and its ball"],
      [COLOURS[1], "ε_m: the lower perturbations"], [COLOURS[4], "the inner loop, to θ′", "dashed"],
    ]);
    const upper = slider(root, {
      name: "alpha_up", label: "alpha_up", values: data.alphas_up, start: 0, shown: short, moved: () => draw(),
    });
    const lower = slider(root, {
      name: "alpha_low", label: "alpha_low", values: data.alphas_low, start: 0, shown: short, moved: () => draw(),
    });
    const last = data.walks[0][0].outer.length - 1;
    const time = slider(root, {
      name: "step", label: "outer step", values: Array.from({ length: last + 1 }, (_, t) => t), start: last,
      shown: String, moved: () => draw(),
    });
    const said = element(root, "p", { class: "slider-said", "aria-live": "polite" });
    const grounds = data.objective.map(() => null);
    function draw() {
      const [l, u, t] = [lower(), upper(), time()], walk = data.walks[l][u], here = walk.outer[t];
      grounds[l] ??= contours(plot, data.objective[l], 14);
      ground.setAttribute("href", grounds[l]);
      plot.clear();
      for (const [name, [x, y]] of Object.entries(data.marks)) {
        element(plot.layer, "text", { x: plot.at("x", x), y: plot.at("y", y) - 8, "text-anchor": "middle", class: "mark" }, name);
        plot.dot(x, y, "#1a1a1a", { r: 3 });
      }
      const upTo = walk.outer.slice(0, t + 1);
      plot.line(upTo.map((point) => point[0]), upTo.map((point) => point[1]), "#1a1a1a");
      for (const [x, y] of upTo) plot.dot(x, y, "#1a1a1a", { r: 3 });
      const inner = [here, ...walk.inner[t]];
      plot.line(inner.map((point) => point[0]), inner.map((point) => point[1]), COLOURS[4], { "stroke-dasharray": "5 4" });
      inner.slice(0, -1).forEach((point, s) => arrow(plot, point, walk.lower[t][s], COLOURS[1]));
      if (data.alphas_up[u] > 0) {
        const width = Math.abs(plot.at("x", data.alphas_up[u]) - plot.at("x", 0));
        const height = Math.abs(plot.at("y", data.alphas_up[u]) - plot.at("y", 0));
        element(plot.layer, "ellipse", {
          cx: plot.at("x", here[0]), cy: plot.at("y", here[1]), rx: width, ry: height,
          fill: "none", stroke: COLOURS[3], "stroke-dasharray": "4 4", "stroke-width": 1.5,
        });
        arrow(plot, here, walk.upper[t], COLOURS[3]);
      }
      plot.dot(here[0], here[1], "#1a1a1a", { r: 5 });
      said.textContent = `After ${t} outer steps: loss of the query set ${short(walk.query_loss[t])} before adapting, ` +
        `${short(walk.meta_loss[t])} after, ${short(walk.perturbed_loss[t])} after it at θ + ε.`;
    }
    draw();
  };

  function start() {
    for (const root of document.querySelectorAll("div.sliders")) {
      KINDS[root.dataset.kind](root, JSON.parse(root.querySelector("script[type='application/json']").textContent));
    }
  }

  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", start);
  else start();
})();
