"""A real llama.cpp server with real weights (the smallest), and what happens where it can't start."""

import asyncio
import json
import signal
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from agents.worker.local import server as server_module
from agents.worker.local.launcher import LlamaServer, cpu_seconds
from schemas.errors import ProcessError, WeightsUnavailableError
from tests.fixtures_brokers import require_weights

ROOT = Path(server_module.__file__).parents[3]
NAME = "smollm2-135m"
KEY = "sk-of-the-tests"
CONTEXT = 512
SCHEMA = {
    "type": "object",
    "properties": {"city": {"enum": ["Paris", "Rome"]}, "size": {"type": "integer", "minimum": 1, "maximum": 9}},
    "required": ["city", "size"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def weights():
    return require_weights(NAME)


@pytest.fixture(scope="module")
async def llama(weights):
    async with LlamaServer(weights, threads=1, parallel=2, context=CONTEXT, api_key=KEY, alias="small") as server:
        yield server


@pytest.fixture(scope="module")
async def client(llama):
    headers = {"Authorization": f"Bearer {KEY}"}
    async with httpx.AsyncClient(base_url=llama.base_url, headers=headers, timeout=60) as made:
        yield made


async def ask(
    client: httpx.AsyncClient, prompt: str = "What is the capital of France?", **settings: Any
) -> httpx.Response:
    messages = [{"role": "user", "content": prompt}]
    body = {"messages": messages, "temperature": 0, "max_tokens": 12, "seed": 1, **settings}
    return await client.post("/chat/completions", json=body)


def bound_to(schema: dict[str, Any]) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "form", "strict": True, "schema": schema}}


@pytest.mark.models
async def test_an_answer_has_usage_a_reason_to_end_and_timings(client):
    body = (await ask(client, ignore_eos=True)).json()
    choice = body["choices"][0]
    assert body["model"] == "small"
    assert choice["message"]["role"] == "assistant"
    assert choice["finish_reason"] == "length"
    assert body["usage"]["completion_tokens"] == 12
    assert body["usage"]["prompt_tokens"] == body["timings"]["prompt_n"] > 0
    assert body["usage"]["prompt_tokens_details"]["cached_tokens"] == 0
    assert (await ask(client, stop=[" "])).json()["choices"][0]["finish_reason"] == "stop"


@pytest.mark.models
async def test_each_token_has_its_probability_the_end_token_too(client):
    body = (await ask(client, logprobs=True, top_logprobs=1, ignore_eos=True)).json()
    tokens = body["choices"][0]["logprobs"]["content"]
    assert len(tokens) == body["usage"]["completion_tokens"] == 12
    assert "".join(token["token"] for token in tokens) == body["choices"][0]["message"]["content"]
    assert all(token["logprob"] <= 0 and len(token["top_logprobs"]) == 1 for token in tokens)
    ended = (await ask(client, logprobs=True, top_logprobs=1, logit_bias={"2": 100})).json()  # <|im_end|>
    assert ended["choices"][0]["finish_reason"] == "stop"
    assert ended["choices"][0]["message"]["content"] == ""
    assert [token["token"] for token in ended["choices"][0]["logprobs"]["content"]] == [""]
    assert ended["usage"]["completion_tokens"] == 1
    assert "logprobs" not in (await ask(client, logprobs=True, top_logprobs=0)).json()["choices"][0]


@pytest.mark.models
async def test_the_same_question_has_the_same_answer_alone_and_in_company(client):
    alone = (await ask(client, max_tokens=20)).json()["choices"][0]["message"]
    together = await asyncio.gather(*(ask(client, max_tokens=20) for _ in range(4)))
    assert {reply.json()["choices"][0]["message"]["content"] for reply in together} == {alone["content"]}


@pytest.mark.models
async def test_a_seed_repeats_samples_and_another_does_not(client):
    sampled: dict[str, Any] = {"prompt": "Tell a story.", "temperature": 1.0, "n": 2, "max_tokens": 20}
    first, again, other = [(await ask(client, seed=seed, **sampled)).json() for seed in (7, 7, 8)]
    texts = [choice["message"]["content"] for choice in first["choices"]]
    assert texts[0] != texts[1]
    assert texts == [choice["message"]["content"] for choice in again["choices"]]
    assert texts != [choice["message"]["content"] for choice in other["choices"]]
    assert (await ask(client, n=3)).status_code == 400  # more than there are slots
    # The server's count is that of the first choice: whoever pays by tokens must count them by their probabilities.
    assert first["usage"]["completion_tokens"] <= 20


@pytest.mark.models
async def test_an_answer_is_bound_to_a_schema(client):
    reply = (await ask(client, response_format=bound_to(SCHEMA), max_tokens=60)).json()
    found = json.loads(reply["choices"][0]["message"]["content"])
    assert set(found) == {"city", "size"}
    assert found["city"] in {"Paris", "Rome"}
    assert 1 <= found["size"] <= 9


@pytest.mark.models
async def test_a_prompt_beyond_the_context_is_refused_by_name(client):
    reply = await ask(client, "word " * 1000)
    assert reply.status_code == 400
    error = reply.json()["error"]
    assert error["type"] == "exceed_context_size_error"
    assert error["n_ctx"] == CONTEXT < error["n_prompt_tokens"]


