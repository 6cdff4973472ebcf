// The profile's form: what a service is known for is filled in, the port follows the security, and of secret connections
// those of the chosen kind are shown. A secret that is given again says to which host. Without this all of it can be
// written by hand.

const field = name => document.getElementById(name);
const service = field("/preset"), host = field("/host"), port = field("/port"), security = field("/security");
const usual = () => security.selectedOptions[0].dataset.port;
const goes = document.querySelectorAll("[data-goes]");
const isUsual = text => [...security.options].some(one => one.dataset.port === text);

const tellHost = () => { for (const one of goes) one.textContent = host.value || "the host above"; };
host.addEventListener("input", tellHost);
addEventListener("pageshow", tellHost);  // a browser that comes back writes fields again

security.addEventListener("change", () => {
  if (port.value === "" || isUsual(port.value)) port.value = "";
  port.placeholder = usual();
});

service.addEventListener("change", () => {
  const known = service.selectedOptions[0].dataset;
  if (!known.host) return;
  security.value = known.security;
  host.value = known.host;
  port.value = known.port;
  port.placeholder = usual();
  tellHost();
});

for (const credential of document.querySelectorAll(".credential")) {
  const source = credential.querySelector(".source select");
  const connection = credential.querySelector("[data-connections]");
  const key = credential.querySelector("[data-key]");
  if (!connection || !key) continue;
  const groups = [...connection.querySelectorAll("optgroup")];
  const fit = () => {
    const chosen = connection.value;
    for (const group of groups) group.remove();
    connection.append(...groups.filter(group => group.dataset.kind === source.value));
    connection.value = chosen;
    if (connection.selectedIndex < 0) connection.value = "";
    if (source.value === "stored") key.setAttribute("list", "secrets");
    else key.removeAttribute("list");
  };
  source.addEventListener("change", fit);
  fit();
}
