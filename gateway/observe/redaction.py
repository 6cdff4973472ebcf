"""The second wall: what sounds or looks like a secret, or is one that lives in this process, gets into no log line.

The first wall is that no code hands a secret to the log. This one stands behind it because texts come from elsewhere: a
library's exception, a relay that repeats what it was told. Owns the names that sound secret, the forms that look secret,
and the search for live values, also where they stand in Base64, percent-encoded or escaped; and how long a value may be.

Promises: what is cut off was looked at, or is not shown; the time is linear in the text for each live value. It may take
away too much, and a value that was changed in some other way gets through: it is no leave to log what comes along.
"""

import binascii
import json
import re
from base64 import b64decode
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from typing import Final
from urllib.parse import unquote, unquote_plus

MASK: Final = "[redacted]"
MOST: Final = 2_048  # characters of a value
MOST_TRACE: Final = 8_192  # characters of an exception, of which the end tells most
MOST_READ: Final = 16_384  # characters that are looked at
MOST_ITEMS: Final = 50  # of a list or a table
DEEPEST: Final = 4
SHORTEST: Final = 4  # characters of a live value; less would tear words apart everywhere

TRACES: Final = frozenset({"exception", "stack"})
OURS: Final = frozenset({
    "timestamp", "level", "event", "id", "request_id", "trace_id", "tenant", "owner", "profile", "connection", "reason",
    "outcome", "kind", "code", "enhanced", "keys", "faults", "logger", "version", "client",
})  # fmt: skip
"""Fields that hold names and words of our own: a tenant whose password is `acme` shall not take its name out of them."""

_NAME: Final = (
    r"(?:pass(?:word|wd|phrase|code)?|pwd|secret|token|authori[sz]ation|api[-_]?key|credential|private[-_]?key"
    r"|cookie|assertion|signature|sig)"
)
_SOUNDS_SECRET: Final = re.compile(rf"{_NAME}s?(?:$|[-_])", re.IGNORECASE)
_VALUE: Final = r"""(?:"(?:[^"\\]|\\.)*"?|'(?:[^'\\]|\\.)*'?|[^\s,;&"'}\])]+)"""
_WORD: Final = r"[\w-]{0,40}"


def _compiled(*patterns: str, flags: re.RegexFlag = re.IGNORECASE) -> tuple[re.Pattern[str], ...]:
    return tuple(re.compile(pattern, flags) for pattern in patterns)


# Each keeps its first group and takes the rest away.
_FORMS: Final = _compiled(
    r"(\b)ey[JK][\w-]{8,}\.[\w-]{2,}(?:\.[\w-]*)?",  # a JSON Web Token
    r"(ngw_[a-z0-9]{1,32}_)[\w-]{8,}",
    r"(whsec_)[A-Za-z0-9+/=_-]{8,}",
    r"(\bhv[sbr]\.)[\w-]{8,}",  # Vault
    r"(\b[sbr]\.)[A-Za-z0-9]{20,}",
    r"(\bya29\.)[\w-]{8,}",  # Google
    r"((?:://))[^\s/?#]{0,512}(?=@)",
    r"((?:://)[^\s/@:]{0,256}:)[^\s@]{1,512}(?=@)",  # a slash in a URL's password
    flags=re.RegexFlag(0),
) + _compiled(
    r"(-----BEGIN [A-Z0-9 ]{0,32}PRIVATE KEY-----).*?(?=-----END|\Z)",
    r"(\bBearer\s+)(?=[a-z]*[0-9._~+/-])[\w.~+/-]{6,}=*",
    r"(\b(?:Proxy-)?Authorization\s*:\s*)[^\r\n\"']+",
    r"(\b(?:X-Vault-Token|X-Api-Key|Cookie|Set-Cookie)\s*:\s*)[^\r\n\"']+",
    flags=re.IGNORECASE | re.DOTALL,
)  # fmt: skip
_ASSIGNMENTS: Final = _compiled(
    rf"(\b{_WORD}{_NAME}{_WORD}[\"']?\s*=\s*){_VALUE}",
    rf"([\"']{_WORD}{_NAME}{_WORD}[\"']\s*:\s*b?){_VALUE}",
    rf"(\bpass(?:word|wd|phrase|code)\s*:\s*){_VALUE}",
)
_CODED: Final = re.compile(r"[A-Za-z0-9+/_-]{8,}={0,2}")
_ANNOUNCED: Final = re.compile(
    r"\b(basic|auth\s+(?:plain|login|xoauth2|oauthbearer|cram-md5|scram-[\w-]{1,16}|ntlm|external|gssapi))\s+"
    r"([A-Za-z0-9+/]{4,}={0,2})",
    re.IGNORECASE,
)


