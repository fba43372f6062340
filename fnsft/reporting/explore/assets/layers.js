const OVER_NULL = "score_over_null_unbiased";

function layersView([layer = "0", cluster], query) {
  const all = sources();
  if (!all.length) {
    return { title: "Layers", body: missing("Graphs of neurons are", commandFor("graphs and clusters")) };
  }
  const source = all.find((one) => one.name === query.on) || all[0];
  const number = Number(layer);
  if (!(number >= 0 && number < source.home.layers)) return notFound(`layer ${layer}`);
  const place = (on, at, one) => address(one == null ? ["layers", at] : ["layers", at, one], { on });
  const layers = Array.from({ length: source.home.layers }, (_, i) => [i, `layer ${i}`]);
  const form = h(
    "form",
    { "aria-label": "Which layer", onsubmit: (event) => event.preventDefault() },
    choice("source", "Measured on", all.map((one) => [one.name, one.label]), source.name, (value, control) => {
      const other = all.find((one) => one.name === value);
      go(place(value, number < other.home.layers ? number : 0), control);
    }),
    choice("layer", "Layer", layers, number, (value, control) => go(place(source.name, value), control)),
  );
  const body = [h("p", { class: "quiet" }, `${source.label}: ${shownOf(source.home)}.`), form];
  if (!source.graph) {
    body.push(missing("The graph is", commandFor("the graph", source.home)));
    return { title: `Layer ${number} of ${source.home.model}`, body };
  }
  const found = source.graph.layers[number];
  const href = (i) => place(source.name, number, i);
  body.push(
    h("h2", {}, `Clusters of layer ${number}`),
    found.sizes
      ? clusters(source, found, cluster == null ? null : Number(cluster), href, number)
      : [missing("Clusters are", commandFor(`clusters (${source.graph.name})`, source.home)), h("h2", {}, "Hubs"), hubs(source, found, number)],
    h("h2", {}, "Does the graph mean anything?"),
    measures(source, number),
  );
  return { title: `Layer ${number} of ${source.home.model}`, body };
}

function clusters(source, found, chosen, href, layer) {
  const rows = found.sizes.map((size, i) => ({ i, size, within: found.within[i], chance: found.chance[i] }));
  const columns = [
    { name: "Cluster", first: true, cell: (r) => h("a", { href: href(r.i) }, String(r.i)), key: (r) => r.i },
    { name: "Neurons", number: true, cell: (r) => counted(r.size), key: (r) => r.size },
    { name: "Weight inside", number: true, cell: (r) => percent(r.within), key: (r) => r.within },
    { name: "By chance", number: true, cell: (r) => percent(r.chance), key: (r) => r.chance },
    { name: "Ratio", number: true, cell: (r) => decimal(r.chance ? r.within / r.chance : null), key: (r) => (r.chance ? r.within / r.chance : null) },
  ];
  const caption =
    `Share of the weight of edges to the ${source.graph.k} nearest neighbours that stays inside of a cluster, ` +
    "and the share of all other neurons that are in it.";
  const outside = [
    found.unclustered && `${plural(found.unclustered, "neuron")} in no cluster`,
    found.isolated && `${plural(found.isolated, "neuron")} without an edge`,
  ].filter(Boolean);
  const parts = [
    clusterMap(found, chosen, href),
    outside.length ? h("p", { class: "note" }, outside.join("; ")) : null,
  ];
  if (chosen != null && chosen >= 0 && chosen < found.sizes.length) parts.push(members(source, found, chosen, layer));
  const both = [
    h("section", {}, h("h3", {}, "Every cluster"), sortable({ caption, columns, rows })),
    h("section", {}, h("h3", {}, "Hubs"), hubs(source, found, layer)),
  ];
  return [...parts, h("div", { class: "halves" }, both)];
}

function members(source, found, chosen, layer) {
  const ids = idsOf(source.home, layer);
  const own = ids.filter((_, i) => found.cluster[i] === chosen);
  const left = found.sizes[chosen] - own.length;
  return h("section", { "aria-labelledby": "members" },
    h("h3", { id: "members" }, `Neurons of cluster ${chosen}`),
    left ? h("p", { class: "note" }, `showing ${counted(own.length)} of ${counted(found.sizes[chosen])}`) : null,
    h("ul", { class: "neurons" }, own.map((neuron) => h("li", {}, neuronLink(source, layer, neuron)))));
}

function hubs(source, found, layer) {
  const rows = found.hubs.map((neuron, i) => ({
    neuron,
    degree: found.hub_in_degree[i],
    cluster: found.hub_cluster ? found.hub_cluster[i] : null,
    says: firstDescription(source.home, layer, neuron),
  }));
  const columns = [
    { name: "Neuron", first: true, cell: (r) => neuronLink(source, layer, r.neuron), key: (r) => r.neuron },
    { name: "In-degree", number: true, cell: (r) => counted(r.degree), key: (r) => r.degree },
    found.sizes && { name: "Cluster", number: true, cell: (r) => (r.cluster < 0 ? "none" : r.cluster), key: (r) => r.cluster },
    source.home.descriptions && { name: "Description", text: true, cell: (r) => r.says, key: (r) => r.says },
  ].filter(Boolean);
  return sortable({
    caption: `The neurons that stand in most lists of the ${source.graph.k} nearest neighbours; their mean is at most ${source.graph.k}.`,
    columns,
    rows,
  });
}

function measures(source, layer) {
  const found = source.graph.measures;
  const names = Object.keys(found);
  if (!names.length) return missing("Measures are", commandFor(`measures (${source.graph.name})`, source.home));
  const kinds = Object.keys(DATA.labels.sources);
  const label = (name) => DATA.labels.measures[name] || name.replaceAll("_", " ");
  const value = (name, kind, i) => (found[name] && found[name][kind] ? found[name][kind][i] : null);
  const byLayer = Array.from({ length: source.home.layers }, (_, i) => i);
  const valuesOf = (get) => kinds.map((kind) => ({
    name: DATA.labels.sources[kind],
    number: true,
    cell: (r) => (Number.isInteger(get(r, kind)) ? counted(get(r, kind)) : decimal(get(r, kind))),
    key: (r) => get(r, kind),
  }));
  const lacking = kinds.filter((kind) => !names.some((name) => found[name][kind]));
  return [
    lacking.length
      ? h("p", { class: "note" }, `Not measured: ${lacking.map((kind) => DATA.labels.sources[kind]).join(", ")}. `,
        h("code", {}, "snakemake --profile cpu results/figures/structure_by_layer.pdf"), " measures the controls.")
      : null,
    sortable({
      caption: "Score of the clusters over its Null on unseen tokens, unbiased: 1 if all neurons fired alike and by chance. A graph says something where the model exceeds both controls.",
      columns: [
        { name: "Layer", first: true, cell: (i) => link(["layers", i], { on: source.name }, `layer ${i}`), key: (i) => i },
        ...valuesOf((i, kind) => value(OVER_NULL, kind, i)),
      ],
      rows: byLayer,
    }),
    sortable({
      caption: `Every measure of layer ${layer}, beside the two controls.`,
      columns: [
        { name: "Measure", first: true, cell: label, key: label },
        ...valuesOf((name, kind) => value(name, kind, layer)),
      ],
      rows: names,
    }),
  ];
}

function firstDescription(home, layer, neuron) {
  const found = descriptionsOf(home, layer, neuron);
  return (found.find((one) => one.sign === "+") || found[0] || { text: "" }).text;
}
