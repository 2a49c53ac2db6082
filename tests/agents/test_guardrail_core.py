"""Checks, the ruling they come to, and what it means for the plan."""

from itertools import permutations
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.guardrail.checks import CHECKS, DOUBTS, FORM, OUTCOME, json_of
from agents.guardrail.core import SEVERITY, check, merge, outcome_of
from agents.plan import StepState
from registry.snapshot import Snapshot
from schemas.catalogue import DenyList, Policies
from schemas.edges import Request, Verdict
from schemas.enums import Action, FinishReason, Outcome
from schemas.flow import Completion, Step
from tests.agents.deciding import request, snapshot, with_policies
from tests.agents.test_results import completion

PLAIN = Step(step_id="s", tier="fast", models=("small@1",))
SURE = Step(step_id="s", tier="fast", models=("small@1",), accept_min_logprob=-0.5, accept_min_agreement=0.6)
SCHEMA = '{"type": "object", "properties": {"age": {"type": "integer"}}, "required": ["age"]}'


def verdicts(
    found: Completion, step: Step = PLAIN, asked: Request | None = None, rules: Snapshot | None = None
) -> dict[str, Verdict]:
    return {each.check.split("/")[0]: each for each in check(found, step, asked, rules or snapshot())}


def actions(found: Completion, step: Step = PLAIN, asked: Request | None = None) -> dict[str, str]:
    return {name: verdict.action.value for name, verdict in verdicts(found, step, asked).items()}


def test_a_good_answer_needs_no_verdict():
    assert verdicts(completion()) == {}


@pytest.mark.parametrize(
    ("parts", "found"),
    [
        ({"output_text": ""}, {"empty": "escalate"}),
        ({"output_text": " \n\t"}, {"empty": "escalate"}),
        ({"output_text": "", "output_parts": '[{"name": "search"}]'}, {}),
        ({"output_text": "", "output_dataref": "blob:1"}, {}),
        ({"finish_reason": FinishReason.LENGTH}, {"truncated": "escalate"}),
        ({"finish_reason": FinishReason.CONTENT_FILTER}, {"content_filter": "escalate"}),
        (
            {"finish_reason": FinishReason.LENGTH, "output_text": ""},
            {"empty": "escalate", "truncated": "escalate"},
        ),
        ({"outcome": Outcome.CACHED}, {}),
        ({"outcome": Outcome.FAILED, "failure": "timeout", "output_text": ""}, {"outcome": "escalate"}),
        ({"outcome": Outcome.UNKNOWN}, {"outcome": "escalate"}),
    ],
)
def test_form(parts: dict[str, Any], found: dict[str, str]):
    assert actions(completion(**parts)) == found


@pytest.mark.parametrize(
    ("parts", "found"),
    [
        ({"mean_logprob": -0.5, "agreement": 0.6}, {"logprob": "allow", "agreement": "allow"}),
        ({"mean_logprob": -0.500001, "agreement": 0.6}, {"logprob": "escalate", "agreement": "allow"}),
        ({"mean_logprob": -0.1, "agreement": 0.59}, {"logprob": "allow", "agreement": "escalate"}),
        ({"mean_logprob": None, "agreement": None}, {"logprob": "escalate", "agreement": "escalate"}),
    ],
)
def test_thresholds(parts: dict[str, Any], found: dict[str, str]):
    assert actions(completion(**parts), SURE) == found


def test_a_threshold_verdict_says_by_how_much():
    verdict = verdicts(completion(mean_logprob=-1.25, agreement=1.0), SURE)["logprob"]
    assert verdict.score == -1.25
    assert verdict.reason == "mean token log-probability is -1.250, below -0.5"


