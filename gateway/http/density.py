"""How many values a JSON document has, found before anything is made of it.

A value takes the parser, and each fault the validator, hundreds of octets where the body has two: what a body costs is
decided by its values and not by its size. Owns the one way of counting them, in time that is bounded by the number that is
looked for and linear in the size of texts, and without memory. Never decides whether the document is JSON.
"""

import re
from typing import Final

MAX_VALUES: Final = 250_000  # of a body: 5,000 alerts, or 5,000 objects to apply, of fifty values each

# A string, closed or not, or one of the three octets after which a value begins, with what stands before. A string is
# consumed whole, so that none of its quotes is tried a second time.
_TOKEN: Final = re.compile(rb'[^",\[{]*+(?:"[^"\\]*+(?:\\.[^"\\]*+)*+"?|([,\[{])|\Z)', re.DOTALL)


def has_more_values(body: bytes, most: int) -> bool:
    """Has a document more values than these, an object's members counted without their names?

    Something that has more strings than so many values and names could be is no JSON, and counts as having more.
    """
    if len(body) <= most or sum(map(body.count, (b",", b"[", b"{"))) < most:
        return False  # such octets are also in texts: there are no more values than that
    values = 0
    for tokens, token in enumerate(_TOKEN.finditer(body)):
        if token.lastindex:
            values += 1
        if values == most or tokens > 3 * most:
            return True
    return False
