"""Money as whole micro-units of a currency: sums are exact and order does not matter."""

from dataclasses import dataclass
from decimal import Decimal

MICRO = 1_000_000


@dataclass(frozen=True, slots=True, order=True)
class Money:
    """An amount in millionths of a currency unit.

    Attributes:
        micros: The amount, 1,000,000 being one unit of the currency.
        currency: ISO 4217 code; amounts of different currencies never add up.
    """

    micros: int
    currency: str = "USD"

    def __add__(self, other: "Money") -> "Money":
        self._same(other)
        return Money(self.micros + other.micros, self.currency)

    def __sub__(self, other: "Money") -> "Money":
        self._same(other)
        return Money(self.micros - other.micros, self.currency)

    def __str__(self) -> str:
        return f"{Decimal(self.micros) / MICRO:.6f} {self.currency}"

    def _same(self, other: "Money") -> None:
        if self.currency != other.currency:
            raise ValueError(f"can't mix {self.currency} and {other.currency}")


def price_of(tokens: int, micros_per_million: int) -> int:
    """Micro-units that ``tokens`` cost at a price per million tokens; halves go to the even neighbour."""
    whole, rest = divmod(tokens * micros_per_million, 1_000_000)
    return whole + (rest > 500_000 or (rest == 500_000 and whole & 1))
