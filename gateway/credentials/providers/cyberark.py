"""CyberArk's Central Credential Provider: one GET finds an account, and brings its user name and password together.

A key names the account: `Safe=SMTP;Object=relay-a`, of Safe, Folder, Object and UserName, each at most once. A free
Query is refused: it could name any safe. Whom CyberArk lets in it decides by the application's name and by our
address or certificate; there is no token.

The code in an error's body decides before the status: CyberArk calls its own outage a bad request. A password that is
just being changed is `rotating`, whether CyberArk refuses it or says so beside it: it may be the old one or the new.
Neither CyberArk's messages, which name users and safes, nor the password leave but as `Secret`.
"""

from collections.abc import Iterator, Mapping
from typing import Final
from urllib.parse import quote

from gateway.credentials.provider import PASSWORD, CredentialError, Deadlines, Fetched, Kind
from gateway.credentials.providers.rest import (
    Answer,
    Certificates,
    Rest,
    fingerprint,
    read_object,
    refusal,
    wrapped,
)
from gateway.settings import CyberArkConnection

PATIENT: Final = Deadlines(total=10.0)
"""CyberArk's provider goes through its own vaults before it answers."""

_CRITERIA: Final = {name.lower(): name for name in ("Safe", "Folder", "Object", "UserName")}
_UNSUPPORTED: Final = frozenset("+&%;")  # in values: the web service does not take them, however they are encoded
_USER_NAME: Final = "UserName"
_CHANGING: Final = (Kind.ROTATING, "CyberArk is just changing this password")
_AMBIGUOUS: Final = (Kind.MALFORMED, "more than one of CyberArk's accounts has this key")
_AWAY: Final = (Kind.UNREACHABLE, "CyberArk's provider cannot reach its vault")
_STRANGER: Final = (Kind.DENIED, "CyberArk does not let this application in")
_MISSING: Final = (Kind.NOT_FOUND, "CyberArk has no such account, or hides it from this application")
_BAD_QUERY: Final = (Kind.MALFORMED, "CyberArk does not understand this key")

_CODES: Final = {
    **dict.fromkeys(("APPAP004E", "APPAP249E", "APPAP324E"), _MISSING),
    **dict.fromkeys(("APPAP306E", "APPAP008E", "APPAP133E", "APPAP132E", "APPAP087E"), _STRANGER),
    **dict.fromkeys(("APPAP282E", "APPAP286E"), _CHANGING),
    **dict.fromkeys(("APPAP007E", "APPBC007E", "APPAP096W", "APPAP289E", "APPAP291E", "APPAP292E", "APPAP297E"), _AWAY),
    **dict.fromkeys(("APPAP227E", "APPAP228E", "APPAP229E", "APPAP230E", "APPAP251E", "APPAP005E"), _AMBIGUOUS),
    **dict.fromkeys(("AIMWS030E", "AIMWS031E", "APPAP081E", "CASVL010E"), _BAD_QUERY),
}


class CyberArkProvider:
    """Fetches accounts as one application."""

    def __init__(
        self, settings: CyberArkConnection, environ: Mapping[str, str], deadlines: Deadlines = PATIENT
    ) -> None:
        """Connect to nothing yet."""
        del environ  # CyberArk's identity is a name and a certificate, neither of which comes from there
        self._deadlines = deadlines
        files = Certificates(settings.ca_certificates, settings.client_certificate, settings.client_key)
        self._rest = Rest(settings.url, deadlines.connect, files)
        self._path = f"/{quote(settings.application, safe='')}/api/Accounts"
        self._fixed = {
            "AppID": settings.app_id,
            # Their deadline ends before ours, so that we hear what went wrong.
            "ConnectionTimeout": str(max(1, int(deadlines.total * 0.8))),
            "FailRequestOnPasswordChange": "false",
        }
        if settings.reason is not None:
            self._fixed["Reason"] = "".join("_" if letter in _UNSUPPORTED else letter for letter in settings.reason)

    async def fetch(self, key: str, version: str | None) -> Fetched:
        """Fetch an account: its properties under CyberArk's names, and its Content as `password` too.

        Raises `CredentialError`; `malformed` for a key that names no account, and for any version.
        """
        criteria = parse_key(key)
        if version is not None:
            raise CredentialError(Kind.MALFORMED, "CyberArk keeps no versions that a reference could name")
        query = "&".join(f"{name}={quote(value, safe='')}" for name, value in (self._fixed | criteria).items())
        answer = await self._rest.ask("GET", f"{self._path}?{query}", within=self._deadlines.total)
        return _account(answer)

    async def close(self) -> None:
        """Close the connections."""
        await self._rest.close()


def parse_key(key: str) -> dict[str, str]:
    """Read `Name=value;Name=value`, names in any case. Raises `CredentialError` (`malformed`)."""
    criteria = dict(_criteria(key))
    if len(criteria) != key.count(";") + 1:
        raise CredentialError(Kind.MALFORMED, "a part of the key is there twice")
    return criteria


def _criteria(key: str) -> Iterator[tuple[str, str]]:
    for part in key.split(";"):
        name, _, value = part.partition("=")
        if name.lower() not in _CRITERIA:
            raise CredentialError(Kind.MALFORMED, f"a key is made of {', '.join(_CRITERIA.values())}, as Name=value")
        if not value or not value.isprintable() or _UNSUPPORTED & set(value):
            raise CredentialError(Kind.MALFORMED, "a part of the key is empty, or has a character that CyberArk bars")
        yield _CRITERIA[name.lower()], value


def _account(answer: Answer) -> Fetched:
    told = read_object(answer.body)
    code = (told or {}).get("ErrorCode")
    if isinstance(code, str) and code.upper() in _CODES:
        raise CredentialError(*_CODES[code.upper()])
    if answer.status != 200:
        raise refusal(answer)
    if told is None:
        raise CredentialError(Kind.MALFORMED, "CyberArk's answer is no JSON object")
    content = told.get("Content")
    if not isinstance(content, str) or not content:
        raise CredentialError(Kind.MALFORMED, "CyberArk's answer has no password")
    if str(told.get("PasswordChangeInProcess")).lower() == "true":  # a boolean, or its name
        raise CredentialError(*_CHANGING)
    return _fetched(told, content)


def _fetched(told: Mapping[str, object], content: str) -> Fetched:
    fields = wrapped({**told, PASSWORD: content})
    # Some versions write Username.
    name = next((one for one in sorted(fields) if one.lower() == _USER_NAME.lower()), None)
    if name is not None:
        fields[_USER_NAME] = fields[name]
    # CyberArk's times tell its own changes only, not those that a person made.
    return Fetched(fields, fingerprint(content, str(told.get(name or _USER_NAME))))
