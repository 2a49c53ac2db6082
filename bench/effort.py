"""What more effort buys on one local model: several recipes on the same questions, their accuracy and their price.

    python bench/effort.py --questions QUESTIONS.jsonl --sample 48

Takes questions whose answers a program checks: one JSON object a line with ``id``, ``class``, ``prompt``,
``max_tokens`` and ``check``, and beside that file a ``check.py`` with ``score(question, answer) -> 0 or 1``. Starts its
own server, one thread and one call at a time, so that the CPU seconds of a call are its own (several threads wait for
each other by spinning, which on a busy machine costs more than the work itself). Goes question by question through all
recipes, so that a run which ends early is still a fair comparison. Tokens of several samples are counted all; the
server's own count is that of one.
"""

import argparse
import asyncio
import importlib.util
import json
import random
import re
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from agents.worker.local.arithmetic import solve, text_of, value_in
from agents.worker.local.cache import WeightsCache
from agents.worker.local.launcher import LlamaServer, cpu_seconds
from agents.worker.local.weights import weights_named

SAMPLES = 3
BRIEF = "Answer briefly."
CAREFUL = "You reason carefully before you answer."
REASON = (
    "Let's think step by step, and write every step down. After that, end with a line that says 'Final answer:' and "
    "the answer in the form asked for."
)
PROGRAM = (
    "You write short Python programs that compute the answer to a question: plain numbers, assignments and arithmetic, "
    "one step a line; no functions, no loops, no text. The last line is print(answer)."
)
FENCE = "```python\n"  # the answer is begun for the model: else it answers in words whatever the system message says
REASON_TOKENS = 200  # room for the steps, on top of the question's own limit
PROGRAM_TOKENS = 120

Question = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Answer:
    """What a recipe answered and what it used; ``by`` says which way it came about."""

    text: str
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cpu_s: float = 0.0
    calls: int = 0
    by: str = ""

    def after(self, earlier: "Answer", by: str) -> "Answer":
        """The same answer with the cost of what was tried before it."""
        return Answer(
            self.text,
            self.prompt_tokens + earlier.prompt_tokens,
            self.completion_tokens + earlier.completion_tokens,
            self.cpu_s + earlier.cpu_s,
            self.calls + earlier.calls,
            by,
        )


@dataclass(slots=True)
class Bench:
    """The model under test and the checker."""

    client: httpx.AsyncClient
    pid: int
    score: Callable[[Question, str], int]
    single: dict[str, Answer] = field(default_factory=dict)

    async def ask(
        self, prompt: str, max_tokens: int, *, n: int = 1, system: str = BRIEF, begin: str = ""
    ) -> tuple[list[str], Answer]:
        """All samples, and an answer that holds the first one and the cost of all. One sample is taken greedily."""
        messages = [{"role": "system", "content": system}, {"role": "user", "content": prompt}]
        if begin:
            messages.append({"role": "assistant", "content": begin})
        body = {
            "messages": messages,
            "stop": ["\n```"] if begin else [],
            "max_tokens": max_tokens,
            "temperature": 0.7 if n > 1 else 0.0,
            "top_p": 0.95,
            "seed": 1,
            "n": n,
            "logprobs": True,
            "top_logprobs": 1,
        }
        before = cpu_seconds(self.pid)
        reply = (await self.client.post("/chat/completions", json=body)).raise_for_status().json()
        cpu = cpu_seconds(self.pid) - before
        texts = [each["message"]["content"] for each in reply["choices"]]
        tokens = sum(len(each["logprobs"]["content"]) for each in reply["choices"])
        return texts, Answer(texts[0], reply["usage"]["prompt_tokens"], tokens, cpu, 1)


def final(text: str) -> str:
    """What stands behind the last mark of a final answer; all of it where there is none."""
    return re.split(r"final answer\s*:\**", text, flags=re.IGNORECASE)[-1].strip() or text


def ballot(question: Question, text: str) -> str:
    """What two samples must share to count as the same vote; knows the form asked for, not the right answer."""
    text = final(text)
    if question["check"]["type"] == "number":
        numbers = re.findall(r"-?\d[\d,]*(?:\.\d+)?", text.rsplit("Answer:", 1)[-1])
        return numbers[-1].replace(",", "") if numbers else ""
    if question["check"]["type"] == "json_fields" and (found := re.search(r"\{.*\}", text, re.DOTALL)):
        try:
            return json.dumps(json.loads(found[0]), sort_keys=True).casefold()
        except ValueError:
            pass
    return " ".join(re.findall(r"\w+", text.casefold()))


def elected(question: Question, texts: list[str]) -> str:
    """The first of the texts that make up the largest group; samples without a vote lose."""
    ballots = [ballot(question, text) for text in texts]
    counts = Counter(each for each in ballots if each)
    winner = max(counts, key=lambda each: (counts[each], -ballots.index(each)), default=ballots[0])
    return texts[ballots.index(winner)]


