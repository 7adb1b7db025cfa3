// Tables that sort by a click on a heading, within each group, and show only the rows that have what is typed; without this they are plain.
"use strict";
for (const table of document.querySelectorAll("table.live")) {
  const bodies = [...table.tBodies], headings = [...table.tHead.rows[0].cells];
  const rowsOf = (body) => [...body.rows].filter((row) => !row.classList.contains("group"));
  const key = (row, column) => {
    const cell = row.cells[column];
    return cell.dataset.value === undefined ? cell.textContent.trim() : cell.dataset.value;
  };
  const compare = (a, b) => {
    if (a === "" || b === "") return (a === "") - (b === "");  // nothing measured: last, whichever way
    return isNaN(a) || isNaN(b) ? a.localeCompare(b, "en", {numeric: true}) : a - b;
  };
  headings.forEach((heading, column) => {
    if (!heading.dataset.sort) return;
    const button = document.createElement("button");
    button.type = "button";
    button.append(...heading.childNodes);
    heading.prepend(button);
    button.addEventListener("click", () => {
      const down = heading.getAttribute("aria-sort") === "ascending";
      headings.forEach((other) => other.removeAttribute("aria-sort"));
      heading.setAttribute("aria-sort", down ? "descending" : "ascending");
      for (const body of bodies) {
        const rows = rowsOf(body).map((row) => [key(row, column), row]);
        rows.sort(([a], [b]) => (a === "" || b === "" || !down ? compare(a, b) : compare(b, a)));
        body.append(...rows.map(([, row]) => row));
      }
    });
  });
  const filter = document.querySelector(`input[data-filters="${table.id}"]`), count = filter.nextElementSibling;
  filter.parentElement.hidden = false;
  filter.addEventListener("input", () => {
    const words = filter.value.toLowerCase().split(/\s+/);
    let shown = 0, all = 0;
    for (const body of bodies) {
      const group = body.querySelector(".group").textContent, rows = rowsOf(body);
      for (const row of rows) {
        const text = `${group} ${row.textContent}`.toLowerCase();
        row.hidden = !words.every((word) => text.includes(word));
        shown += !row.hidden;
      }
      body.hidden = rows.every((row) => row.hidden);
      all += rows.length;
    }
    count.textContent = filter.value ? `${shown} of ${all} rows` : "";
  });
}
