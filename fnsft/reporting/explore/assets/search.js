const MOST_FOUND = 200;
const PLACE = /^\s*(\d+)\s*[:/,]\s*(\d+)\s*$/;

function searchView(parts, query) {
  const asked = (query.q || "").trim();
  const place = asked.match(PLACE);
  const found = place ? byPlace(Number(place[1]), Number(place[2])) : byWords(asked);
  const title = `Search: ${asked || "nothing"}`;
  say(`${plural(found.length, "neuron")} found`);
  const body = [h("p", {}, `${plural(found.length, "neuron")} found${found.length > MOST_FOUND ? `, showing ${MOST_FOUND}, those with the best scores` : ""}.`)];
  if (found.length) {
    const columns = [
      { name: "Neuron", first: true, cell: (r) => neuronLink(r.source, r.layer, r.neuron), key: (r) => r.layer * 1e7 + r.neuron },
      { name: "Measured on", cell: (r) => r.source.label, key: (r) => r.source.label },
      { name: "Sign", cell: (r) => (r.sign || "").replace("-", "−"), key: (r) => r.sign || "" },
      { name: "Score", number: true, cell: (r) => (r.score == null ? "–" : r.score.toFixed(2)), key: (r) => r.score },
      { name: "Description", text: true, cell: (r) => r.text || "–", key: (r) => r.text || "" },
    ];
    body.push(sortable({ caption: "Neurons that were found", columns, rows: found.slice(0, MOST_FOUND) }));
  } else {
    const described = DATA.homes.some((home) => home.descriptions);
    body.push(h("p", {}, "Type layer:index, such as 2:131, or words of a description."));
    if (!described) body.push(missing("Descriptions are", commandFor("descriptions")));
  }
  for (const home of DATA.homes.filter((one) => one.ids)) body.push(h("p", { class: "note" }, `${home.model} on ${home.task}, seed ${home.seed}: ${shownOf(home)}.`));
  return { title, body };
}

// One source for every home: descriptions belong to it, not to its graphs.
const homeSources = () => DATA.homes.map((home) => sources().find((one) => one.home === home));

function byPlace(layer, neuron) {
  return homeSources()
    .filter(({ home }) => layer < home.layers && neuron < home.d_mlp)
    .map((source) => {
      const best = descriptionsOf(source.home, layer, neuron)[0] || {};
      return { source, layer, neuron, ...best };
    });
}

function byWords(asked) {
  const words = asked.toLowerCase().split(/\s+/).filter(Boolean);
  if (!words.length) return [];
  const found = [];
  for (const source of homeSources()) {
    (source.home.descriptions || []).forEach((all, layer) => {
      all.text.forEach((text, i) => {
        const plain = text.toLowerCase();
        if (words.every((word) => plain.includes(word))) {
          found.push({ source, layer, neuron: all.neuron[i], sign: all.sign[i], score: all.score[i], text });
        }
      });
    });
  }
  return found.sort((a, b) => b.score - a.score);
}
