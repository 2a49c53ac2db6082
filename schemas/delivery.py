"""How sure the broker lets us be."""

from enum import StrEnum


class DeliveryMode(StrEnum):
    """What the runtime found at start; stamped into results and provenance."""

    EXACTLY_ONCE = "exactly_once"
    AT_LEAST_ONCE = "at_least_once"
