// Copies what a button names, where browsers allow it; without scripts the text is selected and copied by hand.
for (const button of document.querySelectorAll("button[data-copy]")) {
  if (!navigator.clipboard) continue;
  button.hidden = false;
  button.addEventListener("click", async () => {
    const told = document.getElementById(`${button.dataset.copy}-told`);
    try {
      await navigator.clipboard.writeText(document.getElementById(button.dataset.copy).textContent);
      told.textContent = "It is copied.";
    } catch {
      told.textContent = "The browser does not let it be copied: select it, and copy it by hand.";
    }
  });
}
