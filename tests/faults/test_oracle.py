"""The oracle alone: what it must name, and what it must leave in peace (whole runs are in ``test_safeguards.py``)."""

from typing import Any

import pytest

from agents.audit.core import CLASSIFICATION
from schemas.delivery import DeliveryMode
from schemas.enums import EventType, Outcome
from schemas.flow import ProvenanceEvent
from schemas.headers import Name
from streams.records import TP, InRecord
from streams.topics import PROVENANCE, Names
from tests.faults.oracle import CODEC, MARGIN, Evidence, Resources, Sent, judge
from tests.faults.provider import Call
from tests.faults.reading import Ends

REST = Resources(descriptors=30, sockets=12, threads=8, mebibytes=90)


def evidence(**more: Any) -> Evidence:
    nothing: dict[str, Any] = {"sent": (), "poison": frozenset(), "records": (), "tailed": (), "ends": {}, "calls": ()}
    return Evidence(names=Names(), mode=DeliveryMode.EXACTLY_ONCE, **{**nothing, **more})


def held(name: str, over: int) -> Resources:
    """One at rest, and of one thing the whole margin and ``over`` more."""
    more = getattr(REST, name) + getattr(MARGIN, name) + over
    return REST._replace(**{name: more})


@pytest.mark.parametrize("name", Resources._fields)
def test_what_an_agent_does_not_give_back_is_named(name: str) -> None:
    assert judge(evidence(resources={"worker-fast-first": (held(name, 0), REST)})) == []
    (problem,) = judge(evidence(resources={"worker-fast-first": (held(name, 1), REST)}))
    assert name in problem
    assert "worker-fast-first" in problem


def test_an_open_transaction_is_named() -> None:
    ends = {TP("results", 0): Ends(stable=7, high=7), TP("results", 1): Ends(stable=5, high=7)}
    (problem,) = judge(evidence(ends=ends))
    assert problem.startswith("results/1: a transaction is open from 5 on")


def test_offsets_that_went_back_are_named() -> None:
    assert judge(evidence(went_back=["group g went back to 3 on p from 5"])) == ["group g went back to 3 on p from 5"]


def test_an_agent_that_promised_less_is_named() -> None:
    def written(mode: DeliveryMode) -> InRecord:
        return InRecord("retry.1s", 0, 4, 0, 0, b"k", b"v", ((Name.DELIVERY_MODE.value, mode.encode()),))

    assert judge(evidence(records=(written(DeliveryMode.EXACTLY_ONCE),))) == []
    (problem,) = judge(evidence(records=(written(DeliveryMode.AT_LEAST_ONCE),)))
    assert problem == "records of retry.1s were delivered at_least_once"


def test_what_a_reader_saw_must_stay() -> None:
    record = InRecord("retry.1s", 0, 4, 0, 0, b"k", b"v", ())
    assert judge(evidence(records=(record,), tailed=(record,))) == []
    (problem,) = judge(evidence(tailed=(record,)))
    assert problem == "retry.1s/0/4 was seen by a reader and is gone"


@pytest.mark.parametrize(
    ("made", "outcome", "crashes", "named"),
    [
        (1, Outcome.OK, 0, ()),
        (2, Outcome.OK, 1, ("2 calls were made, the records tell of 1 to 1",)),
        (1, Outcome.UNKNOWN, 1, ()),
        (0, Outcome.UNKNOWN, 1, ()),
        (1, Outcome.UNKNOWN, 0, ("calls of unknown end",)),
    ],
)
def test_a_classifiers_calls_are_held_against_the_providers_count(
    made: int, outcome: Outcome, crashes: int, named: tuple[str, ...]
) -> None:
    call = ProvenanceEvent(
        event_id="e-1",
        event_type=EventType.MODEL_ATTEMPTED,
        request_id="r-1",
        time_ms=0,
        recorded_ms=0,
        stage="classifier",
        source="",
        epoch=0,
        sequence=0,
        record_id="a-1",
        src_topic="tier.fast",
        src_partition=0,
        src_offset=0,
        src_timestamp_ms=0,
        step_id=CLASSIFICATION,
        step_index=-1,
        status=outcome.value,
    )
    told = InRecord(PROVENANCE, 0, 0, 0, 0, b"r-1", CODEC.encode(call), ())
    problems = judge(
        evidence(
            sent=(Sent("r-1", b"k", b"v", ()),),
            records=(told,),
            calls=[Call("r-1", "key", "large", number + 1, produced=True) for number in range(made)],
            crashes=crashes,
            in_flight=1,
        )
    )
    found = [each for each in problems if "calls" in each and "story" not in each]
    assert len(found) == len(named)
    assert all(words in each for words, each in zip(named, found, strict=True))
