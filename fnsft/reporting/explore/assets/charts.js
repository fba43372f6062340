// Drawings: each says in words what it shows, and a table beside it has the numbers.
function ticks(low, high, n = 5) {
  const rough = (high - low) / n || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((m) => m * power).find((one) => one >= rough);
  const found = [];
  for (let t = Math.ceil(low / step) * step; t <= high + step * 1e-9; t += step) {
    found.push(Number(t.toPrecision(12)));
  }
  return found;
}

const tick = (value) => String(value).replace("-", "−");

function scaleOf(values, from, to) {
  let [low, high] = [Math.min(...values), Math.max(...values)];
  const room = (high - low) * 0.08 || Math.abs(high) * 0.1 || 1;
  [low, high] = [low - room, high + room];
  return { low, high, at: (value) => from + ((value - low) / (high - low)) * (to - from) };
}

// Points are numbered as in the table beside; those on the front are filled and joined.
function scatter({ points, learned, kept }) {
  const [width, height, left, bottom, top] = [640, 440, 58, 56, 34];
  const around = (value, spread) => [value - (spread || 0), value + (spread || 0)];
  const x = scaleOf(points.flatMap((p) => around(p.learned, p.learned_spread)), left, width - 14);
  const y = scaleOf(points.flatMap((p) => around(p.kept, p.kept_spread)), height - bottom, top);
  const lines = [
    ...ticks(x.low, x.high).map((t) => [
      s("line", { class: "grid", x1: x.at(t), x2: x.at(t), y1: top, y2: height - bottom }),
      s("text", { class: "quiet", x: x.at(t), y: height - bottom + 19, "text-anchor": "middle" }, tick(t)),
    ]),
    ...ticks(y.low, y.high).map((t) => [
      s("line", { class: "grid", x1: left, x2: width - 14, y1: y.at(t), y2: y.at(t) }),
      s("text", { class: "quiet", x: left - 8, y: y.at(t) + 4, "text-anchor": "end" }, tick(t)),
    ]),
  ];
  const front = points.filter((p) => p.front).sort((a, b) => a.learned - b.learned);
  const path = front.map((p) => `${x.at(p.learned)},${y.at(p.kept)}`).join(" ");
  const spreads = points.flatMap((p) => [
    p.learned_spread && s("line", { class: "spread", x1: x.at(p.learned - p.learned_spread), x2: x.at(p.learned + p.learned_spread), y1: y.at(p.kept), y2: y.at(p.kept) }),
    p.kept_spread && s("line", { class: "spread", x1: x.at(p.learned), x2: x.at(p.learned), y1: y.at(p.kept - p.kept_spread), y2: y.at(p.kept + p.kept_spread) }),
  ]);
  const marks = points.map((p) => {
    const words = `${p.number}, ${p.method}: learned ${decimal(p.learned)}, kept ${decimal(p.kept)}`;
    const place = `translate(${x.at(p.learned)} ${y.at(p.kept)})`;
    const raise = (event) => {
      const mark = event.currentTarget;
      shown.textContent = words;
      if (event.type === "pointerenter" && mark.parentNode.lastChild !== mark) mark.parentNode.append(mark);
    };
    return s(
      "g",
      { class: p.front ? "point best" : "point", transform: place, tabindex: "0", role: "img", "aria-label": words, onfocus: raise, onpointerenter: raise },
      s("circle", { r: 11 }),
      s("text", {}, p.number),
    );
  });
  const shown = h("p", { class: "note", "aria-hidden": "true" }, "Point at a number, or reach it with Tab.");
  const drawing = s(
    "svg",
    { viewBox: `0 0 ${width} ${height}`, role: "group", "aria-label": `Learned (${learned}) against kept (${kept}), a point a method` },
    lines,
    s("path", { class: "axis", d: `M${left} ${top}V${height - bottom}H${width - 14}` }),
    path && s("polyline", { class: "front", points: path }),
    spreads,
    s("g", {}, marks),
    s("text", { x: width - 14, y: height - 8, "text-anchor": "end" }, `Learned: ${learned}`),
    s("text", { x: 0, y: 14 }, `Kept: ${kept}`),
  );
  return h("figure", {}, drawing, shown);
}

// Rectangles whose areas are as `sizes`, as near to squares as rows of them come (squarified).
function tiles(sizes, width, height) {
  const total = sizes.reduce((a, b) => a + b, 0);
  const areas = sizes.map((size, i) => ({ i, area: (size / total) * width * height })).filter((one) => one.area);
  areas.sort((a, b) => b.area - a.area);
  const found = [];
  let [x, y, w, hgt] = [0, 0, width, height];
  while (areas.length) {
    const short = Math.min(w, hgt);
    const row = [];
    let sum = 0;
    const worst = (more, all) => Math.max(...more.map(({ area }) => {
      const side = all / short;
      return Math.max(side / (area / side), area / side / side);
    }));
    while (areas.length && (!row.length || worst([...row, areas[0]], sum + areas[0].area) <= worst(row, sum))) {
      sum += areas[0].area;
      row.push(areas.shift());
    }
    const side = sum / short;
    let along = 0;
    for (const { i, area } of row) {
      const length = area / side;
      found.push(w >= hgt ? { i, x, y: y + along, w: side, h: length } : { i, x: x + along, y, w: length, h: side });
      along += length;
    }
    if (w >= hgt) [x, w] = [x + side, w - side];
    else [y, hgt] = [y + side, hgt - side];
  }
  return found;
}

function clusterMap(layer, chosen, hrefOf) {
  const [width, height] = [720, 260];
  const most = Math.max(...layer.within) || 1;
  const drawn = tiles(layer.sizes, width, height).map(({ i, x, y, w, h: tall }) => {
    const words = `Cluster ${i}: ${plural(layer.sizes[i], "neuron")}, ${percent(layer.within[i])} of its weight inside`;
    const opacity = 0.05 + (0.35 * (layer.within[i] || 0)) / most;
    const room = w > 30 && tall > 20;
    return s(
      "a",
      { class: "tile", href: hrefOf(i), "aria-label": words, "aria-current": i === chosen ? "true" : null },
      s("title", {}, words),
      s("rect", { x, y, width: w, height: tall, rx: 4, "fill-opacity": opacity.toFixed(3) }),
      room && s("text", { x: x + 8, y: y + 18 }, i),
    );
  });
  return h(
    "figure",
    {},
    s("svg", { viewBox: `0 0 ${width} ${height}`, role: "group", "aria-label": "Map of the layer's clusters" }, drawn),
    h("figcaption", {}, "A cluster's area is its number of neurons; the stronger its colour, the more of its edge weight stays inside (the table has both)."),
  );
}

function bar(share, mean) {
  const drawing = s("svg", { class: "bar", viewBox: "0 0 100 8", preserveAspectRatio: "none", "aria-hidden": "true" });
  drawing.append(
    s("rect", { class: "track", width: 100, height: 8 }),
    s("rect", { class: "fill", width: 100 * share, height: 8 }),
  );
  if (mean != null) drawing.append(s("line", { class: "mean", x1: 100 * mean, x2: 100 * mean, y1: -1, y2: 9 }));
  return drawing;
}
