"""The parts of the demonstration that need nothing running: workload, arms, comparison, tables."""

import io
from datetime import timedelta
from pathlib import Path

import pytest
from rich.console import Console

from registry.load import load_catalogue
from registry.snapshot import Snapshot
from schemas.delivery import DeliveryMode
from schemas.edges import Result
from schemas.enums import Status
from schemas.errors import ConfigurationError, InputError
from tierflow.demo import report
from tierflow.demo.compare import ROUTED, Answer, compare, read_recorded, write_recorded
from tierflow.demo.drive import Outcome
from tierflow.demo.only_tier import only_tier
from tierflow.demo.workload import Asked, load_score, load_workload
from tierflow.requests_file import RequestLine

EXAMPLES = Path(__file__).parents[2] / "examples"
REQUESTS = EXAMPLES / "requests.jsonl"


@pytest.fixture(scope="module")
def asked() -> list[Asked]:
    return load_workload(REQUESTS)


@pytest.fixture(scope="module")
def score():
    return load_score(EXAMPLES / "check.py")


def answer(question: str, text: str, *, arm: str = ROUTED, cost: int = 10, cpu_us: int = 1000) -> Answer:
    return Answer(
        arm=arm,
        question=question,
        status="answered",
        answer=text,
        model="m@1",
        tokens_in=1,
        tokens_out=1,
        cost_micros=cost,
        cpu_us=cpu_us,
    )


def a_question(number: int, gold: float) -> Asked:
    check = {"type": "number", "gold": gold}
    return Asked(RequestLine(number=number, value={"prompt": "?"}), "math", f"q{number}", check, "own")


def test_the_workload_has_real_prompts_of_all_classes_and_what_goes_wrong(asked):
    real = [each for each in asked if each.source]
    assert len(real) >= 80
    assert {"math", "code", "writing", "qa", "reasoning", "extract", "support", "chat"} <= {e.label for e in real}
    special = {each.label for each in asked if not each.source}
    assert {"denied", "oversized", "broken JSON", "random bytes", "an impossible deadline"} <= special
    assert any(each.line.repeat > 1 for each in asked)
    assert sum(1 for each in real if each.check is not None) >= 50


def test_a_sample_is_spread_over_the_classes_and_the_same_for_a_seed(asked):
    drawn = load_workload(REQUESTS, sample=8, seed=3)
    real = [each for each in drawn if each.source]
    assert len(real) == len({each.label for each in real}) == 8
    assert [each.line for each in drawn] == [each.line for each in load_workload(REQUESTS, sample=8, seed=3)]
    assert [e.label for e in drawn if not e.source] == [e.label for e in asked if not e.source]


def test_the_checker_tells_right_from_wrong(asked, score):
    numbers = [each for each in asked if each.check is not None and each.check.get("type") == "number"]
    assert numbers
    for each in numbers:
        gold = each.check["gold"] if "gold" in each.check else each.check["value"]
        assert score({"check": each.check}, f"The answer is {gold}.") == 1
        assert score({"check": each.check}, "I do not know.") == 0


def test_arms_are_compared_on_the_questions_that_all_of_them_have():
    questions = [a_question(1, 4), a_question(2, 9), a_question(3, 1)]
    score = lambda row, text: int(text == str(row["check"]["gold"]))  # noqa: E731
    answers = [
        answer("q1", "4", cost=5),
        answer("q2", "8", cost=5),
        answer("q3", "1", cost=5),
        answer("q1", "4", arm="premium", cost=50, cpu_us=2_000_000),
        answer("q2", "9", arm="premium", cost=50),
        answer("unknown", "9", arm="premium", cost=50),
    ]
    arms = {arm.name: arm for arm in compare(questions, answers, score)}
    assert (arms[ROUTED].right, arms[ROUTED].questions, arms[ROUTED].cost_micros) == (1, 2, 10)
    assert (arms["premium"].right, arms["premium"].cost_micros) == (2, 100)
    assert arms["premium"].cpu_s == pytest.approx(2.001)
    assert compare(questions, answers[3:], score) == []


def test_recording_replaces_an_arm_and_keeps_the_others(tmp_path):
    path = tmp_path / "recorded.jsonl"
    assert read_recorded(path) == []
    write_recorded(path, [answer("q1", "4", arm="fast"), answer("q1", "5", arm="premium")])
    write_recorded(path, [answer("q1", "6", arm="fast")])
    assert [(each.arm, each.answer) for each in read_recorded(path)] == [("premium", "5"), ("fast", "6")]
    path.write_text('{"arm": "fast"}\n')
    with pytest.raises(InputError, match=r"recorded\.jsonl:1"):
        read_recorded(path)


@pytest.mark.parametrize("tier", ["fast", "balanced", "premium"])
def test_everything_to_one_tier_is_a_sound_catalogue_of_one_step_plans(tier):
    changed = only_tier(load_catalogue("local"), tier)
    assert Snapshot.from_catalogue(changed).hash != Snapshot.from_catalogue(load_catalogue("local")).hash
    assert {step.tier for plan in changed.plans for step in plan.steps} == {tier}
    assert all(len(plan.steps) == 1 for plan in changed.plans)
    assert len(changed.routes) == len(load_catalogue("local").routes)
    with pytest.raises(ConfigurationError, match="no plan"):
        only_tier(load_catalogue("local"), "nowhere")


def test_recorded_answers_fit_the_questions_that_are_sent(asked):
    """The arms that routing is compared with were recorded on these questions, all of them."""
    questions = {each.question for each in asked if each.question}
    recorded = read_recorded(EXAMPLES / "recorded.jsonl")
    assert {each.arm for each in recorded} == {"fast", "balanced", "premium"}
    for arm in ("fast", "balanced", "premium"):
        assert {each.question for each in recorded if each.arm == arm} == questions


def test_tables_count_what_happened(score):
    result = Result(
        request_id="r",
        status=Status.ANSWERED,
        delivery_mode=DeliveryMode.EXACTLY_ONCE,
        source="requests/0/0",
        accepted_at_ms=1,
        ended_at_ms=2,
        tier="fast",
        output="4",
        steps=2,
        escalations=1,
        tokens_in=7,
        tokens_out=1,
        cpu_us=1_500_000,
    )
    ended = Outcome(a_question(1, 4), "r", result=result, after=timedelta(seconds=2))
    lost = Outcome(a_question(2, 4), "s")
    assert (ended.status, lost.status) == ("answered", "unfinished")
    assert (ended.right(score), lost.right(score)) == (True, False)
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(report.by_tier_and_class([ended], score))
    console.print(report.without_model([ended, lost]))
    text = console.export_text()
    assert "1 of 1" in text
    assert "7/1" in text
    assert "unfinished" in text
