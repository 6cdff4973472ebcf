"""What is put together of a notification and its profile before it is composed."""

from __future__ import annotations

import pytest

from gateway.directory.shapes import Footnote
from gateway.relay.render import with_footnote

FOOTNOTE = Footnote.model_validate({"enabled": True, "text": "", "html": "<i>us</i>"})


@pytest.mark.parametrize(
    ("html", "whole"),
    [
        ("<body>hi</body></html>", "<body>hi<i>us</i></body></html>"),
        ("<BODY>hi</BoDy>", "<BODY>hi<i>us</i></BoDy>"),
        ("<body>\u0130stanbul \u0130zmir</body>", "<body>\u0130stanbul \u0130zmir<i>us</i></body>"),
        ("<body>a</body> b</body>", "<body>a</body> b<i>us</i></body>"),
        ("hi", "hi<i>us</i>"),
    ],
    ids=["lower case", "mixed case", "letters that are longer in lower case", "the last one", "none"],
)
def test_a_footnote_stands_at_the_end_of_the_body(html: str, whole: str) -> None:
    """In front of the tag that ends it, however that is written and whatever stands before; else at the very end."""
    assert with_footnote(None, html, FOOTNOTE) == (None, whole)
