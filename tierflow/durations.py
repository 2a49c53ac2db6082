"""Durations as people write them on a command line and in a file of requests: ``30s``, ``5m``, ``1h30m``, ``PT30S``."""

from datetime import timedelta
from typing import Final

from pydantic import TypeAdapter, ValidationError

from registry.wording import duration_of
from schemas.errors import ConfigurationError

_TIMEDELTA: Final = TypeAdapter(timedelta)


def duration(text: str, what: str) -> timedelta:
    """Reads a duration.

    Args:
        text: Such as ``30s``.
        what: Names it in the error.

    Raises:
        ConfigurationError: It is none, or not above zero.
    """
    try:
        found = _TIMEDELTA.validate_python(duration_of(text))
    except ValidationError as error:
        raise ConfigurationError(f"{what}: {text!r} is no duration: write 30s, 5m, 1h30m or PT30S") from error
    except ValueError as error:
        raise ConfigurationError(f"{what}: {error}") from error
    if found <= timedelta(0):
        raise ConfigurationError(f"{what}: {text} is not above zero")
    return found


def told(span: timedelta) -> str:
    """A duration for people: ``450 ms``, ``2.1 s``, ``3 min 20 s``, ``2 h 5 min``."""
    seconds = span.total_seconds()
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"
