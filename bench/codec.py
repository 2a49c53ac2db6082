"""What a record costs on its way to bytes and back: our compiled functions beside fastavro, in one run.

    python -m bench.codec

CPU microseconds, best of several rounds. Ours: from a record to bytes and back, header and checks included. fastavro:
from a dict to bytes and back, without the way between dict and record (1 to 3 us to the dict; the dataclass's own
``__init__`` from it takes 7 us with 29 fields and 26 with 63).
"""

import time
from collections.abc import Callable
from io import BytesIO
from typing import Any

from fastavro import schemaless_reader, schemaless_writer
from msgspec import Struct
from pydantic import BaseModel

from schemas.catalogue import Intake
from schemas.codec import Codec
from schemas.contract import current
from schemas.delivery import DeliveryMode
from schemas.edges import Message, Part, Request, Result, Verdict
from schemas.enums import Action, EventType, FinishReason, Outcome, PartKind, Role, Status, TaskClass
from schemas.flow import Assignment, Attempt, Completion, Decision, ProvenanceEvent, Slip, Step
from schemas.requests import read_request, request_context, request_id_of

ID = "0192f1c5-7c1e-7aaa-8bbb-0123456789ab"
NOW = 1_763_800_000_000
CODEC = Codec()


def cpu_us(function: Callable[[], object], rounds: int = 7, calls: int = 4000) -> float:
    """CPU microseconds of a call, best of some rounds."""
    best = float("inf")
    for _ in range(rounds):
        start = time.process_time_ns()
        for _ in range(calls):
            function()
        best = min(best, (time.process_time_ns() - start) / calls / 1000)
    return best


def records() -> list[Any]:
    """Records as they are on the way of a request of 700 bytes through a cascade."""
    steps = tuple(
        Step(
            step_id=tier, tier=tier, models=("a@1", "b@1"), prompt="p@1", prompt_hash="ab" * 8, accept_min_logprob=-0.5
        )
        for tier in ("fast", "balanced", "premium")
    )
    slip = Slip(plan_id="cascade", plan_hash="ab" * 8, pattern="cascade", index=0, steps=steps)
    decision = Decision(
        decision_id=ID, request_id=ID, task_class=TaskClass.MATH, class_confidence=0.9, confidence=0.8, stage="surface",
        classifier_version="surface-1", feature_hash="ab" * 8, seed=12_345_678_901_234, route_id="default",
        plan_id="cascade", tier="fast", model="a@1", candidate_tier=("fast", "balanced", "premium"),
        candidate_model=("a@1", "b@1", "c@1"), candidate_quality=(0.4, 0.6, 0.7),
        candidate_cost_micros=(100, 300, 90_000), candidate_score=(0.4, 0.5, 0.6),
        candidate_propensity=(0.9, 0.05, 0.05), candidate_excluded=("", "", ""), thresholds={"min": 0.5},
        signals='{"open_breakers":[]}', registry_number=12, registry_hash="ab" * 32, decided_at_ms=NOW,
    )  # fmt: skip
    assignment = Assignment(
        request_id=ID, request=b'{"prompt":"' + b"x" * 700 + b'"}', request_content_type="application/json",
        decision=CODEC.encode(decision), slip=CODEC.encode(slip), plan_id="cascade", plan_hash="ab" * 8,
        step_id="fast", step_index=0, tier="fast", task_class="math", has_output_schema=False, accepted_at_ms=NOW,
        assigned_at_ms=NOW, deadline_ms=NOW + 600_000, registry_chosen=12, registry_checked=12,
        source="requests/3/12345", receipt='{"metadata":{"a":"b"},"session":""}',
    )  # fmt: skip
    attempt = Attempt(
        operation_key=ID, number=1, claim_owner="worker-1", requested_model="a@1", provider="local",
        outcome=Outcome.OK, started_at_ms=NOW, duration_ms=1234, tokens_in=100, tokens_out=50, billed_micros=12,
        estimated_micros=12, cpu_us=123_456, mean_logprob=-0.2, finish_reason=FinishReason.STOP,
    )  # fmt: skip
    completion = Completion(
        request_id=ID, assignment=CODEC.encode(assignment), step_id="fast", step_index=0, tier="fast",
        outcome=Outcome.OK, attempts=(CODEC.encode(attempt),), output_text="y" * 300, output_sha256="ab" * 32,
        finish_reason=FinishReason.STOP, model="a@1", mean_logprob=-0.2, min_logprob=-2.0, tokens_in=100,
        tokens_out=50, billed_micros=12, cpu_us=123_456, completed_at_ms=NOW, registry_checked=12,
    )  # fmt: skip
    event = ProvenanceEvent(
        event_id=ID, event_type=EventType.MODEL_ATTEMPTED, request_id=ID, root_id=ID, tenant="default", time_ms=NOW,
        recorded_ms=NOW, stage="worker", source="worker/tier.fast/3", epoch=1, sequence=12, causation_id=ID,
        record_id=ID, step_id="fast", plan_id="cascade", tier="fast", model="a@1", detail='{"a":1,"b":[1,2,3]}',
        src_topic="completions", src_partition=3, src_offset=12_345, src_timestamp_ms=NOW,
        traceparent="00-" + "a" * 32 + "-" + "b" * 16 + "-00",
    )  # fmt: skip
    result = Result(
        request_id=ID, status=Status.ANSWERED, output="y" * 300, delivery_mode=DeliveryMode.EXACTLY_ONCE,
        accepted_at_ms=NOW, ended_at_ms=NOW, source="requests/3/12345",
        verdicts=(Verdict(check="empty@1", action=Action.ALLOW),),
    )  # fmt: skip
    request = Request(messages=(Message(role=Role.USER, parts=(Part(kind=PartKind.TEXT, text="x" * 300),)),))
    return [assignment, completion, decision, slip, attempt, event, result, request]


