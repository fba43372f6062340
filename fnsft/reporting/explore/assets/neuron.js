function neuronView([model, layer, index], query) {
  const own = sources().filter((one) => one.home.model === model);
  const source = own.find((one) => one.place === query.on) || own[0];
  const [at, neuron] = [Number(layer), Number(index)];
  const title = `Neuron ${layer}:${index} of ${model}`;
  if (!source || !Number.isInteger(at) || !Number.isInteger(neuron)) return notFound(title);
  const { home, graph } = source;
  if (at < 0 || neuron < 0 || at >= home.layers || neuron >= home.d_mlp) return notFound(title);
  const position = positionOf(home, at, neuron);
  if (position < 0) {
    return { title, body: h("p", {}, `This neuron has no page here: ${shownOf(home)}. A larger one: `, h("code", {}, "fnsft explore … --max-megabytes")) };
  }
  const found = graph && graph.layers[at];
  const options = own.map((one) => [one.place, one.label]);
  const body = [
    steps(source, at, position),
    own.length > 1
      ? h("form", { "aria-label": "Where it was measured", onsubmit: (event) => event.preventDefault() },
        choice("source", "Measured on", options, source.place, (on, control) => go(address(["neuron", model, layer, index], { on }), control)))
      : null,
    facts(source, at, position, found, own.length > 1),
    h("h2", {}, "What it responds to"),
    descriptions(home, at, neuron),
    h("h2", {}, "Neighbours in the graph"),
    found ? neighbours(source, at, position, found) : missing("The graph is", commandFor("the graph", home)),
    h("h2", {}, "Functional networks"),
    networks(home, at, neuron),
    h("h2", {}, "How often it could change"),
    updates(home, at, position),
  ];
  return { title, body };
}

function steps({ home, place }, layer, position) {
  const ids = idsOf(home, layer);
  const to = (i, word) =>
    i >= 0 && i < ids.length ? link(["neuron", home.model, layer, ids[i]], { on: place }, `${word} ${layer}:${ids[i]}`) : null;
  return h("nav", { class: "steps", "aria-label": "Neurons of this layer" }, to(position - 1, "←"), to(position + 1, "→"));
}

function facts(source, layer, position, found, chosen) {
  const rows = chosen ? [] : [["Measured on", source.label]];
  if (found) {
    rows.push(["In-degree", `${counted(found.in_degree[position])} (lists of the ${source.graph.k} nearest neighbours that hold it)`]);
    const cluster = found.cluster && found.cluster[position];
    if (found.cluster) {
      rows.push(["Cluster", cluster < 0 ? "none" : link(["layers", layer, cluster], { on: source.name }, `${cluster}, of ${plural(found.sizes[cluster], "neuron")}`)]);
    }
  }
  return h("dl", {}, rows.map(([name, value]) => [h("dt", {}, name), h("dd", {}, value)]));
}

function descriptions(home, layer, neuron) {
  if (!home.descriptions) return missing("Descriptions are", commandFor("descriptions", home));
  const found = descriptionsOf(home, layer, neuron);
  if (!found.length) return h("p", { class: "note" }, "It has none: no activation of either sign was recorded.");
  const from = home.described_from === "database" ? "From a published database." : "From the tokens that activate it most.";
  return [
    h("p", { class: "note" }, `${from} The score, from 0 to 1, says how well a description predicts; 0 is not valid.`),
    h("div", { class: "cards" }, found.map(card)),
  ];
}

function card(one) {
  const name = one.sign === "+" ? "Positive activations (+)" : "Negative activations (−)";
  const left = one.all_contexts - one.contexts.length;
  return h("article", { class: "card" },
    h("h3", {}, name),
    h("p", {}, one.text || "(no text)"),
    h("p", { class: "note" }, "Score ", one.score.toFixed(2), " ", bar(one.score)),
    one.contexts.length ? h("ul", {}, one.contexts.map((context) => h("li", {}, marked(context)))) : null,
    left ? h("p", { class: "note" }, `showing ${one.contexts.length} of ${one.all_contexts} contexts`) : null);
}

// The described token stands between « and ».
function marked(context) {
  const found = context.match(/^([^]*?)«([^]*?)»([^]*)$/);
  return found ? [found[1], h("mark", {}, found[2]), found[3]] : context;
}

