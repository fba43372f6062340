// The address says which view is shown, so that every view has a link and the back button works.
const VIEWS = {
  "": overviewView,
  methods: methodsView,
  layers: layersView,
  neuron: neuronView,
  search: searchView,
};

const notFound = (what) => ({
  title: "Not here",
  body: h("p", {}, `There is no ${what} on this page. `, link([], {}, "To the overview")),
});

function asked() {
  const [path, words = ""] = location.hash.replace(/^#\/?/, "").split(/\?(.*)/s);
  try {
    const parts = path.split("/").map(decodeURIComponent);
    const query = words.split("&").filter(Boolean).map((word) => {
      const [name, value = ""] = word.split(/=(.*)/s);
      return [decodeURIComponent(name), decodeURIComponent(value)];
    });
    return { view: parts[0], parts: parts.slice(1), query: Object.fromEntries(query) };
  } catch {
    return { view: path, parts: [], query: {} }; // an address with a broken escape
  }
}

function show() {
  const { view, parts, query } = asked();
  const make = Object.hasOwn(VIEWS, view) ? VIEWS[view] : () => notFound(view);
  const { title, body } = make(parts, query);
  const heading = h("h1", { tabindex: "-1" }, title);
  document.getElementById("main").replaceChildren(...[heading, body].flat(Infinity).filter(Boolean));
  document.title = `${title} – fnsft ${DATA.overview.experiment}`;
  for (const item of document.querySelectorAll("nav a[data-view]")) {
    if (item.dataset.view === view) item.setAttribute("aria-current", "page");
    else item.removeAttribute("aria-current");
  }
  const control = keptFocus && document.getElementById(keptFocus);
  keptFocus = null;
  if (control) control.focus();
  else if (started) {
    window.scrollTo({ top: 0, behavior: "instant" });
    heading.focus({ preventScroll: true });
  }
  started = true;
}

let started = false;

function search(event) {
  event.preventDefault();
  const text = document.getElementById("query").value.trim();
  if (text) go(address(["search"], { q: text }));
}

async function start() {
  try {
    DATA = await unpacked();
  } catch (error) {
    document.getElementById("loading").textContent =
      `The data could not be unpacked (${error.message}); this needs a browser of 2023 or later.`;
    return;
  }
  document.getElementById("experiment").textContent = DATA.overview.experiment;
  document.getElementById("search").addEventListener("submit", search);
  document.querySelector(".skip").addEventListener("click", (event) => {
    event.preventDefault(); // its target is no view
    document.getElementById("main").focus();
  });
  window.addEventListener("hashchange", show);
  show();
}

start();
