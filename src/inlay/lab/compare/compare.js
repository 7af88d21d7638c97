"use strict";
// Without this script the page shows the default plots; with it, any pair of axes, which begins with the first of them.
for (const part of document.querySelectorAll(".axes, .chosen")) part.hidden = false;
document.querySelector(".defaults > figure")?.setAttribute("hidden", "");
const across = document.getElementById("axis-x"), up = document.getElementById("axis-y");
function show() {
  let found = false;
  for (const plot of document.querySelectorAll(".choice[data-x]")) {
    plot.hidden = plot.dataset.x !== across.value || plot.dataset.y !== up.value;
    found ||= !plot.hidden;
  }
  document.querySelector(".choice[data-same]").hidden = found;
}
if (across) {
  across.addEventListener("change", show);
  up.addEventListener("change", show);
  show(); // a browser may remember what was chosen before
}
