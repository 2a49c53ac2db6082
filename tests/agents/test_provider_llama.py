"""A llama.cpp server of our own: its CPU time, its log-probabilities, its errors. And which provider a model gets."""

import asyncio
import subprocess
import sys
import time
from datetime import timedelta

import orjson
import psutil
import pytest

from agents.worker.local.launcher import LlamaServer
from agents.worker.providers import LocalProviders, unbound
from agents.worker.providers.http import Endpoint
from agents.worker.providers.llama import CpuMeter, LlamaProvider
from agents.worker.providers.openai import OpenAIProvider
from agents.worker.providers.python import PythonProvider
from schemas.errors import ConfigurationError, FailureClass, ProviderError
from schemas.ports import ChatMessage, ModelCall
from schemas.settings import EndpointSettings, WorkerSettings
from tests.agents.worker_parts import a_model
from tests.doubles.model_server import ModelServer, Reply, Trick
from tests.fixtures_brokers import require_weights

SPIN = "import sys\nsys.stdout.write('up\\n'); sys.stdout.flush()\nwhile True: pass"


def a_call(text="What is the capital of France?", **changes) -> ModelCall:
    plain = {
        "model": "small",
        "messages": (ChatMessage(role="user", content=text),),
        "timeout": timedelta(seconds=60),
        "operation_key": "op",
        "max_tokens": 8,
        "temperature": 0.0,
    }
    return ModelCall(**{**plain, **changes})


@pytest.fixture
def busy():
    """A process that computes all the time."""
    child = subprocess.Popen([sys.executable, "-c", SPIN], stdout=subprocess.PIPE)
    assert child.stdout is not None
    child.stdout.readline()
    yield child
    child.kill()
    child.wait()
    child.stdout.close()


@pytest.fixture
async def server():
    async with ModelServer(default=Reply(latency_s=0.3)) as server:
        yield server


def spent(pid: int) -> float:
    times = psutil.Process(pid).cpu_times()
    return times.user + times.system


async def test_cpu_time_is_shared_out_and_adds_up(busy, server):
    provider = LlamaProvider(Endpoint("here", EndpointSettings(base_url=server.base_url)), busy.pid)
    server.play(Reply(latency_s=0.6), model="long")
    before = spent(busy.pid)
    answers = await asyncio.gather(
        provider.complete(a_call(model="long")), *(provider.complete(a_call()) for _ in "ab")
    )
    total = (spent(busy.pid) - before) * 1_000_000
    shares = [answer.cpu_us for answer in answers]
    assert min(shares) > 0
    assert shares[0] == max(shares)  # it ran alone for the second half
    assert sum(shares) <= total + 1
    assert sum(shares) > total / 2
    await provider.close()


async def test_a_failed_call_has_its_cpu_time_too(busy, server):
    server.play(Reply(trick=Trick.STALL))
    provider = LlamaProvider(Endpoint("here", EndpointSettings(base_url=server.base_url)), busy.pid)
    with pytest.raises(ProviderError) as caught:
        await provider.complete(a_call(timeout=timedelta(seconds=0.5)))
    assert caught.value.failure is FailureClass.TIMEOUT
    assert caught.value.cpu_us > 0
    await provider.close()


async def test_without_a_process_or_after_its_death_cpu_time_is_unknown(busy, server):
    endpoint = Endpoint("here", EndpointSettings(base_url=server.base_url))
    assert (await LlamaProvider(endpoint).complete(a_call())).cpu_us == 0
    meter = CpuMeter(busy.pid)
    token = meter.enter()
    time.sleep(0.05)
    busy.kill()
    busy.wait()
    assert meter.leave(token) >= 0
    assert (await LlamaProvider(endpoint, busy.pid).complete(a_call())).cpu_us == 0
    await endpoint.close()


async def test_one_alternative_a_token_is_asked_for(server):
    provider = LlamaProvider(Endpoint("here", EndpointSettings(base_url=server.base_url)))
    await provider.complete(a_call(logprobs=True))
    await provider.complete(a_call())
    assert [seen.body.get("top_logprobs") for seen in server.seen] == [1, None]
    await provider.close()


async def test_a_model_gets_the_provider_of_its_kind_and_endpoint(server):
    settings = WorkerSettings(
        endpoints={"a": EndpointSettings(base_url=server.base_url), "b": EndpointSettings(base_url=server.base_url)},
        executors=frozenset({"arithmetic"}),
    )
    providers = LocalProviders(settings)
    models = [a_model("m1", endpoint="a"), a_model("m2", endpoint="a"), a_model("m3", endpoint="b")]
    models += [a_model("m4", endpoint="b", kind="llama"), a_model("m5", kind="python", name="arithmetic")]
    found = [providers.of(model) for model in models]
    assert [type(each) for each in found] == [OpenAIProvider] * 3 + [LlamaProvider, PythonProvider]
    assert found[0] is found[1] is not found[2]
    with pytest.raises(ProviderError) as caught:
        providers.of(a_model("m6", endpoint="c"))
    assert caught.value.failure is FailureClass.AUTH
    await found[0].complete(a_call())
    await providers.close()
    await providers.of(models[0]).complete(a_call())  # closed is not broken
    await providers.close()


def test_what_local_settings_lack_is_named_before_a_start():
    settings = WorkerSettings(endpoints={"a": EndpointSettings(base_url="http://127.0.0.1:1/v1")})
    models = [a_model("m1", endpoint="a"), a_model("m2", endpoint="b"), a_model("m3", kind="python", name="solver")]
    assert unbound(models, settings) == [
        "worker.endpoints: b is missing, m2@1 needs it",
        "worker.executors: solver is missing, m3@1 needs it",
    ]
    with pytest.raises(ConfigurationError, match=r"worker\.endpoints\.x"):
        LocalProviders(WorkerSettings(endpoints={"x": EndpointSettings(base_url="nowhere")}))


@pytest.fixture(scope="module")
async def llama():
    pytest.importorskip("xllamacpp")
    weights = require_weights("smollm2-135m")
    async with LlamaServer(weights, parallel=2, context=512) as running:
        provider = LlamaProvider(Endpoint("llama", EndpointSettings(base_url=running.base_url)), running.pid)
        yield provider
        await provider.close()


@pytest.mark.models
async def test_a_real_model_answers_with_usage_logprobs_and_cpu_time(llama):
    answer = await llama.complete(a_call(logprobs=True))
    assert answer.text
    assert answer.tokens_in > 10
    assert 0 < answer.tokens_out <= 8
    assert answer.min_logprob <= answer.mean_logprob < 0
    assert answer.cpu_us > 0
    plain = await llama.complete(a_call())
    assert (plain.mean_logprob, plain.text) == (None, answer.text)


@pytest.mark.models
async def test_a_real_model_is_bound_to_a_schema(llama):
    schema = {"type": "object", "properties": {"city": {"type": "string", "maxLength": 12}}, "required": ["city"]}
    answer = await llama.complete(a_call(output_schema=schema, max_tokens=60))
    assert isinstance(orjson.loads(answer.text)["city"], str)


@pytest.mark.models
async def test_a_prompt_too_long_for_a_real_server_is_an_overflow(llama):
    with pytest.raises(ProviderError) as caught:
        await llama.complete(a_call("word " * 2000))
    assert (caught.value.failure, caught.value.status) == (FailureClass.CONTEXT_OVERFLOW, 400)
    assert "exceed_context_size_error" in str(caught.value)
