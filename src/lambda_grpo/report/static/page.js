"use strict";
// The charts of a page: values at the cursor, one cursor for all charts with the same x axis, series on and off.

(() => {
  const SVG = "http://www.w3.org/2000/svg";
  const charts = [];

  function element(name, attributes) {
    const made = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    return made;
  }

  function number(value) {
    if (value === null || value === undefined) return "–";
    const size = Math.abs(value);
    if (size !== 0 && (size < 0.001 || size >= 1e6)) return value.toExponential(2);
    return size >= 1000 ? value.toFixed(0) : String(Number(value.toPrecision(4)));
  }

  function nearest(values, x) {
    let best = -1;
    for (let i = 0; i < values.length; i++) {
      if (best < 0 || Math.abs(values[i] - x) < Math.abs(values[best] - x)) best = i;
    }
    return best;
  }

  class Chart {
    constructor(figure) {
      this.figure = figure;
      this.svg = figure.querySelector("svg");
      this.readout = figure.querySelector(".readout");
      this.data = JSON.parse(figure.querySelector("script").textContent);
      const [left, top, , bottom] = this.data.box;
      this.line = element("line", { class: "cursor off", x1: left, x2: left, y1: top, y2: bottom });
      this.svg.append(this.line);
      this.dots = this.data.series.map(() => {
        const dot = element("circle", { class: "dot off", r: 2.6 });
        this.svg.append(dot);
        return dot;
      });
      this.xs = [...new Set(this.data.series.flatMap((one) => one.x))].sort((a, b) => a - b);
      this.svg.addEventListener("pointermove", (event) => this.point(event));
      this.svg.addEventListener("pointerdown", (event) => this.point(event));
      this.svg.addEventListener("pointerleave", () => share(this.data.x, null));
      figure.tabIndex = 0;
      figure.addEventListener("keydown", (event) => this.key(event));
      figure.addEventListener("blur", () => share(this.data.x, null));
      this.show(null);
    }

    point(event) {
      const view = this.svg.viewBox.baseVal, place = this.svg.getBoundingClientRect();
      const at = ((event.clientX - place.left) / place.width) * view.width;
      const [left, , right] = this.data.box, [low, high] = this.data.limits;
      share(this.data.x, this.xs[nearest(this.xs, low + ((at - left) / (right - left)) * (high - low))]);
    }

    key(event) {
      const moves = { ArrowLeft: -1, ArrowRight: 1, PageUp: -10, PageDown: 10, Home: -Infinity, End: Infinity };
      if (!(event.key in moves) || event.target !== this.figure) return;
      event.preventDefault();
      const from = this.at === null ? this.xs.length - 1 : nearest(this.xs, this.at);
      share(this.data.x, this.xs[Math.min(this.xs.length - 1, Math.max(0, from + moves[event.key]))]);
    }

    show(x) {
      this.at = x;
      const [left, top, right, bottom] = this.data.box, [xmin, xmax, ymin, ymax] = this.data.limits;
      const across = (value) => left + ((value - xmin) / (xmax - xmin)) * (right - left);
      const down = (value) => bottom - ((value - ymin) / (ymax - ymin)) * (bottom - top);
      const said = [];
      this.line.classList.toggle("off", x === null);
      if (x !== null) {
        this.line.setAttribute("x1", across(x));
        this.line.setAttribute("x2", across(x));
      }
      this.data.series.forEach((series, index) => {
        const dot = this.dots[index], i = x === null ? series.x.length - 1 : nearest(series.x, x);
        const drawn = this.svg.querySelector(`[data-series="${CSS.escape(series.key)}"]`);
        const isOff = drawn !== null && drawn.classList.contains("off");
        dot.classList.toggle("off", x === null || i < 0 || isOff);
        if (i < 0 || isOff) return;
        dot.setAttribute("cx", across(series.x[i]));
        dot.setAttribute("cy", down(series.y[i]));
        let value = number(series.y[i]);
        if (series.low) {
          const range = `${number(series.low[i])} – ${number(series.high[i])}`;
          value = series.name === "" ? range : `${value} (${range})`;
        }
        said.push((series.name ? `${series.name} ` : "") + value);
      });
      const unit = this.data.unit ? ` ${this.data.unit}` : "";
      const where = x === null ? "last" : `${this.data.x} ${number(x)}`;
      // without a cursor the last values are of interest in a chart over the steps only
      const isSilent = said.length === 0 || (x === null && this.data.x !== "step");
      this.readout.textContent = isSilent ? "" : `${where}: ${said.join(" · ")}${unit}`;
    }
  }

  function share(axis, x) {
    for (const chart of charts) if (chart.data.x === axis && chart.at !== x) chart.show(x);
  }

  for (const figure of document.querySelectorAll("figure.chart")) {
    if (figure.querySelector("script")) charts.push(new Chart(figure));
  }

  for (const button of document.querySelectorAll("button[data-toggle]")) {
    button.addEventListener("click", () => {
      const isOn = button.getAttribute("aria-pressed") !== "true";
      const scope = button.closest("[data-toggles]") || document;
      const key = button.dataset.toggle;
      for (const twin of scope.querySelectorAll("button[data-toggle]")) {
        if (twin.dataset.toggle === key) twin.setAttribute("aria-pressed", String(isOn));
      }
      for (const drawn of scope.querySelectorAll(`svg [data-series]`)) {
        const of = drawn.dataset.series;
        if (of === key || of === `${key}-band`) drawn.classList.toggle("off", !isOn);
      }
      for (const chart of charts) chart.show(chart.at);
    });
  }
})();
