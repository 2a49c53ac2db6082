"""Shapes of the catalogue: what rules, as written in YAML and checked.

Everything is frozen. ``registry`` turns a ``Catalogue`` into a numbered ``Snapshot``.
"""

from collections.abc import Mapping
from datetime import timedelta
from enum import StrEnum
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from schemas.enums import Action, DataClass, TaskClass

Identifier = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
LOGPROBS: Final = "logprobs"
"""Capability: answers come with the log-probabilities of their tokens. Local llama.cpp servers always have it."""
Share = Annotated[float, Field(ge=0, le=1)]


class Shape(BaseModel):
    """Base: immutable, unknown fields refused (a typo must not become a default)."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ModelStatus(StrEnum):
    """Where a model stands in its life; only active and deprecated ones are called."""

    DRAFT = "draft"
    ACTIVE = "active"
    DEPRECATED = "deprecated"
    RETIRED = "retired"


class ProviderKind(StrEnum):
    """What stands behind a model."""

    OPENAI = "openai"
    """Any OpenAI-compatible HTTP API."""
    LLAMA = "llama"
    """A llama.cpp server of our own on this machine."""
    PYTHON = "python"
    """A Python executor that local settings allow by name."""


class Price(Shape):
    """Price list entry."""

    version: str
    currency: str = "USD"
    input_micros_per_million: int = Field(ge=0)
    """Micro-units per million prompt tokens."""
    output_micros_per_million: int = Field(ge=0)
    cached_input_micros_per_million: int | None = Field(default=None, ge=0)


class Model(Shape):
    """A pinned model version."""

    id: Identifier
    version: Identifier
    kind: ProviderKind
    name: str
    """What the provider calls it; for ``python`` the executor's name; for ``llama`` the weights' name."""
    endpoint: Identifier = "default"
    """Name of an endpoint in local settings (base URL and key live there, never in a topic)."""
    capabilities: frozenset[Identifier] = frozenset({"text"})
    context_tokens: int = Field(default=8192, gt=0)
    max_output_tokens: int = Field(default=4096, gt=0)
    price: Price
    region: str = ""
    data_classes: frozenset[DataClass] = frozenset({DataClass.PUBLIC, DataClass.INTERNAL})
    """Sensitivities that may be shown to it."""
    status: ModelStatus = ModelStatus.ACTIVE
    quality: Mapping[TaskClass, Share] = Field(default_factory=dict)
    """Measured share of good answers per task class."""
    typical_latency: timedelta = timedelta(seconds=2)
    """Median of one call, for the deadline filter."""
    task_classes: frozenset[TaskClass] | None = None
    """Classes it may be used for; None for all (specialists name theirs)."""
    defaults: Mapping[str, object] = Field(default_factory=dict)
    """Sampling defaults and provider-specific body fields."""
    license: str = ""
    lineage: str = ""

    @property
    def ref(self) -> str:
        """``id@version``."""
        return f"{self.id}@{self.version}"


class Prompt(Shape):
    """An immutable prompt version: turns put before the request's own messages, and text put after the last."""

    id: Identifier
    version: Identifier
    system: str = ""
    suffix: str = ""
    """Appended to the last user message."""

    @property
    def ref(self) -> str:
        """``id@version``."""
        return f"{self.id}@{self.version}"


class Accept(Shape):
    """When a step's answer is good enough; below it the plan moves on."""

    min_logprob: float | None = Field(default=None, le=0)
    min_agreement: Share | None = None


class StepSpec(Shape):
    """A step of a plan."""

    id: Identifier
    tier: Identifier
    models: tuple[str, ...] = Field(min_length=1)
    """``id`` or ``id@version``, first choice first, then fallbacks."""
    prompt: str = ""
    accept: Accept = Accept()
    parameters: Mapping[str, object] = Field(default_factory=dict)
    """Executor settings: samples, vote, temperature, max_tokens, final_answer."""
    timeout: timedelta = timedelta(seconds=60)


class Pattern(StrEnum):
    """The patterns a plan can follow."""

    ROUTER = "router"
    CASCADE = "cascade"
    PIPELINE = "pipeline"
    ENSEMBLE = "ensemble"
    SPECIALIST = "specialist"


class Plan(Shape):
    """An ordered list of steps."""

    id: Identifier
    pattern: Pattern
    steps: tuple[StepSpec, ...] = Field(min_length=1)


class Tier(Shape):
    """A tier and its topic ``tier.<id>``."""

    id: Identifier
    rank: int
    """Rising with capability and price."""
    concurrency: int = Field(default=64, gt=0)
    """Calls in flight in one worker."""


class RouteWhen(Shape):
    """Conditions; all that are given must hold."""

    task_classes: frozenset[TaskClass] | None = None
    tenants: frozenset[str] | None = None
    impacts: frozenset[str] | None = None
    data_classes: frozenset[DataClass] | None = None
    min_confidence: Share | None = None
    max_prompt_chars: int | None = None
    min_prompt_chars: int | None = None


class Route(Shape):
    """Which plans are candidates under which conditions; the first route that matches is taken."""

    id: Identifier
    when: RouteWhen = RouteWhen()
    plans: tuple[Identifier, ...] = Field(min_length=1)
    cost_weight: float = Field(default=0.0, ge=0)
    """Lambda: quality that one currency unit per thousand requests is worth; 0 takes the best quality."""


class Rule(Shape):
    """A rule on the text of a request that settles its class or the action on it."""

    id: Identifier
    pattern: str
    """Regular expression, searched without case."""
    task_class: TaskClass | None = None
    action: Action = Action.ALLOW
    reason: str = ""


class DenyList(Shape):
    """Terms that end a request (input) or an answer (output)."""

    id: Identifier
    terms: tuple[str, ...]
    """Whole words or phrases, without case."""
    applies_to: frozenset[Literal["input", "output"]] = frozenset({"input", "output"})
    reason: str = "not allowed here"


class Policies(Shape):
    """What is forbidden or required."""

    deny: tuple[DenyList, ...] = ()
    rules: tuple[Rule, ...] = ()
    kill_switch: frozenset[str] = frozenset()
    """Model refs, model ids or tiers that must not be used from now on."""
    max_inline_bytes: int = 256 * 1024
    max_prompt_chars: int = 400_000
    on_invalid_output: Action = Action.ESCALATE
    on_exhausted: Literal["release", "fail"] = "fail"
    """What to do with an answer that no step accepted, once the plan has no further step: low confidence is released
    with its verdict, or fails. Empty, truncated and schema-breaking answers always fail."""


class Tenant(Shape):
    """Who may ask for what."""

    id: Identifier
    data_classes: frozenset[DataClass] = frozenset(DataClass)
    tiers: frozenset[str] | None = None
    """Tiers it may use; None for all."""
    max_cost_micros: int | None = None
    """Per request."""


class Intake(Shape):
    """An intake topic."""

    topic: Identifier
    tenant: Identifier = "default"
    """Tenant of records without the header."""
    trust_tenant_header: bool = True
    default_deadline: timedelta = timedelta(minutes=10)
    max_deadline: timedelta = timedelta(hours=24)


class Catalogue(Shape):
    """The whole content of a snapshot."""

    name: str
    tiers: tuple[Tier, ...]
    models: tuple[Model, ...]
    prompts: tuple[Prompt, ...] = ()
    plans: tuple[Plan, ...]
    routes: tuple[Route, ...]
    policies: Policies = Policies()
    tenants: tuple[Tenant, ...] = (Tenant(id="default"),)
    intake: tuple[Intake, ...] = (Intake(topic="requests"),)
