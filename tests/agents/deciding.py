"""A small catalogue, and records for the tests of the deciding agents."""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

import orjson

from registry.snapshot import Snapshot
from schemas.catalogue import (
    Accept,
    Catalogue,
    Model,
    Pattern,
    Plan,
    Policies,
    Price,
    Prompt,
    ProviderKind,
    Route,
    StepSpec,
    Tenant,
    Tier,
)
from schemas.codec import Codec
from schemas.delivery import DeliveryMode
from schemas.edges import Request
from schemas.enums import DataClass, TaskClass
from schemas.headers import JSON, Context, Name
from streams.effects import View
from streams.records import InRecord

NOW_MS = 1_800_000_000_000
CODEC = Codec()
MODE = DeliveryMode.EXACTLY_ONCE


def model(name: str, price: int, quality: float | Mapping[TaskClass, float], **more: Any) -> Model:
    more.setdefault("data_classes", frozenset({DataClass.PUBLIC, DataClass.INTERNAL, DataClass.CONFIDENTIAL}))
    return Model(
        id=name,
        version="1",
        kind=ProviderKind.OPENAI,
        name=name,
        price=Price(version="p1", input_micros_per_million=price, output_micros_per_million=4 * price),
        quality=dict.fromkeys(TaskClass, quality) if isinstance(quality, float) else quality,
        **more,
    )


MODELS = (
    model("small", 100_000, 0.45, typical_latency=timedelta(milliseconds=300)),
    model("middle", 400_000, 0.62, typical_latency=timedelta(seconds=1)),
    model(
        "large",
        3_000_000,
        0.85,
        typical_latency=timedelta(seconds=3),
        capabilities=frozenset({"text", "tools", "vision"}),
        context_tokens=128_000,
    ),
)
TIERS = tuple(Tier(id=name, rank=rank) for rank, name in enumerate(("fast", "balanced", "premium")))
PROMPT = Prompt(id="brief", version="2", system="Answer briefly.")


def step(tier: str, *models: str, **more: Any) -> StepSpec:
    return StepSpec(id=f"on-{tier}", tier=tier, models=models, **more)


CASCADE = Plan(
    id="cascade",
    pattern=Pattern.CASCADE,
    steps=(
        step("fast", "small", prompt="brief", accept=Accept(min_logprob=-0.4)),
        step("balanced", "middle", accept=Accept(min_agreement=0.6)),
        step("premium", "large"),
    ),
)
ROUTER = Plan(id="best", pattern=Pattern.ROUTER, steps=(step("premium", "large"),))
CHEAP = Plan(id="cheap", pattern=Pattern.ROUTER, steps=(step("fast", "small"),))
PLANS = (CASCADE, ROUTER, CHEAP)
ROUTES = (Route(id="all", plans=("cascade", "best", "cheap"), cost_weight=0.3),)


def catalogue(**more: Any) -> Catalogue:
    parts: dict[str, Any] = {
        "name": "test",
        "tiers": TIERS,
        "models": MODELS,
        "prompts": (PROMPT,),
        "plans": PLANS,
        "routes": ROUTES,
        "tenants": (Tenant(id="default"), Tenant(id="narrow", tiers=frozenset({"fast"}))),
    }
    return Catalogue(**(parts | more))


def snapshot(number: int = 1, **more: Any) -> Snapshot:
    return Snapshot.from_catalogue(catalogue(**more), number=number)


def with_policies(number: int = 1, **more: Any) -> Snapshot:
    return snapshot(number, policies=Policies(**more))


def context(**more: Any) -> Context:
    parts: dict[str, Any] = {"request_id": "r-1", "tenant": "default", "deadline_ms": NOW_MS + 60_000}
    return Context(**(parts | more))


def request(prompt: str = "What is 17 times 23?", **more: Any) -> Request:
    return CODEC.decode(Request, orjson.dumps({"prompt": prompt} | more), JSON)


def record(
    value: bytes | Mapping[str, Any] | None,
    *,
    key: bytes | None = b"k",
    offset: int = 7,
    headers: Sequence[tuple[str, bytes]] = ((Name.REQUEST_ID.value, b"r-1"),),
    topic: str = "requests",
    timestamp_ms: int = NOW_MS - 5,
) -> InRecord:
    raw = orjson.dumps(value) if isinstance(value, Mapping) else value
    return InRecord(topic, 2, offset, timestamp_ms, 0, key, raw, tuple(headers))


def view(rules: Snapshot | None = None, *, now_ms: int = NOW_MS, prepared: object = None) -> View[Snapshot]:
    return View(now_ms, rules or snapshot(), MODE, prepared)
