"""What a guardrail's verdict says of an answer. Pure.

A check is not a judge: most of what it lets through would have passed anyway. So its word is a ratio: how much likelier
this verdict is on a good answer than on a bad one. Together with what was expected of the model it gives the
probability that the answer is good. Where the checks do what is expected of them, such words leave a model's share of
good answers where it was.
"""

from collections.abc import Iterable
from typing import Final

from agents.classifier.filters import KEEPS_BAD, KEEPS_GOOD
from agents.guardrail.checks import DOUBTS, FORM
from schemas.edges import Verdict
from schemas.enums import Action

_LET_THROUGH: Final = frozenset({Action.ALLOW, Action.OBSERVE})


def ratio_of(verdicts: Iterable[Verdict], *, answered: bool) -> float | None:
    """How much likelier verdicts are on a good answer than on a bad one; None if they say nothing of it.

    Args:
        verdicts: On the first step.
        answered: Whether there was an answer to look at.
    """
    found = list(verdicts)
    against = {verdict.check for verdict in found if verdict.action not in _LET_THROUGH}
    if against & FORM:
        return 0.0
    if against - DOUBTS or (not answered and not against):
        return None  # a policy, a provider that is away, a deadline: no word on what the model can do
    checked = any(verdict.check in DOUBTS for verdict in found)
    if against:
        return (1 - KEEPS_GOOD[True]) / (1 - KEEPS_BAD[True])
    return KEEPS_GOOD[checked] / KEEPS_BAD[checked]


def posterior(prior: float, ratio: float) -> float:
    """P(answer is good) after a verdict.

    Args:
        prior: Before it, as expected of the model.
        ratio: See ``ratio_of``.
    """
    good, bad = prior * ratio, 1 - prior
    return good / (good + bad) if good else 0.0
