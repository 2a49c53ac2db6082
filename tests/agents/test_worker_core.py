"""From assignment to call: keys, prompts, sampling, money, time."""

import base64
from datetime import timedelta

import orjson
import pytest

from agents.worker import core
from agents.worker.core import Barred, Choice
from schemas.catalogue import Policies, Price, Prompt
from schemas.enums import DataClass, FinishReason
from schemas.errors import FailureClass, InvalidRequestError
from schemas.ports import ModelAnswer, ModelCall
from tests.agents.worker_parts import FREE, MODELS, a_model, a_snapshot, a_work

MODEL = MODELS[0]


def turns(call: ModelCall) -> list[tuple[str, object]]:
    return [(turn.role, turn.content) for turn in call.messages]


def test_a_plain_request_is_one_user_turn_with_a_bounded_answer():
    call = core.build_call(a_work(), MODEL)
    assert turns(call) == [("user", "What is six times seven?")]
    assert (call.model, call.max_tokens, call.temperature, call.seed) == ("first", 100, None, None)
    assert call.timeout == timedelta(seconds=5)
    assert not call.logprobs
    assert not call.tools


def test_the_prompt_goes_before_and_behind_and_system_turns_become_one():
    prompt = Prompt(id="brief", version="2", system="Answer briefly.", suffix="End with: Answer: <number>")
    snapshot = a_snapshot(prompts=(prompt,), step={"prompt": "brief"})
    request = {
        "messages": [
            {"role": "system", "content": "You help pupils."},
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": "Hello"},
            {"role": "user", "content": "2 + 2?"},
            {"role": "assistant", "content": "Let me think."},
        ]
    }
    assert turns(core.build_call(a_work(snapshot, request), MODEL)) == [
        ("system", "Answer briefly.\n\nYou help pupils."),
        ("user", "Hi"),
        ("assistant", "Hello"),
        ("user", "2 + 2?\nEnd with: Answer: <number>"),
        ("assistant", "Let me think."),
    ]


def test_every_kind_of_part_is_shown():
    image = base64.b64encode(b"\x89PNG").decode()
    parts = [
        {"type": "text", "text": "Look"},
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{image}"}},
        {"type": "image_url", "image_url": {"url": "https://pictures.example/1.png", "sha256": "0" * 64}},
        {"type": "input_audio", "input_audio": {"data": image, "format": "wav"}},
        {"type": "file", "file": {"file_data": f"data:application/pdf;base64,{image}", "filename": "a.pdf"}},
        {"kind": "document", "text": "inline", "name": "notes.txt"},
    ]
    (turn,) = core.build_call(a_work(request={"messages": [{"role": "user", "content": parts}]}), MODEL).messages
    assert turn.content == [
        {"type": "text", "text": "Look"},
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{image}"}},
        {"type": "image_url", "image_url": {"url": "https://pictures.example/1.png"}},
        {"type": "input_audio", "input_audio": {"data": image, "format": "wav"}},
        {"type": "file", "file": {"filename": "a.pdf", "file_data": f"data:application/pdf;base64,{image}"}},
        {"type": "text", "text": "notes.txt:\ninline"},
    ]


def test_a_suffix_follows_parts_too():
    prompt = Prompt(id="p", version="1", suffix="Briefly.")
    snapshot = a_snapshot(prompts=(prompt,), step={"prompt": "p"})
    content = [{"type": "image_url", "image_url": {"url": "https://pictures.example/1.png", "sha256": "0" * 64}}]
    (turn,) = core.build_call(a_work(snapshot, {"messages": [{"role": "user", "content": content}]}), MODEL).messages
    assert turn.content[-1] == {"type": "text", "text": "Briefly."}


