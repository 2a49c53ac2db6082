"""What the learner makes of flow records: decisions, ends, verdicts and ratings become outcomes. Pure.

A request's own words are kept in memory until it is rated, for the features that heads learn from; they go nowhere.
"""

import logging
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final, NamedTuple

import orjson

from agents.classifier.core import ClassGuess, NoRouteError, route_of
from agents.classifier.judged import MODEL, Judged
from agents.classifier.learning.joiner import Joiner
from agents.classifier.learning.learner import Learner
from agents.classifier.learning.outcomes import GUARDRAIL, Decided, Outcome, decided_of, goodness
from agents.classifier.learning.plans import models_of, with_options
from agents.classifier.learning.verdicts import ratio_of
from agents.classifier.prompt import Asked, look_through
from registry.snapshot import Snapshot
from schemas.codec import Codec
from schemas.edges import Feedback, Request, Result, Verdict
from schemas.enums import Status, TaskClass
from schemas.errors import CatalogueError, TierflowError
from schemas.flow import Assignment, Decision
from schemas.headers import AVRO, Context, Name, read_context, value_of
from streams.records import InRecord
from streams.topics import FEEDBACK, RESULTS, TIER_PREFIX, Names

log = logging.getLogger(__name__)

NAMED_CLASS: Final = "task_class"
"""Key of a feedback's metadata: what the request really was."""
_CLASSES: Final = frozenset(each.value for each in TaskClass)
_SAYS_SO: Final = frozenset({"hint", "rule"})
"""Stages whose class is not a guess."""
MOST_SAID: Final = 200
"""Requests of a batch, whose class the producer or a rule says, that the trained model is held against."""

View = Callable[[Sequence[str]], Sequence[Judged | None]]
"""The trained model: what it says of texts, with the columns that heads read."""


class _Said(NamedTuple):
    """A request whose class somebody said."""

    asked: Asked
    context: Context
    task_class: TaskClass


