// The page about the API: finds operations, opens the one that is linked to, and sends what its form says.
//
// A form with class "try" makes a request: fields are told by data-in (path, query, header), the text area is the body.
// The key stays in its field. What is answered is shown as text, whatever it is.

const SHOWN = ["Content-Type", "Location", "ETag", "Retry-After", "Idempotency-Replayed", "Content-Disposition",
  "Allow", "WWW-Authenticate", "X-Request-Id"];
const TEXT = /^(text\/|application\/([\w.-]+\+)?json\b)/;
const MOST = 2_000_000; // characters of an answer
const PATIENCE = 150_000; // milliseconds; a connection test takes as long as its relay
const MARKS = {2: "good", 3: "going", 4: "wait", 5: "bad"};

const key = document.getElementById("key");
const filter = document.getElementById("filter");

/** The request that a form describes. */
export function request(form) {
  let path = form.dataset.path;
  const query = new URLSearchParams();
  const headers = {};
  for (const field of form.querySelectorAll("[data-in]")) {
    const {name, value} = field;
    if (field.dataset.in === "path") path = path.replace(`{${name}}`, () => encodeURIComponent(value));
    else if (value === "") continue;
    else if (field.dataset.in === "header") headers[name] = value;
    else for (const one of "many" in field.dataset ? value.split(",") : [value]) query.append(name, one.trim());
  }
  const body = form.elements.namedItem("body")?.value;
  if (body !== undefined) headers["Content-Type"] = "application/json";
  const asked = query.toString();
  return {method: form.dataset.method, url: location.origin + path + (asked && `?${asked}`), headers, body};
}

/** The request as a line for a shell, in which the key is a variable. */
export function curl({method, url, headers, body}, open) {
  const quoted = text => `'${text.replaceAll("'", "'\\''")}'`;
  const parts = [`curl -i -X ${method} ${quoted(url)}`];
  if (!open) parts.push('-H "Authorization: Bearer $NOTIFICATION_GATEWAY_KEY"');
  for (const [name, value] of Object.entries(headers)) parts.push(`-H ${quoted(`${name}: ${value}`)}`);
  if (body !== undefined) parts.push(`--data-raw ${quoted(body)}`);
  return parts.join(" \\\n  ");
}

async function send(form) {
  const shown = document.getElementById("sent").content.cloneNode(true);
  const part = name => shown.querySelector(`[data-part=${name}]`);
  const [status, told, headers, body] = ["status", "told", "headers", "body"].map(part);
  body.hidden = true;
  told.textContent = "Sent, and waiting.";
  form.querySelector(".result").replaceChildren(shown);
  const began = performance.now();
  const since = () => `${Math.round(performance.now() - began)} ms`;
  try {
    const {method, url, headers: named, body: data} = request(form);
    if (key.value.trim() && !("open" in form.dataset)) named.Authorization = `Bearer ${key.value.trim()}`;
    const answer = await fetch(url, {
      method, headers: named, body: data, credentials: "omit", cache: "no-store", redirect: "manual",
      signal: AbortSignal.timeout(PATIENCE),
    });
    status.textContent = `${answer.status} ${answer.statusText}`;
    status.classList.add(MARKS[Math.trunc(answer.status / 100)] ?? "quiet");
    told.textContent = since();
    headers.append(...SHOWN.filter(name => answer.headers.has(name)).flatMap(name => fact(name, answer.headers.get(name))));
    told.textContent = await read(answer, body) ?? since();
  } catch (error) {
    if (!status.textContent) { status.textContent = "no answer"; status.classList.add("bad"); }
    told.textContent = `${error.name === "TimeoutError" ? "It took too long." : error.message} ${since()}`;
  }
}

function fact(name, value) {
  const [term, text] = [document.createElement("dt"), document.createElement("dd")];
  term.textContent = name;
  text.textContent = value;
  return [term, text];
}

/** Show an answer's text as it comes; tells what stands in the way of showing all of it. */
async function read(answer, shown) {
  const kind = answer.headers.get("Content-Type") ?? "";
  if (!answer.body) return;
  if (!TEXT.test(kind)) {
    await answer.body.cancel();
    return "This is no text. The curl line fetches it, with --output and without -i.";
  }
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const {value, done} = await reader.read();
    if (done) break;
    text += value;
    shown.textContent = text;
    shown.hidden = false;
    if (text.length > MOST) {
      await reader.cancel();
      return "This is its beginning; the rest was not read.";
    }
  }
  if (kind.includes("json")) shown.textContent = pretty(text);
}

function pretty(text) {
  try { return JSON.stringify(JSON.parse(text), null, 2); } catch { return text; }
}

function showCurl(form) {
  form.querySelector(".curl pre").textContent = curl(request(form), "open" in form.dataset);
}

function offerToCopy(form) {
  const place = form.querySelector(".curl");
  if (!navigator.clipboard || place.querySelector("button")) return; // browsers have it where they trust the connection
  const button = document.createElement("button");
  Object.assign(button, {type: "button", className: "tight", textContent: "Copy"});
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(place.querySelector("pre").textContent);
    button.textContent = "Copied";
  });
  place.append(button);
}

function find() {
  const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
  let found = 0;
  for (const subject of document.querySelectorAll(".subject")) {
    const name = subject.querySelector("h2").textContent;
    let here = 0;
    for (const one of subject.querySelectorAll(".operation")) {
      const text = `${name} ${one.id} ${one.querySelector("summary").textContent} ${one.querySelector("p").textContent}`.toLowerCase();
      one.hidden = !words.every(word => text.includes(word));
      here += !one.hidden;
    }
    subject.hidden = words.length > 0 && here === 0;
    found += here;
  }
  document.getElementById("found").textContent = words.length ? `${found} ${found === 1 ? "operation" : "operations"}` : "";
}

function unfold() {
  const linked = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  const subject = linked?.closest(".subject");
  if (!subject) return;
  linked.hidden = subject.hidden = false;
  if (linked.matches(".opens")) linked.open = true;
  linked.scrollIntoView();
}

document.addEventListener("submit", async event => {
  event.preventDefault();
  const {target: form, submitter} = event;
  if (!form.matches(".try") || form.dataset.busy) return;
  form.dataset.busy = "yes";
  submitter?.setAttribute("aria-disabled", "true");
  await send(form);
  delete form.dataset.busy;
  submitter?.removeAttribute("aria-disabled");
});
document.addEventListener("input", ({target}) => {
  if (target === filter) find();
  const form = target.closest(".try");
  if (form) showCurl(form);
});
document.addEventListener("toggle", ({target}) => {
  if (!target.open || !target.matches(".operation")) return;
  const form = target.querySelector(".try");
  showCurl(form);
  offerToCopy(form);
}, {capture: true});
addEventListener("hashchange", unfold);
unfold();
