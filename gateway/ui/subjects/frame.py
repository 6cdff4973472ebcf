"""What all pages of one tenant share: its name, the way down to it, and the ways to its other pages."""

from typing import Final, NamedTuple

from gateway.ui.visit import Visit, at, place


class Tab(NamedTuple):
    """A page of a tenant, and the scopes of which one is needed to open it."""

    name: str
    path: str
    scopes: tuple[str, ...]


TABS: Final = (
    Tab("Profiles", "profiles", ("read",)),
    Tab("Preferences", "preferences", ("read",)),
    Tab("Templates", "templates", ("read",)),
    Tab("Secrets", "secrets", ("secrets",)),
    Tab("Keys", "keys", ("admin",)),
    Tab("Webhooks", "webhooks", ("admin",)),
    Tab("Audit", "audit", ("admin",)),
    Tab("Settings", "settings", ("read",)),
)


async def frame(visit: Visit, tab: str) -> dict[str, object]:
    """Give what `tenant_frame.html` needs around a tenant's page. Raises `not_found`."""
    tenant = visit.params["tenant"]
    shown = await visit.get(at("tenants", tenant))
    line = visit.snapshot.ancestry(tenant)
    above = reversed(line[1 : line.index(visit.root) + 1]) if visit.root in line else ()
    return {
        "tenant": shown,
        "above": [(name, place("tenants", name)) for name in above],
        "tabs": [
            (one.name, place("tenants", tenant, one.path), one.path == tab)
            for one in TABS
            if any(map(visit.may, one.scopes))
        ],
    }
