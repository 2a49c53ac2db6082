"""Joining: a decision, what became of it, and words on the answer meet by request id. Pure.

They lie in different topics and come in any order; each side waits for the others within a bound. After a restart the
same records are read again to know what waits: what was complete before is remembered, and not told as new.
"""

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Final

from agents.classifier.learning.outcomes import GUARDRAIL, JUDGE, PRIOR, SURER, Decided, Outcome
from agents.classifier.learning.verdicts import posterior
from schemas.enums import TaskClass

WAITING: Final = 200_000
"""Requests that are remembered; older ones are let go, most answers are never rated."""


@dataclass(slots=True)
class _Case:
    """What is known of one request."""

    decided: Decided | None = None
    first: bool | None = None
    """Whether the model that was chosen gave the final answer; None while that isn't known."""
    words: dict[str, float] = field(default_factory=dict)
    """First word of each kind: how good; of the guardrail the ratio that ``ratio_of`` gives."""
    named: TaskClass | None = None
    """What somebody says it was."""
    told: tuple[float, str] | None = None
    """What was made an outcome already."""
    fresh: bool = False
    """Whether something that isn't told yet came after the restart."""
    micros: int | None = None
    """What all calls cost; None while the result isn't known."""
    final: tuple[str, bool] | None = None
    """Whose word on a later model's answer was told already, and whether the guardrail had spoken by then."""
    fresh_final: bool = False
    """As ``fresh``, of that."""

    def news(self, *, fresh: bool) -> None:
        """Something was taken in."""
        self.fresh |= fresh
        self.fresh_final |= fresh


class Joiner:
    """Brings decisions and words on their answers together.

    A word on an answer is one on the model that was chosen only if that model gave it. Where the plan went on to
    another, only the guardrail's word on the first step says something of the choice: what a later model is given was
    picked out by the first one's failure, and would make it look worse than it is. What the whole plan was worth
    is told apart (see ``whole``).

    Args:
        waiting: Requests that are remembered at most.
    """

    def __init__(self, waiting: int = WAITING) -> None:
        self._waiting = waiting
        self._cases: OrderedDict[str, _Case] = OrderedDict()

    def __len__(self) -> int:
        return len(self._cases)

    def __contains__(self, request_id: str) -> bool:
        return request_id in self._cases

    def decided(self, request_id: str) -> Decided | None:
        """The decision of a request that is remembered."""
        case = self._cases.get(request_id)
        return None if case is None else case.decided

    def decide(self, decided: Decided, *, fresh: bool = True) -> Outcome | None:
        """Take a decision; its outcome if all else came first. A decision that is known already changes nothing.

        Args:
            decided: The decision.
            fresh: Whether its record was not read before the last restart.
        """
        case = self._case(decided.request_id)
        if case.decided is not None:
            return None
        case.decided = decided
        case.news(fresh=fresh)
        return self._outcome(case)

    def end(self, request_id: str, *, first: bool, micros: int | None = None, fresh: bool = True) -> Outcome | None:
        """Take the end of a request, or that it goes on to a second step; its outcome if all else came first.

        Args:
            request_id: Which.
            first: Whether the final answer is that of the first step.
            micros: What all calls cost; None while that isn't known.
            fresh: As for ``decide``.
        """
        case = self._case(request_id)
        if micros is not None and case.micros is None:
            case.micros = micros
            case.fresh_final |= fresh
        if case.first is not None:
            return None
        case.first = first
        case.news(fresh=fresh)
        return self._outcome(case)

    def whole(self, request_id: str) -> Outcome | None:
        """What a plan that went on to another model was worth, once its final answer is rated and its cost is known.

        Told once for each surer word, and once more where the guardrail's word on the first answer comes last.
        """
        case = self._cases.get(request_id)
        if case is None or case.decided is None or case.first is not False or case.micros is None:
            return None
        said = [kind for kind in case.words if kind != GUARDRAIL]
        if not said:
            return None
        kind, spoken = max(said, key=SURER.__getitem__), GUARDRAIL in case.words
        if case.final is not None and SURER[kind] <= SURER[case.final[0]] and spoken == case.final[1]:
            return None
        decided = case.decided
        base = decided.bases.get(decided.model, PRIOR)
        counted, case.fresh_final = case.fresh_final and case.final is None, False
        case.final = kind, spoken
        return Outcome(
            decided=decided,
            good=posterior(base, case.words[GUARDRAIL]) if spoken else base,
            kind=kind,
            counted=counted,
            final=case.words[kind],
            spoken=spoken,
            micros=case.micros,
        )

    def tell(self, request_id: str, good: float, kind: str, *, fresh: bool = True) -> Outcome | None:
        """Take a word on an answer; its outcome if all else is known.

        The first word of the surest kind counts; repeats, and words less sure than one that was told, change nothing.

        Args:
            request_id: Which request.
            good: 0 to 1.
            kind: Who says so; a kind that isn't known is taken for a judge.
            fresh: As for ``decide``.

        Raises:
            ValueError: ``good`` is out of its range.
        """
        if not 0 <= good <= 1:
            raise ValueError(f"good must be between 0 and 1, is {good}")
        return self._word(request_id, good, kind if kind in SURER and kind != GUARDRAIL else JUDGE, fresh)

    def check(self, request_id: str, ratio: float, *, fresh: bool = True) -> Outcome | None:
        """Take the guardrail's word on the first step; its outcome if the decision is known.

        Args:
            request_id: Which request.
            ratio: See ``verdicts.ratio_of``.
            fresh: As for ``decide``.
        """
        return self._word(request_id, ratio, GUARDRAIL, fresh)

    def name(self, request_id: str, task_class: TaskClass) -> bool:
        """Take what somebody says a request was; False if that was said before."""
        case = self._case(request_id)
        if case.named is not None:
            return False
        case.named = task_class
        return True

    def named(self, request_id: str) -> TaskClass | None:
        """What a request was, as somebody says."""
        case = self._cases.get(request_id)
        return None if case is None else case.named

    def _word(self, request_id: str, word: float, kind: str, fresh: bool) -> Outcome | None:
        case = self._case(request_id)
        if kind in case.words:
            return None
        case.words[kind] = word
        case.news(fresh=fresh)
        return self._outcome(case)

    def _case(self, request_id: str) -> _Case:
        case = self._cases.get(request_id)
        if case is None:
            case = self._cases[request_id] = _Case()
            while len(self._cases) > self._waiting:
                self._cases.popitem(last=False)
        return case

    @staticmethod
    def _outcome(case: _Case) -> Outcome | None:
        if case.decided is None:
            return None
        said = [kind for kind in case.words if kind == GUARDRAIL or case.first]
        if not said:
            return None
        kind = max(said, key=SURER.__getitem__)
        if case.told is not None and SURER[kind] <= SURER[case.told[1]]:
            return None
        decided, good = case.decided, case.words[kind]
        if kind == GUARDRAIL:
            good = posterior(decided.bases.get(decided.model, PRIOR), good)
        earlier, case.told = case.told, (good, kind)
        counted, case.fresh = case.fresh, False
        return Outcome(decided=decided, good=good, kind=kind, earlier=earlier, counted=counted, micros=case.micros)
