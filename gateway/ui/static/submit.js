// A form is sent once: a double click would make two of what it makes. It is free again when the page is shown anew, by a
// browser that comes back to it. Forms that another script sends in place are that script's affair.
const sent = new Map();  // forms on their way, each with the button that was pressed

document.addEventListener("submit", event => {
  const {target: form, submitter} = event;
  if (event.defaultPrevented || form.getAttribute("method") !== "post") return;
  if (sent.has(form)) {
    event.preventDefault();
    return;
  }
  sent.set(form, submitter);
  submitter?.setAttribute("aria-disabled", "true");
});

addEventListener("pageshow", () => {
  for (const button of sent.values()) button?.removeAttribute("aria-disabled");
  sent.clear();
});
