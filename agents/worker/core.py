"""What a worker does with an assignment, without doing it: keys, calls, money, time. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from functools import lru_cache
from typing import Any, Final

import orjson
from msgspec import Struct

from agents.worker import prompting
from registry.snapshot import Snapshot
from schemas.catalogue import LOGPROBS, Model, Price, Prompt, ProviderKind
from schemas.edges import Request, Sampling
from schemas.enums import DataClass
from schemas.errors import CatalogueError, FailureClass, InvalidRequestError
from schemas.flow import Assignment, Step
from schemas.ids import OperationKey, chance, derived_id, operation_key
from schemas.money import price_of
from schemas.ports import ModelAnswer, ModelCall

BYTES_PER_TOKEN: Final = 3
"""For reserving money before a call: English has four and more, and three make a Chinese character, which is hardly
ever more than a token. So the estimate errs towards more tokens."""
TOKENS_PER_TURN: Final = 8
TOKENS_PER_PART: Final = 1_000
"""Of an image or a file, about what a high-resolution image counts at hosted models."""

_SAMPLING: Final = frozenset({"temperature", "top_p", "max_tokens", "seed", "stop"})
_SEEDS: Final = 2**31 - 1  # the smallest range that servers agree on


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameters:
    """Parameters of a step that workers know; others are for Python executors."""

    samples: int = 1
    vote: str = "answer"
    program: bool = False
    """The model answers with a Python expression, which is computed here."""
    final_answer: str = ""
    """Only what follows this marker is the step's output."""
    logprobs: bool = False
    effort: str = ""
    """Reasoning effort, for models that take one."""
    sampling: Sampling = field(default_factory=Sampling)
    given: Mapping[str, Any] = field(default_factory=dict)
    """All of them, as written."""


class Work(Struct, frozen=True, kw_only=True):
    """A step to be run, with everything it needs looked up.

    Attributes:
        assignment: As received.
        raw: Its bytes.
        step: Of the slip.
        request: What is asked.
        parameters: Of the step.
        pinned: Snapshot whose choices hold.
        data_class: Sensitivity of the request.
        tries: Which try of the step this is, from 1; a later one comes out of a retry topic.
    """

    assignment: Assignment
    raw: bytes
    step: Step
    request: Request
    parameters: Parameters
    pinned: Snapshot
    data_class: DataClass
    tries: int = 1


class Choice(Struct, frozen=True, kw_only=True):
    """A call that can be made."""

    index: int
    """Of the model within the step."""
    model: Model
    call: ModelCall
    cost_micros: int
    """Most that it can cost, which is reserved for it."""


@dataclass(frozen=True, slots=True)
class Barred:
    """Why no call can be made."""

    failure: FailureClass
    reason: str


@lru_cache(maxsize=512)
def read_parameters(text: str) -> Parameters:
    """Parameters of a step.

    Raises:
        InvalidRequestError: One of them has no meaning; names it.
    """
    given = dict(prompting.json_object(text or "{}", "step.parameters"))

    def wrong(name: str, wanted: str) -> InvalidRequestError:
        return InvalidRequestError(f"step.parameters.{name}", f"must be {wanted}, not {given[name]!r}")

    samples = given.get("samples", 1)
    if not isinstance(samples, int) or isinstance(samples, bool) or not 1 <= samples <= 32:
        raise wrong("samples", "a whole number from 1 to 32")
    if given.get("vote", "answer") != "answer":
        raise wrong("vote", "'answer', the only kind there is")
    marker = given.get("final_answer", "")
    if not isinstance(marker, bool | str):
        raise wrong("final_answer", "true, false or the marker before it")
    return Parameters(
        samples=samples,
        program=given.get("program", False) is True,
        final_answer=marker if isinstance(marker, str) else "Answer:" if marker else "",
        logprobs=given.get("logprobs", False) is True,
        effort=str(given.get("effort", "")),
        sampling=_sampling(given, "step.parameters"),
        given=given,
    )


def _sampling(given: Mapping[str, Any], where: str) -> Sampling:
    known = {name: given[name] for name in _SAMPLING & given.keys()}
    if isinstance(known.get("stop"), str):
        known["stop"] = (known["stop"],)
    try:
        return Sampling(**known)
    except ValueError as error:
        raise InvalidRequestError(where, f"has a sampling parameter of a wrong kind: {sorted(known)}") from error