class Study:
    """Takes records in, and has the learner learn.

    Args:
        learner: Learns.
        joiner: Knows what waits.
        codec: Reads records.
        names: To tell topics apart.
        rules: The snapshot in force.
        view: The trained model; None where it is bypassed: then no head is learnt, and nothing is calibrated.
        memory: Bytes of requests that are kept until they are rated.
    """

    def __init__(
        self,
        learner: Learner,
        joiner: Joiner,
        *,
        codec: Codec,
        names: Names,
        rules: Callable[[], Snapshot],
        view: View | None = None,
        memory: int = 64 * 1024 * 1024,
    ) -> None:
        self.learner = learner
        self.joiner = joiner
        self.unreadable = 0
        self.changed = False
        """Whether there is something to publish; whoever publishes sets it back."""
        self._codec = codec
        self._names = names
        self._rules = rules
        self._view = view
        self._memory = memory
        self._kept: OrderedDict[str, tuple[bytes, str]] = OrderedDict()
        self._size = 0
        self._pending: list[Outcome] = []
        self._said: list[_Said] = []

    def take(self, records: Sequence[InRecord], *, fresh: bool = True) -> None:
        """Take records in.

        Args:
            records: Of tier topics, results and feedback.
            fresh: Whether they come after what the learner has counted; before that they are only remembered.
        """
        for record in records:
            try:
                self._enter(record, self._names.logical(record.topic), fresh)
            except (TierflowError, ValueError, KeyError) as error:
                self.unreadable += 1
                log.warning("%s/%d/%d can't be learnt from: %s", *record[:3], error)
        self._learn()

    # -- what records say ----------------------------------------------------------------------------------------------

    def _enter(self, record: InRecord, topic: str, fresh: bool) -> None:
        content_type = value_of(record.headers, Name.CONTENT_TYPE) or AVRO
        if topic.startswith(TIER_PREFIX):
            self._assigned(record, self._codec.decode(Assignment, record.value or b"", content_type), fresh)
        elif topic == RESULTS:
            self._ended(self._codec.decode(Result, record.value or b"", content_type), fresh)
        elif topic == FEEDBACK:
            self._rated(self._codec.decode(Feedback, record.value or b"", content_type), record, fresh)

    def _assigned(self, record: InRecord, assignment: Assignment, fresh: bool) -> None:
        request_id = assignment.request_id
        if assignment.step_index == 0:
            if self.joiner.decided(request_id) is None:
                self._decided(record, assignment, fresh)
        elif assignment.step_index == 1 and assignment.parent_step:
            verdicts = [Verdict.model_validate(each) for each in orjson.loads(assignment.verdicts)]
            self._check(request_id, verdicts, answered=True, fresh=fresh)
            self._note(self.joiner.end(request_id, first=False, fresh=fresh))
            self._note(self.joiner.whole(request_id))

    def _decided(self, record: InRecord, assignment: Assignment, fresh: bool) -> None:
        decision = self._codec.decode(Decision, assignment.decision)
        context = read_context(record.headers)
        if decision.stage in _SAYS_SO and fresh and len(self._said) < MOST_SAID and self._view is not None:
            request = self._codec.decode(Request, assignment.request, assignment.request_content_type)
            self._said.append(_Said(look_through(request), context, decision.task_class))
        found = decided(decision, context.tenant, self._rules())
        if found is None:
            return
        self._keep(assignment)
        self._note(self.joiner.decide(found, fresh=fresh))
        self._note(self.joiner.whole(decision.request_id))
        if fresh:
            self._name(decision.request_id)

    def _ended(self, result: Result, fresh: bool) -> None:
        if not result.steps:
            return  # it never came to a model
        if result.steps == 1:
            answered = result.status is Status.ANSWERED
            self._check(result.request_id, result.verdicts, answered=answered, fresh=fresh)
        micros = result.cost_micros
        self._note(self.joiner.end(result.request_id, first=result.steps == 1, micros=micros, fresh=fresh))
        self._note(self.joiner.whole(result.request_id))

    def _check(self, request_id: str, verdicts: Sequence[Verdict], *, answered: bool, fresh: bool) -> None:
        ratio = ratio_of(verdicts, answered=answered)
        if ratio is not None:
            self._note(self.joiner.check(request_id, ratio, fresh=fresh))

    def _rated(self, feedback: Feedback, record: InRecord, fresh: bool) -> None:
        request_id = feedback.request_id
        tenant, known = value_of(record.headers, Name.TENANT), self.joiner.decided(request_id)
        if tenant and known is not None and tenant != known.tenant:
            log.warning("feedback on %s by tenant %s, whose request it isn't, counts for nothing", request_id, tenant)
            return
        said = feedback.metadata.get(NAMED_CLASS, "")
        if said in _CLASSES and self.joiner.name(request_id, TaskClass(said)) and fresh:
            self._name(request_id)
        good = goodness(feedback)
        if good is not None:
            self._note(self.joiner.tell(request_id, good, feedback.kind, fresh=fresh))
            self._note(self.joiner.whole(request_id))

    # -- what is learnt ------------------------------------------------------------------------------------------------

    def _note(self, outcome: Outcome | None) -> None:
        if outcome is not None:
            self._pending.append(outcome)

    def _name(self, request_id: str) -> None:
        """Hold the trained model's word against what somebody says the request was, once both are known."""
        found, named = self.joiner.decided(request_id), self.joiner.named(request_id)
        if found is None or named is None or found.judged is None:
            return
        self.learner.calibration.add(found.route, found.judged[1], right=found.judged[0] == named.value)
        self.changed = True

    def _learn(self) -> None:
        pending, self._pending = self._pending, []
        rated = [each for each in pending if each.kind != GUARDRAIL]
        features, snapshot = self._features([each.decided.request_id for each in rated]), self._rules()
        for outcome in pending:
            if found := features.get(outcome.decided.request_id):
                asked, row = found
                decided = with_options(replace(outcome.decided, columns=row), asked, snapshot)
                outcome = replace(outcome, decided=decided)  # noqa: PLW2901 - the same one
            self.learner.learn(outcome)
            self.changed |= outcome.counted
        said, self._said = self._said, []
        self._calibrate(said)

    def _features(self, request_ids: Sequence[str]) -> dict[str, tuple[Asked, tuple[float, ...]]]:
        """Requests and their features, made anew from their text; those whose text is not kept any more are missing."""
        known = [(each, self._kept[each]) for each in request_ids if each in self._kept]
        if not known or self._view is None:
            return {}
        requests = [look_through(self._codec.decode(Request, *kept)) for _, kept in known]
        found: dict[str, tuple[Asked, tuple[float, ...]]] = {}
        for (request_id, _), asked, judged in zip(
            known, requests, self._view([each.text for each in requests]), strict=True
        ):
            row = () if judged is None else tuple(map(float, judged.columns))  # an array, where it comes from weights
            if row:
                found[request_id] = asked, row
        return found

    def _calibrate(self, said: Sequence[_Said]) -> None:
        if not said or self._view is None:
            return
        snapshot = self._rules()
        for each, judged in zip(said, self._view([each.asked.text for each in said]), strict=True):
            if judged is None:
                continue
            guess = ClassGuess(judged.task_class, judged.confidence, MODEL, judged.version)
            try:
                route, _ = route_of(each.asked, each.context, guess, snapshot)
            except NoRouteError:
                continue
            self.learner.calibration.add(route.id, judged.confidence, right=judged.task_class is each.task_class)
            self.changed = True

    def _keep(self, assignment: Assignment) -> None:
        if len(assignment.request) > self._memory:
            return
        if (old := self._kept.pop(assignment.request_id, None)) is not None:
            self._size -= len(old[0])
        self._kept[assignment.request_id] = assignment.request, assignment.request_content_type
        self._size += len(assignment.request)
        while self._size > self._memory:
            _, (request, _) = self._kept.popitem(last=False)
            self._size -= len(request)


def decided(decision: Decision, tenant: str, snapshot: Snapshot) -> Decided | None:
    """What learning needs of a recorded decision; None if it can't be learnt from.

    Args:
        decision: As recorded.
        tenant: Whose request it is.
        snapshot: Knows what was expected of the models.
    """
    signals = orjson.loads(decision.signals)
    judged = signals.get("judged") or {}
    learnt = judged.get("good", {}) if judged.get("applied") else {}
    bases: dict[str, float] = {}
    for ref in set(decision.candidate_model) | models_of(decision.candidate_plan, snapshot):
        base = learnt.get(ref)
        if base is None:
            base = _expected(snapshot, ref, decision.task_class, decision.class_confidence)
        if base is not None:
            bases[ref] = base
    said = None
    if decision.stage == MODEL and judged:
        said = str(judged["task_class"]), float(judged["confidence"])
    return decided_of(decision, tenant, domain=judged.get("domain", ""), bases=bases, judged=said)


def _expected(snapshot: Snapshot, ref: str, task_class: TaskClass, confidence: float) -> float | None:
    """What the catalogue expects of a model, as a decision does; None if it says nothing of it."""
    try:
        model = snapshot.model(ref)
    except CatalogueError:
        return None
    if not model.quality:
        return None
    overall = sum(model.quality.values()) / len(model.quality)
    return confidence * model.quality.get(task_class, overall) + (1 - confidence) * overall
