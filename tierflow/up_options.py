"""Options of ``tierflow up`` and ``tierflow demo`` that are pairs."""

from collections.abc import Iterable

from schemas.errors import ConfigurationError


def parse_workers(text: str) -> dict[str, int]:
    """Reads ``fast=2,premium=0``.

    Raises:
        ConfigurationError: Names the part that is no such pair.
    """
    found: dict[str, int] = {}
    for part in filter(None, (each.strip() for each in text.split(","))):
        tier, equals, count = (each.strip() for each in part.partition("="))
        if not equals or not tier or not (count.isascii() and count.isdecimal()):
            raise ConfigurationError(f"--workers {part}: give tier=number, such as fast=2,premium=1")
        found[tier] = int(count)
    return found


def parse_models(pairs: Iterable[str]) -> dict[str, str]:
    """Reads ``small=llama3.2`` for each ``--model``.

    Raises:
        ConfigurationError: Names what is no such pair.
    """
    found: dict[str, str] = {}
    for pair in pairs:
        model, equals, name = (each.strip() for each in pair.partition("="))
        if not equals or not model or not name:
            raise ConfigurationError(f"--model {pair}: give id=name, such as small=llama3.2")
        found[model] = name
    return found
