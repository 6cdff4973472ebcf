"""Reading a body within limits: of kind, of size, of values and of time.

A small body lies in the buffer already when its head has been read, and is taken from there at once; only one that is
still on its way is waited for, under one deadline for all of it, so that sending slowly gains nothing. Nothing is
decompressed: a body that says it is encoded is refused, and with it what could grow a thousandfold.
"""

import asyncio
from collections.abc import Sequence
from typing import Final

from aiohttp import web

from gateway.http.density import MAX_VALUES, has_more_values
from gateway.problems import Code, Problem
from gateway.settings import Http

JSON: Final = "application/json"
MERGE_PATCH: Final = "application/merge-patch+json"  # RFC 7396 §4
CLOSE: Final = {"Connection": "close"}
CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"


async def read_body(request: web.BaseRequest, http: Http) -> bytes:
    """Read the whole JSON body. Raises problems for its kind, its size, its many values and its slowness."""
    kind, encoding = (request.headers.get(name, "") for name in ("Content-Type", "Content-Encoding"))
    _check_kind(kind, encoding, kinds_of(request.method))
    body = await read_octets(request, http.max_body_bytes, http.body_timeout_seconds)
    check_values(body)
    return body


def kinds_of(method: str) -> Sequence[str]:
    """Name the media types that a body of this method may have."""
    return (JSON, MERGE_PATCH) if method == "PATCH" else (JSON,)


def check_values(body: bytes) -> None:
    """Raise `payload_too_large` for more JSON values than anybody needs: finding their faults takes everybody's time."""
    if has_more_values(body, MAX_VALUES):
        raise Problem(Code.PAYLOAD_TOO_LARGE, f"The body has more than {MAX_VALUES} values.")


async def read_octets(request: web.BaseRequest, most: int, seconds: float) -> bytes:
    """Read a whole body of at most so many octets in at most so many seconds. Raises problems for both."""
    length = request.content_length
    if length is not None and length > most:
        raise _too_large(most)
    payload = request.content
    if payload.is_eof():
        body = payload.read_nowait()
        if len(body) > most:
            raise _too_large(most)
        return body
    try:
        async with asyncio.timeout(seconds):
            return await _arriving(request, most)
    except TimeoutError:
        detail = f"The body did not arrive within {seconds} seconds."
        raise Problem(Code.REQUEST_TIMEOUT, detail, headers=CLOSE) from None
    except ConnectionError:  # the client has gone, and nobody reads the answer
        raise Problem(Code.BAD_REQUEST, "The connection ended within the body.", headers=CLOSE) from None


async def _arriving(request: web.BaseRequest, most: int) -> bytes:
    if request.headers.get("Expect", "").lower() == "100-continue":
        await request.writer.write(CONTINUE)
        request.writer.output_size = 0  # an interim answer is no part of the answer that follows
    chunks: list[bytes] = []
    size = 0
    while chunk := await request.content.readany():
        size += len(chunk)
        if size > most:
            raise _too_large(most)
        chunks.append(chunk)
    return b"".join(chunks)


def _check_kind(content_type: str, encoding: str, kinds: Sequence[str]) -> None:
    if encoding and encoding.lower() != "identity":
        raise Problem(Code.UNSUPPORTED_MEDIA_TYPE, "The body must not have a Content-Encoding.")
    if content_type in kinds:
        return
    kind, _, parameters = content_type.partition(";")
    if kind.strip().lower() not in kinds:
        raise Problem(Code.UNSUPPORTED_MEDIA_TYPE)
    charset = parameters.strip().lower().replace(" ", "").replace('"', "")
    if charset not in ("", "charset=utf-8", "charset=utf8"):
        raise Problem(Code.UNSUPPORTED_MEDIA_TYPE, "JSON is UTF-8 (RFC 8259 §8.1).")


def _too_large(most: int) -> Problem:
    detail = f"The body has more than {most} bytes."
    return Problem(Code.PAYLOAD_TOO_LARGE, detail, headers=CLOSE)
