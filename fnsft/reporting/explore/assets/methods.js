function methodsView(parts, query) {
  const rows = rowsOf(DATA.metrics);
  return {
    title: "Methods",
    body: [tradeOffs(), h("h2", {}, "Every metric"), rows.length ? metricsTable(rows, query) : missing("Records are", commandFor("scores of methods"))],
  };
}

function tradeOffs() {
  const intro = [h("h2", {}, "Learned against kept")];
  for (const [place, why] of DATA.no_trade_off) {
    intro.push(h("p", { class: "note" }, `${place}: ${why}`));
  }
  if (!DATA.trade_offs.length) {
    return DATA.no_trade_off.length ? intro : [intro, missing("Records of runs over stages are", commandFor("learned against kept"))];
  }
  return [intro, DATA.trade_offs.map(tradeOff)];
}

function tradeOff(one) {
  const points = rowsOf(one.points).map((point, i) => ({ ...point, number: i + 1 }));
  const printed = (value) => (value != null && one.learned.endsWith("%") ? value.toFixed(1).replace("-", "−") : decimal(value));
  const spread = (value, of) => printed(value) + (of == null ? "" : ` ± ${printed(of)}`);
  const drawn = points.filter((p) => p.learned != null && p.kept != null);
  const columns = [
    { name: "No.", number: true, cell: (p) => p.number, key: (p) => p.number },
    { name: "Method", first: true, cell: (p) => p.method + (p.front ? " *" : ""), key: (p) => p.method },
    { name: "Learned", number: true, cell: (p) => spread(p.learned, p.learned_spread), key: (p) => p.learned },
    { name: "Kept", number: true, cell: (p) => spread(p.kept, p.kept_spread), key: (p) => p.kept },
    { name: "Seeds", number: true, cell: (p) => p.seeds, key: (p) => p.seeds },
  ];
  const caption =
    `${one.model}, ${one.sequence}. Learned: ${one.learned}. Kept: ${one.kept}. ` +
    "* on the Pareto front, filled in the drawing; ± standard deviation over seeds." +
    (drawn.length < points.length ? " – is infinite, and not drawn." : "");
  return [
    h("h3", {}, `${one.model}, ${one.sequence}`),
    h("div", { class: "pair" }, drawn.length > 0 && scatter({ ...one, points: drawn }), sortable({ caption, columns, rows: points })),
  ];
}

const KINDS = {
  items: "items",
  "pooled items": "items",
  seeds: "seeds",
  bound: "one-sided 95 % bound",
};

function metricsTable(rows, query) {
  const nameOf = (row) => [row.benchmark, row.metric, row.subset].filter(Boolean).join(" · ");
  const unique = (values) => [...new Set(values)];
  const afterOf = (row) => row.after || "base";
  const fits = (row) =>
    (!query.metric || nameOf(row) === query.metric) &&
    (!query.after || afterOf(row) === query.after) &&
    (!query.method || row.method.toLowerCase().includes(query.method.toLowerCase()));
  const shown = rows.filter(fits);
  const change = (name) => (value, control) => go(address(["methods"], { ...query, [name]: value }), control);
  const all = (values) => [["", "all"], ...unique(values).map((value) => [value, value])];
  const text = h("input", { id: "method", type: "search", value: query.method || "", autocomplete: "off" });
  text.addEventListener("change", () => change("method")(text.value, text));
  const form = h(
    "form",
    { "aria-label": "Which metrics", onsubmit: (event) => { event.preventDefault(); change("method")(text.value, text); } },
    choice("metric", "Benchmark and metric", all(rows.map(nameOf)), query.metric || "", change("metric")),
    choice("after", "After", all(rows.map(afterOf)), query.after || "", change("after")),
    h("div", { class: "field" }, h("label", { for: "method" }, "Method contains"), text),
  );
  const columns = [
    { name: "Method", first: true, cell: (r) => r.method, key: (r) => r.method },
    { name: "Model", cell: (r) => r.model, key: (r) => r.model },
    { name: "After", cell: afterOf, key: afterOf },
    { name: "Benchmark, metric", cell: nameOf, key: nameOf },
    { name: "Value", number: true, cell: (r) => `${r.shown}${r.unit ? ` ${r.unit}` : ""}`, key: (r) => r.value },
    { name: "±", number: true, cell: (r) => r.error || "–" },
    { name: "± over", cell: (r) => (r.error ? KINDS[r.error_of] || r.error_of : "–") },
    { name: "Seeds", number: true, cell: (r) => r.seeds, key: (r) => r.seeds },
    { name: "n", number: true, cell: (r) => (r.items == null ? "differs" : counted(r.items)), key: (r) => r.items },
    { name: "Run", cell: (r) => h("span", { class: "path" }, r.run), key: (r) => r.run },
  ];
  say(`${plural(shown.length, "metric")} of ${counted(rows.length)}`);
  const caption =
    `${counted(shown.length)} of ${plural(rows.length, "metric")}: means over seeds with their standard error, over ` +
    "three seeds or more, else over items; n is the number of items.";
  return [form, sortable({ caption, columns, rows: shown })];
}
