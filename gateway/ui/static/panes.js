// Two panes over a list of boxes: what is ticked stands under Selected, all else under Available.
//
// The boxes stay what the form sends. Each pane is a listbox (ARIA Authoring Practices): arrow keys go through it, Space
// marks, Shift and arrow keys mark on, Ctrl+A marks all, Enter moves what is marked, a double click moves one.
// A child that has a chosen profile already cannot be added.

const boxes = document.getElementById("boxes");
const panes = document.getElementById("panes");
const told = document.getElementById("panes-told");
const most = Number(panes?.dataset.most);

/** A list to choose from, with its search and its count. */
class Pane {
  constructor(name) {
    this.list = document.getElementById(name);
    this.count = document.getElementById(`${name}-count`);
    this.find = document.getElementById(`${name}-find`);
    this.find.addEventListener("input", () => this.sift());
    this.find.addEventListener("keydown", event => this.leaveSearch(event));
    this.list.addEventListener("keydown", event => this.key(event));
    this.list.addEventListener("focus", () => this.active || this.go(this.shown()[0]));
    this.list.addEventListener("click", ({target}) => this.click(target.closest("[role=option]")));
    this.list.addEventListener("dblclick", ({target}) => {
      const option = target.closest("[role=option]");
      if (option && !blocked(option)) move(this, [option]);
    });
  }

  options() { return [...this.list.children]; }
  shown() { return this.options().filter(one => !one.hidden); }
  free() { return this.shown().filter(one => !blocked(one)); }
  marked() { return this.free().filter(one => one.ariaSelected === "true"); }

  fill(options) {
    this.list.replaceChildren(...options);
    if (!this.list.contains(this.active)) this.go(null);
    this.sift();
  }

  sift() {
    const word = this.find.value.trim().toLowerCase();
    for (const one of this.options()) one.hidden = word !== "" && !one.words.includes(word);
    const [shown, all] = [this.shown().length, this.list.children.length];
    this.count.textContent = shown === all ? all : `${shown} of ${all}`;
    if (this.active?.hidden) this.go(null);
  }

  go(option) {
    this.active?.classList.remove("active");
    this.active = option ?? null;
    if (!option) return this.list.removeAttribute("aria-activedescendant");
    option.classList.add("active");
    this.list.setAttribute("aria-activedescendant", option.id);
    option.scrollIntoView({block: "nearest"});
  }

  mark(option, yes = option.ariaSelected !== "true") {
    if (option && !blocked(option)) option.ariaSelected = String(yes);
  }

  click(option) {
    if (!option) return;
    this.go(option);
    this.mark(option);
  }

  leaveSearch(event) {
    if (event.key === "Enter") event.preventDefault();  // it would push
    if (event.key !== "ArrowDown") return;
    event.preventDefault();
    this.list.focus();
  }

  key(event) {
    const shown = this.shown();
    const now = shown.indexOf(this.active);
    const to = {ArrowDown: now + 1, ArrowUp: Math.max(now - 1, 0), Home: 0, End: shown.length - 1,
      PageDown: now + 10, PageUp: Math.max(now - 10, 0)}[event.key];
    if (to !== undefined) this.walk(shown, now, Math.min(to, shown.length - 1), event.shiftKey);
    else if (event.key === " " && this.active) this.mark(this.active);
    else if (event.key === "Enter") move(this, this.chosen());
    else if (event.key === "a" && (event.ctrlKey || event.metaKey)) this.free().forEach(one => this.mark(one, true));
    else return;
    event.preventDefault();
  }

  walk(shown, from, to, marking) {
    if (marking) for (const one of shown.slice(Math.max(Math.min(from, to), 0), Math.max(from, to) + 1)) this.mark(one, true);
    this.go(shown[to]);
  }

  chosen() {
    const marked = this.marked();
    return marked.length > 0 || !this.active || blocked(this.active) ? marked : [this.active];
  }
}

const blocked = option => option.ariaDisabled === "true";
const profiles = () => [...document.querySelectorAll("input[name=profile]:checked")].map(one => one.value);
const among = (names, given = "") => given.split(" ").filter(name => names.includes(name));

/** Make the option that stands for a box, once. */
function optionOf(box, index) {
  const option = document.createElement("li");
  option.id = `child-${index}`;
  option.role = "option";
  option.ariaSelected = "false";
  option.append(...box.nextElementSibling.cloneNode(true).childNodes);
  option.box = box;
  option.words = option.textContent.toLowerCase();
  return option;
}

/** Take out who has a chosen profile already, and say which. */
function block() {
  const names = profiles();
  let out = 0;
  told.textContent = "";
  for (const option of options) {
    const {has, taken} = option.box.dataset;
    const inTheWay = among(names, has).length + among(names, taken).length > 0;
    option.ariaDisabled = String(inTheWay);
    if (!inTheWay) continue;
    option.ariaSelected = "false";
    if (option.box.checked) out++;
    option.box.checked = false;
  }
  if (out > 0) told.textContent = `${out} ${out === 1 ? "child has" : "children have"} a chosen profile already, and went back to Available.`;
  fill();
}

function fill() {
  available.fill(options.filter(one => !one.box.checked));
  selected.fill(options.filter(one => one.box.checked));
}

function move(from, wanted) {
  const adding = from === available;
  const room = adding ? most - selected.list.children.length : wanted.length;
  const going = wanted.slice(0, room);
  const next = from.shown().find((one, index, all) => index > all.indexOf(going.at(-1)) && !going.includes(one));
  for (const one of going) {
    one.box.checked = adding;
    one.ariaSelected = "false";
  }
  fill();
  if (document.activeElement === from.list) from.go(next ?? from.shown().at(-1));
  const left = wanted.length - going.length;
  told.textContent = `${going.length} ${adding ? "added" : "removed"}.` + (left > 0 ? ` One push reaches at most ${most}: ${left} stayed.` : "");
}

/** A profile that is not chosen is no default. */
function keepDefault() {
  const radio = document.querySelector("input[name=default]:checked");
  if (radio?.value && !profiles().includes(radio.value)) document.querySelector("input[name=default][value='']").checked = true;
}

const available = panes && new Pane("available");
const selected = panes && new Pane("selected");
const options = panes ? [...boxes.querySelectorAll("input")].map(optionOf) : [];

if (panes) {
  const moves = {
    add: () => move(available, available.chosen()),
    "add-all": () => move(available, available.free()),
    remove: () => move(selected, selected.chosen()),
    "remove-all": () => move(selected, selected.free()),
  };
  panes.addEventListener("click", ({target}) => moves[target.closest("[data-move]")?.dataset.move]?.());
  document.getElementById("profiles").addEventListener("change", () => { keepDefault(); block(); });
  addEventListener("pageshow", block);  // a browser that comes back ticks boxes again
  panes.hidden = document.getElementById("panes-help").hidden = false;
  boxes.hidden = true;
  block();
}