async def single(bench: Bench, question: Question) -> Answer:
    """One short answer at temperature 0: the measure of all others. Asked once, remembered."""
    if question["id"] not in bench.single:
        _, bench.single[question["id"]] = await bench.ask(question["prompt"], question["max_tokens"])
    return bench.single[question["id"]]


async def reason(bench: Bench, question: Question, n: int = 1) -> Answer:
    """(a) Sentences first, then the answer."""
    texts, used = await bench.ask(
        f"{question['prompt']}\n\n{REASON}",
        question["max_tokens"] + REASON_TOKENS,
        n=n,
        system=CAREFUL,
    )
    return Answer(final(elected(question, texts))).after(used, "reason" if n == 1 else f"vote of {n}")


async def vote(bench: Bench, question: Question) -> Answer:
    """(b) Three samples in one call (the prompt is processed once) and the answer that most of them gave."""
    texts, used = await bench.ask(question["prompt"], question["max_tokens"], n=SAMPLES)
    return Answer(elected(question, texts)).after(used, f"vote of {SAMPLES}")


async def program(bench: Bench, question: Question, n: int = 1) -> Answer:
    """(c) The model writes arithmetic, we compute it; where nothing computes, the single answer at both prices."""
    texts, used = await bench.ask(question["prompt"], PROGRAM_TOKENS, n=n, system=PROGRAM, begin=FENCE)
    values = [text_of(value) for text in texts if (value := value_in(text)) is not None]
    if not values:
        return (await single(bench, question)).after(used, "fallback")
    winner = max(values, key=values.count)
    return Answer(f"Answer: {winner}").after(used, f"{values.count(winner)} of {n} programs")


async def program_vote(bench: Bench, question: Question) -> Answer:
    """(d) Three programs and the value that most of them have."""
    return await program(bench, question, SAMPLES)


async def reason_vote(bench: Bench, question: Question) -> Answer:
    """(a) and (b) together."""
    return await reason(bench, question, SAMPLES)


async def example(bench: Bench, question: Question) -> Answer:
    """Code is run on the example that the question gives; if that fails, three samples, the first that passes."""
    shown = re.findall(r"^The call must pass: (assert .+)$", question["prompt"], re.MULTILINE)
    visible = {"check": {"type": "python_tests", "gold": shown, "setup": ""}}
    first = await single(bench, question)
    if await asyncio.to_thread(bench.score, visible, first.text):
        return Answer(first.text).after(first, "first passed")
    texts, used = await bench.ask(question["prompt"], question["max_tokens"], n=SAMPLES)
    for text in texts:
        if await asyncio.to_thread(bench.score, visible, text):
            return Answer(text).after(used, "").after(first, "sample passed")
    return Answer(first.text).after(used, "").after(first, "none passed")


async def rule(_: Bench, question: Question) -> Answer:
    """The solver of sums: no model at all, and no answer to what is not a sum."""
    before = time.process_time()
    text = solve(question["prompt"])
    return Answer(text or "", cpu_s=time.process_time() - before, by="solved" if text else "abstained")


Recipe = Callable[[Bench, Question], Awaitable[Answer]]
RECIPES: dict[str, tuple[Recipe, Callable[[Question], bool]]] = {
    "single": (single, lambda _: True),
    "reason": (reason, lambda q: q["class"] in {"math", "reasoning", "qa"}),  # the others ask for no inference
    "vote": (vote, lambda _: True),
    "program": (program, lambda q: q["class"] == "math"),
    "program+vote": (program_vote, lambda q: q["class"] == "math"),
    "reason+vote": (reason_vote, lambda q: q["class"] == "math"),
    "run example": (example, lambda q: "The call must pass: assert " in q["prompt"]),
    "rule": (rule, lambda q: q["class"] == "math"),
}


def sample(questions: list[Question], size: int, seed: int) -> list[Question]:
    """As many of each class, drawn by the seed, classes taking turns."""
    drawn = defaultdict(list)
    shuffled = sorted(questions, key=lambda q: str(q["id"]))
    random.Random(seed).shuffle(shuffled)
    for question in shuffled:
        drawn[question["class"]].append(question)
    turns = [each for turn in zip(*(drawn[name] for name in sorted(drawn)), strict=False) for each in turn]
    return turns[: size - size % max(len(drawn), 1)]


def checker(path: Path) -> Callable[[Question, str], int]:
    """``score`` of the ``check.py`` beside the questions."""
    spec = importlib.util.spec_from_file_location("effort_check", path)
    if spec is None or spec.loader is None or not path.is_file():
        sys.exit(f"no checker {path}: it belongs beside the questions")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found: Callable[[Question, str], int] = module.score
    return found


