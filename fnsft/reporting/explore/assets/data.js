// The data of the page, unpacked once.
let DATA = null;

async function unpacked() {
  const packed = atob(document.getElementById("data").textContent.trim());
  const bytes = Uint8Array.from(packed, (character) => character.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return JSON.parse(await new Response(stream).text());
}

const rowsOf = (columns) => {
  const names = Object.keys(columns);
  return columns[names[0]].map((_, i) =>
    Object.fromEntries(names.map((name) => [name, columns[name][i]])),
  );
};

// A source: one home (model, task, seed) and one of its graphs, or null where it has none.
function sources() {
  return DATA.homes.flatMap((home) =>
    (home.graphs.length ? home.graphs : [null]).map((graph) => ({
      home,
      graph,
      name: [home.model, home.task, home.seed, graph ? graph.name : ""].join(" "),
      place: [home.task, home.seed, graph ? graph.name : ""].join(" "),
      label:
        `${home.model}, ${home.task}, seed ${home.seed}` + (graph ? `, graph ${graph.name}` : ""),
    })),
  );
}

const idsOf = (home, layer) =>
  home.ids ? home.ids[layer] : Array.from({ length: home.d_mlp }, (_, i) => i);

function positionOf(home, layer, neuron) {
  if (!home.ids) return neuron < home.d_mlp ? neuron : -1;
  return home.ids[layer].indexOf(neuron);
}

function startsOf(layer) {
  if (!layer.starts) {
    layer.starts = [0];
    for (const count of layer.counts) layer.starts.push(layer.starts.at(-1) + count);
  }
  return layer.starts;
}

function neighboursOf(layer, position) {
  const starts = startsOf(layer);
  const found = [];
  for (let i = starts[position]; i < starts[position + 1]; i++) {
    found.push({ neuron: layer.to[i], weight: layer.weights[i] });
  }
  return found;
}

function descriptionsOf(home, layer, neuron) {
  const all = home.descriptions && home.descriptions[layer];
  if (!all) return [];
  if (!all.places) {
    all.places = new Map();
    all.neuron.forEach((id, i) => all.places.set(id, [...(all.places.get(id) || []), i]));
  }
  return (all.places.get(neuron) || []).map((i) => ({
    sign: all.sign[i],
    text: all.text[i],
    score: all.score[i],
    contexts: all.contexts[i],
    all_contexts: all.all_contexts[i],
  }));
}

// A neuron's name, a link where it has a page here.
function neuronLink(source, layer, neuron) {
  const name = `${layer}:${neuron}`;
  if (positionOf(source.home, layer, neuron) < 0) return h("span", {}, name);
  return link(["neuron", source.home.model, layer, neuron], { on: source.place }, name);
}

const shownOf = (home) =>
  home.shown < home.layers * home.d_mlp
    ? `showing ${counted(home.shown)} of ${counted(home.layers * home.d_mlp)} neurons: hubs, ` +
      "then those in networks, then those with the largest in-degree"
    : `all ${counted(home.shown)} neurons`;

// The command that makes what is missing, of one home where it is a home's.
const commandFor = (words, home) => {
  const of = home ? ` of ${home.model} on ${home.task}, seed ${home.seed}` : "";
  const fits = ([what]) => what.startsWith(words) && what.endsWith(of);
  const found = DATA.overview.missing.find(fits);
  return found ? found[1] : "snakemake --profile cpu paper";
};
