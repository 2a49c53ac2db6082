"""Classifier and guardrail in the real loop over an in-memory log, with a worker that answers as it is told.

The law that is tested: every accepted request ends in exactly one result, whatever the answers are.
"""

import asyncio
from collections import Counter
from datetime import timedelta
from typing import Any, Final

import orjson
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.classifier.stage import ClassifierStage
from agents.guardrail.stage import GuardrailStage
from registry.snapshot import Snapshot
from schemas.edges import Result
from schemas.enums import FinishReason, Outcome, Status
from schemas.fakes import FakeClock, MemoryState
from schemas.flow import Assignment
from schemas.headers import Name
from schemas.settings import LoopSettings
from streams.effects import Stage
from streams.loop import Loop
from streams.memory import MemoryLog, MemorySink, MemorySource
from streams.receiver import Receiver
from streams.records import OutRecord
from streams.source import Listener
from streams.topics import Names, dead_letter_topic, tier_topic
from tests.agents.deciding import CODEC, NOW_MS, snapshot
from tests.agents.test_results import completion

TIERS: Final = ("fast", "balanced", "premium")
ANSWERS: Final[dict[str, dict[str, Any]]] = {
    "good": {"mean_logprob": -0.1, "agreement": 0.9},
    "unsure": {"mean_logprob": -3.0, "agreement": 0.1},
    "empty": {"output_text": "", "mean_logprob": -0.1, "agreement": 0.9},
    "cut": {"finish_reason": FinishReason.LENGTH, "mean_logprob": -0.1, "agreement": 0.9},
    "failed": {"outcome": Outcome.FAILED, "failure": "server", "output_text": ""},
}
SETTINGS = LoopSettings(linger=timedelta(milliseconds=1), back_off=timedelta(milliseconds=1))


async def drain(log: MemoryLog, stage: Stage[Snapshot], rules: Snapshot, expected: int) -> None:
    """Run a stage until it has committed what there is to read."""
    group = Names().group(stage.name)

    def link(listener: Listener) -> tuple[MemorySource, MemorySink]:
        return MemorySource(log, listener, group, list(stage.inputs)), MemorySink(log, group)

    loop = Loop(stage=stage, link=link, names=Names(), rules=lambda: rules, settings=SETTINGS, clock=FakeClock(NOW_MS))
    stop = asyncio.Event()
    running = asyncio.create_task(loop.run(stop))
    while loop.counters.committed < expected and not running.done():
        await asyncio.sleep(0.001)
    stop.set()
    await running


def answer(log: MemoryLog, done: set[tuple[str, int]], script: dict[str, list[str]]) -> int:
    """Every assignment that nobody answered yet is answered, as the script of its request says for its step."""
    count = 0
    for tier in TIERS:
        for found in log.read(tier_topic(tier)):
            given = CODEC.decode(Assignment, found.value or b"")
            place = (given.request_id, given.step_index)
            if place in done:
                continue
            done.add(place)
            count += 1
            made = completion(
                request_id=given.request_id,
                assignment=found.value,
                step_id=given.step_id,
                step_index=given.step_index,
                tier=tier,
                **ANSWERS[script[given.request_id][given.step_index]],
            )
            log.append(OutRecord("completions", found.key, CODEC.encode(made), found.headers))
    return count


async def flow(script: dict[str, list[str]], extra: list[tuple[bytes, bytes]]) -> tuple[MemoryLog, int]:
    log = MemoryLog()
    for topic, groups in (
        ("requests", ["classifier"]),
        ("completions", ["guardrail"]),
        *((name, []) for name in ("results", "provenance", *map(tier_topic, TIERS))),
        *((dead_letter_topic(stage), []) for stage in ("classifier", "guardrail")),
    ):
        log.create(topic, 1, [Names().group(each) for each in groups])
    rules = snapshot()
    sent = [(request_id.encode(), orjson.dumps({"prompt": "How many?"})) for request_id in script] + extra
    for request_id, value in sent:
        log.append(OutRecord("requests", request_id, value, ((Name.REQUEST_ID.value, request_id),)), NOW_MS - 1)
    classifier = ClassifierStage(codec=CODEC, receiver=Receiver(MemoryState(), timedelta(days=1)))
    await drain(log, classifier, rules, len(sent))
    done: set[tuple[str, int]] = set()
    rounds = 0
    while count := answer(log, done, script):
        rounds += 1
        await drain(log, GuardrailStage(codec=CODEC), rules, count)
    return log, rounds


@settings(max_examples=15, deadline=None)
@given(
    scripts=st.lists(st.lists(st.sampled_from(sorted(ANSWERS)), min_size=3, max_size=3), min_size=1, max_size=6),
    copies=st.integers(0, 2),
    wrong=st.integers(0, 2),
    broken=st.integers(0, 2),
)
def test_every_accepted_request_ends_in_exactly_one_result(
    scripts: list[list[str]], copies: int, wrong: int, broken: int
):
    script = {f"r-{number}": answers for number, answers in enumerate(scripts)}
    extra = [(b"r-0", orjson.dumps({"prompt": "How many?"}))] * copies
    extra += [(b"w-%d" % number, b'{"prompt": 5}') for number in range(wrong)]
    extra += [(b"b-%d" % number, b"{") for number in range(broken)]
    log, rounds = asyncio.run(flow(script, extra))
    results = [CODEC.decode(Result, found.value or b"", "application/json") for found in log.read("results")]
    ends = Counter(result.request_id for result in results)
    assert ends == dict.fromkeys([*script, *(f"w-{number}" for number in range(wrong))], 1)
    assert len(log.read("provenance")) == copies
    assert len(log.read(dead_letter_topic("classifier"))) == broken
    assert not log.read(dead_letter_topic("guardrail"))
    assert rounds <= len(TIERS)
    for result in results:
        if result.request_id in script:
            answers = script[result.request_id][: result.steps]
            good = "good" in answers or (result.steps == len(TIERS) and answers[-1] == "unsure")
            assert result.status is (Status.ANSWERED if good else Status.FAILED), (answers, result)
            assert "good" not in answers[:-1]
            assert (result.attempts, result.cost_micros) == (3 * result.steps, 5 * result.steps)
        else:
            assert result.status is Status.REFUSED