def mean(rows: list[dict[str, Any]], key: str) -> float:
    return float(sum(row[key] for row in rows) / len(rows))


def price(rows: list[dict[str, Any]], parameters: int) -> float:
    """Billions of parameters times tokens, of an answer."""
    return parameters * (mean(rows, "prompt_tokens") + mean(rows, "completion_tokens")) / 1e9


def table(rows: list[dict[str, Any]], parameters: int) -> None:
    """Prints each recipe beside the single answers to the same questions."""
    base = {row["id"]: row for row in rows if row["recipe"] == "single"}
    print("| recipe | class | n | right | single | gained / lost | tokens in + out | CPU s | price | single's |")
    print("|" + " --- |" * 10)
    for name in RECIPES:
        mine = [row for row in rows if row["recipe"] == name]
        for group in ["all", *sorted({row["class"] for row in mine})]:
            part = [row for row in mine if group in {"all", row["class"]}]
            if not part or (group == "all" and len({row["class"] for row in part}) == 1):
                continue
            same = [base[row["id"]] for row in part]
            gained = sum(row["right"] > was["right"] for row, was in zip(part, same, strict=True))
            lost = sum(row["right"] < was["right"] for row, was in zip(part, same, strict=True))
            print(
                f"| {name} | {group} | {len(part)} | {mean(part, 'right'):.0%} | {mean(same, 'right'):.0%} "
                f"| +{gained} / -{lost} | {mean(part, 'prompt_tokens'):.0f} + {mean(part, 'completion_tokens'):.0f} "
                f"| {mean(part, 'cpu_s'):.2f} | {price(part, parameters):.0f} "
                f"| {mean(same, 'cpu_s'):.2f} s, {price(same, parameters):.0f} |"
            )
    print("\nprice: billions of parameters times tokens, in and out. gained / lost: questions, against single.")


async def run(given: argparse.Namespace) -> list[dict[str, Any]]:
    questions = [json.loads(line) for line in given.questions.read_text("utf-8").splitlines()]
    questions = [question for question in questions if not given.classes or question["class"] in given.classes]
    score = checker(given.questions.with_name("check.py"))
    until = time.monotonic() + given.minutes * 60
    rows: list[dict[str, Any]] = []
    model = WeightsCache().ready(given.model)
    async with (
        LlamaServer(model, threads=given.threads, parallel=SAMPLES, context=1024) as server,
        httpx.AsyncClient(base_url=server.base_url, timeout=300) as client,
    ):
        bench = Bench(client, server.pid, score)
        await bench.ask("Say yes.", 2)  # the first call of a server pays for pages that are read in
        for number, question in enumerate(sample(questions, given.sample, given.seed)[given.skip :]):
            if time.monotonic() > until:
                print(f"time is over after {number} questions", file=sys.stderr)
                break
            for name, (recipe, applies) in RECIPES.items():
                if applies(question) and (not given.recipes or name in given.recipes):
                    answer = await recipe(bench, question)
                    rows.append(
                        {
                            "id": question["id"],
                            "class": question["class"],
                            "source": question.get("source", ""),
                            "recipe": name,
                            "right": await asyncio.to_thread(score, question, answer.text),
                            **{key: getattr(answer, key) for key in Answer.__slots__},
                        }
                    )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=Path, required=True, help="JSON Lines; check.py lies beside it")
    parser.add_argument("--sample", type=int, default=48, help="questions, as many of each class")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--classes", nargs="*", help="only questions of these classes")
    parser.add_argument(
        "--skip", type=int, default=0, help="leave out that many of the sample: to share it between runs"
    )
    parser.add_argument("--join", type=Path, nargs="*", default=[], help="--out files of earlier runs, for the table")
    parser.add_argument("--model", default="qwen2.5-coder-1.5b", help="name of fetched weights")
    parser.add_argument("--threads", type=int, default=1, help="more are faster, but wait for each other in CPU time")
    parser.add_argument("--minutes", type=float, default=15, help="start no further question after that")
    parser.add_argument("--recipes", nargs="*", choices=list(RECIPES), help="only these; single belongs to every run")
    parser.add_argument("--out", type=Path, help="write every answer as JSON Lines")
    given = parser.parse_args()
    if given.recipes and "single" not in given.recipes:
        given.recipes.append("single")
    began = time.monotonic()
    rows = asyncio.run(run(given))
    if given.out:
        given.out.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    for earlier in given.join:
        rows += [json.loads(line) for line in earlier.read_text("utf-8").splitlines()]
    table(rows, weights_named(given.model).parameters)
    print(f"{given.model}, {given.threads} thread(s), seed {given.seed}, {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
