"""What a decision needs to know from outside: looked up by the stage, handed to the core, recorded in the Decision."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import orjson


@dataclass(frozen=True, slots=True, kw_only=True)
class Signals:
    """The state of the world at the time of a decision. What is empty was not known, and limits nothing."""

    open_breakers: frozenset[str] = frozenset()
    """Models (``id@version``) that are not called at present because their calls fail."""
    live_tiers: frozenset[str] | None = None
    """Tiers with a consumer; None if nobody looked."""
    latency_ms: Mapping[str, float] = field(default_factory=dict)
    """Recent median of a call in milliseconds, by ``id@version``."""
    load: Mapping[str, float] = field(default_factory=dict)
    """Waiting and running requests per place of work, by tier: 1 is fully used."""
    budget_left_micros: int | None = None
    """What the tenant may still spend, in micro-units."""

    def to_json(
        self,
        judged: Mapping[str, object] | None = None,
        learned: Mapping[str, object] | None = None,
        llm: Mapping[str, object] | None = None,
    ) -> str:
        """As JSON text with sorted keys; what was not known is left out.

        Args:
            judged: What the trained model said of the request, recorded with the rest.
            learned: What outcomes taught, recorded with the rest.
            llm: What a language model said of the request, and what asking cost, recorded with the rest.
        """
        known: dict[str, object] = {"judged": judged} if judged else {}
        if learned:
            known["learned"] = learned
        if llm:
            known["llm"] = llm
        if self.open_breakers:
            known["open_breakers"] = sorted(self.open_breakers)
        if self.live_tiers is not None:
            known["live_tiers"] = sorted(self.live_tiers)
        if self.latency_ms:
            known["latency_ms"] = dict(self.latency_ms)
        if self.load:
            known["load"] = dict(self.load)
        if self.budget_left_micros is not None:
            known["budget_left_micros"] = self.budget_left_micros
        return orjson.dumps(known, option=orjson.OPT_SORT_KEYS).decode() if known else "{}"


NO_SIGNALS: Final = Signals()
