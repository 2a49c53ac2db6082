"""The checks on a step's answer: each says nothing, or gives a verdict. Pure, and without the answer's words."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import orjson

from registry.snapshot import Snapshot
from schemas.edges import Verdict
from schemas.enums import Action, FinishReason, Outcome
from schemas.flow import Completion, Step
from schemas.json_schema import problem

_FENCE: Final = "```"
_NO_PARTS: Final = frozenset({"", "[]"})

OUTCOME: Final = "outcome/1"
CONTENT_FILTER: Final = "content_filter/1"
EMPTY: Final = "empty/1"
TRUNCATED: Final = "truncated/1"
JSON_SCHEMA: Final = "json_schema/1"
LOGPROB: Final = "logprob/1"
AGREEMENT: Final = "agreement/1"
DENY_LIST: Final = "deny_list/1"
OUT_OF_SIGHT: Final = "out_of_sight/1"

DOUBTS: Final = frozenset({LOGPROB, AGREEMENT})
"""Checks that doubt an answer which is otherwise in order."""
FORM: Final = frozenset({CONTENT_FILTER, EMPTY, TRUNCATED, JSON_SCHEMA})
"""Checks that find an answer not in order; policies say what follows (``on_invalid_output``)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What is checked."""

    completion: Completion
    step: Step
    output_schema: str | None
    """JSON text of the schema that the request asks for."""
    snapshot: Snapshot
    """The latest one: policies are prohibitions, not choices."""


def outcome(subject: Subject) -> Verdict | None:
    """There is no answer."""
    completion = subject.completion
    if completion.outcome in {Outcome.OK, Outcome.CACHED}:
        return None
    what = completion.failure or completion.outcome.value
    return Verdict(check=OUTCOME, action=Action.ESCALATE, reason=f"{what}: {completion.error[:200]}".rstrip(": "))


def content_filter(subject: Subject) -> Verdict | None:
    """The provider's own filter cut the answer."""
    if subject.completion.finish_reason is not FinishReason.CONTENT_FILTER:
        return None
    return Verdict(check=CONTENT_FILTER, action=Action.ESCALATE, reason="the provider's content filter stopped it")


def empty(subject: Subject) -> Verdict | None:
    """Nothing was answered: no text, no tool call, no reference."""
    completion = subject.completion
    if completion.output_text.strip() or completion.output_parts not in _NO_PARTS or completion.output_dataref:
        return None
    return Verdict(check=EMPTY, action=Action.ESCALATE, reason="the answer is empty")


def truncated(subject: Subject) -> Verdict | None:
    """The answer ran into its token limit."""
    if subject.completion.finish_reason is not FinishReason.LENGTH:
        return None
    return Verdict(
        check=TRUNCATED,
        action=Action.ESCALATE,
        reason=f"cut off at the token limit after {subject.completion.tokens_out} tokens",
    )


def json_schema(subject: Subject) -> Verdict | None:
    """The answer breaks the schema that the request asks for."""
    completion, schema = subject.completion, subject.output_schema
    if schema is None or completion.output_dataref is not None or completion.finish_reason is FinishReason.TOOL_CALLS:
        return None
    text = json_of(completion.output_text)
    complaint = _complaint(schema, text)
    if complaint:
        return Verdict(check=JSON_SCHEMA, action=Action.ESCALATE, reason=complaint[:200])
    if text == completion.output_text:
        return Verdict(check=JSON_SCHEMA, action=Action.ALLOW)
    return Verdict(check=JSON_SCHEMA, action=Action.OBSERVE, reason="what stood around the JSON is taken off")


def _complaint(schema: str, text: str) -> str:
    """Why a text breaks a schema, empty if it doesn't; names the schema's keyword, never the answer's words."""
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        return f"not JSON at character {error.pos}"
    return problem(schema, value, len(text))


def json_of(text: str) -> str:
    """The JSON in an answer: the whole text, or what stands in the one code fence that is all of it."""
    whole = text.strip()
    if not (whole.startswith(_FENCE) and whole.endswith(_FENCE) and len(whole) >= 2 * len(_FENCE)):
        return whole
    language, newline, inside = whole[len(_FENCE) : -len(_FENCE)].partition("\n")
    if not newline or _FENCE in inside or not (language.strip() == "" or language.strip().isalnum()):
        return whole
    return inside.strip()


def logprob(subject: Subject) -> Verdict | None:
    """The model was not sure of its words."""
    return _threshold(
        LOGPROB, subject.step.accept_min_logprob, subject.completion.mean_logprob, "mean token log-probability"
    )


def agreement(subject: Subject) -> Verdict | None:
    """The samples don't agree."""
    return _threshold(
        AGREEMENT, subject.step.accept_min_agreement, subject.completion.agreement, "share of samples that agree"
    )


def _threshold(check: str, least: float | None, measured: float | None, what: str) -> Verdict | None:
    if least is None:
        return None
    if measured is None:
        # What can't be measured isn't good enough: a fallback without log-probabilities would else be let through.
        return Verdict(check=check, action=Action.ESCALATE, reason=f"no {what} was given, at least {least:g} is wanted")
    if measured >= least:
        return Verdict(check=check, action=Action.ALLOW, score=measured)
    return Verdict(
        check=check, action=Action.ESCALATE, score=measured, reason=f"{what} is {measured:.3f}, below {least:g}"
    )


def deny_list(subject: Subject) -> Verdict | None:
    """The answer has a term that may not go out."""
    completion = subject.completion
    for deny in subject.snapshot.deny_patterns:
        if "output" in deny.applies_to and (
            deny.find(completion.output_text)
            or (completion.output_parts not in _NO_PARTS and deny.find(completion.output_parts))
        ):
            return Verdict(check=DENY_LIST, action=Action.REFUSE, reason=deny.reason, rule_id=deny.id)
    return None


def out_of_sight(subject: Subject) -> Verdict | None:
    """The answer lies in the blob store, where this guardrail doesn't look, and something should be checked on it."""
    if subject.completion.output_dataref is None:
        return None
    denies = any("output" in deny.applies_to for deny in subject.snapshot.deny_patterns)
    if not denies and subject.output_schema is None:
        return None
    return Verdict(
        check=OUT_OF_SIGHT,
        action=Action.REFUSE,
        reason="the answer lies under a reference and can't be checked",
    )


CHECKS: Final[tuple[Callable[[Subject], Verdict | None], ...]] = (
    content_filter,
    empty,
    truncated,
    json_schema,
    logprob,
    agreement,
    deny_list,
    out_of_sight,
)
"""On an answer; ``outcome`` comes before them, since without an answer there is nothing to check."""
