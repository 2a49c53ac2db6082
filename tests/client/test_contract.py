"""The client knows nothing of Tierflow's rooms, so these tests hold both together."""

import ast
import dataclasses
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

import tierflow_client
from agents.classifier.learning.outcomes import GUARDRAIL, SURER
from agents.learner.core import NAMED_CLASS
from schemas import edges, headers
from schemas.codec import Codec
from schemas.delivery import DeliveryMode
from schemas.enums import Action, DataClass, FinishReason, IdempotencyScope, Impact, Status, TaskClass
from schemas.ids import MAX_ID_CHARS, uuid7
from tierflow_client import InvalidRequestError, Message, Result, UnreadableResultError
from tierflow_client import headers as ours
from tierflow_client.client import MARGIN, PATIENCE, _patience
from tierflow_client.feedback import RATERS, make_feedback
from tierflow_client.request import RequestOptions, make_record

CODEC = Codec()
PACKAGE = Path(tierflow_client.__file__).parent


def test_imports_no_room() -> None:
    allowed = {"aiokafka", "tierflow_client"}
    standard = set(__import__("sys").stdlib_module_names)
    found = set()
    for file in PACKAGE.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                found.add((node.module or "").split(".")[0])
    assert found - standard == allowed


def test_public_surface_is_exactly_what_is_exported() -> None:
    assert list(tierflow_client.__all__) == sorted(tierflow_client.__all__)
    for name in tierflow_client.__all__:
        assert hasattr(tierflow_client, name)


def test_header_names_are_those_of_the_schemas() -> None:
    names = {getattr(ours, name) for name in dir(ours) if name.isupper() and name not in {"JSON", "MAX_ID_CHARS"}}
    assert names <= {str(name) for name in headers.Name}
    assert len(names) == 10
    assert ours.JSON == headers.JSON
    assert ours.MAX_ID_CHARS == MAX_ID_CHARS


@pytest.mark.parametrize(
    ("mine", "theirs"),
    [
        (tierflow_client.Result, edges.Result),
        (tierflow_client.Verdict, edges.Verdict),
        (tierflow_client.Redaction, edges.Redaction),
    ],
)
def test_result_fields_are_those_of_the_schemas(mine: type, theirs: type[edges.Edge]) -> None:
    assert [field.name for field in dataclasses.fields(mine)] == list(theirs.model_fields)


def test_words_are_those_of_the_schemas() -> None:
    assert {str(each) for each in tierflow_client.Status} == {str(each) for each in Status}
    hints = RequestOptions.__annotations__
    for name, enum in (("data_class", DataClass), ("impact", Impact), ("idempotency_scope", IdempotencyScope)):
        assert set(hints[name].__args__) == {str(each) for each in enum}
    assert str(TaskClass.MATH) == "math"


def test_reads_a_result_with_everything_in_it() -> None:
    full = edges.Result(
        request_id="r-1",
        status=Status.ANSWERED,
        output='{"a": 1}',
        output_parts='[{"kind": "tool_call", "name": "f"}]',
        finish_reason=FinishReason.STOP,
        verdicts=(edges.Verdict(check="logprob@1", action=Action.ALLOW, score=-0.1),),
        redactions=(edges.Redaction(type="email", count=2),),
        delivery_mode=DeliveryMode.EXACTLY_ONCE,
        accepted_at_ms=1_000,
        ended_at_ms=3_500,
        source="requests/0/1",
        metadata={"k": "v"},
        confidence=0.5,
    )
    read = Result.from_json(CODEC.encode_as(full, headers.JSON))
    plain = dataclasses.asdict(read)
    expected = full.model_dump(mode="json")
    for name in ("output_parts", "verdicts", "redactions"):
        del plain[name], expected[name]
    assert plain == expected
    assert read.output_parts == ({"kind": "tool_call", "name": "f"},)
    assert read.verdicts[0].action == "allow"
    assert read.redactions[0].count == 2
    assert read.ok
    assert read.json() == {"a": 1}
    assert read.took == timedelta(seconds=2.5)


def test_survives_what_a_newer_tierflow_says() -> None:
    read = Result.from_json(
        b'{"request_id": "r", "status": "postponed", "brand_new": 1, "verdicts": [{"check": "c", '
        b'"action": "ponder", "also_new": 2}]}'
    )
    assert read.status is tierflow_client.Status.UNKNOWN
    assert read.verdicts[0].action == "ponder"


@pytest.mark.parametrize("value", [b"", b"\xff", b"[]", b"{}", b'{"status": "answered"}', b'{"request_id": "r"}', b"1"])
def test_refuses_what_is_no_result(value: bytes) -> None:
    with pytest.raises(UnreadableResultError):
        Result.from_json(value)


def test_output_that_is_no_json() -> None:
    with pytest.raises(UnreadableResultError, match="r-1"):
        Result(request_id="r-1", status=tierflow_client.Status.FAILED).json()


EVERYTHING: RequestOptions = {
    "request_id": "my-id",
    "tenant": "acme",
    "deadline": timedelta(minutes=1),
    "priority": 7,
    "data_class": "restricted",
    "session": "s-1",
    "task_hint": "math",
    "required_capabilities": ("json",),
    "impact": "high",
    "latency_budget": timedelta(seconds=5),
    "cost_limit_micros": 100,
    "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}],
    "output_schema": {"type": "object"},
    "temperature": 0.5,
    "top_p": 0.9,
    "max_tokens": 10,
    "seed": 3,
    "stop": ("END",),
    "idempotency_key": "once",
    "idempotency_scope": "session",
    "subject": "p-1",
    "metadata": {"k": "v"},
    "parent_id": "parent",
    "root_id": "root",
    "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    "tracestate": "a=b",
}