@pytest.mark.parametrize(
    ("text", "action", "told"),
    [
        ('{"age": 3}', "allow", ""),
        ('  {"age": 3}\n', "observe", "taken off"),
        ('```json\n{"age": 3}\n```', "observe", "taken off"),
        ('```\n{"age": 3}\n```\n', "observe", "taken off"),
        ('{"age": "three"}', "escalate", "breaks properties/age/type"),
        ('{"secret word": 1}', "escalate", "breaks required"),
        ("[]", "escalate", "breaks type"),
        ('Sure! {"age": 3}', "escalate", "not JSON at character 0"),
        ('```json\n{"age": 3}\n```\n```json\n{"age": 4}\n```', "escalate", "not JSON"),
        ('```json\n{"age": 3}\n``` as you asked', "escalate", "not JSON"),
        ('{"age": 3', "escalate", "not JSON"),
        ('{"age": NaN}', "escalate", "not JSON"),
    ],
)
def test_json_schema(text: str, action: str, told: str):
    asked = request("How old?", output_schema=SCHEMA)
    verdict = verdicts(completion(output_text=text), asked=asked)["json_schema"]
    assert verdict.action.value == action
    assert told in verdict.reason
    assert "secret" not in verdict.reason
    assert "three" not in verdict.reason


def test_an_empty_answer_breaks_its_schema_too():
    asked = request("How old?", output_schema=SCHEMA)
    assert actions(completion(output_text=""), asked=asked) == {"empty": "escalate", "json_schema": "escalate"}


def test_a_tool_call_is_not_held_against_the_schema():
    asked = request("How old?", output_schema=SCHEMA)
    call = completion(output_text="", output_parts='[{"name": "f"}]', finish_reason=FinishReason.TOOL_CALLS)
    assert actions(call, asked=asked) == {}


@given(st.text())
def test_json_of_takes_off_only_what_stands_around(text: str):
    assert json_of(text) in text
    assert json_of(f"```json\n{text}\n```") == (text.strip() if "```" not in text else f"```json\n{text}\n```")


DENY = DenyList(id="names", terms=("zebra",), applies_to=frozenset({"output"}), reason="not to be named")


def test_denied_answers():
    rules = with_policies(deny=(DENY,))
    verdict = verdicts(completion(output_text="A Zebra!"), rules=rules)["deny_list"]
    assert (verdict.action, verdict.reason, verdict.rule_id) == (Action.REFUSE, "not to be named", "names")
    in_call = completion(output_text="", output_parts='[{"arguments": "zebra"}]')
    assert "deny_list" in verdicts(in_call, rules=rules)
    assert verdicts(completion(output_text="zebras"), rules=rules) == {}
    on_input = with_policies(deny=(DENY.model_copy(update={"applies_to": frozenset({"input"})}),))
    assert verdicts(completion(output_text="zebra"), rules=on_input) == {}


def test_what_lies_elsewhere_is_not_let_through_unchecked():
    away = completion(output_text="", output_dataref="blob:1")
    assert verdicts(away) == {}
    assert verdicts(away, rules=with_policies(deny=(DENY,)))["out_of_sight"].action is Action.REFUSE
    asked = request("How old?", output_schema=SCHEMA)
    assert verdicts(away, asked=asked)["out_of_sight"].action is Action.REFUSE


def verdict(action: Action = Action.ESCALATE, name: str = "logprob/1", **more: Any) -> Verdict:
    return Verdict(check=name, action=action, **more)


ANY_VERDICT = st.builds(
    Verdict,
    check=st.sampled_from(sorted({*FORM, *DOUBTS, OUTCOME, "deny_list/1"})),
    action=st.sampled_from(Action),
    reason=st.sampled_from(["", "a", "b"]),
    score=st.none() | st.floats(-3, 0),
    rule_id=st.sampled_from(["", "r"]),
)


@given(st.lists(ANY_VERDICT, max_size=5), st.sampled_from(Action), st.randoms())
def test_the_order_of_verdicts_does_not_matter(found: list[Verdict], on_invalid: Action, random: Any):
    policies = Policies(on_invalid_output=on_invalid)
    ruling = merge(found, policies)
    mixed = list(found)
    random.shuffle(mixed)
    assert merge(mixed, policies) == ruling
    assert len(ruling.verdicts) == len(found)
    assert ruling.action is max(
        (each.action for each in ruling.verdicts), key=SEVERITY.__getitem__, default=Action.ALLOW
    )
    assert merge(ruling.verdicts, policies) == ruling


