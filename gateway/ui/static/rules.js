// Adds and removes rows of the grid of rules. The last row is the empty one that is there without scripts, too.
const body = document.querySelector(".rules tbody");
const add = document.querySelector("button[data-add]");
if (add) {
  const blank = body.lastElementChild.cloneNode(true);
  let number = body.children.length;
  add.hidden = false;
  for (const button of body.querySelectorAll("button[data-remove]")) button.hidden = false;
  add.addEventListener("click", () => {
    const row = blank.cloneNode(true);
    number += 1;
    row.querySelector("label").htmlFor = row.querySelector("input").id = `category${number}`;
    row.querySelector("button").hidden = false;
    body.append(row);
    row.querySelector("input").focus();
  });
  body.addEventListener("click", (event) => {
    const row = event.target.closest("button[data-remove]")?.closest("tr");
    if (!row) return;
    const next = row.nextElementSibling ?? row.previousElementSibling;
    row.remove();
    (next?.querySelector("input") ?? add).focus();
  });
}
