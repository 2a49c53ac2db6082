"""The learner's reading: what flow records teach, in any order, and once whatever is read again."""

import random
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from agents.classifier.judged import Judged
from agents.classifier.learning.joiner import Joiner
from agents.classifier.learning.learner import Learner
from agents.classifier.stage import ClassifierStage
from agents.guardrail.checks import LOGPROB, TRUNCATED
from agents.learner.core import Study
from registry.snapshot import Snapshot
from schemas.catalogue import Route
from schemas.edges import Result, Verdict
from schemas.enums import Action, Status, TaskClass
from schemas.fakes import MemoryState
from schemas.flow import Assignment
from schemas.headers import JSON, Name
from streams.receiver import Receiver
from streams.records import InRecord
from streams.topics import FEEDBACK, RESULTS, Names
from tests.agents.deciding import CODEC, MODE, NOW_MS, record, snapshot
from tests.agents.test_classifier_stage import run
from tierflow_client.feedback import make_feedback

RULES = snapshot(routes=(Route(id="all", plans=("cascade",), cost_weight=0.3),))
SMALL = "small@1"


def study(**more: Any) -> Study:
    parts: dict[str, Any] = {"codec": CODEC, "names": Names(), "rules": lambda: RULES} | more
    return Study(Learner({}, cost_weight=0.0), Joiner(), **parts)


def judge(texts: Sequence[str]) -> Sequence[Judged | None]:
    return [
        Judged(
            task_class=TaskClass.QA,
            confidence=0.8,
            drift=0.0,
            version="m",
            domain="birds",
            columns=np.array([len(text), 0.0]),  # type: ignore[arg-type] # what weights give in its place
        )
        for text in texts
    ]


def at(topic: str, offset: int, made: InRecord | None = None, **more: Any) -> InRecord:
    parts: dict[str, Any] = {"topic": topic, "partition": 0, "offset": offset} | more
    return (made or record(b""))._replace(**parts)


def decided(request_id: str, offset: int = 0, *, hint: str | None = None, rules: Snapshot = RULES) -> InRecord:
    """As the classifier hands it on."""
    stage = ClassifierStage(codec=CODEC, receiver=Receiver(MemoryState(), timedelta(days=1)), judge=judge)
    asked = {"prompt": f"Name three birds, {request_id}."} | ({} if hint is None else {"task_hint": hint})
    (effects,) = run(stage, record(asked, headers=((Name.REQUEST_ID.value, request_id.encode()),)), rules=rules)
    (emit,) = effects.outputs
    headers = (*emit.headers, (Name.CONTENT_TYPE.value, emit.content_type.encode()))
    return at(emit.topic, offset, value=emit.value, headers=headers)


def ended(
    request_id: str, offset: int = 0, *, steps: int = 1, verdicts: tuple[Verdict, ...] = (), **more: Any
) -> InRecord:
    parts: dict[str, Any] = {
        "request_id": request_id,
        "status": Status.ANSWERED,
        "steps": steps,
        "escalations": steps - 1,
        "model": SMALL,
        "verdicts": verdicts,
        "delivery_mode": MODE,
        "accepted_at_ms": NOW_MS,
        "ended_at_ms": NOW_MS,
        "source": "requests/0/0",
    }
    value = CODEC.encode_as(Result(**(parts | more)), JSON)
    return at(RESULTS, offset, value=value, headers=((Name.CONTENT_TYPE.value, JSON.encode()),))


def rated(request_id: str, score: float | None, offset: int = 0, **more: Any) -> InRecord:
    made = make_feedback(request_id, score, **more)
    return at(FEEDBACK, offset, value=made.value, headers=made.headers)


def climbed(made: InRecord, offset: int, *verdicts: Verdict) -> InRecord:
    """The second step of a request."""
    first = CODEC.decode(Assignment, made.value or b"")
    told = orjson.dumps([verdict.model_dump(mode="json") for verdict in verdicts]).decode()
    value = CODEC.encode(replace(first, step_index=1, parent_step=first.step_id, verdicts=told))
    return at("tier.balanced", offset, made, value=value)


def seen(found: Study) -> float:
    return round(found.learner.counters.seen(SMALL, TaskClass.QA), 3)


def share(found: Study) -> float:
    return found.learner.counters.share(SMALL, TaskClass.QA, "birds", "default", 0.45)


@given(st.permutations(range(3)))
@settings(max_examples=6)
def test_a_rating_is_counted_whatever_is_read_first(order: Sequence[int]):
    records = [decided("r-1"), ended("r-1", verdicts=(said(LOGPROB, Action.ALLOW),)), rated("r-1", 1.0)]
    found = study()
    found.take([records[index] for index in order])
    assert seen(found) == 1
    assert share(found) > 0.45
    assert found.learner.heard == 1
    assert found.changed


def said(check: str, action: Action) -> Verdict:
    return Verdict(check=check, action=action)


