"use strict";
// A click on a heading, or a key on it, sorts its table by that column: numbers
// by the first one in a cell, other cells as text; empty cells come last.
function value(row, column) {
  const text = row.cells[column].textContent.trim();
  const number = parseFloat(text.replaceAll(",", "").replace(/^[^\d+-]*x /, ""));
  return {text, number};
}

function sort(table, column, descending) {
  const rows = [...table.tBodies[0].rows].map(
      (row) => ({row, ...value(row, column)}));
  const filled = rows.filter((one) => one.text !== "");
  const numeric = filled.every((one) => !Number.isNaN(one.number));
  filled.sort((a, b) => (descending ? -1 : 1) * (
    numeric ? a.number - b.number :
    a.text.localeCompare(b.text, undefined, {numeric: true})));
  const empty = rows.filter((one) => one.text === "");
  table.tBodies[0].append(...[...filled, ...empty].map((one) => one.row));
}

for (const table of document.querySelectorAll("table")) {
  const headings = [...table.tHead.rows[0].cells];
  headings.forEach((heading, column) => {
    heading.querySelector("button").addEventListener("click", () => {
      const descending = heading.getAttribute("aria-sort") === "ascending";
      headings.forEach((other) => other.removeAttribute("aria-sort"));
      heading.setAttribute("aria-sort",
                           descending ? "descending" : "ascending");
      sort(table, column, descending);
    });
  });
}
addEventListener("beforeprint", () => {
  document.querySelectorAll("details").forEach((one) => { one.open = true; });
});
