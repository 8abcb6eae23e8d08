
"use strict";
(() => {
  const plots = JSON.parse(document.getElementById("plots").textContent);
  const dashes = [[], [6, 4], [2, 3], [10, 4, 2, 4], [1, 4], [12, 6]];
  let drawn = [];

  // three writes a number with three digits and its unit.
  function three(v, unit) {
    if (v == null) return "–";
    if (unit === "s") {
      if (v >= 1) return +v.toPrecision(3) + " s";
      if (v >= 1e-3) return +(v * 1e3).toPrecision(3) + " ms";
      return +(v * 1e6).toPrecision(3) + " µs";
    }
    return +v.toPrecision(3) + (unit ? " " + unit : "");
  }

  function draw(plot, place) {
    const css = getComputedStyle(document.documentElement);
    const colour = (name) => css.getPropertyValue("--" + name).trim();
    const axis = {
      stroke: colour("quiet"), font: "12px system-ui, sans-serif", labelFont: "12px system-ui, sans-serif",
      grid: { stroke: colour("line"), width: 1 }, ticks: { stroke: colour("line"), width: 1 },
    };
    const label = (tick) => (plot.ticks.find((t) => t.at === tick) || {}).label;
    const x = { ...axis, label: plot.x.label, labelSize: 20 };
    if (plot.ranges) Object.assign(x, { rotate: -35, size: 86 });
    if (plot.ticks) {
      x.splits = () => plot.ticks.map((t) => t.at);
      x.values = (u, splits) => splits.map((tick, i) => {
        const room = plot.ranges || u.bbox.width / devicePixelRatio / splits.length > 60 || i % 2 === 0 || i === splits.length - 1;
        return room ? label(tick) : "";
      });
    }
    const options = {
      width: Math.max(place.clientWidth, 200),
      height: 300,
      legend: { show: true, live: true },
      cursor: { drag: { x: false, y: false } },
      scales: {
        x: { time: false, distr: plot.x.log ? 3 : 1, range: plot.ranges ? (u, low, high) => [low - 0.5, high + 0.5] : undefined },
        y: { distr: plot.y.log ? 3 : 1, range: plot.y.log ? spread(plot) : (u, low, high) => [0, high > 0 ? high * 1.08 : 1] },
      },
      axes: [x, { ...axis, size: 70, values: (u, splits) => splits.map((v) => (v == null ? "" : three(v, plot.y.unit))) }],
      series: [{ label: plot.x.label, value: (u, v) => (v == null ? "–" : plot.ticks ? label(v) || "" : three(v, plot.x.unit)) }],
      hooks: { draw: [(u) => over(u, plot, colour)] },
    };
    for (const s of plot.series) {
      const stroke = colour(s.arm);
      options.series.push({
        label: s.label, stroke, width: 2, dash: dashes[s.style % dashes.length], spanGaps: false,
        value: (u, v) => three(v, plot.y.unit),
        paths: s.dots ? () => null : undefined,
        points: s.dots ? { show: true, size: 8, stroke, fill: s.style % 2 ? colour("card") : stroke } : { show: plot.xs.length < 3 },
      });
    }
    return new uPlot(options, [plot.xs, ...plot.series.map((s) => s.ys)], place);
  }

  // spread is the range of a logarithmic axis: all that is drawn, and some room.
  function spread(plot) {
    const ys = plot.series.flatMap((s) => s.ys).concat((plot.ranges || []).flat()).filter((y) => y > 0);
    if (plot.level) ys.push(plot.level);
    return ys.length ? [Math.min(...ys) / 1.3, Math.max(...ys) * 1.3] : [0.1, 10];
  }

  // over draws what uPlot has no series for: a level, and intervals.
  function over(u, plot, colour) {
    const c = u.ctx;
    c.save();
    c.lineWidth = 1.5 * devicePixelRatio;
    if (plot.level != null) {
      const y = u.valToPos(plot.level, "y", true);
      c.strokeStyle = colour("quiet");
      c.setLineDash([4, 4]);
      c.beginPath(); c.moveTo(u.bbox.left, y); c.lineTo(u.bbox.left + u.bbox.width, y); c.stroke();
      c.setLineDash([]);
    }
    c.strokeStyle = colour("async");
    (plot.ranges || []).forEach(([low, high], i) => {
      const x = u.valToPos(plot.xs[i], "x", true), half = 5 * devicePixelRatio;
      const from = u.valToPos(low, "y", true), to = u.valToPos(high, "y", true);
      c.beginPath();
      c.moveTo(x, from); c.lineTo(x, to);
      for (const y of [from, to]) { c.moveTo(x - half, y); c.lineTo(x + half, y); }
      c.stroke();
    });
    c.restore();
  }

  function drawAll() {
    drawn.forEach((u) => u.destroy());
    drawn = [...document.querySelectorAll(".plot")].filter((place) => {
      const plot = plots[place.dataset.plot];
      return plot.series && plot.series.length;
    }).map((place) => draw(plots[place.dataset.plot], place));
  }

  drawAll();
  addEventListener("resize", drawAll);
  addEventListener("beforeprint", drawAll);
  addEventListener("afterprint", drawAll);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
  matchMedia("print").addEventListener("change", drawAll);
})();
