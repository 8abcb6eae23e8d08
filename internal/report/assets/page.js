"use strict";
// Draws the charts of the page from the figures in #data. A null is a figure
// that was not measured: lines have gaps there, and nothing is made up.
(() => {
  const plots = JSON.parse(document.getElementById("data").textContent) || [];
  const dashes = [[], [9, 4], [2, 4], [12, 4, 2, 4], [5, 3], [16, 6]]; // one for each file
  const sizes = { passed: 8, failed: 8, void: 4 }; // sync is larger, to be seen behind async
  const printWidth = 640, printHeight = 230;
  const color = (name) => getComputedStyle(document.documentElement).getPropertyValue("--" + name).trim();
  const digits = (v) => (v >= 99.95 ? v.toFixed(0) : v >= 9.995 ? v.toFixed(1) : v.toFixed(2));
  const short = (v) => String(Number(v.toPrecision(3)));

  const round = (v) => v != null && /^[125]0*$/.test(v.toExponential(2).replace(/e.*|\./g, ""));

  function figure(unit, v, write) {
    if (v == null) return "";
    if (unit !== "s") return write(v) + (unit && " " + unit);
    if (v >= 1) return write(v) + " s";
    return v >= 1e-3 ? write(v * 1e3) + " ms" : write(v * 1e6) + " us";
  }

  // percentile writes x of 10^x = 1/(1-q).
  const percentile = (x) => "p" + Number((100 * (1 - Math.pow(10, -x))).toFixed(Math.max(0, Math.ceil(x) - 1)));

  const horizontal = {
    percentile: (p) => ({
      splits: () => [Math.log10(2), 1, 2, 3, 4, 5].filter((x) => x <= lastX(p) + 1e-9),
      values: (u, xs) => xs.map(percentile),
    }),
    time: () => ({ values: (u, xs) => xs.map((x) => short(x) + " s") }),
    stage: () => ({ values: (u, xs) => xs.map((x) => short(x) + " /s") }),
  };

  // lastX is where the last figure is.
  const lastX = (p) => p.x.reduce((last, x, i) => (p.series.some((s) => s.y[i] != null) ? x : last), p.x[0]);

  function axis(more) {
    return Object.assign({
      stroke: color("soft"), font: "12px system-ui, sans-serif",
      grid: { stroke: color("grid"), width: 1 }, ticks: { show: false },
    }, more);
  }

  function line(p, s) {
    const stroke = color(s.arm || "run");
    const series = {
      label: s.label, stroke, width: s.thin ? 1.25 : 2.5, dash: dashes[s.file % dashes.length],
      value: (u, v) => figure(p.unit, v, digits),
      points: p.kind === "percentile" ? { show: false } : { size: 5, fill: stroke },
    };
    if (s.mark) {
      series.paths = () => null;
      series.width = 2;
      series.points = { show: true, size: sizes[s.mark] + (s.arm === "sync" ? 4 : 0), width: 2, fill: s.mark === "failed" ? color("card") : stroke };
    }
    return series;
  }

  // sample is a piece of a line for the legend: its dashes, width and colour.
  function sample(s) {
    const stroke = color(s.arm || "run");
    if (s.mark) return s.mark === "failed" ? "transparent" : stroke;
    let at = 0;
    const stops = dashes[s.file % dashes.length].map((length, i) => `${i % 2 ? "transparent" : stroke} ${at}px ${(at += length)}px`);
    const line = stops.length ? `repeating-linear-gradient(90deg, ${stops})` : `linear-gradient(${stroke}, ${stroke})`;
    return `${line} center / 100% ${s.thin ? 1.5 : 3}px no-repeat`;
  }

  function options(p, width, height) {
    const numbers = { size: 68, values: (u, vs) => vs.map((v) => figure(p.unit, v, short)) };
    const scales = { x: { time: false }, y: { distr: p.log ? 3 : 1 } };
    if (!p.log) scales.y.range = (u, low, high) => uPlot.rangeNum(Math.min(low, 0), Math.max(high, 1), 0.1, true);
    if (p.kind === "percentile") scales.x.range = [p.x[0], lastX(p)];
    if (p.kind === "stage") scales.x.range = (u, low, high) => [Math.min(low, 0), high * 1.05];
    return {
      width, height, scales,
      axes: [axis({ gap: 10, ...horizontal[p.kind](p) }), axis(numbers)],
      series: [{ label: p.kind === "percentile" ? "percentile" : p.kind === "stage" ? "rate" : "time",
        value: (u, x) => (x == null ? "" : p.kind === "percentile" ? percentile(x) : short(x) + (p.kind === "stage" ? " /s" : " s")) },
        ...p.series.map((s) => line(p, s))],
      legend: { markers: { width: p.kind === "stage" ? 2 : 0, fill: (u, i) => (i > 0 ? sample(p.series[i - 1]) : "") } },
      cursor: { drag: { x: p.kind === "time", y: false } },
    };
  }

  // ratioOptions lays the metrics below one another, each with its interval.
  function ratioOptions(p, width) {
    const [ratio, low, high] = p.series.map((s) => s.y);
    const known = [...low, ...high].filter((v) => v != null);
    const range = [Math.min(0.9, ...known) / 1.15, Math.max(1.1, ...known) * 1.15];
    const at = (u, i, v) => [u.valToPos(v, "y", true), u.valToPos(i, "x", true)];
    return {
      width, height: 60 + 36 * p.x.length, legend: { show: false }, cursor: { show: false },
      scales: {
        x: { time: false, ori: 1, dir: -1, range: [-0.6, p.x.length - 0.4] },
        y: { ori: 0, dir: 1, distr: 3, range },
      },
      axes: [
        axis({ side: 3, size: 118, splits: () => p.x, values: () => p.names, grid: { show: false }, font: "12px system-ui, sans-serif" }),
        axis({ side: 2, gap: 10, filter: (u, vs) => vs, values: (u, vs) => vs.map((v) => (round(v) || (v && range[1] < 5 * range[0]) ? short(v) : "")) }),
      ],
      series: [{}, ...p.series.map((s) => ({ label: s.label, paths: () => null, points: { show: false } }))],
      hooks: {
        drawClear: [(u) => {
          const [from] = at(u, 0, 0.95), [to] = at(u, 0, 1.05), [one] = at(u, 0, 1);
          u.ctx.fillStyle = color("band");
          u.ctx.fillRect(from, u.bbox.top, to - from, u.bbox.height);
          u.ctx.fillStyle = color("soft");
          u.ctx.fillRect(one, u.bbox.top, 1, u.bbox.height);
        }],
        draw: [(u) => p.x.forEach((i) => {
          if (ratio[i] == null) return;
          const size = devicePixelRatio;
          const [from, y] = at(u, i, low[i]), [to] = at(u, i, high[i]), [middle] = at(u, i, ratio[i]);
          u.ctx.fillStyle = color(p.series[0].arm || "run");
          u.ctx.fillRect(from, y - size, Math.max(to - from, size), 2 * size);
          u.ctx.fillRect(from - size, y - 5 * size, 2 * size, 10 * size);
          u.ctx.fillRect(to - size, y - 5 * size, 2 * size, 10 * size);
          u.ctx.beginPath();
          u.ctx.arc(middle, y, 5 * size, 0, 2 * Math.PI);
          u.ctx.fill();
        })],
      },
    };
  }

  let drawn = [];
  function draw(fixedWidth) {
    drawn.forEach((u) => u.destroy());
    drawn = plots.map((p) => {
      const box = document.getElementById(p.id);
      const width = fixedWidth || box.clientWidth;
      const made = p.kind === "ratio" ? ratioOptions(p, width) : options(p, width, fixedWidth ? printHeight : 320);
      return new uPlot(made, [p.x, ...p.series.map((s) => s.y)], box);
    });
  }

  draw();
  let printing = false;
  const fit = new ResizeObserver(() => {
    if (printing) return;
    drawn.forEach((u) => {
      const width = u.root.parentElement.clientWidth;
      if (width > 0 && width !== u.width) u.setSize({ width, height: u.height });
    });
  });
  plots.forEach((p) => fit.observe(document.getElementById(p.id)));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => draw());
  addEventListener("beforeprint", () => {
    printing = true;
    document.documentElement.classList.add("print");
    draw(printWidth);
  });
  addEventListener("afterprint", () => {
    printing = false;
    document.documentElement.classList.remove("print");
    draw();
  });
})();
