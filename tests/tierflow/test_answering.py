"""Asking models labelled questions: every answer checked and kept, and a second run goes on where one stopped."""

import json
from pathlib import Path

import pytest

from registry.load import load_catalogue
from schemas.catalogue import Model
from schemas.enums import FinishReason
from schemas.errors import FailureClass, InputError, ProviderError
from schemas.ports import ModelAnswer, ModelCall
from tierflow.answering import answered, ask_all, general_models, read_questions

ROWS = [
    {"id": "a", "prompt": "2+2?", "check": {"gold": "4"}, "class": "math", "max_tokens": 9},
    {"id": "b", "prompt": "3+3?", "check": {"gold": "6"}, "class": "math"},
]


class Provider:
    def __init__(self) -> None:
        self.calls: list[ModelCall] = []
        self.fails_on = ""

    async def complete(self, call: ModelCall) -> ModelAnswer:
        if call.messages[-1].content == self.fails_on:
            raise ProviderError(FailureClass.SERVER, "out of order")
        self.calls.append(call)
        return ModelAnswer(text="4", finish_reason=FinishReason.STOP, tokens_in=10, tokens_out=1, cpu_us=1500)

    async def close(self) -> None: ...


class Providers:
    def __init__(self) -> None:
        self.one = Provider()

    def of(self, model: Model) -> Provider:
        return self.one

    async def close(self) -> None: ...


def score(row, answer):
    return int(row["check"]["gold"] == answer)


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    path = tmp_path / "questions.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    return path


async def test_all_are_asked_once_and_checked(tmp_path: Path, questions: Path):
    models, providers, out = general_models(load_catalogue("local")), Providers(), tmp_path / "out.jsonl"
    told: list[str] = []
    assert await ask_all(read_questions(questions), models, providers, score, out, told.append) == 4
    rows = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert [(row["id"], row["correct"]) for row in rows] == [("a", 1), ("b", 0), ("a", 1), ("b", 0)]
    assert {row["model"] for row in rows} == {"qwen2.5-coder-0.5b@q4_k_m", "qwen2.5-coder-1.5b@q4_k_m"}
    assert rows[0]["cpu_s"] == 0.0015
    assert providers.one.calls[0].max_tokens == 9
    assert told == ["4 of 4 answers"]
    assert await ask_all(read_questions(questions), models, providers, score, out, told.append) == 0


async def test_a_run_that_was_cut_off_goes_on(tmp_path: Path, questions: Path):
    models, providers, out = general_models(load_catalogue("local")), Providers(), tmp_path / "out.jsonl"
    providers.one.fails_on = "3+3?"
    told: list[str] = []
    assert await ask_all(read_questions(questions), models, providers, score, out, told.append) == 2
    assert "left for the next run" in told[0]
    with out.open("a", encoding="utf-8") as file:
        file.write('{"id": "b", "mod')
    providers.one.fails_on = ""
    assert await ask_all(read_questions(questions), models, providers, score, out, told.append) == 2
    assert len(answered(out)) == 4


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"id": "a", "check": {}}, "field prompt"),
        ({"id": 3, "prompt": "x", "check": {}}, "field id"),
        ({"id": "a", "prompt": "x", "check": {}}, "occurs twice"),
    ],
)
def test_wrong_questions_are_named(questions: Path, row: dict[str, object], says: str):
    with questions.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row))
    with pytest.raises(InputError, match=says):
        read_questions(questions)


def test_models_that_are_not_there():
    with pytest.raises(InputError, match="no general model gpt"):
        general_models(load_catalogue("local"), ["gpt"])
    (one,) = general_models(load_catalogue("local"), ["qwen2.5-coder-0.5b"])
    assert one.id == "qwen2.5-coder-0.5b"