@pytest.mark.models
async def test_a_stream_ends_with_the_reason_and_the_usage(client):
    lines = []
    body = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 4, "ignore_eos": True, "stream": True}
    body["stream_options"] = {"include_usage": True}
    async with client.stream("POST", "/chat/completions", json=body) as reply:
        assert reply.headers["content-type"] == "text/event-stream"
        lines += [line.removeprefix("data: ") async for line in reply.aiter_lines() if line]
    assert lines.pop() == "[DONE]"
    chunks = [json.loads(line) for line in lines]
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["completion_tokens"] == 4
    assert chunks[-2]["choices"][0]["finish_reason"] == "length"


@pytest.mark.models
async def test_nothing_but_its_health_is_told_without_the_key(llama):
    root = llama.base_url.removesuffix("/v1")
    async with httpx.AsyncClient() as stranger:
        assert (await stranger.get(f"{root}/health")).json() == {"status": "ok"}
        for path in ("/v1/models", "/props", "/slots"):
            assert (await stranger.get(root + path)).status_code == 401
        reply = await stranger.post(f"{root}/v1/chat/completions", json={}, headers={"Authorization": "Bearer wrong"})
    assert reply.status_code == 401
    assert reply.json()["error"]["type"] == "authentication_error"
    process = psutil.Process(llama.pid)
    assert KEY not in " ".join(process.cmdline())
    assert {connection.laddr.ip for connection in process.net_connections() if connection.status == "LISTEN"} == {
        "127.0.0.1"
    }


@pytest.mark.models
async def test_a_client_that_goes_away_stops_the_work(llama, client):
    """Left alone the answer would take some hundred tokens more; CPU time standing still says that it was given up."""
    with pytest.raises(httpx.ReadTimeout):
        await client.post(
            "/chat/completions",
            json={"messages": [{"role": "user", "content": "Tell a story."}], "max_tokens": 400, "ignore_eos": True},
            timeout=0.3,
        )
    spent = cpu_seconds(llama.pid)
    for _ in range(40):
        await asyncio.sleep(0.3)
        before, spent = spent, cpu_seconds(llama.pid)
        if spent == before:
            break
    else:
        pytest.fail("the server went on computing for nobody")
    assert (await ask(client)).status_code == 200


@pytest.mark.models
async def test_cpu_seconds_grow_with_the_work(llama, client):
    before = cpu_seconds(llama.pid)
    await ask(client, max_tokens=30, ignore_eos=True)
    assert cpu_seconds(llama.pid) > before


@pytest.mark.models
async def test_it_stops_and_starts_again_on_another_port(weights):
    server = LlamaServer(weights, threads=1, context=CONTEXT)
    await server.start()
    first = server.pid
    with pytest.raises(ProcessError, match="runs already"):
        await server.start()
    await server.stop()
    assert not psutil.pid_exists(first)
    await server.stop()  # again: nothing happens
    async with server:
        assert server.running
        assert server.pid != first


@pytest.mark.models
async def test_a_taken_port_is_an_error_not_somebody_elses_server(weights, llama):
    port = int(llama.base_url.removesuffix("/v1").rpartition(":")[2])
    server = LlamaServer(weights, threads=1, context=CONTEXT, port=port)
    with pytest.raises(ProcessError, match="couldn't bind"):
        await server.start()
    assert not server.running


PARENT = """
import asyncio, sys
from pathlib import Path
from typing import Any
from agents.worker.local.launcher import LlamaServer

async def main():
    server = LlamaServer(Path(sys.argv[1]), threads=1, context=256)
    await server.start()
    print(server.pid, flush=True)
    await asyncio.sleep(60)

asyncio.run(main())
"""


@pytest.mark.models
def test_it_dies_with_its_parent(weights):
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, str(weights)], stdout=subprocess.PIPE, cwd=ROOT, text=True
    ) as parent:
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))
        parent.send_signal(signal.SIGKILL)
    assert child.wait(timeout=20) is None or not child.is_running()


async def test_missing_weights_are_named(tmp_path):
    server = LlamaServer(tmp_path / "none.gguf")
    with pytest.raises(WeightsUnavailableError, match="tierflow models fetch"):
        await server.start()
    with pytest.raises(ProcessError, match="was not started"):
        _ = server.pid
    await server.stop()


async def test_a_broken_file_fails_with_the_servers_own_words(tmp_path):
    (tmp_path / "broken.gguf").write_bytes(b"no weights at all")
    server = LlamaServer(tmp_path / "broken.gguf")
    with pytest.raises(ProcessError, match="invalid magic characters"):
        await server.start(within=timedelta(seconds=30))
    assert not server.running


@pytest.mark.parametrize(
    ("argv", "reason"),
    [
        (["--port", "1"], "--model"),
        (["--model", "no-such.gguf", "--port", "1"], "no such file"),
        (["--model", __file__, "--port", "0"], "--port must be at least 1"),
        (["--model", __file__, "--port", "1", "--context", "-5"], "--context must be at least 1"),
    ],
)
def test_a_wrong_command_line_says_what_is_wrong(argv, reason, capsys):
    with pytest.raises(SystemExit, match="2"):
        server_module.arguments(argv)
    assert reason in capsys.readouterr().err


def test_cpu_seconds_of_nobody():
    with pytest.raises(ProcessError, match="no process"):
        cpu_seconds(2**22 + 1)