def test_what_is_read_again_changes_nothing():
    records = [decided("r-1"), ended("r-1"), rated("r-1", 1.0), rated("r-1", 0.0)]
    once, often = study(), study()
    once.take(records)
    often.take(records * 3)
    assert seen(often) == seen(once) == 1
    assert share(often) == share(once)


def test_a_guardrails_word_counts_little_and_against_what_it_caught():
    passed, caught = study(), study()
    passed.take([decided("r-1"), ended("r-1", verdicts=(said(LOGPROB, Action.ALLOW),))])
    caught.take([decided("r-1"), climbed(decided("r-1"), 1, said(TRUNCATED, Action.ESCALATE))])
    assert seen(passed) == seen(caught) == 0.1
    assert share(passed) > 0.45 > share(caught)


def test_a_rating_of_a_later_models_answer_says_nothing_of_the_first():
    found = study()
    first = decided("r-1")
    found.take([first, rated("r-1", 1.0), climbed(first, 1, said(LOGPROB, Action.ESCALATE)), ended("r-1", steps=2)])
    assert seen(found) == 0.1
    assert share(found) < 0.45


def test_feedback_of_another_tenant_counts_for_nothing():
    found = study()
    found.take([decided("r-1"), ended("r-1", status=Status.FAILED), rated("r-1", 1.0, tenant="somebody")])
    assert seen(found) == 0
    found.take([rated("r-1", 1.0, tenant="default")])
    assert seen(found) == 1


def test_what_cant_be_read_is_passed_over():
    found = study()
    found.take([at(FEEDBACK, 0, value=b"{"), at(RESULTS, 0, value=b"\x00"), at("tier.fast", 0, value=b"")])
    assert found.unreadable == 3
    assert not found.changed


def test_features_come_from_the_requests_own_words_and_stay_here():
    found = study(view=judge)
    found.take([decided("r-1"), ended("r-1"), rated("r-1", 1.0)])
    (kept,) = found.learner._outcomes.values()
    assert kept.decided.columns == (float(len("Name three birds, r-1.")), 0.0)
    small = study(view=judge, memory=0)
    small.take([decided("r-1"), ended("r-1"), rated("r-1", 1.0)])
    assert seen(small) == 1, "counted, though its words are not kept"
    assert not small.learner._outcomes


def test_the_models_word_is_held_against_what_producers_and_people_say():
    found = study(view=judge)
    found.take([decided(f"h-{number}", number, hint="math") for number in range(40)])
    assert found.learner.calibration.correction("all").of(0.8) < 0.4, "it says qa, the producer says math"
    found = study()
    named = [rated(f"r-{number}", None, task_class="qa") for number in range(40)]
    found.take([*named[:20], *(decided(f"r-{number}", number) for number in range(40)), *named[20:], *named])
    (bins,) = found.learner.calibration.rows().values()
    assert sum(each.right for each in bins) == pytest.approx(40, rel=0.05)
    assert found.learner.calibration.correction("all").of(0.8) > 0.85


# -- restarts --


def flow(count: int) -> list[InRecord]:
    """Records of several topics, in the order of each."""
    records: list[InRecord] = []
    for number in range(count):
        made = decided(f"r-{number}", number)
        records.append(made)
        if number % 4 == 3:
            records.append(climbed(made, number, said(LOGPROB, Action.ESCALATE)))
        records.append(ended(f"r-{number}", number, steps=2 if number % 4 == 3 else 1))
        if number % 3:
            records.append(rated(f"r-{number}", number % 2, 2 * number, by="human"))
        if number % 5 == 0:
            records.append(rated(f"r-{number}", 1.0, 2 * number + 1, by="program"))
    return records


FLOW = flow(16)


def interleaved(records: Sequence[InRecord], seed: int) -> list[InRecord]:
    """Some order that keeps that of each topic."""
    queues: dict[str, list[InRecord]] = {}
    for each in records:
        queues.setdefault(each.topic, []).append(each)
    draw, found = random.Random(seed), []
    while queues:
        topic = draw.choice(sorted(queues))
        found.append(queues[topic].pop(0))
        if not queues[topic]:
            del queues[topic]
    return found


@given(seeds=st.tuples(*[st.integers(0, 2**20)] * 3), cut=st.integers(0, len(FLOW)))
@settings(max_examples=60, deadline=None)
def test_a_restart_counts_nothing_twice_and_leaves_nothing_out(seeds: tuple[int, int, int], cut: int):
    before = interleaved(FLOW, seeds[0])
    old, new = before[:cut], before[cut:]
    whole, first, second = study(), study(), study()
    whole.take(before)
    first.take(old)
    # What the first one published is all that the second one has; it reads the old records again, in another order.
    second.learner.counters.restore(tuple(first.learner.counters.rows()))
    second.learner.heard = first.learner.heard
    second.take(interleaved(old, seeds[1]), fresh=False)
    second.take(interleaved(new, seeds[2]))
    assert second.learner.heard == whole.learner.heard
    assert seen(second) == pytest.approx(seen(whole), rel=0.005)
    assert share(second) == pytest.approx(share(whole), abs=0.01)