@lru_cache(maxsize=512)
def _defaults(model_hash: tuple[str, bytes]) -> tuple[Sampling, Mapping[str, Any]]:
    ref, raw = model_hash
    given = orjson.loads(raw)
    return _sampling(given, f"{ref}.defaults"), {name: given[name] for name in given.keys() - _SAMPLING}


def merged(*by_rank: Sampling) -> Sampling:
    """One set of sampling parameters: what an earlier one leaves open, a later one may say."""
    found: dict[str, Any] = {}
    for sampling in reversed(by_rank):
        found |= {name: value for name in _SAMPLING if (value := getattr(sampling, name)) not in (None, ())}
    return Sampling.model_construct(**found)


@lru_cache(maxsize=512)
def _standing(parameters: str, defaults: tuple[str, bytes]) -> Sampling:
    """What a step and its model say of sampling: the same for all requests."""
    return merged(read_parameters(parameters).sampling, _defaults(defaults)[0])


def _drawn(work: Work, defaults: tuple[str, bytes]) -> Sampling:
    """The request's own wishes, then the step's parameters, then the model's defaults."""
    standing = _standing(work.step.parameters, defaults)
    return standing if work.request.sampling is None else merged(work.request.sampling, standing)


def samples_of(work: Work, model: Model) -> int:
    """How many samples to draw: at temperature 0 all are the same, so that one is enough."""
    wanted = work.parameters.samples
    return 1 if _drawn(work, _defaults_key(model)).temperature == 0 else wanted


def step_key(work: Work) -> OperationKey:
    """Names one try of the whole step: its outcome is journaled under this key."""
    return _key(work, "step", *_try(work))


def sample_key(work: Work, sample: int) -> OperationKey:
    """Names one sample of a try: its outcome is journaled under this key."""
    return _key(work, f"sample-{sample}", *_try(work))


def call_key(work: Work, model: Model, sample: int) -> OperationKey:
    """Names one paid call: the same for each try of it, another for another model or sample.

    So a provider that knows idempotency keys gives out an answer that came too late for an earlier try.
    """
    return _key(work, f"call-{sample}", model.ref)


def _try(work: Work) -> tuple[str, ...]:
    return () if work.tries == 1 else (f"try-{work.tries}",)


def _key(work: Work, *what: str) -> OperationKey:
    assignment, step = work.assignment, work.step
    content = _content_key(assignment.plan_hash, assignment.step_index, step.parameters, what)
    return operation_key(assignment.request_id, step.step_id, step.prompt_hash, content)


@lru_cache(maxsize=4096)
def _content_key(plan_hash: str, step_index: int, parameters: str, what: tuple[str, ...]) -> str:
    """The part of a key that is the same for all requests."""
    return derived_id("parameters", plan_hash, str(step_index), parameters, *what)


def left_micros(work: Work, spent: int) -> int | None:
    """Cost allowance left after what this step has spent so far; None if unlimited."""
    allowance = work.assignment.cost_left_micros
    return None if allowance is None else allowance - spent


def choose(work: Work, latest: Snapshot, *, first: int, sample: int, left: int | None) -> Choice | Barred:
    """The first model of the step, from index ``first``, that may be called now, and its call.

    What was chosen is pinned; what is forbidden is asked of the latest snapshot, before each call. A model that the
    request can't be shown to is passed over.
    """
    barred = Barred(FailureClass.PROHIBITED, "the step names no further model")
    for index in range(first, len(work.step.models)):
        ref = work.step.models[index]
        try:
            model = work.pinned.model(ref)
        except CatalogueError:
            barred = Barred(FailureClass.PROHIBITED, f"{ref} is not in the catalogue any more")
            continue
        if reason := latest.prohibited(model, tier=work.assignment.tier, data_class=work.data_class):
            barred = Barred(FailureClass.PROHIBITED, reason)
            continue
        try:
            call = build_call(work, model, sample)
        except InvalidRequestError as error:
            barred = Barred(FailureClass.BAD_REQUEST, str(error))
            continue
        cost = estimate(call, model.price)
        if left is None or cost <= left:
            return Choice(index=index, model=model, call=call, cost_micros=cost)
        barred = Barred(
            FailureClass.ALLOWANCE, f"{ref} may cost {cost} micro-units, {max(left, 0)} are left of the allowance"
        )
    return barred


