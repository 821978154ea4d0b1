// Figures with sliders. They draw numbers that the package computed and exported; none is computed here.
//
// A figure is <div class="sliders" data-kind="lemma1">: a drawing at the sliders' first values, sliders that stay hidden
// without this script, what is read out, and the numbers in a <script type="application/json"> (_ext/sliders.py).
// Sliders are range inputs: arrow keys, Home, End and Page Up/Down work, labels and values are read aloud.
"use strict";

(() => {
  // The layer of a drawing, emptied and filled again. Numbers find their places as _ext/drawing.py says.
  class Plot {
    constructor(svg) {
      const { box, x, y, log } = svg.dataset;
      const [left, right, top, bottom] = box.split(" ").map(Number);
      this.name = svg.id;
      this.across = right - left;
      this.place = { x: scale(x, log.includes("x"), left, right), y: scale(y, log.includes("y"), bottom, top) };
      this.width = Math.abs(x.split(" ").reduce((low, high) => high - low));
      this.layer = svg.querySelector(".layer");
      this.grounds = [...svg.querySelectorAll(".contours")];
    }

    add(tag, attributes) {
      const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
      for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
      this.layer.append(node);
    }

    line(look, points, more = {}) {
      const places = points.map(([x, y]) => `${this.place.x(x).toFixed(2)},${this.place.y(y).toFixed(2)}`);
      this.add("polyline", { class: `line ${look}`, points: places.join(" "), ...more });
    }

    arrow(look, [x, y], [dx, dy]) {
      const head = { "marker-end": `url(#${this.name}-head-${look})` };
      if (dx || dy) this.line(`arrow ${look}`, [[x, y], [x + dx, y + dy]], head);
    }

    circle(look, [x, y], radius) {
      this.add("circle", { class: look, cx: this.place.x(x).toFixed(2), cy: this.place.y(y).toFixed(2), r: radius });
    }

    dot(look, point, radius = 5) {
      this.circle(`dot ${look}`, point, radius);
    }

    ball(look, point, radius) {
      this.circle(`ball ${look}`, point, (radius / this.width * this.across).toFixed(2));
    }

    ground(shown) {
      this.grounds.forEach((ground, i) => ground.setAttribute("visibility", i === shown ? "visible" : "hidden"));
    }
  }

  function scale(ends, log, from, to) {
    const along = log ? Math.log : Number, [low, high] = ends.split(" ").map((end) => along(Number(end)));
    return (value) => from + (along(value) - low) / (high - low) * (to - from);
  }

  function short(value) {
    if (value === 0) return "0";
    const size = Math.abs(value);
    return size >= 1e5 || size < 1e-3 ? value.toExponential(2).replace("e+", "e") : String(+value.toPrecision(3));
  }

  const pairs = (xs, ys) => xs.map((x, i) => [x, ys[i]]);

  // Of each kind, what is drawn at the positions of its sliders. Returns what is read out.
  const KINDS = {
    lemma1(plot, data, { inner_lr: i }) {
      plot.line("loss", pairs(data.x, data.loss));
      plot.line("composed", pairs(data.x, data.composed[i]));
      for (const [x, value, , extra] of data.stationary[i]) plot.dot(extra ? "extra" : "shared", [x, value], 6);
      return {
        stationary: data.stationary[i].length,
        extra: data.stationary[i].filter((point) => point[3]).length,
      };
    },

    bounds(plot, data, { n_images: n, alpha: a }) {
      const read = {};
      plot.line("one", [[data.alpha[0], 1], [data.alpha.at(-1), 1]]);
      data.experiments.forEach(({ root }, j) => {
        plot.line(`experiment${j}`, pairs(data.alpha, root.map((row) => row[n])));
        plot.dot(`experiment${j}`, [data.alpha[a], root[a][n]], 7 - 3 * j);
        read[`root${j}`] = root[a][n];
      });
      return read;
    },

    alpha(plot, data, { alpha_up: u, alpha_low: low, step: t }) {
      const walk = data.walks[low][u], here = walk.outer[t], inner = [here, ...walk.inner[t]];
      plot.ground(low);
      plot.line("outer future", walk.outer);
      plot.line("outer", walk.outer.slice(0, t + 1));
      for (const point of walk.outer.slice(0, t + 1)) plot.dot("outer", point, 3);
      plot.line("inner", inner);
      walk.lower[t].forEach((step, s) => plot.arrow("lower", inner[s], step));
      plot.ball("upper", here, data.alphas_up[u]);
      plot.arrow("upper", here, walk.upper[t]);
      plot.dot("outer", here, 5);
      return {
        query_loss: walk.query_loss[t], meta_loss: walk.meta_loss[t], perturbed_loss: walk.perturbed_loss[t],
      };
    },
  };

  function start(root) {
    const data = JSON.parse(root.querySelector("script[type='application/json']").textContent);
    const plot = new Plot(root.querySelector("svg")), inputs = [...root.querySelectorAll("input")];
    function draw() {
      plot.layer.replaceChildren();
      const at = Object.fromEntries(inputs.map((input) => [input.name, Number(input.value)]));
      for (const [name, value] of Object.entries(KINDS[root.dataset.kind](plot, data, at))) {
        const said = root.querySelector(`.slider-readout [data-name="${name}"]`);
        said.dataset.value = value;
        said.textContent = short(value);
      }
    }
    for (const input of inputs) {
      const shown = JSON.parse(input.dataset.shown);
      input.addEventListener("input", () => {
        input.setAttribute("aria-valuetext", shown[input.value]);
        input.nextElementSibling.textContent = shown[input.value];
        draw();
      });
    }
    root.querySelector(".slider-still").hidden = true;
    root.querySelector(".slider-rows").hidden = false;
    draw();
  }

  document.addEventListener("DOMContentLoaded", () => document.querySelectorAll("div.sliders").forEach(start));
})();
