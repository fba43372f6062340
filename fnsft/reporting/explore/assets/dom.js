// Elements. Text from the data goes in as text nodes and attributes alone, never as markup.
const SVG = "http://www.w3.org/2000/svg";

function filled(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === false || value == null) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat(Infinity).filter((child) => child != null && child !== false));
  return node;
}

const h = (tag, attributes = {}, ...children) =>
  filled(document.createElement(tag), attributes, children);

const s = (tag, attributes = {}, ...children) =>
  filled(document.createElementNS(SVG, tag), attributes, children);

function address(parts, query = {}) {
  const given = Object.entries(query).filter(([, value]) => value !== "" && value != null);
  const words = given.map(([name, value]) => `${name}=${encodeURIComponent(value)}`);
  const path = parts.map(encodeURIComponent).join("/");
  return `#/${path}${words.length ? `?${words.join("&")}` : ""}`;
}

const link = (parts, query, ...children) => h("a", { href: address(parts, query) }, ...children);

function say(text) {
  document.getElementById("status").textContent = text;
}

const counted = (n) => n.toLocaleString("en-GB");

function decimal(value, digits = 3) {
  if (value == null) return "–";
  const size = Math.abs(value);
  if (size >= 10 ** digits) return Math.round(value).toLocaleString("en-GB");
  return (size && size < 1e-4 ? value.toExponential(digits - 1) : value.toPrecision(digits)).replace("-", "−");
}

const percent = (share) => (share == null ? "–" : `${(100 * share).toFixed(1)} %`);

const plural = (n, noun) => `${counted(n)} ${noun}${n === 1 ? "" : "s"}`;

// A select or an input that changes the address keeps the focus, for the keyboard's sake.
let keptFocus = null;

function go(target, control) {
  keptFocus = control ? control.id : null;
  if (location.hash === target) show();
  else location.hash = target;
}

function choice(id, label, options, chosen, changed) {
  const items = options.map(([value, text]) =>
    h("option", { value, selected: String(value) === String(chosen) }, text),
  );
  const select = h("select", { id, onchange: () => changed(select.value, select) }, items);
  return h("div", { class: "field" }, h("label", { for: id }, label), select);
}

const missing = (what, command) =>
  h("p", { class: "note" }, `${what} not there. This makes it: `, h("code", {}, command));