def as_dict(value: Any) -> Any:
    """What fastavro's writer takes."""
    if isinstance(value, Struct):
        return {name: as_dict(getattr(value, name)) for name in value.__struct_fields__}
    if isinstance(value, BaseModel):
        return {name: as_dict(getattr(value, name)) for name in type(value).model_fields}
    return [as_dict(item) for item in value] if isinstance(value, tuple) else value


def _codec_table() -> None:
    print(f"{'record':16} {'bytes':>6} {'encode':>7} {'fastavro':>9} {'decode':>7} {'fastavro':>9}   (fastavro: dicts)")
    for record in records():
        kind, schema = type(record), current(type(record)).parsed
        data, datum = CODEC.encode(record), as_dict(record)

        def write(schema: Any = schema, datum: Any = datum) -> bytes:
            out = BytesIO()
            schemaless_writer(out, schema, datum, strict=True)
            return out.getvalue()

        bare = write()
        row = (
            cpu_us(lambda: CODEC.encode(record)),  # noqa: B023 - called before the loop goes on
            cpu_us(write),
            cpu_us(lambda: CODEC.decode(kind, data)),  # noqa: B023
            cpu_us(lambda: schemaless_reader(BytesIO(bare), schema, None)),  # noqa: B023
        )
        print(f"{kind.__name__:16} {len(data):6} {row[0]:7.1f} {row[1]:9.1f} {row[2]:7.1f} {row[3]:9.1f}")


def _intake_table() -> None:
    headers = [
        ("content-type", b"application/json"),
        ("tierflow.request-id", ID.encode()),
        ("tierflow.tenant", b"acme"),
        ("traceparent", b"00-" + b"a" * 32 + b"-" + b"b" * 16 + b"-01"),
    ]
    exact = b'{"messages":[{"role":"user","parts":[{"kind":"text","text":"What is 12 * 12? Answer with a number."}]}]}'
    short = b'{"prompt":"What is 12 * 12? Answer with a number."}'
    content = b'{"messages":[{"role":"user","content":"What is 12 * 12? Answer with a number."}]}'
    request, intake = read_request(exact, headers), Intake(topic="requests")
    where = {"partition": 1, "offset": 2, "timestamp_ms": NOW, "now_ms": NOW}
    avro = CODEC.encode(request)

    def context() -> object:
        return request_context(headers, topic="requests", intake=intake, request=request, **where)

    print(f"\n{'intake':40} {'us':>6}")
    for name, function in (
        ("read_request, exact JSON", lambda: read_request(exact, headers)),
        ("read_request, prompt", lambda: read_request(short, headers)),
        ("read_request, content", lambda: read_request(content, headers)),
        ("read_request, Avro", lambda: read_request(avro, [])),
        ("request_context", context),
        ("request_id_of", lambda: request_id_of(headers, "requests", 1, 2)),
    ):
        print(f"{name:40} {cpu_us(function):6.1f}")


if __name__ == "__main__":
    _codec_table()
    _intake_table()
