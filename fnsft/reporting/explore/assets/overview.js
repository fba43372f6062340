function overviewView() {
  const about = DATA.overview;
  const facts = [
    ["Models", about.models.join(" · ")],
    ["Tasks", about.tasks.join(" · ")],
    ["Methods", about.methods.join(" · ")],
    ["Seeds", about.seeds.join(", ")],
  ].filter(([, value]) => value);
  const neurons = DATA.homes.map((home) =>
    h("li", {}, link(["layers"], { on: sources().find((one) => one.home === home).name }, `${home.model} on ${home.task}, seed ${home.seed}`),
      `: ${plural(home.layers, "layer")} of ${counted(home.d_mlp)}, ${shownOf(home)}`),
  );
  const found = about.found.map(([what, n]) => ({ what, n }));
  const columns = [
    { name: "Artefacts", first: true, cell: (row) => row.what },
    { name: "Found", number: true, cell: (row) => counted(row.n) },
  ];
  return {
    title: `Experiment ${about.experiment}`,
    body: [
      h("p", {}, "Which neurons should be allowed to change when a language model is fine-tuned? ",
        "What this experiment found, from its methods down to single neurons."),
      h("dl", {}, facts.map(([name, value]) => [h("dt", {}, name), h("dd", {}, value)])),
      h("h2", {}, "Where to go"),
      h("ul", {},
        h("li", {}, link(["methods"], {}, "Methods"), ": what each learned and kept, every metric with its error"),
        h("li", {}, link(["layers"], {}, "Layers"), ": the collaboration graph, its clusters, hubs and controls"),
        h("li", {}, "A neuron: type layer:index, such as 0:5, or words of a description, above")),
      neurons.length ? [h("h2", {}, "Neurons on this page"), h("ul", {}, neurons)] : null,
      h("h2", {}, "What was found"),
      sortable({ caption: "Artefacts that this page was made from", columns, rows: found }),
      listed("Tables", about.tables),
      listed("Figures", about.figures),
      h("h2", {}, "What is missing"),
      about.missing.length
        ? [h("p", {}, "The workflow makes each of these; add your --configfile, if you use one."), missingTable(about.missing)]
        : h("p", {}, "Nothing that this page could show."),
    ],
  };
}

const listed = (name, items) =>
  items.length ? h("p", {}, `${name}: `, items.map((item, i) => [i ? ", " : "", h("code", {}, item)])) : null;

function missingTable(rows) {
  const columns = [
    { name: "Missing", first: true, cell: ([what]) => what },
    { name: "Made by", cell: ([, command]) => h("code", {}, command) },
  ];
  return sortable({ caption: "What is not there, and what makes it", columns, rows });
}
