"""The context of a producer's record: every header, wrong and right."""

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.catalogue import Intake
from schemas.edges import Request
from schemas.enums import BudgetClock, DataClass
from schemas.errors import InvalidRequestError
from schemas.headers import Context, Header, Name, propagate, read_context
from schemas.ids import id_from_coordinates
from schemas.requests import derived_traceparent, request_context, request_id_of, salvaged_context
from tests.schemas.test_requests import ASKED

NOW = 1_763_800_000_000
INTAKE = Intake(
    topic="requests", tenant="default", default_deadline=timedelta(minutes=10), max_deadline=timedelta(hours=1)
)
PARENT = "00-" + "a" * 32 + "-" + "b" * 16 + "-01"


def context(
    *headers: tuple[str, str | bytes],
    request: Request = ASKED,
    timestamp_ms: int = NOW - 1000,
    intake: Intake = INTAKE,
) -> Context:
    return request_context(
        [(str(name), value if isinstance(value, bytes) else value.encode()) for name, value in headers],
        topic="requests",
        partition=3,
        offset=12,
        timestamp_ms=timestamp_ms,
        intake=intake,
        now_ms=NOW,
        request=request,
    )


def test_a_bare_record_gets_everything_it_needs() -> None:
    made = context()
    request_id = id_from_coordinates("requests", 3, 12)
    assert made == Context(
        request_id=request_id,
        tenant="default",
        deadline_ms=NOW - 1000 + 600_000,
        root_id=request_id,
        traceparent=derived_traceparent(request_id),
    )
    assert context() == made


