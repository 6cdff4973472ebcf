// A form is sent once: a double click would make two of what it makes. It is free again when the page is shown anew, by a
// browser that comes back to it. Forms that another script sends in place are that script's affair.
//
// Before a form is sent its page is asked for. Where that is not shown any more, what was typed would go with the page: so
// it stays, and the page says why, in the words of its template `not-sent`. The browser then sends the form itself.
const PATIENCE = 10_000;  // milliseconds
const sent = new Map();  // forms on their way, each with the button that was pressed
let going = null;  // the one that may go now

document.addEventListener("submit", event => {
  const {target: form, submitter} = event;
  if (event.defaultPrevented || form.getAttribute("method") !== "post" || form === going) return;
  if (sent.has(form)) {
    event.preventDefault();
    return;
  }
  sent.set(form, submitter);
  submitter?.setAttribute("aria-disabled", "true");
  if (!form.closest("main")) return;  // nobody types there
  event.preventDefault();
  send(form, submitter);
});

async function send(form, submitter) {
  document.getElementById("not-sent-told")?.remove();
  const why = await obstacle();
  if (why) {
    free(form);
    tell(why);
    return;
  }
  going = form;
  form.requestSubmit(submitter);
  going = null;
}

/** Find out what keeps the page from being shown again; empty: nothing. */
async function obstacle() {
  try {
    const {type, status} = await fetch(location.href, {
      method: "HEAD", redirect: "manual", cache: "no-store", signal: AbortSignal.timeout(PATIENCE),
    });
    if (type === "opaqueredirect") return "signed-out";  // to where one signs in
    if (status === 404) return "gone";
    return [502, 503, 504].includes(status) ? "away" : "";
  } catch {
    return "away";
  }
}

function tell(why) {
  const told = document.getElementById("not-sent").content.querySelector(`[data-why=${why}]`).cloneNode(true);
  told.id = "not-sent-told";
  told.tabIndex = -1;
  document.getElementById("main").prepend(told);
  told.focus();
}

function free(form) {
  sent.get(form)?.removeAttribute("aria-disabled");
  sent.delete(form);
}

addEventListener("pageshow", () => [...sent.keys()].forEach(free));