def test_severity_rises_as_declared():
    assert [action for action, _ in sorted(SEVERITY.items(), key=lambda item: item[1])] == list(Action)


def state(*found: Verdict, policies: Policies | None = None, **more: Any) -> StepState:
    return outcome_of(merge(found, policies or Policies()), completion(**more)).state


def test_what_a_ruling_means_for_the_plan():
    assert state() is StepState.ACCEPTED
    assert state(verdict(Action.ALLOW), verdict(Action.OBSERVE, "json_schema/1")) is StepState.ACCEPTED
    assert state(verdict()) is StepState.DOUBTED
    assert state(verdict(), verdict(name="agreement/1")) is StepState.DOUBTED
    assert state(verdict(), verdict(name="empty/1")) is StepState.INVALID
    assert state(verdict(name=OUTCOME), outcome=Outcome.FAILED) is StepState.FAILED
    assert state(verdict(), verdict(Action.REFUSE, "deny_list/1")) is StepState.REFUSED
    assert state(verdict(Action.REVIEW)) is StepState.REFUSED
    assert state(verdict(Action.REDACT)) is StepState.REFUSED


@pytest.mark.parametrize(
    ("on_invalid", "wanted"),
    [
        (Action.ALLOW, StepState.ACCEPTED),
        (Action.OBSERVE, StepState.ACCEPTED),
        (Action.ESCALATE, StepState.INVALID),
        (Action.REVIEW, StepState.REFUSED),
        (Action.REDACT, StepState.REFUSED),
        (Action.REFUSE, StepState.REFUSED),
    ],
)
def test_policies_say_what_follows_from_an_answer_not_in_order(on_invalid: Action, wanted: StepState):
    policies = Policies(on_invalid_output=on_invalid)
    for name in FORM:
        assert state(verdict(name=name), policies=policies) is wanted
    assert state(verdict(), policies=policies) is StepState.DOUBTED
    assert state(verdict(name=OUTCOME), policies=policies, outcome=Outcome.FAILED) is StepState.FAILED


def test_codes_and_reasons():
    def told(*found: Verdict, **more: Any) -> tuple[str, str]:
        outcome = outcome_of(merge(found, Policies()), completion(**more))
        return outcome.code, outcome.reason

    assert told(verdict(reason="why")) == ("guardrail.low-confidence", "logprob: why")
    assert told(verdict(name="json_schema/1", reason="why")) == ("guardrail.json-schema", "json-schema: why")
    assert told(verdict(Action.REFUSE, "deny_list/1", reason="why")) == ("policy.denied", "deny-list: why")
    failed = verdict(name=OUTCOME, reason="rate_limit: slow down")
    assert told(failed, outcome=Outcome.FAILED, failure="rate_limit") == (
        "provider.rate-limit",
        "rate_limit: slow down",
    )
    assert told(failed, outcome=Outcome.UNKNOWN)[0] == "provider.unknown"
    assert "review" in told(verdict(Action.REVIEW))[1]


def test_every_check_is_of_one_kind():
    names = {each.__name__ for each in CHECKS}
    assert {name.split("/")[0] for name in FORM | DOUBTS} <= names
    assert not FORM & DOUBTS


def test_worst_first_whatever_comes_in():
    found = (verdict(Action.ALLOW), verdict(), verdict(name="empty/1"), verdict(Action.REFUSE, "x/1"))
    for mixed in permutations(found):
        ordered = [each.check for each in merge(mixed, Policies()).verdicts]
        assert ordered == ["x/1", "empty/1", "logprob/1", "logprob/1"]


def test_a_fence_of_blanks_takes_no_time():
    assert json_of("```json\n" + " " * 1_000_000 + "x").endswith("x")
    assert json_of("```\n" + " " * 1_000_000 + "\n```") == ""
