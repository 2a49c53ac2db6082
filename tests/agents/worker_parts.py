"""A small catalogue, records and a stage for tests of the worker: real codec, real HTTP, a state store in memory."""

from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta

import orjson

from agents.plan import make_slip
from agents.worker.core import Work, read_parameters
from agents.worker.providers import LocalProviders, Providers
from agents.worker.stage import WorkerStage
from registry.holder import SnapshotHolder
from registry.snapshot import Snapshot
from schemas.catalogue import Catalogue, Model, Pattern, Plan, Policies, Price, Route, StepSpec, Tier
from schemas.clock import SystemClock
from schemas.codec import Codec
from schemas.delivery import DeliveryMode
from schemas.edges import Request, Result
from schemas.enums import DataClass
from schemas.fakes import MemoryState
from schemas.flow import Assignment, Attempt, Completion, Slip
from schemas.headers import JSON, Context, Name
from schemas.settings import EndpointSettings, WorkerSettings
from streams.effects import Effects, View
from streams.operations import Operations
from streams.records import InRecord

CODEC = Codec()
PRICE = Price(version="2026-01", input_micros_per_million=1_000_000, output_micros_per_million=2_000_000)
"""One micro-unit a prompt token, two an answer token."""
FREE = Price(version="free", input_micros_per_million=0, output_micros_per_million=0)


def a_model(model_id="first", **changes) -> Model:
    plain = {
        "id": model_id,
        "version": "1",
        "kind": "openai",
        "name": model_id,
        "price": PRICE,
        "max_output_tokens": 100,
        "capabilities": frozenset({"text", "json", "logprobs", "tools"}),
    }
    return Model.model_validate({**plain, **changes})


MODELS = (a_model("first"), a_model("second"), a_model("third"))


def a_catalogue(models=MODELS, *, step=None, prompts=(), policies=None) -> Catalogue:
    spec = {
        "id": "answer",
        "tier": "fast",
        "models": tuple(model.id for model in models),
        "timeout": timedelta(seconds=5),
    }
    plan = Plan(id="quick", pattern=Pattern.ROUTER, steps=(StepSpec.model_validate({**spec, **(step or {})}),))
    return Catalogue(
        name="test",
        tiers=(Tier(id="fast", rank=1, concurrency=1000),),
        models=tuple(models),
        prompts=tuple(prompts),
        plans=(plan,),
        routes=(Route(id="all", plans=("quick",)),),
        policies=policies or Policies(),
    )


def a_snapshot(number=1, **changes) -> Snapshot:
    return Snapshot.from_catalogue(a_catalogue(**changes), number=number)


def a_request(prompt="What is six times seven?", **fields) -> dict[str, object]:
    return {"prompt": prompt, **fields} if "messages" not in fields else fields


def an_assignment(snapshot, request=None, *, request_id="r-1", deadline_s=30.0, **changes) -> Assignment:
    slip = make_slip(snapshot.plan("quick"), snapshot)
    now_ms = SystemClock().now_ms()
    plain = {
        "request_id": request_id,
        "request": orjson.dumps(a_request() if request is None else request),
        "request_content_type": JSON,
        "decision": b"",
        "slip": CODEC.encode(slip),
        "plan_id": slip.plan_id,
        "plan_hash": slip.plan_hash,
        "step_id": slip.steps[0].step_id,
        "step_index": 0,
        "tier": "fast",
        "task_class": "math",
        "has_output_schema": False,
        "accepted_at_ms": now_ms,
        "assigned_at_ms": now_ms,
        "deadline_ms": now_ms + int(deadline_s * 1000),
        "registry_chosen": snapshot.number,
        "registry_checked": snapshot.number,
        "source": "requests/0/7",
    }
    return Assignment(**{**plain, **changes})


def a_record(assignment: Assignment, *, data_class=DataClass.INTERNAL, value: bytes | None = None) -> InRecord:
    context = Context(
        request_id=assignment.request_id, tenant="default", deadline_ms=assignment.deadline_ms, data_class=data_class
    )
    headers = (*context.headers(), (Name.CE_ID.value, b"ce-1"))
    raw = CODEC.encode(assignment) if value is None else value
    return InRecord("tier.fast", 0, 1, assignment.assigned_at_ms, 0, b"key", raw, headers)


def a_work(snapshot=None, request=None, *, data_class=DataClass.INTERNAL, **changes) -> Work:
    snapshot = snapshot or a_snapshot()
    assignment = an_assignment(snapshot, request, **changes)
    step = CODEC.decode(Slip, assignment.slip).steps[0]
    return Work(
        assignment=assignment,
        raw=CODEC.encode(assignment),
        step=step,
        request=CODEC.decode(Request, assignment.request, JSON),
        parameters=read_parameters(step.parameters),
        pinned=snapshot,
        data_class=data_class,
    )


@dataclass
class Worker:
    """A stage and what it stands on."""

    stage: WorkerStage
    holder: SnapshotHolder
    operations: Operations
    clock: SystemClock = field(default_factory=SystemClock)

    def view(self) -> View[Snapshot]:
        return View(self.clock.now_ms(), self.holder.current, DeliveryMode.EXACTLY_ONCE)

    async def effects(self, record: InRecord) -> Effects:
        return await self.stage.handle(record, self.view())

    async def completion(self, record: InRecord) -> Completion:
        effects = await self.effects(record)
        assert effects.done
        assert [emit.topic for emit in effects.outputs] == ["completions"]
        assert not effects.dead_letters
        return CODEC.decode(Completion, effects.outputs[0].value)


@asynccontextmanager
async def worker(
    state: MemoryState | None = None,
    *,
    snapshot: Snapshot | None = None,
    url: str = "",
    owner: str = "worker-1",
    providers: Providers | None = None,
    lease: timedelta = timedelta(seconds=15),
    sleep=None,
    **settings,
):
    clock = SystemClock()
    plain = {
        "endpoints": {"default": EndpointSettings(base_url=url)} if url else {},
        "retry_base": timedelta(milliseconds=2),
        "retry_cap": timedelta(milliseconds=10),
    }
    given = WorkerSettings.model_validate({**plain, **settings})
    holder = SnapshotHolder(snapshot or a_snapshot())
    operations = Operations(state or MemoryState(clock), owner=owner, lease=lease, ttl=timedelta(days=8), clock=clock)
    stage = WorkerStage(
        "fast", CODEC, operations, providers or LocalProviders(given), holder, given, clock, owner, sleep=sleep
    )
    await stage.start()
    try:
        yield Worker(stage, holder, operations)
    finally:
        await stage.stop()


def attempts_of(completion: Completion) -> list[Attempt]:
    return [CODEC.decode(Attempt, raw) for raw in completion.attempts]


def result_of(effects: Effects) -> Result:
    (emit,) = effects.outputs
    assert emit.topic == "results"
    return CODEC.decode(Result, emit.value, emit.content_type)
