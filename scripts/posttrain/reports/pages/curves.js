// The curves, drawn by uPlot when they come into view: values under the pointer, drag to zoom, double click to go back.
"use strict";
{
  const curves = JSON.parse(document.getElementById("curves").textContent);
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const digits = (value) => {
    const size = Math.abs(value), rounded = +value.toPrecision(4);
    if (size >= 1000) return rounded.toLocaleString("en");
    return size && size < 0.001 ? rounded.toExponential() : String(rounded);
  };
  const steps = [1, 2, 5].flatMap((n) => [...Array(12).keys()].map((power) => n * 10 ** power)).sort((a, b) => a - b);
  const drawn = new Map();

  const lowest = (mark) => (plot) => {
    const x = Math.round(plot.valToPos(mark, "x", true)), {top, height, left, width} = plot.bbox;
    if (x < left || x > left + width) return;
    plot.ctx.save();
    plot.ctx.strokeStyle = colour("--alert");
    plot.ctx.setLineDash([4, 4]);
    plot.ctx.beginPath();
    plot.ctx.moveTo(x, top);
    plot.ctx.lineTo(x, top + height);
    plot.ctx.stroke();
    plot.ctx.restore();
  };

  const draw = (box) => {
    const {across, mark, series, unit} = curves[box.dataset.curve];
    const axis = {stroke: () => colour("--quiet"), grid: {stroke: () => colour("--line"), width: 1},
      ticks: {show: false}, font: "12px system-ui, sans-serif"};
    const options = {
      width: box.clientWidth,
      height: 190,
      cursor: {sync: {key: `${box.dataset.run} ${across}`}, points: {size: 6}},
      scales: {x: {time: false}},
      axes: [{...axis, size: 28, space: 60, ...(across === "step" ? {incrs: steps} : {})}, {...axis, size: 58, values: (plot, ticks) => ticks.map((tick) => digits(tick) + (unit === "%" ? unit : ""))}],
      series: [
        {label: across, value: (plot, value) => value == null ? "" : digits(value)},
        ...series.map(({label, x}, i) => ({
          label, spanGaps: true, width: 1.5, stroke: () => colour(`--curve${i}`), points: {show: x.length < 40, size: 5},
          value: (plot, value) => value == null ? "" : `${digits(value)}${unit === "%" ? "" : " "}${unit}`,
        })),
      ],
      hooks: {draw: mark === null ? [] : [lowest(mark)]},
    };
    const target = box.querySelector(".plot");
    drawn.set(box, new uPlot(options, uPlot.join(series.map(({x, y}) => [x, y])), target));
    box.classList.add("drawn");
  };

  const sizes = new ResizeObserver((entries) => {
    for (const {target} of entries) if (target.clientWidth) drawn.get(target).setSize({width: target.clientWidth, height: 190});
  });
  const view = new IntersectionObserver((entries) => {
    for (const {isIntersecting, target} of entries) {
      if (!isIntersecting || drawn.has(target)) continue;
      draw(target);
      sizes.observe(target);
    }
  }, {rootMargin: "300px"});
  document.querySelectorAll(".curve").forEach((box) => view.observe(box));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => drawn.forEach((plot) => plot.redraw(false)));
}
