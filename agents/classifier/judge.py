"""The trained model as a stage of its own: many requests in one pass, within a time limit, and never in the way.

What isn't judged when time is up, or fails, is left to the surface classifier.
"""

import logging
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from agents.classifier.judged import Judged

if TYPE_CHECKING:
    from agents.classifier.learned.model import Model

log = logging.getLogger(__name__)

TIME_LIMIT: Final = timedelta(milliseconds=250)
"""For a batch: one of 500 requests takes about 150 ms, and a machine that is slower must not hold up the flow."""
PASS: Final = 32
"""Requests judged before the clock is looked at again."""

Judge = Callable[[Sequence[str]], Sequence[Judged | None]]
"""What judges texts, in their order; None where it has nothing to say."""


class ModelJudge:
    """Judges with trained weights.

    Args:
        model: The weights.
        outcomes: Sets of models to say P(good) of.
        time_limit: For one call, however many texts it has.
        applied: Whether its word decides, or is only recorded.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        model: "Model",
        *,
        outcomes: Sequence[str] = (),
        time_limit: timedelta = TIME_LIMIT,
        applied: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._model = model
        self._outcomes = tuple(outcomes)
        self._seconds = time_limit.total_seconds()
        self._applied = applied
        self._clock = clock

    def __call__(self, texts: Sequence[str]) -> Sequence[Judged | None]:
        """Judge texts; None for those that time ran out for."""
        end = self._clock() + self._seconds
        found: list[Judged | None] = []
        try:
            while len(found) < len(texts) and self._clock() < end:
                part = texts[len(found) : len(found) + PASS]
                found += [
                    Judged(
                        task_class=each.task_class,
                        confidence=each.confidence,
                        drift=each.drift,
                        version=self._model.version,
                        good=each.good,
                        domain=each.domain,
                        intent=each.intent,
                        language=each.language,
                        sensitivity=each.sensitivity,
                        applied=self._applied,
                        columns=each.columns,
                    )
                    for each in self._model.judge(part, outcomes=self._outcomes)
                ]
        except Exception:  # the surface classifier answers instead; a request never fails for this
            log.exception("the trained classifier failed; the surface classifier answers")
        if len(found) < len(texts):
            log.warning(
                "%d of %d requests were not judged by the trained classifier", len(texts) - len(found), len(texts)
            )
        return [*found, *([None] * (len(texts) - len(found)))]