def test_tool_calls_and_their_results_keep_their_ids():
    messages = [
        {"role": "user", "content": "Weather?"},
        {
            "role": "assistant",
            "parts": [
                {"kind": "text", "text": "I ask."},
                {"kind": "tool_call", "tool_call_id": "c1", "name": "weather", "arguments": '{"city":"Oslo"}'},
            ],
        },
        {"role": "tool", "parts": [{"kind": "tool_result", "tool_call_id": "c1", "text": "rain"}]},
    ]
    tools = [{"name": "weather", "description": "Now", "parameters": {"type": "object"}}]
    call = core.build_call(a_work(request={"messages": messages, "tools": tools}), MODEL)
    assert call.tools == (
        {
            "type": "function",
            "function": {"name": "weather", "description": "Now", "parameters": {"type": "object"}},
        },
    )
    asked, result = call.messages[1:]
    assert asked.content == "I ask."
    assert asked.tool_calls == (
        {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city":"Oslo"}'}},
    )
    assert (result.role, result.content, result.tool_call_id) == ("tool", "rain", "c1")


def test_what_cannot_be_shown_names_its_place():
    content = [
        {"type": "text", "text": "a"},
        {"kind": "image", "dataref": "blob:abc", "sha256": "0" * 64, "media_type": "image/png"},
    ]
    with pytest.raises(InvalidRequestError, match=r"messages\.0\.parts\.1\.dataref"):
        core.build_call(
            a_work(request={"messages": [{"role": "user", "parts": [{"kind": "text", "text": "a"}, content[1]]}]}),
            MODEL,
        )


def test_a_schema_binds_a_model_that_can_and_is_told_to_one_that_cannot():
    schema = {"type": "object", "required": ["city"]}
    work = a_work(request={"prompt": "Where?", "output_schema": schema})
    bound = core.build_call(work, MODEL)
    assert bound.output_schema == schema
    assert turns(bound) == [("user", "Where?")]
    told = core.build_call(work, a_model(capabilities=frozenset({"text"})))
    assert told.output_schema is None
    assert '"required":["city"]' in told.messages[0].content
    assert str(told.messages[0].content).startswith("Where?\n")


def test_the_request_s_wishes_come_before_the_step_s_before_the_model_s():
    model = a_model(
        defaults={"temperature": 0.9, "top_p": 0.8, "seed": 1, "max_tokens": 50, "stop": "END", "min_p": 0.1}
    )
    snapshot = a_snapshot(models=(model,), step={"parameters": {"temperature": 0.5, "top_p": 0.6, "effort": "low"}})
    call = core.build_call(a_work(snapshot, {"prompt": "?", "sampling": {"temperature": 0.0}}), model)
    assert (call.temperature, call.top_p, call.seed, call.max_tokens, call.stop) == (0.0, 0.6, 1, 50, ("END",))
    assert call.extra == {"min_p": 0.1, "reasoning_effort": "low"}


@pytest.mark.parametrize(("wished", "sent"), [(7, 7), (100, 100), (5000, 100), (None, 100)])
def test_no_answer_is_longer_than_the_model_s_longest(wished, sent):
    request = {"prompt": "?"} | ({"sampling": {"max_tokens": wished}} if wished else {})
    assert core.build_call(a_work(request=request), MODEL).max_tokens == sent


def test_logprobs_are_asked_for_where_they_decide_and_the_model_has_them():
    snapshot = a_snapshot(step={"accept": {"min_logprob": -0.5}})
    assert core.build_call(a_work(snapshot), MODEL).logprobs
    assert not core.build_call(a_work(snapshot), a_model(capabilities=frozenset({"text"}))).logprobs
    assert core.build_call(a_work(snapshot), a_model(capabilities=frozenset({"text"}), kind="llama")).logprobs


def test_keys_name_what_is_paid_for():
    work = a_work()
    assert core.step_key(work) == core.step_key(a_work())
    keys = [
        core.step_key(work),
        core.step_key(a_work(request_id="r-2")),
        core.step_key(a_work(a_snapshot(step={"parameters": {"temperature": 0.1}}))),
        core.step_key(a_work(step_index=1)),
        core.sample_key(work, 0),
        core.sample_key(work, 1),
        core.call_key(work, MODELS[0], 0),
        core.call_key(work, MODELS[1], 0),
        core.call_key(work, MODELS[0], 1),
    ]
    assert len(set(keys)) == len(keys)
    assert core.build_call(work, MODELS[1], 0).operation_key == keys[7]


def test_samples_get_seeds_of_their_own_that_repeat():
    snapshot = a_snapshot(step={"parameters": {"samples": 3, "temperature": 0.7}})
    seeds = [core.build_call(a_work(snapshot), MODEL, n).seed for n in range(3)]
    assert len(set(seeds)) == 3
    assert seeds == [core.build_call(a_work(snapshot), MODEL, n).seed for n in range(3)]
    wished = a_work(snapshot, {"prompt": "?", "sampling": {"seed": 40}})
    assert [core.build_call(wished, MODEL, n).seed for n in range(3)] == [40, 41, 42]


def test_equal_samples_are_drawn_once():
    snapshot = a_snapshot(step={"parameters": {"samples": 3, "temperature": 0.7}})
    assert core.samples_of(a_work(snapshot), MODEL) == 3
    assert core.samples_of(a_work(snapshot, {"prompt": "?", "sampling": {"temperature": 0.0}}), MODEL) == 1


@pytest.mark.parametrize(
    "parameters",
    [{"samples": 0}, {"samples": 33}, {"samples": True}, {"samples": "3"}, {"vote": "coin"}, {"final_answer": 3},
     {"temperature": "hot"}, {"stop": 3}],
)  # fmt: skip
def test_a_parameter_without_meaning_is_named(parameters):
    import orjson

    with pytest.raises(InvalidRequestError, match=r"step\.parameters"):
        core.read_parameters(orjson.dumps(parameters).decode())


def test_parameters_of_executors_reach_them():
    model = a_model(kind="python", name="weekday", defaults={"language": "en"})
    snapshot = a_snapshot(models=(model,), step={"parameters": {"short": True}})
    assert core.build_call(a_work(snapshot), model).extra == {"language": "en", "short": True}


def test_the_estimate_is_above_the_bill_and_the_bill_is_exact():
    call = core.build_call(a_work(), MODEL)
    price = MODEL.price
    # 24 characters and one turn: 8 + 8 tokens; 100 tokens of answer at 2 each
    assert core.estimate(call, price) == 16 + 200
    answer = ModelAnswer(text="42", finish_reason=FinishReason.STOP, tokens_in=12, tokens_in_cached=10, tokens_out=3)
    assert core.bill(answer, price, 216) == 12 + 6
    cheaper = Price.model_validate({**price.model_dump(), "cached_input_micros_per_million": 100_000})
    assert core.bill(answer, cheaper, 216) == 2 + 1 + 6


def test_all_that_a_model_is_shown_is_reserved_for():
    schema = {"type": "object", "description": "d" * 3_000}
    tool = {"name": "t", "description": "d" * 3_000, "parameters": schema}
    told = {
        "kind": "tool_call",
        "tool_call_id": "c",
        "name": "t",
        "arguments": orjson.dumps({"a": "a" * 3_000}).decode(),
    }
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "parts": [told]}]
    for request, least in (
        ({"prompt": "Hi", "output_schema": schema}, 1_000),
        ({"prompt": "Hi", "tools": [tool]}, 2_000),
        ({"messages": turns}, 1_000),
        ({"prompt": "六" * 3_000}, 3_000),
    ):
        assert core.estimate(core.build_call(a_work(request=request), MODEL), MODEL.price) - 200 > least, request


