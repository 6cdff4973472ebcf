"""Every page, by its path. Each subject has its pages in a module of its own; here they are put together."""

from typing import Final

from gateway.ui import signing_in
from gateway.ui.oidc import pages as oidc
from gateway.ui.subjects import (
    audit,
    catcher,
    keys,
    notifications,
    overview,
    preferences,
    profile_form,
    profiles,
    pushing,
    secrets,
    templates,
    tenants,
    testing,
    webhooks,
)

PAGES: Final = (
    *signing_in.PAGES,
    *oidc.PAGES,
    *overview.PAGES,
    *tenants.PAGES,
    *pushing.PAGES,  # before profiles, one of which might be meant by `push`
    *testing.PAGES,
    *profiles.PAGES,
    *profile_form.PAGES,
    *notifications.PAGES,
    *catcher.PAGES,
    *preferences.PAGES,
    *templates.PAGES,
    *secrets.PAGES,
    *keys.PAGES,
    *webhooks.PAGES,
    *audit.PAGES,
)
"""Every page."""
