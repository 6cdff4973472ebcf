// The connection test: posts a form, hears its phases as server-sent events, and shows each as it happens.
//
// A button with data-test, the id of the element that shows the outcome, runs the test of its form at its formaction.
// All words are the page's: they stand in the template whose id is that of the outcome with "-parts".

/** Run one test and show it; resolves when it is over, whichever way. */
export async function run(button) {
  const shown = new Outcome(button);
  shown.begin();
  try {
    await converse(button, shown);
  } catch {
    shown.fail({detail: shown.words("lost")});
  } finally {
    shown.end();
  }
}

async function converse(button, shown) {
  const {form} = button;
  const body = new URLSearchParams(new FormData(form));
  const response = await fetch(button.formAction, {
    method: "POST", body, headers: {Accept: "text/event-stream"}, redirect: "manual", cache: "no-store",
  });
  if (response.status === 401) return shown.fail({detail: shown.words("unknown")});
  const kind = response.headers.get("Content-Type") ?? "";
  if (kind.startsWith("application/json")) return shown.refuse(await response.json());
  if (!kind.startsWith("text/event-stream")) return shown.fail({detail: shown.words("unanswered")});
  for await (const {name, data} of events(response.body)) shown.hear(name, data);
  if (!shown.over) throw new Error("cut short");
}

async function* events(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  for (let text = ""; ;) {
    const {value, done} = await reader.read();
    if (done) return;
    const blocks = (text + value).split("\n\n");
    text = blocks.pop();
    for (const block of blocks) {
      const fields = Object.fromEntries(block.split("\n").map(line => line.split(/: (.*)/s)));
      if (fields.data) yield {name: fields.event, data: JSON.parse(fields.data)};
    }
  }
}

/** What is shown of one test. */
class Outcome {
  constructor(button) {
    this.button = button;
    this.place = document.getElementById(button.dataset.test);
    this.parts = document.getElementById(`${button.dataset.test}-parts`).content;
    this.over = false;
    this.passed = [];
  }

  words(part) { return this.parts.querySelector(`[data-part=${part}]`).textContent.trim(); }
  part(name) { return this.parts.querySelector(`[data-part=${name}]`).firstElementChild.cloneNode(true); }
  phase(name) { return this.parts.querySelector(`[data-phase="${CSS.escape(name)}"]`)?.textContent ?? name; }

  begin() {
    this.button.setAttribute("aria-disabled", "true");
    this.button.className = this.button.dataset.look;
    this.button.textContent = this.button.dataset.running;
    clear(this.button.form);
    this.list = document.createElement("ol");
    this.list.className = "phases";
    this.place.setAttribute("aria-busy", "true");
    this.place.replaceChildren(this.list);
    this.await();
  }

  /** Mark the phase that comes next, if the way there is known. */
  await() {
    this.running?.remove();
    const next = following(this.order(), this.passed.at(-1));
    if (this.over || next === null) return;
    this.running = this.part("running");
    if (next) this.running.querySelector(".what").textContent = this.phase(next);
    this.list.append(this.running);
  }

  order() {
    const names = [...this.parts.querySelectorAll("[data-phase]")].map(one => one.dataset.phase);
    const security = this.button.dataset.security || this.button.form.elements["/security"]?.value;
    if (!security) return [];
    if (security === "none") return names.filter(name => name !== "tls");
    if (security !== "implicit_tls") return names;
    return names.toSpliced(names.indexOf("greeting"), 2, "tls", "greeting");
  }

  hear(name, data) {
    if (name === "phase") this.step(data);
    else if (name === "problem") this.fail(data);
    else if (data.ok) this.pass();
    else this.fail(data.error);
  }

  step({phase, ok, detail, milliseconds}) {
    const line = this.part(ok ? "passed" : "failed");
    line.querySelector(".what").textContent = this.phase(phase);
    line.querySelector(".detail").textContent = detail ?? "";
    line.querySelector(".time").textContent = milliseconds === undefined ? "" : `${milliseconds} ms`;
    this.running?.remove();
    this.list.append(line);
    this.passed.push(phase);
    if (ok) this.await();
    else this.failed = phase;
  }

  pass() {
    this.over = true;
    this.place.append(this.part("good"));
    this.verdict = "good";
  }

