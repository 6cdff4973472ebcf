// Parts of a page that say `data-live` are asked for anew every three seconds, or as many as it says, while somebody can
// see them and has not ticked the box `pause`. htmx does the asking: such a part has `hx-get` and `hx-trigger="look"`.
// Once `data-final` is in it, nothing more can happen to it.
const box = document.getElementById("pause");
for (const part of document.querySelectorAll("[data-live]")) {
  const look = () => document.hidden || box?.checked || part.querySelector("[data-final]") || part.dispatchEvent(new Event("look"));
  setInterval(look, (Number(part.dataset.live) || 3) * 1000);
  document.addEventListener("visibilitychange", look);
  box?.addEventListener("change", look);
}
