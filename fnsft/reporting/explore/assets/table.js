// Tables whose columns sort: {name, cell(row), key(row), number, first} each.
const FIRST_ROWS = 50;

function sortable({ caption, columns, rows, sorted = null }) {
  let order = sorted;
  let limit = FIRST_ROWS;
  const body = h("tbody");
  const more = h("p", { class: "note" });

  function fill() {
    let shown = [...rows];
    if (order) {
      const { key } = columns[order.column];
      const sign = order.descending ? -1 : 1;
      const compare = (a, b) => (typeof a === "number" ? a - b : String(a).localeCompare(String(b)));
      shown.sort((a, b) => {
        const [x, y] = [key(a), key(b)];
        if (x == null || y == null) return (x == null) - (y == null);
        return sign * compare(x, y);
      });
    }
    body.replaceChildren(...shown.slice(0, limit).map(row));
    const left = rows.length - limit;
    more.replaceChildren();
    if (left > 0) {
      more.append(`Showing ${counted(limit)} of ${plural(rows.length, "row")}. `);
      const all = () => {
        limit = rows.length;
        fill();
        say(`${plural(rows.length, "row")} shown`);
      };
      more.append(h("button", { type: "button", onclick: all }, "Show all"));
    }
  }

  const row = (one) =>
    h("tr", {}, columns.map(({ cell, number, text, first }) => {
      const classes = number ? "number" : text ? "text" : null;
      return first
        ? h("th", { scope: "row", class: classes }, cell(one))
        : h("td", { class: classes }, cell(one));
    }));

  const heads = columns.map((column, i) => {
    if (!column.key) return h("th", { scope: "col", class: column.number ? "number" : null }, column.name);
    const sort = () => {
      const descending = order && order.column === i ? !order.descending : Boolean(column.number);
      order = { column: i, descending };
      mark();
      fill();
      say(`sorted by ${column.name}, ${descending ? "descending" : "ascending"}`);
    };
    const button = h("button", { type: "button", onclick: sort }, column.name);
    return h("th", { scope: "col", class: column.number ? "number" : null }, button);
  });

  function mark() {
    heads.forEach((head, i) => {
      if (order && order.column === i) {
        head.setAttribute("aria-sort", order.descending ? "descending" : "ascending");
      } else head.removeAttribute("aria-sort");
    });
  }

  mark();
  fill();
  const table = h("table", {}, h("caption", {}, caption), h("thead", {}, h("tr", {}, heads)), body);
  const region = h("div", { class: "scroll", role: "region", tabindex: "0" }, table);
  region.setAttribute("aria-label", typeof caption === "string" ? caption : caption.textContent);
  return h("div", {}, region, more);
}