def harmless(event: Mapping[str, object], live: Callable[[], Iterable[str]]) -> dict[str, object]:
    """Give the fields of a line without secrets, each cut; `live` gives the values of the secrets that there are."""
    return {key: _value(key, value, live, 0) for key, value in event.items()}


def _value(key: str, value: object, live: Callable[[], Iterable[str]], depth: int) -> object:
    if _SOUNDS_SECRET.search(key) and value is not None and not isinstance(value, bool):
        return MASK
    match value:
        case None | bool() | int() | float():
            return value
        case str():
            return _text(key, value, live)
        case Mapping() if depth < DEEPEST:
            items = islice(value.items(), MOST_ITEMS)
            return {_text(key, str(name), live): _value(str(name), item, live, depth + 1) for name, item in items}
        case list() | tuple() | set() | frozenset() if depth < DEEPEST:
            return [_value(key, item, live, depth + 1) for item in islice(value, MOST_ITEMS)]
        case _:
            return _text(key, str(value), live)


def _text(key: str, text: str, live: Callable[[], Iterable[str]]) -> str:
    if len(text) > MOST_READ:  # what is shown is the beginning and, of a trace, the end: never the seam
        text = text[: MOST_READ // 2] + text[-MOST_READ // 2 :]
    clean = redacted(text, () if key in OURS else live(), ours=key in OURS)
    if key in TRACES and len(clean) > MOST_TRACE:
        return f"{clean[:MOST]} … {clean[MOST - MOST_TRACE :]}"
    return clean if len(clean) <= MOST or key in TRACES else f"{clean[:MOST]}…"


def redacted(text: str, live: Iterable[str] = (), *, ours: bool = False) -> str:
    """Take secrets out of a text; of one that is `ours` only what looks like one, not what follows a telling name."""
    text = _without_live(text, live)
    for form in _FORMS:
        text = form.sub(rf"\1{MASK}", text)
    text = _ANNOUNCED.sub(_announced, text)
    text = _CODED.sub(lambda found: MASK if _is_exchange(found[0]) else found[0], text)
    if not ours:
        for assignment in _ASSIGNMENTS:
            text = assignment.sub(rf"\1{MASK}", text)
    return text


def _announced(found: re.Match[str]) -> str:
    """Take away what stands behind `AUTH PLAIN` or `Basic`, but for prose (`basic authentication is disabled`)."""
    announced, word = found.groups()
    if announced.lower() == "basic":
        coded = b":" in next(_decoded(word), b"")
    else:
        prose = word.isalpha() and (word.isupper() or word[1:].islower())
        coded = len(word) % 4 == 0 and not prose
    return f"{announced} {MASK}" if coded else found[0]


def _is_exchange(word: str) -> bool:
    """Is it what a client says to sign in: PLAIN's three parts, or an access token's frame (RFC 4616, RFC 7628)?"""
    told = next(_decoded(word), b"")
    return (told.count(b"\0") == 2 and not told.endswith(b"\0") and len(told) > 3 and _printable(told)) or (
        b"auth=Bearer " in told
    )


def _printable(told: bytes) -> bool:
    try:
        return told.replace(b"\0", b"").decode().isprintable()
    except UnicodeDecodeError:
        return False


def _decoded(word: str) -> Iterator[bytes]:
    """What a word says in Base64, begun at each of four places: letters before it may belong to something else."""
    word = word.rstrip("=").replace("-", "+").replace("_", "/")
    for begin in range(4):
        rest = word[begin:]
        rest = rest[: len(rest) - 1] if len(rest) % 4 == 1 else rest
        try:
            yield b64decode(rest + "=" * (-len(rest) % 4))
        except binascii.Error:
            continue


def _without_live(text: str, live: Iterable[str]) -> str:
    """Take live values out, and every word that holds one in another form."""
    coded: list[tuple[str, str]] | None = None
    escapes = "\\" in text
    found: set[str] = set()
    for secret in live:
        if len(secret) < SHORTEST:
            continue
        if coded is None:
            coded = list(_told_otherwise(text))
        found.update(form for form in _written(secret, escapes=escapes) if form in text)
        found.update(word for word, told in coded if secret in told)
    for form in sorted(found, key=len, reverse=True):  # one may begin as another does
        text = text.replace(form, MASK)
    return text


def _written(secret: str, *, escapes: bool) -> Iterator[str]:
    """How a value stands in a text: as it is, or as Python and JSON write it."""
    yield secret
    if escapes:
        yield json.dumps(secret)[1:-1]
        yield repr(secret)[1:-1]


def _told_otherwise(text: str) -> Iterator[tuple[str, str]]:
    """The words that may say something else than what stands there, and what that is."""
    for found in _CODED.finditer(text):
        for told in _decoded(found[0]):
            yield found[0], told.decode(errors="replace")
    for word in text.split():
        if "%" in word:
            yield word, unquote(word)
            yield word, unquote_plus(word)
