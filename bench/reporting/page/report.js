"use strict";
// Each heading of a table becomes a button that sorts by its column; another press turns the order around.
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  const headings = Array.from(table.tHead.rows[0].cells);
  headings.forEach((heading, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...heading.childNodes);
    heading.append(button);
    button.addEventListener("click", () => {
      const ascending = heading.getAttribute("aria-sort") !== "ascending";
      for (const other of headings) other.removeAttribute("aria-sort");
      heading.setAttribute("aria-sort", ascending ? "ascending" : "descending");
      const keyed = Array.from(body.rows, (row) => ({ row, text: row.cells[column].textContent.trim() }));
      const filled = keyed.filter(({ text }) => text !== "");
      const empty = keyed.filter(({ text }) => text === ""); // What does not exist comes last either way.
      const number = (text) => parseFloat(text.replace(/^[<>\s]+/, "").replace("\u2212", "-"));
      const numeric = filled.every(({ text }) => !Number.isNaN(number(text)));
      filled.sort((a, b) => {
        const order = (numeric && number(a.text) - number(b.text)) || a.text.localeCompare(b.text, "en", { numeric: true });
        return ascending ? order : -order;
      });
      body.append(...filled.concat(empty).map(({ row }) => row));
    });
  });
}