function neighbours(source, layer, position, found) {
  const own = neighboursOf(found, position);
  if (!own.length) return h("p", { class: "note" }, "It has no edge: no token that counts activates it together with another.");
  const { home } = source;
  const ids = idsOf(home, layer);
  const here = networksOf(home, layer, ids[position]);
  const rows = own.map((one, i) => {
    const place = positionOf(home, layer, one.neuron);
    const shared = networksOf(home, layer, one.neuron).filter((name) => here.includes(name));
    return { ...one, rank: i + 1, cluster: found.cluster && place >= 0 ? found.cluster[place] : null, shared, says: firstDescription(home, layer, one.neuron) };
  });
  const columns = [
    { name: "Rank", number: true, cell: (r) => r.rank, key: (r) => r.rank },
    { name: "Neuron", first: true, cell: (r) => neuronLink(source, layer, r.neuron), key: (r) => r.neuron },
    { name: "Weight", number: true, cell: (r) => decimal(r.weight), key: (r) => r.weight },
    found.cluster && { name: "Cluster", number: true, cell: (r) => (r.cluster == null ? "–" : r.cluster < 0 ? "none" : r.cluster), key: (r) => r.cluster },
    home.networks.length && { name: "Networks of both", cell: (r) => r.shared.join(", ") || "–" },
    home.descriptions && { name: "Description", text: true, cell: (r) => r.says, key: (r) => r.says },
  ].filter(Boolean);
  return sortable({ caption: `Its ${own.length} heaviest of at most ${source.graph.stored} that graph ${source.graph.name} stores.`, columns, rows });
}

const networksOf = (home, layer, neuron) =>
  home.networks.flatMap((one) => (one.members[layer][neuron] || []).map((number) => `${one.name} ${number}`));

function networks(home, layer, neuron) {
  if (!home.networks.length) return missing("Functional networks are", commandFor("functional networks", home));
  const rows = home.networks.flatMap((one) =>
    (one.members[layer][neuron] || []).map((number) => ({ name: `${one.name} ${number}`, set: one, size: one.sizes[number], effect: one.effects[number] })),
  );
  const notes = home.networks.filter((one) => !Object.keys(one.effects).length)
    .map((one) => missing(`Lesions of ${one.name} are`, commandFor(`lesions (${one.name})`, home)));
  if (!rows.length) return [h("p", { class: "note" }, `It is in none of ${home.networks.map((one) => plural(Object.keys(one.sizes).length, "network") + ` (${one.name})`).join(", ")}.`), notes];
  const columns = [
    { name: "Network", first: true, cell: (r) => r.name, key: (r) => r.name },
    { name: "Neurons", number: true, cell: (r) => counted(r.size), key: (r) => r.size },
    { name: "Lesion, nats", number: true, cell: (r) => (r.effect ? decimal(r.effect.effect) : "–"), key: (r) => r.effect && r.effect.effect },
    { name: "Rank", number: true, cell: (r) => (r.effect ? r.effect.rank : "–"), key: (r) => r.effect && r.effect.rank },
    { name: "Random sets as bad", number: true, cell: (r) => (r.effect ? `${r.effect.as_bad} of ${r.effect.draws}` : "–"), key: (r) => r.effect && r.effect.as_bad },
  ];
  const caption = "Networks that it is in. Lesion: the rise of the loss, in nats a token, when the network is removed; beside random sets of its size.";
  return [sortable({ caption, columns, rows }), notes];
}

function updates(home, layer, position) {
  if (!home.updates.length) return missing("Update frequencies are", commandFor("how often neurons could change"));
  const rows = home.updates.map((one) => ({ ...one, own: one.share[layer][position] / 1000, mean: one.mean[layer] }));
  const columns = [
    { name: "Method", first: true, cell: (r) => r.label, key: (r) => r.label },
    { name: "Task", cell: (r) => r.task, key: (r) => r.task },
    { name: "Of its weights, a step", number: true, cell: (r) => percent(r.own), key: (r) => r.own },
    { name: "Mean of the layer", number: true, cell: (r) => percent(r.mean), key: (r) => r.mean },
    { name: "Drawn", cell: (r) => bar(r.own, r.mean) },
    { name: "Steps recorded", number: true, cell: (r) => counted(r.steps), key: (r) => r.steps },
    { name: "Runs", number: true, cell: (r) => r.seeds, key: (r) => r.seeds },
  ];
  return sortable({ caption: "Mean share of its weights in the masked matrices that a method's mask let change in a step; the line in a bar is the layer's mean.", columns, rows });
}