def build_call(work: Work, model: Model, sample: int = 0) -> ModelCall:
    """The call of a model for a step.

    Sampling: the request's own wishes, then the step's parameters, then the model's defaults. Answers are never longer
    than the model's maximum, so that what a call can cost is known before it.

    Raises:
        InvalidRequestError: The request can't be shown to a model; names the field.
    """
    request, parameters, step = work.request, work.parameters, work.step
    defaults = _defaults_key(model)
    drawn, extra = _drawn(work, defaults), _defaults(defaults)[1]
    schema = None
    binds = "json" in model.capabilities
    if request.output_schema is not None and binds:
        schema = prompting.json_object(request.output_schema, "output_schema")
    if parameters.effort and model.kind is not ProviderKind.PYTHON:
        extra = {**extra, "reasoning_effort": parameters.effort}
    if model.kind is ProviderKind.PYTHON:
        extra = {**extra, **parameters.given}
    return ModelCall(
        model=model.name,
        messages=prompting.messages(request, prompt_of(work), schema_in_words=not binds),
        timeout=timedelta(milliseconds=step.timeout_ms),
        operation_key=call_key(work, model, sample),
        max_tokens=min(drawn.max_tokens or model.max_output_tokens, model.max_output_tokens),
        temperature=drawn.temperature,
        top_p=drawn.top_p,
        seed=_seed(work, drawn, sample),
        stop=drawn.stop,
        tools=prompting.tools(request.tools) if request.tools else (),
        output_schema=schema,
        logprobs=_wants_logprobs(work, model),
        extra=extra,
    )


def prompt_of(work: Work) -> Prompt | None:
    """The step's prompt, as pinned.

    Raises:
        InvalidRequestError: The pinned snapshot is so old that it is gone, and the prompt with it.
    """
    if not work.step.prompt:
        return None
    try:
        return work.pinned.prompt(work.step.prompt)
    except CatalogueError as error:
        raise InvalidRequestError("step.prompt", str(error)) from None


def _wants_logprobs(work: Work, model: Model) -> bool:
    able = model.kind is ProviderKind.LLAMA or LOGPROBS in model.capabilities
    return able and (work.parameters.logprobs or work.step.accept_min_logprob is not None)


def _seed(work: Work, drawn: Sampling, sample: int) -> int | None:
    """The seed asked for; samples of one step get different ones, each the same again when it is repeated."""
    if work.parameters.samples == 1:
        return drawn.seed
    if drawn.seed is not None:
        return drawn.seed + sample
    return int(chance(work.assignment.request_id, f"seed-{work.step.step_id}-{sample}") * _SEEDS)


def estimate(call: ModelCall, price: Price) -> int:
    """Most that a call can cost, in micro-units: prompt tokens estimated high, the longest answer."""
    size, parts = prompting.size_of(call.messages)
    size += sum(prompting.bytes_of(repr(shown)) for shown in (*call.tools, call.output_schema) if shown)
    tokens_in = size // BYTES_PER_TOKEN + TOKENS_PER_TURN * len(call.messages) + TOKENS_PER_PART * parts
    return price_of(tokens_in, price.input_micros_per_million) + price_of(
        call.max_tokens or 0, price.output_micros_per_million
    )


def bill(answer: ModelAnswer, price: Price, reserved: int) -> int:
    """What a call cost by its usage, in micro-units; what was reserved for it where the provider tells no usage."""
    if not answer.tokens_in and not answer.tokens_out:
        return reserved
    cached = price.cached_input_micros_per_million
    cost = price_of(max(answer.tokens_in - answer.tokens_in_cached, 0), price.input_micros_per_million)
    cost += price_of(answer.tokens_in_cached, price.input_micros_per_million if cached is None else cached)
    return cost + price_of(answer.tokens_out, price.output_micros_per_million)


def time_for(work: Work, now_ms: int) -> timedelta:
    """How long a call may take from now: the step's limit, and never past the deadline."""
    return timedelta(milliseconds=max(0, min(work.step.timeout_ms, work.assignment.deadline_ms - now_ms)))


def others(work: Work, latest: Snapshot, index: int, sample: int, left: int | None) -> Sequence[tuple[int, int]]:
    """Index and highest cost of the next model after ``index`` that may be called, if there is one."""
    found = choose(work, latest, first=index + 1, sample=sample, left=left)
    return ((found.index, found.cost_micros),) if isinstance(found, Choice) else ()


def _defaults_key(model: Model) -> tuple[str, bytes]:
    return model.ref, orjson.dumps(dict(model.defaults), default=dict)