def test_a_request_with_everything_is_read_as_it_was_meant() -> None:
    record = make_record("What is 2 + 2?", **EVERYTHING)
    request = CODEC.decode(edges.Request, record.value, headers.JSON)
    assert request.messages[0].parts[0].text == "What is 2 + 2?"
    assert request.sampling == edges.Sampling(temperature=0.5, top_p=0.9, max_tokens=10, seed=3, stop=("END",))
    assert request.tools[0].name == "f"
    assert request.output_schema == '{"type":"object"}'
    assert (request.task_hint, request.impact, request.latency_budget_ms) == ("math", Impact.HIGH, 5000)
    assert (request.idempotency_key, request.idempotency_scope) == ("once", IdempotencyScope.SESSION)
    assert (request.subject, request.session, dict(request.metadata)) == ("p-1", "s-1", {"k": "v"})
    assert (request.cost_limit_micros, request.required_capabilities) == (100, ("json",))
    context = headers.read_context(record.headers)
    assert (context.request_id, context.tenant, context.priority) == ("my-id", "acme", 7)
    assert (context.data_class, context.root_id, context.parent_id) == (DataClass.RESTRICTED, "root", "parent")
    assert context.traceparent.startswith("00-")
    assert context.tracestate == "a=b"
    assert record.key == b"s-1"
    # Every option is covered above, but for those that stand in for another.
    assert set(RequestOptions.__annotations__) - set(EVERYTHING) == {"messages", "key"}


def test_messages_in_the_style_of_openai() -> None:
    messages: list[Message] = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "Hello"}]},
    ]
    request = CODEC.decode(edges.Request, make_record(messages=messages).value, headers.JSON)
    assert [message.parts[0].text for message in request.messages] == ["Be brief.", "Hello"]


def test_ids_are_those_of_version_7_and_are_the_key() -> None:
    record = make_record("hi")
    found = uuid.UUID(record.request_id)
    assert (found.version, found.variant) == (7, uuid.RFC_4122)
    assert record.key == record.request_id.encode()
    assert tierflow_client.uuid7(0)[:13] == uuid7(0)[:13]
    assert len({tierflow_client.uuid7() for _ in range(1000)}) == 1000


def test_a_deadline_that_is_over_still_gives_its_result_time_to_arrive() -> None:
    assert _patience(make_record("hi", deadline=datetime.now(UTC) - timedelta(hours=1))) == MARGIN
    assert _patience(make_record("hi", deadline=timedelta(seconds=3))) == MARGIN + timedelta(seconds=3)
    assert _patience(make_record("hi")) == PATIENCE


def test_a_deadline_counts_from_now_or_is_a_time() -> None:
    at = datetime(2030, 1, 1, tzinfo=UTC)
    found = dict(make_record("hi", deadline=at).headers)
    assert found[ours.DEADLINE] == b"%d" % (at.timestamp() * 1000)
    assert make_record("hi").lifetime is None
    assert make_record("hi", deadline=timedelta(seconds=3)).lifetime == timedelta(seconds=3)


@pytest.mark.parametrize(
    ("prompt", "request_options", "named"),
    [
        (None, {}, "prompt"),
        ("hi", {"messages": [{"role": "user", "content": "hi"}]}, "prompt"),
        (None, {"messages": []}, "messages"),
        ("hi", {"request_id": ""}, "request_id"),
        ("hi", {"request_id": "a b"}, "request_id"),
        ("hi", {"request_id": "x" * 129}, "request_id"),
        ("hi", {"priority": 10}, "priority"),
        ("hi", {"session": "half \ud800"}, "key can't be written"),
        ("hi", {"tenant": "half \ud800"}, "tenant can't be written"),
        ("hi", {"deadline": timedelta(0)}, "deadline"),
        ("hi", {"deadline": datetime(2030, 1, 1)}, "zone"),  # noqa: DTZ001 - that is what is refused
        ("hi", {"latency_budget": timedelta(seconds=-1)}, "latency_budget"),
        ("hi", {"metadata": {"k": float("nan")}}, "JSON"),
        ("hi", {"metadata": {"k": object()}}, "JSON"),
        ("\ud800", {}, "JSON"),
        ("hi", {"tenannt": "x"}, "tenannt"),
    ],
)
def test_what_makes_no_request_is_refused_before_anything_is_sent(prompt, request_options, named) -> None:
    with pytest.raises(InvalidRequestError, match=named):
        make_record(prompt, **request_options)


def test_feedback_is_read_as_it_was_meant() -> None:
    record = make_feedback(
        "r-1",
        0.25,
        by="program",
        task_class="math",
        comment="off by one",
        author="p-7",
        preferred="391",
        tenant="acme",
        metadata={"suite": "sums"},
    )
    read = CODEC.decode(edges.Feedback, record.value, headers.JSON)
    assert (read.request_id, read.rating, read.kind, read.reason) == ("r-1", 0.25, "program", "off by one")
    assert (read.author, read.preferred_output) == ("p-7", "391")
    assert read.metadata == {"suite": "sums", NAMED_CLASS: "math"}
    assert record.key == b"r-1"
    assert headers.read_context(record.headers).tenant == "acme"
    assert set(RATERS) == set(SURER) - {GUARDRAIL}


@pytest.mark.parametrize("wrong", [{}, {"score": 1.5}, {"score": 1, "by": "me"}])
def test_what_is_no_feedback_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(InvalidRequestError):
        make_feedback("r-1", **wrong)  # type: ignore[arg-type]