def test_without_usage_the_reserved_cost_stands():
    assert core.bill(ModelAnswer(text="42", finish_reason=FinishReason.STOP), MODEL.price, 216) == 216


def test_the_first_model_that_may_is_chosen():
    snapshot = a_snapshot()
    found = core.choose(a_work(snapshot), snapshot, first=0, sample=0, left=None)
    assert isinstance(found, Choice)
    assert (found.index, found.model.ref) == (0, "first@1")
    killed = a_snapshot(2, policies=Policies(kill_switch=frozenset({"first", "second@1"})))
    found = core.choose(a_work(snapshot), killed, first=0, sample=0, left=None)
    assert isinstance(found, Choice)
    assert found.index == 2


@pytest.mark.parametrize("switch", [{"first", "second", "third"}, {"fast"}])
def test_a_kill_switch_holds_for_what_was_chosen_before(switch):
    later = a_snapshot(2, policies=Policies(kill_switch=frozenset(switch)))
    found = core.choose(a_work(), later, first=0, sample=0, left=None)
    assert isinstance(found, Barred)
    assert found.failure is FailureClass.PROHIBITED
    assert "kill switch" in found.reason


def test_a_model_is_not_shown_what_it_may_not_see():
    snapshot = a_snapshot()
    found = core.choose(a_work(snapshot, data_class=DataClass.RESTRICTED), snapshot, first=0, sample=0, left=None)
    assert isinstance(found, Barred)
    assert "restricted" in found.reason


def test_a_model_that_could_cost_too_much_is_passed_over():
    snapshot = a_snapshot(models=(a_model("dear"), a_model("free", price=FREE)))
    work = a_work(snapshot)
    found = core.choose(work, snapshot, first=0, sample=0, left=215)
    assert isinstance(found, Choice)
    assert found.model.id == "free"
    found = core.choose(a_work(), a_snapshot(), first=0, sample=0, left=215)
    assert isinstance(found, Barred)
    assert (found.failure, "215 are left" in found.reason) == (FailureClass.ALLOWANCE, True)


def test_time_is_the_step_s_and_never_past_the_deadline():
    work = a_work()
    deadline = work.assignment.deadline_ms
    assert core.time_for(work, deadline - 30_000) == timedelta(seconds=5)
    assert core.time_for(work, deadline - 1_000) == timedelta(seconds=1)
    assert core.time_for(work, deadline + 1) == timedelta(0)
