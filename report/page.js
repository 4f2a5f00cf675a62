"use strict";
// Tables sort by their heads and filter by words and by their naming columns; without this script the page is complete.

function sortValue(row, column) {
  const cell = row.cells[column];
  const value = cell.dataset.sort;
  if (value === undefined) return null;
  return cell.classList.contains("number") ? Number(value) : value;
}

function sortBy(table, head, column) {
  const descending = head.getAttribute("aria-sort") === "ascending";
  for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", descending ? "descending" : "ascending");
  const body = table.tBodies[0];
  const rows = Array.from(body.rows).sort((left, right) => {
    const a = sortValue(left, column), b = sortValue(right, column);
    if (a === null || b === null) return (a === null) - (b === null);
    const order = typeof a === "number" ? a - b : a.localeCompare(b, "en", { numeric: true });
    return descending ? -order : order;
  });
  body.append(...rows);
}

function makeSortable(table) {
  Array.from(table.tHead.rows[0].cells).forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = head.textContent;
    button.title = "Sort by this column";
    button.addEventListener("click", () => sortBy(table, head, column));
    head.replaceChildren(button);
  });
}

function choice(table, column, name) {
  const select = document.createElement("select");
  select.ariaLabel = name;
  select.add(new Option(`${name}: all`, ""));
  const values = new Set(Array.from(table.tBodies[0].rows, row => row.cells[column].textContent));
  for (const value of values) select.add(new Option(value, value));
  return select;
}

function makeFilters(sheet) {
  const table = sheet.querySelector("table");
  const heads = Array.from(table.tHead.rows[0].cells, head => head.textContent);
  const bar = document.createElement("div");
  bar.className = "filters";
  const words = document.createElement("input");
  words.type = "search";
  words.placeholder = "Filter by words";
  words.ariaLabel = "Filter by words";
  const choices = heads.slice(0, Number(sheet.dataset.filters)).map((name, column) => choice(table, column, name));
  const shown = document.createElement("output");
  const update = () => {
    const wanted = words.value.toLowerCase().split(/\s+/).filter(Boolean);
    let count = 0;
    for (const row of table.tBodies[0].rows) {
      const text = row.textContent.toLowerCase();
      const fits = wanted.every(word => text.includes(word))
        && choices.every((select, column) => !select.value || row.cells[column].textContent === select.value);
      row.hidden = !fits;
      count += fits;
    }
    shown.textContent = `${count} of ${table.tBodies[0].rows.length} rows`;
  };
  for (const control of [words, ...choices]) control.addEventListener("input", update);
  bar.append(words, ...choices, shown);
  sheet.prepend(bar);
  update();
}

for (const sheet of document.querySelectorAll(".sheet[data-filters]")) makeFilters(sheet);
for (const table of document.querySelectorAll(".sheet table")) makeSortable(table);

// In the appendix the contents start folded on a phone. On both pages the current section is marked.
const contents = document.querySelector("nav details");
if (contents) {
  const wide = matchMedia("(min-width: 70rem)");
  const unfold = () => { contents.open = wide.matches; };
  wide.addEventListener("change", unfold);
  unfold();
}
const links = new Map(Array.from(document.querySelectorAll('nav a[href^="#"]'), link => [link.hash.slice(1), link]));
const parts = Array.from(document.querySelectorAll("main > [id]"));
const mark = () => {
  const reached = parts.filter(part => part.getBoundingClientRect().top < innerHeight * 0.3);
  const current = reached.length ? reached[reached.length - 1] : parts[0];
  for (const [id, link] of links) link.classList.toggle("current", id === current.id);
};
addEventListener("scroll", mark, { passive: true });
mark();
// A link to a row opens what it is folded in.
const openTarget = () => {
  const target = location.hash && document.getElementById(location.hash.slice(1));
  for (let fold = target && target.closest("details"); fold; fold = fold.parentElement.closest("details")) fold.open = true;
  if (target) target.scrollIntoView({ block: "center" });
};
addEventListener("hashchange", openTarget);
openTarget();
// What is folded on the screen is printed too.
addEventListener("beforeprint", () => { for (const part of document.querySelectorAll("main details")) part.open = true; });
