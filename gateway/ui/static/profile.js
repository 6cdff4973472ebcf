// The profile's form: what a service is known for is filled in, the port follows the security, and of secret connections
// those of the chosen kind are shown. Without this all of it can be written by hand.

const field = name => document.getElementById(name);
const service = field("/preset"), host = field("/host"), port = field("/port"), security = field("/security");
const usual = () => security.selectedOptions[0].dataset.port;
const isUsual = text => [...security.options].some(one => one.dataset.port === text);

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
