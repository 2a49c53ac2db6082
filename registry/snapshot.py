"""What rules: one immutable, numbered, hashed state of the catalogue, with everything looked up or compiled once.

Choices are pinned: a record names the snapshot that it was decided under, and ``model@version`` means the same there
for ever. Prohibitions are not: ``prohibited`` is asked of the latest snapshot, for models chosen under any.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self, TypeVar

from pydantic import ValidationError

from registry.canonical import canonical, digest, plain
from registry.envelope import FORMAT, Envelope, open_envelope
from registry.errors import CatalogueProblemsError, SnapshotFormatError
from registry.patterns import CompiledRule, DenyPattern, compile_deny, compile_rule
from registry.problems import in_order
from registry.validate import validate
from registry.versions import by_reference
from schemas.catalogue import Catalogue, Intake, Model, ModelStatus, Plan, Price, Prompt, Tenant, Tier
from schemas.enums import DataClass
from schemas.errors import CatalogueError
from schemas.money import Money, price_of

T = TypeVar("T")

_USABLE = frozenset({ModelStatus.ACTIVE, ModelStatus.DEPRECATED})


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Snapshot:
    """The rules in force. Make one with ``from_catalogue`` or ``from_bytes``.

    Attributes:
        number: From 1; a later snapshot has a higher one.
        hash: SHA-256 of the content: the same catalogue has the same hash, however it was written down.
        catalogue: The content.
        policy_hash: SHA-256 of policies and tenants.
        author: Who published it.
        approver: Who approved it; empty if nobody was asked.
        published_ms: Unix milliseconds; 0 if it was never published.
        content: Canonical JSON of the catalogue, which the hash is of.
        tiers: By rising rank.
        deny_patterns: The deny lists, compiled.
        rules: The rules, compiled, in their order.
    """

    number: int
    hash: str
    catalogue: Catalogue = field(repr=False)
    policy_hash: str = field(repr=False)
    author: str = ""
    approver: str = ""
    published_ms: int = 0
    content: bytes = field(repr=False)
    tiers: tuple[Tier, ...] = field(repr=False)
    deny_patterns: tuple[DenyPattern, ...] = field(repr=False)
    rules: tuple[CompiledRule, ...] = field(repr=False)
    _models: Mapping[str, Model] = field(repr=False)
    _prompts: Mapping[str, Prompt] = field(repr=False)
    _plans: Mapping[str, Plan] = field(repr=False)
    _tiers: Mapping[str, Tier] = field(repr=False)
    _tenants: Mapping[str, Tenant] = field(repr=False)
    _intake: Mapping[str, Intake] = field(repr=False)
    _hashes: Mapping[str, str] = field(repr=False)
    _barred: Mapping[str, str] = field(repr=False)

    @classmethod
    def from_catalogue(
        cls, catalogue: Catalogue, *, number: int = 1, author: str = "", approver: str = "", published_ms: int = 0
    ) -> Self:
        """Make a snapshot of a catalogue.

        Raises:
            CatalogueError: The catalogue has errors; the message names each.
        """
        errors = [problem for problem in validate(catalogue) if problem.is_error]
        if errors:
            raise CatalogueProblemsError(in_order(errors))
        content = canonical(plain(catalogue))
        envelope = Envelope(
            number=number,
            hash=digest(content),
            content=content,
            author=author,
            approver=approver,
            published_ms=published_ms,
        )
        return cls._indexed(catalogue, envelope)

    @classmethod
    def from_bytes(cls, value: bytes) -> Self:
        """Read what ``to_bytes`` wrote, and check its hash.

        Raises:
            SnapshotFormatError: It is no snapshot, it was changed, or this program is too old for it.
        """
        return cls.from_envelope(open_envelope(value))

    @classmethod
    def from_envelope(cls, envelope: Envelope) -> Self:
        """Understand the content of an envelope; see ``from_bytes``."""
        if envelope.format > FORMAT:
            raise SnapshotFormatError(
                f"snapshot {envelope.number} has format {envelope.format}, and this program knows {FORMAT}: update it"
            )
        try:
            catalogue = Catalogue.model_validate_json(envelope.content)
            # Not validated again: it was when it was published, and a stricter program must not lose its rules.
            return cls._indexed(catalogue, envelope)
        except (ValidationError, CatalogueError) as error:
            raise SnapshotFormatError(f"snapshot {envelope.number} can't be used by this program: {error}") from error

    @classmethod
    def _indexed(cls, catalogue: Catalogue, envelope: Envelope) -> Self:
        models = by_reference(catalogue.models)
        prompts = by_reference(catalogue.prompts)
        content: dict[str, Any] = json.loads(envelope.content)
        # Of the content as published, not of what this program makes of it: operation keys are made from these.
        hashes = {f"{each['id']}@{each['version']}": _hash(each) for each in content.get("prompts", ())}
        hashes |= {f"plan:{each['id']}": _hash(each) for each in content.get("plans", ())}
        return cls(
            number=envelope.number,
            hash=envelope.hash,
            catalogue=catalogue,
            policy_hash=digest(canonical([content.get("policies"), content.get("tenants")])),
            author=envelope.author,
            approver=envelope.approver,
            published_ms=envelope.published_ms,
            content=envelope.content,
            tiers=tuple(sorted(catalogue.tiers, key=lambda tier: (tier.rank, tier.id))),
            deny_patterns=tuple(compile_deny(deny) for deny in catalogue.policies.deny),
            rules=tuple(compile_rule(rule) for rule in catalogue.policies.rules),
            _models=models,
            _prompts=prompts,
            _plans={plan.id: plan for plan in catalogue.plans},
            _tiers={tier.id: tier for tier in catalogue.tiers},
            _tenants={tenant.id: tenant for tenant in catalogue.tenants},
            _intake={intake.topic: intake for intake in catalogue.intake},
            _hashes=hashes,
            _barred=_barred(catalogue),
        )

    def to_bytes(self) -> bytes:
        """JSON, for the registry topic."""
        return self.envelope().to_bytes()

    def envelope(self) -> Envelope:
        """What is published of it."""
        return Envelope(
            number=self.number,
            hash=self.hash,
            content=self.content,
            author=self.author,
            approver=self.approver,
            published_ms=self.published_ms,
        )

    def model(self, ref_or_id: str) -> Model:
        """The model that ``id@version`` names; for a bare id, its newest active version.

        Raises:
            CatalogueError: There is none in this snapshot.
        """
        return self._found(self._models, ref_or_id, "model")

    resolve = model

    def prompt(self, ref_or_id: str) -> Prompt:
        """The prompt that ``id@version`` names; for a bare id, its newest version. Raises as ``model`` does."""
        return self._found(self._prompts, ref_or_id, "prompt")

    def prompt_hash(self, ref_or_id: str) -> str:
        """SHA-256 of a prompt's content. Raises as ``model`` does."""
        return self._hashes[self.prompt(ref_or_id).ref]

    def plan(self, plan_id: str) -> Plan:
        """A plan. Raises as ``model`` does."""
        return self._found(self._plans, plan_id, "plan")

    def plan_hash(self, plan_id: str) -> str:
        """SHA-256 of a plan's content. Raises as ``model`` does."""
        return self._hashes[f"plan:{self.plan(plan_id).id}"]

    def tier(self, tier_id: str) -> Tier:
        """A tier. Raises as ``model`` does."""
        return self._found(self._tiers, tier_id, "tier")

    def tenant(self, tenant_id: str) -> Tenant | None:
        """A tenant, if it is known."""
        return self._tenants.get(tenant_id)

    def intake(self, topic: str) -> Intake | None:
        """What holds for an intake topic, by its logical name, if it is one."""
        return self._intake.get(topic)

    def prohibited(self, model: Model, *, tier: str = "", data_class: DataClass | None = None) -> str:
        """Why a model must not be called from now on; empty if it may. Ask the latest snapshot.

        Args:
            model: Chosen under this snapshot or an earlier one; what counts is what this one says of it.
            tier: Tier that would call it.
            data_class: Sensitivity of what it would be shown.
        """
        reason = self._barred.get(tier) if tier else None
        if reason is None:
            reason = self._barred.get(model.ref)
        if reason is not None:
            return reason
        latest = self._models.get(model.ref)
        if latest is None:
            return f"{model.ref} is not in the catalogue any more (snapshot {self.number})"
        if data_class is not None and data_class not in latest.data_classes:
            return f"{model.ref} may not be shown {data_class.value} content"
        return ""

    def price(self, model: Model | str) -> Price:
        """The price of a model in this snapshot. Raises as ``model`` does."""
        return self.model(model if isinstance(model, str) else model.ref).price

    def cost(self, model: Model | str, *, tokens_in: int, tokens_out: int, tokens_cached: int = 0) -> Money:
        """What a call costs by the price list.

        Args:
            model: The model, or its reference.
            tokens_in: Prompt tokens, cached ones included.
            tokens_out: Answer tokens.
            tokens_cached: Prompt tokens that the provider had cached.
        """
        price = self.price(model)
        cached = price.cached_input_micros_per_million
        micros = price_of(tokens_in - tokens_cached, price.input_micros_per_million)
        micros += price_of(tokens_cached, price.input_micros_per_million if cached is None else cached)
        return Money(micros + price_of(tokens_out, price.output_micros_per_million), price.currency)

    def _found(self, index: Mapping[str, T], name: str, what: str) -> T:
        try:
            return index[name]
        except KeyError:
            there = ", ".join(sorted(index)) or "none"
            raise CatalogueError(f"snapshot {self.number} has no {what} {name!r}; it has {there}") from None


def _barred(catalogue: Catalogue) -> dict[str, str]:
    """Why models and tiers must not be used: by tier id or ``model@version``."""
    switch = catalogue.policies.kill_switch
    barred = {name: f"kill switch on {name}" for name in switch}
    for model in catalogue.models:
        if model.id in switch:
            barred.setdefault(model.ref, f"kill switch on {model.id}")
        elif model.status not in _USABLE:
            barred.setdefault(model.ref, f"{model.ref} is {model.status.value}")
    return barred


def _hash(content: object) -> str:
    return digest(canonical(content))
