// Tables that sort by a click on a heading and filter by a word. Without JavaScript they are plain tables.
const value = (row, column) => {
  const text = row.cells[column].textContent.trim();
  const number = parseFloat(text.replace("+", ""));
  return Number.isNaN(number) ? text.toLowerCase() : number;
};

for (const table of document.querySelectorAll("table.sorted")) {
  const body = table.tBodies[0];
  const headings = [...table.tHead.rows[0].cells];
  headings.forEach((heading, column) => {
    heading.classList.add("sortable");
    heading.addEventListener("click", () => {
      const up = heading.dataset.order === "down";
      headings.forEach((other) => delete other.dataset.order);
      heading.dataset.order = up ? "up" : "down";
      const compare = (a, b) => {
        const [x, y] = [value(a, column), value(b, column)];
        if (typeof x !== typeof y) return typeof x === "number" ? -1 : 1;
        return (x < y ? -1 : x > y ? 1 : 0) * (up ? 1 : -1);
      };
      body.append(...[...body.rows].sort(compare));
    });
  });
}

for (const input of document.querySelectorAll("input.filter")) {
  const rows = [...document.getElementById(input.dataset.table).tBodies[0].rows];
  input.addEventListener("input", () => {
    const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
    for (const row of rows) {
      const text = row.textContent.toLowerCase();
      row.hidden = !words.every((word) => text.includes(word));
    }
  });
}
