"""What is known of much used relays: a profile that names one need not say it again.

A preset fills what a profile leaves open when it is saved; what it says itself wins, and with another security the
port is that security's own. Limits are those that the services publish, or that keep a new account out of trouble.
"""

from collections.abc import Mapping
from typing import Any, Final, get_args

from gateway.directory.shapes import Preset

PRESETS: Final[Mapping[str, Mapping[str, Any]]] = {
    "generic": {},
    "microsoft365": {
        "host": "smtp.office365.com", "port": 587, "security": "starttls", "auth": {"method": "auto"},
        "limits": {"connections": 3, "per_minute": 30},
    },
    "gmail": {
        "host": "smtp.gmail.com", "port": 587, "security": "starttls", "auth": {"method": "auto"},
        "limits": {"connections": 3, "per_minute": 60},
    },
    "amazon_ses": {
        "host": "email-smtp.us-east-1.amazonaws.com", "port": 587, "security": "starttls", "auth": {"method": "auto"},
        "limits": {"connections": 10, "per_minute": 840, "recipients": 50},
    },
    "sendgrid": {
        "host": "smtp.sendgrid.net", "port": 587, "security": "starttls", "auth": {"method": "auto"},
        "limits": {"connections": 10, "messages_per_connection": 100},
    },
    "mailgun": {
        "host": "smtp.mailgun.org", "port": 587, "security": "starttls", "auth": {"method": "auto"},
        "limits": {"connections": 10},
    },
    "postmark": {
        "host": "smtp.postmarkapp.com", "port": 587, "security": "starttls", "auth": {"method": "auto"},
        "limits": {"connections": 10, "recipients": 50},
    },
    "brevo": {
        "host": "smtp-relay.brevo.com", "port": 587, "security": "starttls", "auth": {"method": "auto"},
        "limits": {"connections": 4},
    },
    "postfix": {
        "host": "127.0.0.1", "port": 25, "security": "none", "auth": {"method": "none"}, "limits": {"connections": 8},
    },
}  # fmt: skip

if set(PRESETS) != set(get_args(Preset)):
    raise AssertionError("every preset has a name in the profile's shape, and the other way round")


def filled(document: Mapping[str, Any]) -> dict[str, Any]:
    """Give a profile as written, with what its preset adds where it says nothing."""
    preset = document.get("preset")
    known = dict(PRESETS.get(preset, {})) if isinstance(preset, str) else {}
    if document.get("security") not in (None, known.get("security")):
        known.pop("port", None)  # there the relay expects the preset's security
    whole = dict(document)
    for name, value in known.items():
        own = whole.get(name)
        if own is None:
            whole[name] = dict(value) if isinstance(value, Mapping) else value
        elif isinstance(value, Mapping) and isinstance(own, dict):
            whole[name] = {**value, **own}
    return whole
