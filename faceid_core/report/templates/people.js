"use strict";
// Sorting, filters and search of the table of people; without it the page shows the whole table.
const people = new DataTable("#people", {
  order: [], autoWidth: false, pageLength: 50, lengthMenu: [25, 50, 100, {label: "all", value: -1}],
  language: {search: "search", lengthMenu: "_MENU_ people on a page", info: "_START_ to _END_ of _TOTAL_ people",
             infoEmpty: "no person", infoFiltered: "(of _MAX_)", zeroRecords: "no such person"},
});
const filters = document.querySelector(".filters");
filters.hidden = false;
for (const chosen of filters.querySelectorAll("select"))
  chosen.addEventListener("change", () => people.column(Number(chosen.dataset.column)).search(chosen.value).draw());
addEventListener("beforeprint", () => people.page.len(-1).draw());
