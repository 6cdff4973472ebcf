"""Times as everybody is told them: RFC 3339, in UTC, to the millisecond."""

from datetime import UTC, datetime
from functools import lru_cache


def time_text(at: int) -> str:
    """Write milliseconds since the epoch as an RFC 3339 time in UTC."""
    seconds, milliseconds = divmod(at, 1000)
    return f"{_second_text(seconds)}.{milliseconds:03}Z"


@lru_cache(maxsize=256)  # acceptances share their second with many others, and so do the ends of their lives
def _second_text(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat()[:-6]