def test_everything_a_producer_can_say_is_taken() -> None:
    made = context(
        (Name.REQUEST_ID, "r-1"),
        (Name.TENANT, "acme"),
        (Name.DEADLINE, str(NOW + 5000)),
        (Name.PRIORITY, "9"),
        (Name.DATA_CLASS, "restricted"),
        (Name.ROOT_ID, "r-0"),
        (Name.PARENT_ID, "r-p"),
        (Name.REPLAY_OF, "r-o"),
        (Name.TRACEPARENT, PARENT),
        (Name.TRACESTATE, "a=b"),
    )
    assert made == Context(
        request_id="r-1",
        tenant="acme",
        deadline_ms=NOW + 5000,
        priority=9,
        data_class=DataClass.RESTRICTED,
        root_id="r-0",
        parent_id="r-p",
        replay_of="r-o",
        traceparent=PARENT,
        tracestate="a=b",
    )
    assert read_context(made.headers()) == made


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        (Name.REQUEST_ID, "a b", "white space or control characters"),
        (Name.REQUEST_ID, "a\x00", "white space or control characters"),
        (Name.REQUEST_ID, "x" * 129, "has 129 characters"),
        (Name.REQUEST_ID, b"\xff", "header is not UTF-8 at byte 0"),
        (Name.TENANT, b"ab\xc3", "header is not UTF-8 at byte 2"),
        (Name.TENANT, "x" * 2_000_000, "has 2000000 bytes"),
        (Name.DEADLINE, "soon", "is not a whole number"),
        (Name.DEADLINE, "1e9", "is not a whole number"),
        (Name.DEADLINE, "-5", "must be from 1"),
        (Name.DEADLINE, "9" * 100, "is not a whole number"),
        (Name.DEADLINE, str(NOW * 1000), "must be from 1"),
        (Name.DEADLINE, b"\xff", "header is not UTF-8 at byte 0"),
        (Name.PRIORITY, "10", "must be from 0 to 9"),
        (Name.DATA_CLASS, "secret", "must be one of public, internal, confidential, restricted"),
        (Name.ROOT_ID, " ", "white space"),
        (Name.PARENT_ID, "x\n", "white space"),
        (Name.REPLAY_OF, "x" * 600, "has 600 bytes"),
    ],
)
def test_a_wrong_header_is_named(name: Name, value: str | bytes, reason: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        context((name, value))
    assert caught.value.field == name.value
    assert reason in caught.value.reason
    assert len(str(caught.value)) < 300


def test_an_empty_header_is_none_and_the_last_one_wins() -> None:
    assert context((Name.TENANT, ""), (Name.PRIORITY, "")).tenant == "default"
    assert context((Name.TENANT, "a"), (Name.TENANT, "b")).tenant == "b"


def test_a_tenant_header_counts_only_where_it_is_trusted() -> None:
    closed = INTAKE.model_copy(update={"trust_tenant_header": False})
    assert context((Name.TENANT, "acme"), intake=closed).tenant == "default"
    assert context((Name.TENANT, b"\xff"), intake=closed).tenant == "default"


def test_too_many_headers_are_refused() -> None:
    assert context(*(("x", "y"),) * 100)
    with pytest.raises(InvalidRequestError, match=r"^headers: has 10000 of them, at most 100 are taken"):
        context(*(("x", "y"),) * 10_000)


@pytest.mark.parametrize(
    ("budget_ms", "clock", "timestamp_ms", "deadline_ms"),
    [
        (5000, BudgetClock.RECORD, NOW - 1000, NOW + 4000),
        (5000, BudgetClock.INTAKE, NOW - 1000, NOW + 5000),
        (5000, BudgetClock.RECORD, -1, NOW + 5000),
        (5000, BudgetClock.RECORD, NOW + 99_999, NOW + 5000),
        (10**15, BudgetClock.RECORD, NOW - 1000, NOW - 1000 + 3_600_000),
        (2**63 - 1, BudgetClock.INTAKE, NOW - 1000, NOW - 1000 + 3_600_000),
    ],
)
def test_a_latency_budget_starts_from_its_clock_and_is_capped(
    budget_ms: int, clock: BudgetClock, timestamp_ms: int, deadline_ms: int
) -> None:
    request = ASKED.model_copy(update={"latency_budget_ms": budget_ms, "budget_clock": clock})
    assert context(request=request, timestamp_ms=timestamp_ms).deadline_ms == deadline_ms
    late = context((Name.DEADLINE, str(NOW - 5)), request=request, timestamp_ms=timestamp_ms)
    assert late.deadline_ms == NOW - 5  # an explicit deadline wins, also one that has passed


def test_a_deadline_beyond_the_maximum_is_brought_down_to_it() -> None:
    assert context((Name.DEADLINE, str(NOW + 10**9))).deadline_ms == NOW - 1000 + 3_600_000


@pytest.mark.parametrize(
    "wrong",
    [
        b"",
        b"\xff\xfe",
        b"hello",
        b"ff-" + PARENT[3:].encode(),
        PARENT.upper().encode(),
        PARENT.replace("a", "0").encode(),
        PARENT.replace("b", "0").encode(),
        PARENT.encode() + b"-more",
        PARENT.encode() + b"\n",
        b"x" * 1_000_000,
    ],
)
def test_a_wrong_traceparent_is_replaced_by_a_derived_one(wrong: bytes) -> None:
    made = context((Name.REQUEST_ID, "r"), (Name.TRACEPARENT, wrong), (Name.TRACESTATE, "a=b"))
    assert made.traceparent == derived_traceparent("r")
    assert made.traceparent.endswith("-00")
    assert made.tracestate == ""


def test_a_later_version_of_traceparent_is_read_as_ours() -> None:
    made = context((Name.TRACEPARENT, "01" + PARENT[2:-2] + "0d-extra"), (Name.TRACESTATE, "x" * 600))
    assert made.traceparent == PARENT
    assert made.tracestate == ""


@given(st.text(max_size=20), st.text(max_size=20))
def test_derived_traceparents_are_well_formed_and_differ(one: str, other: str) -> None:
    made = derived_traceparent(one)
    assert context((Name.TRACEPARENT, made)).traceparent == made
    assert (made == derived_traceparent(other)) == (one == other)


def test_the_id_before_anything_is_decoded() -> None:
    derived = id_from_coordinates("requests", 3, 12)

    def of(*headers: Header) -> str:
        return request_id_of(headers, "requests", 3, 12)

    assert of((Name.REQUEST_ID, b"r-1")) == "r-1"
    assert of((Name.REQUEST_ID, b"r-1"), ("other", b"\xff")) == "r-1"
    for wrong in (b"", b"\xff", b"a b", b"x" * 1000):
        assert of((Name.REQUEST_ID, wrong)) == derived
    assert of(*[(Name.REQUEST_ID.value, b"r-1")] * 101) == derived
    assert of((Name.REQUEST_ID, b"r-1"), (Name.REQUEST_ID, b"")) == "r-1"


@given(st.lists(st.tuples(st.sampled_from([name.value for name in Name]), st.binary(max_size=40)), max_size=8))
def test_any_headers_give_a_context_or_name_the_wrong_one_and_can_be_salvaged(headers: list[Header]) -> None:
    salvaged = salvaged_context(
        headers, topic="requests", partition=3, offset=12, timestamp_ms=NOW - 1, intake=INTAKE, now_ms=NOW
    )
    assert salvaged.request_id == request_id_of(headers, "requests", 3, 12)
    assert read_context(salvaged.headers()) == salvaged
    wrong = None
    try:
        made = context(*headers)
    except InvalidRequestError as error:
        wrong = error.field
    else:
        assert made.request_id == salvaged.request_id
        assert read_context(made.headers()) == made
    assert wrong is None or wrong in set(Name)


NAME = st.text(max_size=20)


@given(
    st.builds(
        Context,
        request_id=NAME.filter(bool),
        tenant=NAME,
        deadline_ms=st.integers(0, 2**53),
        priority=st.integers(0, 9),
        data_class=st.sampled_from(DataClass),
        root_id=NAME.filter(bool),
        parent_id=NAME,
        replay_of=NAME,
        traceparent=NAME,
        tracestate=NAME,
    ),
    st.lists(
        st.tuples(st.sampled_from([Name.CE_ID.value, Name.ATTEMPT.value, "x"]), st.binary(max_size=9)), max_size=5
    ),
)
def test_a_context_survives_any_number_of_hops(before: Context, others: list[Header]) -> None:
    headers = [*others, *before.headers()]
    for _ in range(3):
        headers = [*others, *propagate(headers)]
        assert read_context(headers) == before