  /** Tell what failed: in the relay's words to the owner, by the meaning of a code to others. */
  fail({code, detail, hint}) {
    this.over = true;
    const told = this.part("bad");
    const phase = this.failed ? `${this.phase(this.failed)}: ` : "";
    told.querySelector(".verdict").textContent = phase + (detail ?? this.meaning(code));
    told.querySelector(".hint").textContent = hint ?? "";
    told.querySelector(".code").textContent = code ?? "";
    const mend = hint && this.mend(code);
    if (mend) told.querySelector(".row").prepend(mend);
    this.place.append(told);
    this.verdict = "bad";
  }

  meaning(code) {
    const known = this.parts.querySelector(`[data-code="${CSS.escape(code)}"]`);
    return (known ?? this.parts.querySelector("[data-code='']")).textContent;
  }

  mend(code) {
    const of = (kind, word) => this.parts.querySelector(`[data-${kind}~="${CSS.escape(word)}"] a`);
    return (of("codes", code) ?? of("phases", this.failed))?.cloneNode(true);
  }

  /** Show what keeps the test from beginning, each fault beside its field; what has none here stands with the rest. */
  refuse({beside, rest}) {
    this.over = true;
    this.place.replaceChildren();
    const {elements} = this.button.form;
    const others = [...rest];
    for (const [name, details] of Object.entries(beside)) {
      const text = details.join(" ");
      if (!blame(fieldOf(elements, name), text)) others.push(`${name}: ${text}`);
    }
    this.button.form.querySelector("[aria-invalid]")?.focus();
    for (const detail of others) this.fail({detail});
    this.verdict = "";
  }

  end() {
    this.running?.remove();
    this.place.removeAttribute("aria-busy");
    this.button.removeAttribute("aria-disabled");
    this.button.className = {good: "passed", bad: "danger primary"}[this.verdict] ?? this.button.dataset.look;
    this.button.textContent = this.verdict ? this.words(`verdict-${this.verdict}`) : this.button.dataset.words;
  }
}

/** The phase after another one: undefined if the way is unknown, null at its end. */
function following(order, last) {
  if (order.length === 0) return undefined;
  return order[order.indexOf(last) + 1] ?? null;
}

/** Find a field by its name: of a box and what stands for its absence, the box. */
function fieldOf(elements, name) {
  const found = elements[name];
  return found instanceof RadioNodeList ? found[found.length - 1] : found;
}

/** Say beside a field what is wrong with it, if it is there and the page does not say so yet. */
function blame(input, text) {
  if (!input) return false;
  input.closest("details")?.setAttribute("open", "");
  const field = input.closest(".field");
  if ([...field?.querySelectorAll(".fault") ?? []].some(one => one.textContent === text)) return true;
  const fault = document.createElement("span");
  fault.className = "fault";
  fault.id = `told${input.name}`;
  fault.dataset.told = input.name;
  fault.textContent = text;
  if (field) field.append(fault);
  else input.after(fault);
  input.setAttribute("aria-invalid", "true");
  input.setAttribute("aria-describedby", [...described(input), fault.id].join(" "));
  return true;
}

/** Take away what a test before said of fields; what the page itself says stays. */
function clear(form) {
  for (const fault of form.querySelectorAll("[data-told]")) {
    const input = fieldOf(form.elements, fault.dataset.told);
    const rest = described(input).filter(id => id !== fault.id);
    if (rest.length > 0) input.setAttribute("aria-describedby", rest.join(" "));
    else input.removeAttribute("aria-describedby");
    if (!rest.some(id => id.startsWith("fault"))) input.removeAttribute("aria-invalid");
    fault.remove();
  }
}

const described = input => (input.getAttribute("aria-describedby") ?? "").split(" ").filter(Boolean);

/** What a link leads to is open. */
function reveal() {
  const found = document.getElementById(location.hash.slice(1));
  if (found instanceof HTMLDetailsElement) found.open = true;
}
addEventListener("hashchange", reveal);
reveal();

for (const button of document.querySelectorAll("button[data-test]")) {
  button.dataset.words = button.textContent.trim();
  button.closest("fieldset")?.addEventListener("keydown", event => {
    if (event.key !== "Enter" || event.target === button) return;
    event.preventDefault();  // it would save
    button.click();
  });
  button.form.addEventListener("submit", event => {
    if (event.submitter !== button) return;
    event.preventDefault();
    if (!button.hasAttribute("aria-disabled")) run(button);
  });
}
