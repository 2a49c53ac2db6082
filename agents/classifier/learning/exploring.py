"""Exploration with a cap on what it may cost: without it nothing is ever learnt of models that aren't chosen. Pure."""

from dataclasses import dataclass

from schemas.ids import chance


@dataclass(slots=True)
class Explorer:
    """Grants a share of requests to models that would not be chosen, until a budget is used up.

    Args:
        share: Of requests.
        cap_micros: Extra cost that exploration may cause in a window; what is cheaper costs nothing here.
    """

    share: float
    cap_micros: int
    spent_micros: int = 0

    def grants(self, request_id: str, extra_micros: int) -> bool:
        """Whether a request may try another model, by a draw from its id.

        Args:
            request_id: Which request.
            extra_micros: What the other model costs beyond the chosen one; 0 or less if it's cheaper.
        """
        if chance(request_id, "exploration") >= self.share:
            return False
        extra = max(0, extra_micros)
        if self.spent_micros + extra > self.cap_micros:
            return False
        self.spent_micros += extra
        return True

    def renew(self) -> None:
        """Begin a new window."""
        self.spent_micros = 0
